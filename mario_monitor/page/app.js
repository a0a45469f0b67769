// The page of all runs. Which file does what: list (runs), curves, levels, live, config (the tabs), chart (one chart),
// data (the server's answers), state (the address), numbers (smoothing, bands, text).

import { zoomBy, zoomTo } from "./chart.js";
import { showConfig } from "./config.js";
import { filterKeys, setAllKeys, showCurves } from "./curves.js";
import { data, refreshList } from "./data.js";
import { $, setText, show } from "./dom.js";
import { showLevels } from "./levels.js";
import { filterList, moveInList, only, showList, shownNames } from "./list.js";
import { showLive, stopLive } from "./live.js";
import { duration } from "./numbers.js";
import { change, onChange, state } from "./state.js";

const REFRESH_MS = 2000;
const TABS = ["curves", "levels", "live", "config"];
const VIEWS = { curves: showCurves, levels: showLevels, live: showLive, config: showConfig };

function showControls() {
  for (const tab of TABS) {
    $(`tab-${tab}`).setAttribute("aria-selected", String(state.tab === tab));
    $(`tab-${tab}`).tabIndex = state.tab === tab ? 0 : -1;
    show($(tab), state.tab === tab);
  }
  show($("curve-controls"), state.tab === "curves");
  if (document.activeElement !== $("smooth")) $("smooth").value = state.smooth;
  setText($("smooth-value"), state.smooth ? state.smooth.toFixed(2) : "off");
  $("x").value = state.x;
  $("grouped").checked = state.grouped;
  $("sort").value = state.sort;
  show($("unzoom"), Boolean(state.zoom));
}

// Of a run alone: what TensorBoard has no place for.
function showHead() {
  const ticked = state.runs.filter((name) => data.byName.has(name));
  const run = ticked.length === 1 ? data.byName.get(ticked[0]) : null;
  show($("head"), Boolean(run));
  if (!run) return;
  setText($("head-name"), run.name);
  setText($("head-state"), run.state);
  $("head-state").style.color = data.list.states[run.state] ?? "";
  const age = run.written ? `updated ${duration(Math.max(0, Date.now() / 1000 - run.written))} ago` : "";
  const speed = run.steps_per_s ? `${Math.round(run.steps_per_s).toLocaleString("en")} steps/s` : "";
  const left = run.to_go_s ? `${duration(run.to_go_s)} to go` : "";
  setText($("head-about"), [`${run.step.toLocaleString("en")}${run.target ? ` of ${run.target.toLocaleString("en")}` : ""} steps`, left, speed, age].filter(Boolean).join(" · "));
  setText($("head-why"), run.why);
}

let drawing = false;
let again = false;

// Draw the open tab; asked while it draws, once more afterwards.
async function draw() {
  again = true;
  if (drawing) return;
  drawing = true;
  try {
    while (again) {
      again = false;
      await VIEWS[state.tab]();
    }
  } catch (error) {
    data.lost = error instanceof TypeError && /fetch/i.test(error.message);
    if (!data.lost) console.error(error);
  } finally {
    drawing = false;
  }
}

onChange((values) => {
  showControls();
  showList("sort" in values);
  showHead();
  if (state.tab !== "live") stopLive();
  if (!("zoom" in values && Object.keys(values).length === 1)) draw();
});

async function refresh() {
  if (!document.hidden) {
    const isNew = await refreshList();
    if (isNew) {
      choose();
      showList();
      await draw();
    }
    showHead();
  }
  const isComplete = data.list.runs.length && !data.list.unread.length;
  setTimeout(refresh, isComplete ? REFRESH_MS : 300);
}

// Whoever comes without a choice sees the newest run.
let isFirst = true;
function choose() {
  const { runs, unread } = data.list;
  if (!isFirst || !runs.length || unread.length) return;
  isFirst = false;
  if (!state.runs.some((name) => data.byName.has(name))) only(runs[0].name);
}

// -- controls ---------------------------------------------------------------------------------

for (const tab of TABS) $(`tab-${tab}`).addEventListener("click", () => change({ tab }));
$("tabs").addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  const tab = TABS[(TABS.indexOf(state.tab) + by + TABS.length) % TABS.length];
  change({ tab });
  $(`tab-${tab}`).focus();
});
$("smooth").addEventListener("input", (event) => change({ smooth: Number(event.target.value) }));
$("x").addEventListener("change", (event) => change({ x: event.target.value }));
$("grouped").addEventListener("change", (event) => change({ grouped: event.target.checked }));
$("sort").addEventListener("change", (event) => change({ sort: event.target.value }));
$("search").addEventListener("input", filterList);
$("key-search").addEventListener("input", filterKeys);
$("keys-all").addEventListener("click", () => setAllKeys(true));
$("keys-none").addEventListener("click", () => setAllKeys(false));
$("keys-usual").addEventListener("click", () => change({ keys: null }));
$("tick-all").addEventListener("click", () => change({ runs: [...new Set([...state.runs, ...shownNames()])].slice(0, 60) }));
$("tick-none").addEventListener("click", () => change({ runs: [] }));
$("zoom-in").addEventListener("click", () => zoomBy(0.5));
$("zoom-out").addEventListener("click", () => zoomBy(2));
$("unzoom").addEventListener("click", () => zoomTo(null));
$("help-button").addEventListener("click", () => $("help").showModal());
if (matchMedia("(max-width: 1099px)").matches) $("side").open = false;

const KEYS = {
  j: () => moveInList(1),
  k: () => moveInList(-1),
  "/": () => (($("side").open = true), $("search").focus()),
  g: () => change({ grouped: !state.grouped }),
  x: () => change({ x: state.x === "steps" ? "minutes" : "steps" }),
  s: () => $("smooth").focus(),
  "+": () => zoomBy(0.5),
  "-": () => zoomBy(2),
  0: () => zoomTo(null),
  "?": () => $("help").showModal(),
};
TABS.forEach((tab, i) => (KEYS[i + 1] = () => change({ tab })));

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
  if (isTyping && event.key === "Escape") event.target.blur();
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (!Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

showControls();
refresh();
