// A chart of lines, bands and intervals, drawn by uPlot (page/uplot). Its crosshair, its zoom and its x axis are those
// of all other charts.

import { el, setText } from "./dom.js";
import { duration, percent, rounded, short } from "./numbers.js";
import { change, state } from "./state.js";

const charts = new Set();
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.rebuild();
});

export function zoomTo(range) {
  change({ zoom: range });
  for (const chart of charts) chart.applyZoom();
}

// Zoom in (factor < 1) or out around the middle of what is shown.
export function zoomBy(factor) {
  const some = [...charts].find((chart) => chart.plot && chart.plot.scales.x.min !== undefined);
  if (!some) return;
  const { min, max } = some.plot.scales.x;
  const half = ((max - min) / 2) * factor;
  zoomTo([(min + max) / 2 - half, (min + max) / 2 + half]);
}

const xText = (value) => (state.x === "minutes" ? duration(60 * value) : `step ${Math.round(value).toLocaleString("en")}`);
const xTick = (value) => (state.x === "minutes" ? `${Number(value.toPrecision(4))}` : short(value));

export class Chart {
  constructor(title, { isShare = false, isLarge = false, extra = [], onClose = null } = {}) {
    this.isShare = isShare;
    this.isLog = false;
    this.place = el("div", { class: "plot" });
    this.tip = el("div", { class: "tip", hidden: true });
    this.log = el("button", { class: "quiet", type: "button", title: "Logarithmic y axis", "aria-pressed": "false", onclick: () => this.toggleLog() }, "log");
    this.values = el("span", { class: "values" });
    this.node = el(
      "figure",
      { class: isLarge ? "chart large" : "chart", tabindex: "0", "aria-label": title },
      el(
        "figcaption",
        {},
        el("span", { class: "title" }, title),
        this.values,
        el("span", { class: "tools" }, ...extra, isShare ? null : this.log, onClose ? el("button", { class: "quiet", type: "button", title: "Take it away", "aria-label": `Take ${title} away`, onclick: onClose }, "×") : null),
      ),
      el("div", { class: "holder" }, this.place, this.tip),
    );
    this.content = { lines: [], bands: [], marks: [] };
    this.shape = "";
    this.plot = null;
    this.resizer = new ResizeObserver(() => this.resize());
    this.resizer.observe(this.place);
    charts.add(this);
  }

  // lines: {name, color, x, y, width, dash, points, faint}; bands: {color, x, low, high};
  // marks: {color, x, low, high, y, kept, hollow}, of which intervals and the kept step are drawn.
  set(content) {
    this.content = content;
    const shape = JSON.stringify([state.x, this.isLog, content.lines.map((l) => [l.name, l.color, l.width, l.dash, l.faint, l.points]), content.bands.map((b) => b.color)]);
    if (!this.plot || shape !== this.shape) {
      this.shape = shape;
      this.rebuild();
    } else {
      this.plot.setData(this.joined(), !state.zoom);
      if (state.zoom) this.plot.redraw(true, true);
    }
    this.showLast();
  }

