// The charts: evaluations by mode with their intervals, then every key that is asked for.

import { Chart } from "./chart.js";
import { data, ofRuns } from "./data.js";
import { $, el, fill, setText, show } from "./dom.js";
import { band, commonName, measured, smoothed } from "./numbers.js";
import { change, colorOf, state } from "./state.js";

const charts = new Map(); // key -> Chart
const titles = () => new Map(data.list.curves.map((curve) => [curve.key, curve.title]));
const isShare = (key) => /(^|\/)clear_rate$/.test(key);
let known = [];
let evaluations = null;

// Ticked runs as they are drawn: each alone, or those of one experiment as a group.
export function groups(names) {
  if (!state.grouped) return names.map((name) => ({ name, members: [name], color: colorOf(name) }));
  const found = new Map();
  for (const name of names) {
    const group = data.byName.get(name)?.group ?? name;
    found.set(group, [...(found.get(group) ?? []), name]);
  }
  return [...found.values()].map((members) => ({
    name: members.length > 1 ? commonName(members) : members[0],
    members,
    color: colorOf(members[0]),
  }));
}

const xsOf = (curve) => (state.x === "minutes" ? curve.minutes : curve.steps);

// The lines and bands of groups of lines.
function drawing(those, lineOf, style = {}) {
  const lines = [];
  const bands = [];
  for (const { name, members, color } of those) {
    const found = members.map(lineOf).filter((line) => line && line.x.length);
    if (!found.length) continue;
    if (found.length === 1 && members.length === 1) {
      const [line] = found;
      if (state.smooth && !style.points) lines.push({ name, color, ...line, faint: true, width: 1 });
      lines.push({ name, color, x: line.x, y: style.points ? line.y : smoothed(line.y, state.smooth), ...style });
    } else {
      const even = found.map((line) => ({ x: line.x, y: style.points ? line.y : smoothed(line.y, state.smooth) }));
      for (const line of even) lines.push({ name, color, ...line, faint: true, width: 1 });
      const { x, mean, low, high } = band(even);
      bands.push({ color, x, low, high });
      lines.push({ name, color, x, y: mean, width: 2.5, ...style });
    }
  }
  return { lines, bands };
}

function usualKeys(found) {
  const logged = new Set([...found.values()].flatMap((curve) => curve.keys));
  return data.list.curves.map((curve) => curve.key).filter((key) => logged.has(key));
}

const shownKeys = () => state.keys ?? known.usual ?? data.list.curves.map((curve) => curve.key);

export async function showCurves() {
  const names = state.runs.filter((name) => data.byName.has(name));
  const keys = [...shownKeys()].slice(0, 64);
  const extra = keys.map((key) => `&key=${encodeURIComponent(key)}`).join("");
  const [judged, found] = await Promise.all([ofRuns("evaluations", names), ofRuns("curves", names, extra)]);
  known = [...new Set([...found.values()].flatMap((curve) => curve.keys))].sort();
  known.usual = usualKeys(found);
  const those = groups(names);
  show($("nothing"), !names.length);
  showEvaluations(those, judged);
  showCharts(those, found);
  showKeys();
}

function showEvaluations(those, judged) {
  const measure = state.measure;
  if (!evaluations || evaluations.isShare !== (measure === "clear_rate")) {
    evaluations?.remove();
    const choice = el("select", { "aria-label": "What of the evaluations", onchange: (event) => change({ measure: event.target.value }) }, el("option", { value: "clear_rate" }, "clear rate"), el("option", { value: "median_max_x" }, "median max-x"));
    choice.value = measure;
    evaluations = new Chart("Evaluations", { isShare: measure === "clear_rate", isLarge: true, extra: [choice] });
    $("evaluations").replaceChildren(evaluations.node, el("p", { class: "muted note" }, "Solid: argmax. Dashed: sampled. Bars: 95 % intervals, where the episodes are a sample. Ringed: the step whose model is kept."));
  }
  const lines = [];
  const bands = [];
  const marks = [];
  for (const mode of ["argmax", "sampled"]) {
    const pointsOf = (name) => (judged.get(name)?.points ?? []).filter((point) => point.mode === mode);
    const lineOf = (name) => {
      const points = pointsOf(name);
      return measured(points.map((p) => (state.x === "minutes" ? p.minutes : p.step)), points.map((p) => p[measure]));
    };
    const style = { points: true, dash: mode === "sampled" ? [5, 4] : undefined };
    const drawn = drawing(those.map((one) => ({ ...one, name: `${one.name}, ${mode}` })), lineOf, style);
    lines.push(...drawn.lines);
    bands.push(...drawn.bands);
    for (const { members, color } of those)
      for (const name of members)
        for (const point of pointsOf(name)) {
          const kept = mode === "argmax" && point.step === judged.get(name).kept;
          const hasBar = measure === "clear_rate" && members.length === 1;
          if (kept || hasBar)
            marks.push({ color, kept, x: state.x === "minutes" ? point.minutes : point.step, y: point[measure], low: hasBar ? point.low : 0, high: hasBar ? point.high : 0 });
        }
  }
  show($("evaluations"), lines.length > 0);
  if (lines.length) evaluations.set({ lines, bands, marks });
}

function showCharts(those, found) {
  const keys = shownKeys().filter((key) => known.includes(key));
  const named = titles();
  for (const [key, chart] of charts) if (!keys.includes(key)) chart.remove(), charts.delete(key);
  for (const key of keys) {
    if (!charts.has(key)) {
      const onClose = () => change({ keys: shownKeys().filter((other) => other !== key) });
      const chart = new Chart(named.get(key) ?? key, { isShare: isShare(key), onClose });
      chart.node.dataset.metric = key;
      charts.set(key, chart);
      const next = keys.slice(keys.indexOf(key) + 1).map((other) => charts.get(other)?.node).find((node) => node?.isConnected);
      $("charts").insertBefore(chart.node, next ?? null);
    }
    const lineOf = (name) => {
      const curve = found.get(name);
      return curve?.values[key] ? measured(xsOf(curve), curve.values[key]) : null;
    };
    charts.get(key).set({ ...drawing(those, lineOf), marks: [] });
  }
}

// Every key that a ticked run logs, to add or take away.
function showKeys() {
  const shown = new Set(shownKeys());
  setText($("key-count"), `${known.filter((key) => shown.has(key)).length} of ${known.length}`);
  const toggleKey = (key, isOn) => change({ keys: isOn ? [...shownKeys(), key] : shownKeys().filter((other) => other !== key) });
  const named = titles();
  fill($("keys"), JSON.stringify([known, [...shown]]), () =>
    known.map((key) =>
      el("label", {}, el("input", { type: "checkbox", checked: shown.has(key), onchange: (event) => toggleKey(key, event.target.checked) }), el("span", {}, key), named.has(key) ? el("span", { class: "muted" }, ` ${named.get(key)}`) : null),
    ),
  );
  filterKeys();
}

export function filterKeys() {
  const text = $("key-search").value.toLowerCase();
  for (const label of $("keys").children) show(label, label.textContent.toLowerCase().includes(text));
}

export function setAllKeys(isOn) {
  const visible = [...$("keys").children].filter((label) => !label.hidden).map((label) => label.querySelector("span").textContent);
  change({ keys: isOn ? [...new Set([...shownKeys(), ...visible])] : shownKeys().filter((key) => !visible.includes(key)) });
}
