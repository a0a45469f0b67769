// The newest model of a run, playing: the game, what the agent sees of it, what it does and expects.

import { data, ofRuns } from "./data.js";
import { $, el, fill, setText, show } from "./dom.js";
import { state } from "./state.js";

let source = null;
let playing = ""; // the address that is open
let values = [];
let bars = [];
let previewOf = "";

const chosen = () => {
  const ticked = state.runs.filter((name) => data.byName.has(name));
  return ticked.includes($("live-run").value) ? $("live-run").value : ticked[0];
};

export async function showLive() {
  const ticked = state.runs.filter((name) => data.byName.has(name));
  fill($("live-run"), JSON.stringify(ticked), () => ticked.map((name) => el("option", { value: name }, name)));
  const name = chosen();
  show($("live-place"), Boolean(name));
  show($("no-live"), !name);
  if (!name) return stopLive();
  const about = (await ofRuns("about", [name])).get(name);
  if (!about || state.tab !== "live") return;
  const own = about.stages.length ? about.stages : ["1-1"];
  const all = Array.from({ length: 32 }, (_, i) => `${1 + (i >> 2)}-${1 + (i & 3)}`);
  fill($("live-stage"), JSON.stringify([name, own]), () => [
    el("option", { value: "" }, own.length > 1 ? "its stages" : `${own[0]}, its stage`),
    ...all.map((stage) => el("option", { value: stage }, stage)),
  ]);
  showPreview(name, about.preview);
  start(name);
}

function start(name) {
  const query = new URLSearchParams();
  if ($("live-stage").value) query.set("stage", $("live-stage").value);
  if ($("live-scene").checked) query.set("scene", "1");
  if ($("live-argmax").checked) query.set("argmax", "1");
  const path = name.split("/").map(encodeURIComponent).join("/");
  const address = $("live-on").checked && !document.hidden ? `/live/${path}?${query}` : "";
  if (address === playing) return;
  stopLive();
  playing = address;
  if (!address) return;
  source = new EventSource(address);
  source.onmessage = (event) => draw(JSON.parse(event.data));
  source.onerror = () => setText($("live-notice"), "The game has stopped; it is asked for again.");
}

export function stopLive() {
  source?.close();
  source = null;
  playing = "";
}

function draw(content) {
  if (content.notice !== undefined) return setText($("live-notice"), content.notice);
  if (content.begin !== undefined) {
    setText($("live-notice"), `${content.begin}, seed ${content.seed}`);
    values = [];
    bars = content.actions.map((name) => {
      const share = el("i", {});
      return { share, node: el("div", { class: "action" }, el("span", {}, name), el("span", { class: "bar" }, share)) };
    });
    $("live-actions").replaceChildren(...bars.map((bar) => bar.node));
    return;
  }
  $("live-screen").src = content.screen;
  const seen = $("live-seen");
  while (seen.children.length > content.seen.length) seen.lastChild.remove();
  content.seen.forEach((address, i) => {
    const picture = seen.children[i] ?? seen.appendChild(el("img", { alt: "what the agent sees" }));
    picture.src = address;
  });
  show($("live-blind"), !content.seen.length);
  setText($("live-facts"), `${content.stage} · step ${content.step} · x ${content.x}`);
  setText($("live-buttons"), content.ending || content.buttons);
  content.probabilities.forEach((share, i) => {
    if (bars[i]) bars[i].share.style.width = `${100 * share}%`;
  });
  setText($("live-value"), content.value === null ? "" : `expects ${content.value.toFixed(2)}`);
  drawValues(content.value);
}

function drawValues(value) {
  if (value === null) return;
  values.push(value);
  values = values.slice(-300);
  const low = Math.min(0, ...values);
  const high = Math.max(1e-6, ...values);
  const points = values.map((one, i) => `${i},${(40 - (38 * (one - low)) / (high - low)).toFixed(1)}`);
  $("live-line").setAttribute("points", points.join(" "));
}

function showPreview(name, step) {
  const wanted = step === null ? "" : `${name} ${step}`;
  show($("preview"), step !== null);
  if (wanted === previewOf) return;
  previewOf = wanted;
  if (step === null) return;
  setText($("preview-title"), `Newest film, of step ${step.toLocaleString("en")}`);
  $("preview-video").src = `/preview/${name.split("/").map(encodeURIComponent).join("/")}?${step}`;
}

for (const id of ["live-run", "live-stage", "live-scene", "live-argmax", "live-on"]) $(id).addEventListener("change", showLive);
document.addEventListener("visibilitychange", () => state.tab === "live" && showLive());
