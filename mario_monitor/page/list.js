// The list of runs: a tick draws a run over the others, its name shows it alone.

import { data } from "./data.js";
import { $, el, setText, show } from "./dom.js";
import { duration, percent, short } from "./numbers.js";
import { change, colorOf, state } from "./state.js";

const rows = new Map(); // name -> parts of its row
let order = "";

const ORDERS = {
  newest: (a, b) => (b.written ?? 0) - (a.written ?? 0),
  name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
  best: (a, b) => (b.rank ?? -1) - (a.rank ?? -1) || b.step - a.step,
  steps: (a, b) => b.step - a.step,
};

export const seedsOf = (name) => {
  const group = data.byName.get(name)?.group;
  return data.list.runs.filter((run) => run.group === group).map((run) => run.name);
};

export function toggle(name) {
  const those = state.grouped ? seedsOf(name) : [name];
  const isOn = state.runs.includes(name);
  const others = state.runs.filter((run) => !those.includes(run));
  change({ runs: isOn ? others : [...others, ...those] });
}

export function only(name) {
  change({ runs: state.grouped ? seedsOf(name) : [name] });
}

function makeRow(run) {
  const tick = el("input", { type: "checkbox", "aria-label": `Overlay ${run.name}`, onchange: () => toggle(run.name) });
  const parts = {
    tick,
    name: el("button", { class: "name", type: "button", onclick: (event) => (event.ctrlKey || event.metaKey || event.shiftKey ? toggle(run.name) : only(run.name)) }),
    state: el("span", { class: "state" }),
    about: el("span", { class: "about muted" }),
    best: el("span", { class: "best" }),
  };
  setText(parts.name, run.name);
  parts.node = el("li", { tabindex: "-1" }, el("label", { class: "tick" }, tick), el("div", { class: "what" }, parts.name, el("div", { class: "line" }, parts.state, parts.about)), parts.best);
  parts.node.dataset.run = run.name;
  return parts;
}

function updateRow(parts, run) {
  const isOn = state.runs.includes(run.name);
  parts.node.classList.toggle("on", isOn);
  if (parts.tick.checked !== isOn) parts.tick.checked = isOn;
  parts.tick.style.accentColor = isOn ? colorOf(run.name) : "";
  parts.node.style.borderLeftColor = isOn ? colorOf(run.name) : "";
  setText(parts.state, run.state);
  parts.state.style.color = data.list.states[run.state] ?? "";
  const done = run.target ? `${short(run.step)} of ${short(run.target)}` : short(run.step);
  const left = run.to_go_s ? `, ${duration(run.to_go_s)} to go` : "";
  setText(parts.about, `${run.agent} ${run.stage} · ${done}${left}`);
  setText(parts.best, run.best || (run.clear_rate ? percent(run.clear_rate) : ""));
  const title = run.why || `${run.state}${run.best ? `; its kept model cleared ${run.best}` : ""}`;
  if (parts.node.title !== title) parts.node.title = title;
}

export function showList(mustSort = false) {
  const { runs, unread, states } = data.list;
  const names = new Set(runs.map((run) => run.name));
  for (const [name, parts] of rows) if (!names.has(name)) parts.node.remove(), rows.delete(name);
  for (const run of runs) {
    if (!rows.has(run.name)) rows.set(run.name, makeRow(run));
    updateRow(rows.get(run.name), run);
  }
  // Rows move when runs come and go, or when somebody asks for another order; not under a pointer.
  const wanted = `${state.sort}\n${[...names].sort().join("\n")}`;
  if (mustSort || wanted !== order) {
    order = wanted;
    const sorted = [...runs].sort(ORDERS[state.sort] ?? ORDERS.newest);
    $("runs").append(...sorted.map((run) => rows.get(run.name).node));
  }
  const counts = Object.keys(states)
    .map((name) => [runs.filter((run) => run.state === name).length, name])
    .filter(([count]) => count);
  const said = counts.map(([count, name]) => `${count} ${name}`);
  if (unread.length) said.push(`${unread.length} being read`);
  setText($("summary"), data.lost ? "The server does not answer; what is shown is as it was." : said.join(", ") || `no runs in ${data.list.root} yet`);
  $("summary").classList.toggle("lost", data.lost);
  setText($("ticked"), `${state.runs.filter((run) => names.has(run)).length} of ${runs.length} ticked`);
  filterList();
}

export function filterList() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const [name, parts] of rows) {
    const run = data.byName.get(name);
    const text = `${name} ${run?.state} ${run?.agent} ${run?.stage}`.toLowerCase();
    show(parts.node, words.every((word) => text.includes(word)));
  }
}

export function shownNames() {
  return [...$("runs").children].filter((node) => !node.hidden).map((node) => node.dataset.run);
}

// Move the keyboard's place in the list.
export function moveInList(by) {
  const nodes = [...$("runs").children].filter((node) => !node.hidden);
  const here = nodes.findIndex((node) => node.contains(document.activeElement));
  const next = nodes[Math.min(nodes.length - 1, Math.max(0, here + by))];
  next?.querySelector(".name").focus();
}
