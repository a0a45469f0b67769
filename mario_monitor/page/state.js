// What is looked at, kept in the page's address, so that a link shows the same.

const query = new URLSearchParams(location.search);

export const state = {
  runs: query.getAll("run"), // ticked, in this order
  tab: ["curves", "levels", "live", "config"].includes(query.get("tab")) ? query.get("tab") : "curves",
  x: query.get("x") === "minutes" ? "minutes" : "steps",
  smooth: Math.min(0.99, Math.max(0, Number(query.get("smooth")) || 0)),
  grouped: query.get("group") === "1",
  keys: query.has("key") ? query.getAll("key") : null, // null: the usual ones
  measure: query.get("measure") === "median_max_x" ? "median_max_x" : "clear_rate",
  sort: query.get("sort") || "newest",
  zoom: null, // [from, to] in x
};

const listeners = new Set();
export const onChange = (listener) => listeners.add(listener);

export function change(values) {
  if ("x" in values && values.x !== state.x) state.zoom = null;
  Object.assign(state, values);
  const found = new URLSearchParams();
  for (const run of state.runs) found.append("run", run);
  if (state.tab !== "curves") found.set("tab", state.tab);
  if (state.x !== "steps") found.set("x", state.x);
  if (state.smooth) found.set("smooth", state.smooth);
  if (state.grouped) found.set("group", "1");
  if (state.measure !== "clear_rate") found.set("measure", state.measure);
  if (state.sort !== "newest") found.set("sort", state.sort);
  for (const key of state.keys ?? []) found.append("key", key);
  history.replaceState(null, "", found.size ? `?${found}` : location.pathname);
  for (const listener of listeners) listener(values);
}

// Ten colours that are told apart on light and dark; a run keeps its own while it is ticked.
const COLORS = ["#2f81f7", "#e5534b", "#3fa45b", "#c78a1a", "#a371f7", "#1fa3b8", "#db61a2", "#7d8590", "#8f9c1f", "#d1703c"];
const taken = new Map();

export function colorOf(name) {
  const ticked = new Set(state.runs);
  for (const other of taken.keys()) if (!ticked.has(other)) taken.delete(other);
  for (const run of state.runs) {
    if (taken.has(run)) continue;
    const used = new Set(taken.values());
    taken.set(run, COLORS.find((color) => !used.has(color)) ?? COLORS[taken.size % COLORS.length]);
  }
  return taken.get(name) ?? COLORS[0];
}
