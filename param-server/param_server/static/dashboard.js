// Keeps the page as it was served up to date: history once, then the status of each second.

import { Chart } from "./chart.js";
import { drawFilters } from "./filters.js";
import { find, paceOf, show, split } from "./format.js";

const MOST_POINTS = 2000; // then the server's coarser history is taken instead
const SILENCE_MS = 5000; // after so long without an event the server is gone
const RETRY_MS = 3000;
const FILTERS_MS = 10000;

const charts = new Map();
let columns = null; // of the history, extended by each event
let epoch = null;
let lastEvent = performance.now();
let shownSnapshots = "";

// -- the status

function showStatus(status) {
  // Another network has other layers and filters.
  if (status.layout !== document.querySelector("[data-layout]").dataset.layout) location.reload();
  for (const item of document.querySelectorAll("[data-key]")) {
    if (item.closest(".chart")) continue; // a chart writes its own value
    const value = find(status, item.dataset.key);
    setText(item, value || !item.dataset.empty ? show(value, item.dataset.format) : item.dataset.empty);
  }
  document.title = `v${show(status.version, "0")} · ${status.game || "parameter server"}`;
  document.getElementById("non-finite").hidden = !status.consecutive_non_finite.count;
  document.getElementById("snapshot-error").hidden = !status.snapshots.error;
  document.getElementById("resumed").hidden = !status.resumed;
  fillList("alarm-item", "#alarms", status.alarms);
  split(status.worker_s).forEach(showStage);
  showStaleness(status.staleness);
  status.layers.forEach(showLayer);
  const rejected = Object.entries(status.rejected).map(([reason, count]) => ({ reason: `rejected: ${reason}`, count }));
  const refusals = [
    ...rejected,
    { reason: "late: their round was over", count: status.late },
    { reason: "repeats, answered again", count: status.duplicates },
  ];
  fillList("refusal-row", "#refusals tbody", refusals);
  showWorkers(status.workers);
  fillList("incident-row", "#incidents tbody", status.incidents);
  document.querySelector("#incidents + .none").hidden = status.incidents.length > 0;
  showSnapshots(status.snapshots.available);
}

function setText(item, text) {
  if (item.textContent !== text) item.textContent = text;
}

function showStaleness(staleness) {
  const most = Math.max(1, ...Object.values(staleness));
  for (const row of document.querySelectorAll("#staleness tbody tr")) {
    const count = staleness[row.dataset.bound];
    setText(row.querySelector(".n"), show(count, "0"));
    row.querySelector(".bar i").style.width = `${(100 * count) / most}%`;
  }
}

function showStage({ stage, seconds, share }) {
  document.querySelector(`.split [data-stage=${stage}]`).style.width = `${100 * share}%`;
  const item = document.querySelector(`.stages [data-stage=${stage}]`);
  setText(item.querySelector(".share"), show(share, "percent"));
  setText(item.querySelector(".spent"), show(seconds, "duration"));
}

function showLayer(layer, i) {
  const row = document.querySelectorAll("#layers tbody tr")[i];
  if (!row) return;
  fill(row, layer);
  const pace = paceOf(layer.update_ratio);
  row.dataset.pace = pace.word;
  row.querySelector(".track i").style.left = `${pace.percent}%`;
  setText(row.querySelector(".track small"), pace.word);
}

function showWorkers(workers) {
  const items = Object.entries(workers).map(([name, worker]) => ({ name, ...worker }));
  fillList("worker-row", "#workers tbody", items, (row, worker) => {
    row.classList.toggle("lost", worker.lost);
    setText(row.querySelector(".mark"), worker.lost ? "lost" : "live");
  });
  const lost = items.filter((worker) => worker.lost).length;
  setText(document.getElementById("workers-note"), `${items.length - lost} live${lost ? `, ${lost} lost` : ""}`);
}

