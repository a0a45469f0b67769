// What each run was told, beside the recipe of its agent; its command, its health, what its trainer printed last.

import { data, ofRuns } from "./data.js";
import { $, el, fill } from "./dom.js";
import { colorOf, state } from "./state.js";

const quoted = (word) => (/^[\w./:=,+@%-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
const PLACES = /(^|\.)(run_dir|logdir)$/; // every run's own: no difference that matters

function table(runs) {
  const agents = [...new Set(runs.map((run) => run.agent))];
  const recipes = new Map(agents.map((agent) => [agent, runs.find((run) => run.agent === agent).recipe]));
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.flags)))].sort();
  const wantsAll = $("config-all").checked;
  const words = $("config-search").value.toLowerCase();
  const rows = [];
  for (const name of names) {
    const values = runs.map((run) => run.flags[name]);
    const isOther = runs.map((run, i) => values[i] !== undefined && Object.keys(run.recipe).length > 0 && values[i] !== run.recipe[name]);
    const differs = !PLACES.test(name) && (isOther.some(Boolean) || new Set(values.filter((value) => value !== undefined)).size > 1);
    if (!(wantsAll || differs) || !name.toLowerCase().includes(words)) continue;
    rows.push(
      el(
        "tr",
        {},
        el("th", { scope: "row" }, name),
        ...agents.map((agent) => el("td", { class: "muted" }, recipes.get(agent)[name] ?? "–")),
        ...values.map((value, i) => el("td", { class: isOther[i] && !PLACES.test(name) ? "other" : "" }, value ?? "–")),
      ),
    );
  }
  const heads = runs.map((run) => {
    const head = el("th", { scope: "col" }, run.name);
    head.style.color = colorOf(run.name);
    return head;
  });
  const titles = agents.map((agent) => el("th", { scope: "col" }, agents.length > 1 ? `${agent}'s recipe` : "recipe"));
  if (!rows.length) return el("p", { class: "muted" }, "No flag differs.");
  return el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "flag"), ...titles, ...heads)), el("tbody", {}, ...rows));
}

function card(run) {
  const title = el("h3", {}, run.name);
  title.style.color = colorOf(run.name);
  const { cpus, gpu, ...others } = run.machine;
  const machine = [cpus && `${cpus} cores`, ...Object.values(others), gpu && (gpu === "null" ? "no GPU" : gpu)].filter(Boolean).join(", ");
  const pairs = [
    ["command", run.command.length ? `python ${run.command.map(quoted).join(" ")}` : ""],
    ["commit", run.commit],
    ["started", run.started],
    ["machine", machine],
    ["trouble", run.trouble],
  ].filter(([, text]) => text);
  const findings = run.findings.map((one) => el("li", { class: one.is_collapse ? "bad" : "warn" }, `${one.rule} at step ${one.step.toLocaleString("en")}: ${one.message}`));
  return el(
    "section",
    { class: "about-run" },
    title,
    el("dl", {}, ...pairs.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, el("code", {}, text))])),
    el("h4", {}, "Doctor"),
    findings.length ? el("ul", {}, ...findings) : el("p", { class: "muted" }, "finds nothing wrong."),
    el("h4", {}, "Last lines of its trainer"),
    run.log.length ? el("pre", {}, run.log.join("\n")) : el("p", { class: "muted" }, "none: only launch_detached keeps them, as trainer.log in the run's folder."),
  );
}

export async function showConfig() {
  const names = state.runs.filter((name) => data.byName.has(name));
  const runs = [...(await ofRuns("about", names)).values()];
  const key = JSON.stringify([runs, $("config-all").checked, $("config-search").value, names.map(colorOf)]);
  fill($("config-table"), key, () => (runs.length ? [table(runs)] : [el("p", { class: "muted" }, "Tick a run.")]));
  const wasAtEnd = new Map([...document.querySelectorAll(".about-run pre")].map((pre, i) => [i, pre.scrollHeight - pre.scrollTop - pre.clientHeight < 8]));
  if (fill($("config-runs"), JSON.stringify([runs, names.map(colorOf)]), () => runs.map(card)))
    document.querySelectorAll(".about-run pre").forEach((pre, i) => {
      if (wasAtEnd.get(i) ?? true) pre.scrollTop = pre.scrollHeight;
    });
}

$("config-all").addEventListener("change", showConfig);
$("config-search").addEventListener("input", showConfig);
