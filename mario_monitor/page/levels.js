// Where the last episodes ended, on the level as the game draws it: a strip of deaths for each ticked run.

import { data, ofRuns } from "./data.js";
import { $, el, fill, show } from "./dom.js";
import { percent } from "./numbers.js";
import { colorOf, state } from "./state.js";

const SVG = "http://www.w3.org/2000/svg";
const STRIP = 60; // heights in units of the strip's own
let large = null; // the stage that is shown over the whole width

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function strip(level, color, bin) {
  const most = Math.max(1, ...level.deaths.map(([, count]) => count));
  const bars = level.deaths.map(([x, count]) => {
    const height = Math.max(2, (STRIP * count) / most);
    const title = svg("title", {});
    title.textContent = `x ${x} to ${x + bin - 1}: ${count}`;
    return svg("rect", { x: x + 2, y: STRIP - height, width: bin - 4, height, fill: color }, title);
  });
  return svg("svg", { viewBox: `0 0 ${level.width} ${STRIP}`, preserveAspectRatio: "none", class: "strip", role: "img", "aria-label": level.text }, ...bars);
}

function card(stage, those, bin) {
  const width = those[0].level.width;
  const rows = those.map(({ name, level }) => {
    const color = colorOf(name);
    const about = those.length > 1 ? `${name}: ${level.clears} of ${level.episodes}` : level.text;
    const said = el("div", { class: "line", title: level.text }, el("b", {}, percent(level.clears / level.episodes)), el("span", { class: "muted about" }, about));
    said.firstChild.style.color = color;
    return el("div", {}, said, strip(level, color, bin));
  });
  const picture = el("img", { src: `/level/${stage}.png`, alt: `Level ${stage}, ${width} px long`, loading: "lazy", width: String(width), height: "208" });
  const button = el("button", { type: "button", class: "quiet", title: "Over the whole width, or back", onclick: () => ((large = large === stage ? null : stage), showLevels()) }, large === stage ? "smaller" : "larger");
  return el("figure", { class: large === stage || those.total === 1 ? "level large" : "level", "data-stage": stage }, el("figcaption", {}, el("span", { class: "title" }, stage), el("span", { class: "tools" }, those.total > 1 ? button : null)), ...rows, picture);
}

export async function showLevels() {
  const names = state.runs.filter((name) => data.byName.has(name));
  const found = await ofRuns("levels", names);
  const stages = new Map();
  let bin = 32;
  for (const [name, content] of found) {
    bin = content.bin;
    for (const level of content.levels) stages.set(level.stage, [...(stages.get(level.stage) ?? []), { name, level }]);
  }
  const sorted = [...stages].sort(([a], [b]) => a.localeCompare(b));
  show($("no-levels"), !sorted.length);
  fill($("level-cards"), JSON.stringify([sorted, large, names.map(colorOf)]), () =>
    sorted.map(([stage, those]) => card(stage, Object.assign(those, { total: sorted.length }), bin)),
  );
}
