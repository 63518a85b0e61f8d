// A curve with axes, drawn as SVG: what is not known is a gap, what is pointed at is read out.

import { duration, show } from "./format.js";

const MARGIN = { top: 8, right: 10, bottom: 20, left: 46 };

export class Chart {
  // `figure` holds the svg and the figcaption whose `.last` shows the newest value.
  constructor(figure, { floor = null, ceiling = null } = {}) {
    this.svg = figure.querySelector("svg");
    this.last = figure.querySelector(".last");
    this.title = figure.querySelector(".title").textContent.trim().replace(/\s+/g, " ");
    this.limits = { floor, ceiling };
    this.points = [];
    this.pointed = null;
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.clientX));
    this.svg.addEventListener("pointerleave", () => this.release());
    this.svg.addEventListener("blur", () => this.release());
    this.svg.addEventListener("keydown", (event) => this.step(event));
  }

  // xs and ys of the same length, ys with null where nothing is known; axis: "uptime_s" or "version".
  show(xs, ys, axis) {
    this.axis = axis;
    this.points = xs.map((x, i) => ({ x, y: ys[i] ?? null }));
    this.known = this.points.filter((point) => point.y !== null);
    this.draw();
  }

  draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width || !this.points.length) return;
    const plot = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
    if (!this.known.length) {
      const text = element("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing yet");
      this.svg.replaceChildren(text);
      return;
    }
    const [from, to] = [this.points[0].x, this.points.at(-1).x];
    const [x0, x1] = spread(from < to / 20 ? 0 : from, to);
    const yTicks = this.valueTicks();
    const [y0, y1] = [yTicks[0], yTicks.at(-1)];
    this.x = (x) => plot.left + ((x - x0) / (x1 - x0)) * (plot.right - plot.left);
    this.y = (y) => plot.bottom - ((y - y0) / (y1 - y0)) * (plot.bottom - plot.top);
    this.plot = plot;
    const parts = yTicks.flatMap((tick) => [
      element("line", { class: tick === y0 ? "base" : "grid", x1: plot.left, x2: plot.right, y1: this.y(tick), y2: this.y(tick) }),
      element("text", { x: plot.left - 6, y: this.y(tick) + 4, "text-anchor": "end" }, show(tick, "general")),
    ]);
    const many = Math.max(2, Math.floor(width / 75));
    const step = this.axis === "version" ? Math.max(1, niceStep(x1 - x0, many)) : timeStep(x1 - x0, many);
    for (let tick = Math.ceil(x0 / step) * step; tick <= x1; tick += step) {
      const anchor = this.x(tick) > plot.right - 20 ? "end" : "middle";
      parts.push(element("text", { x: this.x(tick), y: height - 5, "text-anchor": anchor }, this.nameX(tick)));
    }
    const line = this.path();
    if (this.limits.floor === 0) parts.push(element("path", { class: "area", d: this.area() }));
    const last = this.known.at(-1);
    parts.push(element("path", { class: "line", d: line }));
    parts.push(element("circle", { class: "dot", cx: this.x(last.x), cy: this.y(last.y), r: 3 }));
    this.mark = element("g", {});
    this.svg.replaceChildren(...parts, this.mark);
    const first = this.known[0];
    this.svg.setAttribute("aria-label", `${this.title}: from ${show(first.y, "general")} to ${show(last.y, "general")}`);
    this.readOut();
  }

  valueTicks() {
    const values = this.known.map((point) => point.y);
    const { floor, ceiling } = this.limits;
    const low = Math.min(...values, floor ?? Infinity);
    const high = Math.max(...values, ceiling ?? -Infinity);
    const [y0, y1] = spread(low, high);
    const step = niceStep(y1 - y0, 4);
    const ticks = [];
    for (let i = Math.floor(y0 / step + 1e-9); i <= Math.ceil(y1 / step - 1e-9); i++) ticks.push(i * step);
    return ticks;
  }

  // Runs of known points; a run of one would be invisible as a line, so it gets a little length.
  runs() {
    const runs = [];
    let open = false;
    for (const { x, y } of this.points) {
      if (y === null) open = false;
      else {
        if (!open) runs.push([]);
        open = true;
        runs.at(-1).push(`${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`);
      }
    }
    return runs;
  }

  path() {
    return this.runs().map((run) => `M${run.length > 1 ? run.join("L") : `${run[0]}h.1`}`).join("");
  }

  area() {
    const bottom = this.plot.bottom;
    return this.runs().map((run) => {
      const [from, to] = [run[0], run.at(-1)].map((place) => place.split(" ")[0]);
      return `M${from} ${bottom}L${run.join("L")}L${to} ${bottom}Z`;
    }).join("");
  }

  nameX(x) {
    if (this.axis === "version") return show(x, "0");
    return duration(x).replace(/\b0(\d)/, "$1").replace(/^0\.0 s$/, "0").replace(/\.0 s$/, " s").replace(/ 0 [smh]$/, "");
  }

  // -- pointing

  point(clientX) {
    if (!this.x || !this.known.length) return;
    const place = clientX - this.svg.getBoundingClientRect().left;
    const distance = ({ x }) => Math.abs(this.x(x) - place);
    this.pointed = this.known.reduce((best, point) => (distance(point) < distance(best) ? point : best));
    this.readOut();
  }

  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.known?.length) return;
    event.preventDefault();
    const at = this.pointed ? this.known.findIndex(({ x }) => x >= this.pointed.x) : this.known.length - 1;
    this.pointed = this.known[Math.min(this.known.length - 1, Math.max(0, at + by))];
    this.readOut();
  }

  release() {
    this.pointed = null;
    this.readOut();
  }

  readOut() {
    if (!this.mark) return;
    if (!this.pointed) {
      this.mark.replaceChildren();
      this.last.textContent = show(this.known.at(-1)?.y, "general");
      return;
    }
    const { x, y } = this.pointed;
    this.mark.replaceChildren(
      element("line", { class: "rule", x1: this.x(x), x2: this.x(x), y1: this.plot.top, y2: this.plot.bottom }),
      element("circle", { class: "dot", cx: this.x(x), cy: this.y(y), r: 4 }),
    );
    const where = document.createElement("small");
    where.textContent = this.axis === "version" ? `at update ${show(x, "0")}` : `after ${duration(x)}`;
    this.last.replaceChildren(where, show(y, "general"));
  }
}

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// A range that is not empty.
function spread(low, high) {
  return low < high ? [low, high] : [low - (Math.abs(low) / 10 || 0.5), high + (Math.abs(high) / 10 || 0.5)];
}

// The 1, 2 or 5 times a power of ten that divides a range into about `many` parts.
function niceStep(range, many) {
  const rough = range / many;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
}

function timeStep(range, many) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  return steps.find((step) => range / step <= many) ?? Math.ceil(range / many / 86400) * 86400;
}