function showSnapshots(snapshots) {
  const text = JSON.stringify(snapshots);
  if (text === shownSnapshots) return; // a link is not replaced under the reader's finger
  shownSnapshots = text;
  fillList("snapshot-row", "#snapshots tbody", snapshots, (row, snapshot) => {
    row.classList.toggle("best", snapshot.best);
    const links = Object.entries(snapshot.files).flatMap(([file, bytes]) => {
      const link = document.createElement("a");
      link.href = `/snapshots/${encodeURIComponent(snapshot.name)}/${encodeURIComponent(file)}`;
      link.download = "";
      link.title = show(bytes, "size");
      link.textContent = file;
      return [link, " "];
    });
    row.querySelector(".files").replaceChildren(...links);
  });
  document.querySelector("#snapshots + .none").hidden = snapshots.length > 0;
}

// One row for each item: the cells named by data-cell, and what `finish` adds.
function fillList(template, list, items, finish = () => {}) {
  const body = document.querySelector(list);
  while (body.children.length > items.length) body.lastElementChild.remove();
  items.forEach((item, i) => {
    if (!body.children[i]) body.append(document.getElementById(template).content.cloneNode(true));
    fill(body.children[i], item);
    finish(body.children[i], item);
  });
}

function fill(row, item) {
  for (const cell of row.querySelectorAll("[data-cell]")) {
    setText(cell, show(item[cell.dataset.cell], cell.dataset.format));
  }
}

// -- the curves

async function loadHistory() {
  const history = await getJson("/api/v1/history");
  columns = history.columns;
  epoch = history.epoch;
}

function addPoint(status) {
  const newest = columns.uptime_s.at(-1) ?? -1;
  if (status.uptime_s <= newest) return;
  for (const [name, values] of Object.entries(columns)) {
    values.push((name === "epsilon" ? status.stats.epsilon : status[name]) ?? null);
  }
}

function drawCharts() {
  const axis = document.querySelector("[name=axis]:checked").value;
  // An idle server's time before the first update is not drawn.
  const first = Math.max(0, columns.version.findIndex((version) => version > columns.version[0]) - 1);
  for (const [name, chart] of charts) chart.show(columns[axis].slice(first), columns[name].slice(first), axis);
}

// -- the connection

async function getJson(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (response.status === 401) location.reload(); // the login form is there
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

async function take(status) {
  lastEvent = performance.now();
  if (!columns || status.epoch !== epoch || columns.version.length > MOST_POINTS) await loadHistory();
  addPoint(status);
  showStatus(status);
  drawCharts();
}

function connect() {
  const source = new EventSource("/events");
  source.onmessage = (event) => {
    take(JSON.parse(event.data)).then(
      () => setState("live", "live"),
      (error) => console.warn(error), // the next event tries again
    );
  };
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) { // the browser asks again by itself
      columns = null; // what happens meanwhile is in the history
      return;
    }
    setTimeout(connect, RETRY_MS);
    poll();
  };
}

// No stream: too many viewers, a login that has ended, or no server at all.
async function poll() {
  try {
    const status = await getJson("/api/v1/status_data");
    await take(status);
    setState("live", "live, every few seconds");
  } catch {
    // the watch below says so
  }
}

function watch() {
  const silence = performance.now() - lastEvent;
  if (silence > SILENCE_MS) setState("gone", `no answer for ${Math.round(silence / 1000)} s, trying again`);
}

function setState(state, text) {
  document.body.dataset.state = state;
  const pill = document.getElementById("state");
  pill.dataset.state = state;
  setText(pill.firstElementChild, text);
}

// -- the filters

async function showFilters() {
  const canvas = document.querySelector("#filters canvas");
  if (!canvas || document.hidden) return;
  try {
    const picture = await getJson("/api/v1/filters");
    drawFilters(canvas, picture);
    const [filters, channels, height, width] = picture.shape;
    const note = `${picture.layer}: ${filters} of ${height} × ${width}, ${channels} channels each, version ${show(picture.version, "0")}`;
    setText(document.getElementById("filters-note"), note);
  } catch {
    // the next turn tries again
  }
}

for (const figure of document.querySelectorAll(".chart")) {
  const name = figure.dataset.column;
  const limits = { loss: { floor: 0 }, updates_per_s: { floor: 0 }, epsilon: { floor: 0, ceiling: 1 } }[name];
  charts.set(name, new Chart(figure, limits));
}
for (const radio of document.querySelectorAll("[name=axis]")) {
  radio.addEventListener("change", () => columns && drawCharts());
}
setInterval(watch, 1000);
setInterval(showFilters, FILTERS_MS);
showFilters();
connect();