  joined() {
    const { lines, bands } = this.content;
    const positive = (values) => (this.isLog ? values.map((v) => (v > 0 ? v : null)) : values);
    const tables = [
      ...bands.map((one) => [one.x, positive(one.low), positive(one.high)]),
      ...lines.map((one) => [one.x, positive(one.y)]),
    ].filter((table) => table[0].length);
    this.drawn = [
      ...bands.filter((one) => one.x.length).flatMap((one) => [{ ...one, isEdge: true }, { ...one, isEdge: true }]),
      ...lines.filter((one) => one.x.length),
    ];
    return tables.length ? uPlot.join(tables) : [[0]];
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.place.clientWidth) return; // it is built when it is seen: resize()
    const table = this.joined();
    const muted = variable("--muted");
    const grid = { stroke: variable("--grid"), width: 1 };
    const font = "11px system-ui, sans-serif";
    const series = [{}, ...this.drawn.map((one) => this.seriesOf(one))];
    const bands = [];
    this.drawn.forEach((one, i) => {
      if (one.isEdge && this.drawn[i + 1]?.isEdge && i % 2 === 0) bands.push({ series: [i + 2, i + 1], fill: `${one.color}30` });
    });
    const options = {
      width: this.place.clientWidth,
      height: this.place.clientHeight,
      padding: [8, 12, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, range: (u, min, max) => state.zoom ?? widened(min, max) },
        y: { distr: this.isLog ? 3 : 1, range: (u, min, max) => this.yRange(min, max) },
      },
      axes: [
        { stroke: muted, grid: { show: false }, ticks: { show: false }, font, size: 26, values: (u, ticks) => ticks.map((v) => (v === null ? "" : xTick(v))) },
        { stroke: muted, grid, ticks: { show: false }, font, size: 52, values: (u, ticks) => ticks.map((v) => (v === null ? "" : this.isShare ? percent(v) : short(v))) },
      ],
      series,
      bands,
      cursor: {
        y: false,
        sync: { key: "runs", setSeries: false, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false },
        points: { size: 6 },
        dataIdx: (u, i, closest) => nearest(u.data[i], closest),
      },
      hooks: {
        setCursor: [(u) => this.showTip(u)],
        setSelect: [(u) => this.selected(u)],
        draw: [(u) => this.drawMarks(u)],
      },
    };
    this.plot = new uPlot(options, table, this.place);
    this.plot.over.addEventListener("dblclick", () => zoomTo(null));
    this.plot.over.addEventListener("mouseleave", () => (this.tip.hidden = true));
    addTouch(this.plot);
  }

  seriesOf(one) {
    if (one.isEdge) return { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true };
    const isShort = one.x.length < 2;
    return {
      stroke: one.faint ? `${one.color}55` : one.color,
      width: one.width ?? 1.75,
      dash: one.dash,
      spanGaps: true,
      points: { show: Boolean(one.points) || isShort, size: one.points ? 7 : 6, fill: one.dash ? variable("--card") : one.color },
    };
  }

  yRange(min, max) {
    if (this.isShare) return [0, 1.03];
    if (min === null || max === null) return [0, 1];
    if (this.isLog) return [min, max === min ? min * 10 : max];
    const pad = (max - min) * 0.06 || Math.abs(max) * 0.1 || 1;
    return [min >= 0 && min < max * 0.5 ? 0 : min - pad, max + pad];
  }

  toggleLog() {
    this.isLog = !this.isLog;
    this.log.setAttribute("aria-pressed", String(this.isLog));
    this.set(this.content);
  }

  applyZoom() {
    if (!this.plot) return;
    this.plot.setData(this.plot.data, true);
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (!width) return;
    if (!this.plot) this.rebuild();
    else if (this.plot.width !== width || this.plot.height !== height) this.plot.setSize({ width, height });
  }

  selected(u) {
    if (u.select.width < 4) return;
    const range = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    if (u.cursor.event && JSON.stringify(range) !== JSON.stringify(state.zoom)) zoomTo(range);
  }

  text(value) {
    return this.isShare ? percent(value) : rounded(value);
  }

  // The newest value of each of the first few lines, beside the title.
  showLast() {
    const lines = this.content.lines.filter((line) => !line.faint && line.y.length).slice(0, 4);
    while (this.values.children.length > lines.length) this.values.lastChild.remove();
    lines.forEach((line, i) => {
      const node = this.values.children[i] ?? this.values.appendChild(el("b", {}));
      node.style.color = line.color;
      setText(node, this.text(line.y[line.y.length - 1]));
    });
  }

  showTip(u) {
    const { left, idx } = u.cursor;
    const isHere = u.over.matches(":hover") || u.touched;
    if (idx === null || idx === undefined || left < 0 || !isHere) {
      this.tip.hidden = true;
      return;
    }
    const rows = this.drawn
      .map((one, i) => ({ one, value: u.data[i + 1]?.[u.cursor.idxs[i + 1]] }))
      .filter(({ one, value }) => !one.isEdge && !one.faint && value !== null && value !== undefined)
      .sort((a, b) => b.value - a.value)
      .slice(0, 12)
      .map(({ one, value }) => {
        const dot = el("i", {});
        dot.style.background = one.color;
        return el("div", {}, dot, el("span", {}, one.name), el("b", {}, this.text(value)));
      });
    this.tip.replaceChildren(el("div", { class: "muted" }, xText(u.posToVal(left, "x"))), ...rows);
    this.tip.hidden = !rows.length;
    const width = this.tip.offsetWidth;
    const from = u.over.offsetLeft + left;
    this.tip.style.left = `${Math.max(0, from + width + 16 > this.node.clientWidth ? from - width - 10 : from + 14)}px`;
  }

  drawMarks(u) {
    const { ctx } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    const scale = devicePixelRatio;
    for (const mark of this.content.marks ?? []) {
      const x = u.valToPos(mark.x, "x", true);
      const y = u.valToPos(mark.y, "y", true);
      ctx.strokeStyle = mark.color;
      ctx.lineWidth = scale;
      if (mark.high > mark.low) {
        const [low, high] = [u.valToPos(mark.low, "y", true), u.valToPos(mark.high, "y", true)];
        ctx.globalAlpha = 0.55;
        ctx.beginPath();
        ctx.moveTo(x, low);
        ctx.lineTo(x, high);
        for (const end of [low, high]) ctx.moveTo(x - 3 * scale, end), ctx.lineTo(x + 3 * scale, end);
        ctx.stroke();
        ctx.globalAlpha = 1;
      }
      if (mark.kept) drawKept(ctx, x, y, scale, mark.color);
    }
    ctx.restore();
  }

  remove() {
    charts.delete(this);
    this.resizer.disconnect();
    this.plot?.destroy();
    this.node.remove();
  }
}

