// Numbers as people read them, and what is done to curves before they are drawn. Pure functions.

export function rounded(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e12)) return value.toExponential(digits - 1);
  return Number(value.toPrecision(Math.max(digits, size >= 1 ? Math.floor(Math.log10(size)) + 1 : 1)))
    .toLocaleString("en", { maximumSignificantDigits: 15 });
}

export const percent = (share) => (share === null || share === undefined ? "" : `${Math.round(1000 * share) / 10} %`);

export function short(value) {
  const size = Math.abs(value);
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return `${Number((value / unit).toPrecision(4))}${name}`;
  return `${Number(value.toPrecision(4))}`;
}

export function duration(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 1e5) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

// A moving mean that forgets by `weight` a point and has no debt to its first value. Gaps stay gaps.
export function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

// {x, y} without what was not measured, with x ascending.
export function measured(xs, ys) {
  const x = [];
  const y = [];
  for (let i = 0; i < xs.length; i++) {
    if (ys[i] === null || xs[i] === null || (x.length && xs[i] < x[x.length - 1])) continue;
    if (x.length && xs[i] === x[x.length - 1]) y[y.length - 1] = ys[i];
    else x.push(xs[i]), y.push(ys[i]);
  }
  return { x, y };
}

export function at(line, where) {
  const { x, y } = line;
  if (!x.length || where < x[0] || where > x[x.length - 1]) return null;
  let low = 0;
  let high = x.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] <= where) low = middle;
    else high = middle;
  }
  if (high === low || x[high] === x[low]) return y[low];
  return y[low] + ((where - x[low]) / (x[high] - x[low])) * (y[high] - y[low]);
}

// The mean of several lines where all of them have come to, and the lowest and highest of them.
export function band(lines, points = 200) {
  const those = lines.filter((line) => line.x.length);
  if (!those.length) return { x: [], mean: [], low: [], high: [] };
  const first = Math.max(...those.map((line) => line.x[0]));
  const last = Math.min(...those.map((line) => line.x[line.x.length - 1]));
  const own = those[0].x.filter((x) => x >= first && x <= last);
  const even = Array.from({ length: points }, (_, i) => first + ((last - first) * i) / (points - 1));
  const x = last < first ? [] : own.length > 1 && own.length < points ? own : even;
  const found = { x, mean: [], low: [], high: [] };
  for (const where of x) {
    const values = those.map((line) => at(line, where));
    found.mean.push(values.reduce((sum, value) => sum + value / values.length, 0));
    found.low.push(Math.min(...values));
    found.high.push(Math.max(...values));
  }
  return found;
}

// What the names of a group have in common, to call it by.
export function commonName(names) {
  let name = names[0];
  for (const other of names) while (!other.startsWith(name)) name = name.slice(0, -1);
  name = name.replace(/[\/_\-. ]*(seed|s)?[\/_\-. ]*\d*$/i, "");
  return `${name || names[0]} (${names.length})`;
}
