// Numbers as the page shows them; formats.py says the same on the server.

const NOTHING = "–";

export function show(value, kind = "text") {
  if (value === null || value === undefined) return NOTHING;
  if (/^\d$/.test(kind)) return fixed(value, Number(kind));
  return kinds[kind](value);
}

function fixed(value, digits) {
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// Three digits that count: 12,345, 0.0123, 1.2e-7.
function general(value) {
  const size = Math.abs(value);
  if (size >= 1000) return fixed(value, 0);
  if (size >= 1e-3 || size === 0) return String(Number(value.toPrecision(3)));
  return scientific(value);
}

function scientific(value) {
  return value === 0 ? "0" : value.toExponential(1).replace("+", "");
}

// A mean return with its standard error, as an evaluation has them.
function score({ return_mean: mean, return_se: error }) {
  return error === undefined || error === null ? fixed(mean, 2) : `${fixed(mean, 2)} ± ${fixed(error, 2)}`;
}

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  for (const [unit, name, part, partName] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"]]) {
    if (whole >= unit) return `${Math.floor(whole / unit)} ${name} ${two((whole % unit) / part)} ${partName}`;
  }
  return whole >= 60 ? `${Math.floor(whole / 60)} m ${two(whole % 60)} s` : `${whole} s`;
}

function two(value) {
  return String(Math.floor(value)).padStart(2, "0");
}

function size(bytes) {
  for (const [factor, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (bytes >= factor) return `${(bytes / factor).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

const kinds = {
  text: String,
  general,
  scientific,
  score,
  percent: (value) => `${(100 * value).toFixed(0)} %`,
  duration,
  size,
  moment: (seconds) => new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }),
  resumed: ({ version, path, lost_updates: lost }) =>
    `Resumed at version ${fixed(version, 0)} from ${path}. Acknowledged updates that are gone: ${lost ? fixed(lost, 0) : "none"}.`,
  round: ({ number, credited, quota }) => (quota ? `round ${number}: ${credited} of ${quota} pushes` : "no rounds"),
  sigmas: (value) => (value ? `${general(value)} σ` : "off"),
  shape: (value) => value.join(" × "),
};

// Where an update-to-weight ratio lies on a track from 1e-6 to 1; within a factor of ten of 1e-3 is healthy.
export function paceOf(ratio) {
  if (ratio === null) return { percent: 0, word: "" };
  const percent = ratio > 0 ? (100 * (Math.log10(ratio) + 6)) / 6 : 0;
  const word = ratio < 1e-4 ? "slow" : ratio > 1e-2 ? "fast" : "healthy";
  return { percent: Math.min(100, Math.max(0, percent)), word };
}

// Where the workers' time went: each stage with its seconds and its share of 1.
export function split(seconds) {
  const total = Object.values(seconds).reduce((sum, value) => sum + value, 0) || 1;
  return Object.entries(seconds).map(([stage, value]) => ({ stage, seconds: value, share: value / total }));
}

// The value at a dotted path, such as "stats.epsilon".
export function find(object, path) {
  return path.split(".").reduce((value, name) => value?.[name], object);
}