// A ring around the step whose model was kept.
function drawKept(ctx, x, y, scale, color) {
  ctx.lineWidth = 2.5 * scale;
  ctx.strokeStyle = color;
  ctx.beginPath();
  ctx.arc(x, y, 8 * scale, 0, 2 * Math.PI);
  ctx.stroke();
}

function widened(min, max) {
  if (min === null || max === null) return [0, 1];
  return max > min ? [min, max] : [min - 1, max + 1];
}

// The index next to `closest` at which a series has a value; null before it begins and after it has ended.
function nearest(values, closest) {
  if (closest === null || !values || (values[closest] ?? null) !== null) return closest;
  let before = closest;
  let after = closest;
  while (before >= 0 && (values[before] ?? null) === null) before--;
  while (after < values.length && (values[after] ?? null) === null) after++;
  if (before < 0 || after >= values.length) return null;
  return closest - before <= after - closest ? before : after;
}

// One finger moves the crosshair, two zoom.
function addTouch(plot) {
  let begun = null;
  const placeOf = (touch) => touch.clientX - plot.over.getBoundingClientRect().left;
  const move = (event) => {
    if (event.touches.length === 1) {
      plot.touched = true;
      plot.setCursor({ left: placeOf(event.touches[0]), top: 10 });
    } else if (event.touches.length === 2) {
      event.preventDefault();
      const [a, b] = [...event.touches].map(placeOf);
      if (!begun) begun = { values: [plot.posToVal(a, "x"), plot.posToVal(b, "x")] };
      const [from, to] = begun.values;
      const perPx = (to - from) / (b - a || 1);
      const left = from - perPx * a;
      if (perPx > 0) zoomTo([left, left + perPx * plot.over.clientWidth]);
    }
  };
  plot.over.addEventListener("touchstart", move, { passive: false });
  plot.over.addEventListener("touchmove", move, { passive: false });
  plot.over.addEventListener("touchend", () => ((begun = null), (plot.touched = false)));
}
