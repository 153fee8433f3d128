// Owns the charts of the last hour: tunnels, and how many were opened and ended in each step.

import { byId, keyed, make, put } from "./dom.js";
import { clock, count } from "./format.js";

const TALL = 150;
const LOW = 110;
/** Steps that a chart shows at least, however young the proxy is: five minutes. */
const LEAST_STEPS = 30;
/** Steps of the table that says the same as the charts: five minutes each, at 10 s a step. */
const STEPS_A_ROW = 30;

let charts = [];
let shown = null;

/** Shows a history as the API gives it. */
export function showHistory(history) {
  shown = fromTheStart(history);
  draw(shown);
}

function draw(history) {
  const times = momentsOf(history);
  const down = (values) => values.map((value) => (value === null ? null : -value));
  if (charts.length === 0) charts = build();
  charts[0]?.setData([times, history.tunnels]);
  charts[1]?.setData([times, history.opened, down(history.ended), down(history.abnormal)]);
  describe(history, times);
  readOut(null);
}

/** Draws again, with the colours of the new theme. */
export function repaint() {
  for (const chart of charts) chart.redraw(false, true);
}

/** Without the time before the proxy's start, but for a few steps: else all would be at the edge of an empty chart. */
function fromTheStart(history) {
  const { tunnels } = history;
  const first = tunnels.findIndex((value) => value !== null);
  const start = Math.max(0, Math.min(first < 0 ? tunnels.length : first, tunnels.length - LEAST_STEPS));
  const cut = (values) => values.slice(start);
  return { ...history, tunnels: cut(tunnels), opened: cut(history.opened), ended: cut(history.ended), abnormal: cut(history.abnormal) };
}

/** The end of each step, in seconds of the epoch. */
function momentsOf({ until, step, tunnels }) {
  const last = Date.parse(until) / 1000;
  return tunnels.map((_, index) => last - step * (tunnels.length - 1 - index));
}

function build() {
  // Without the library the table below still says it all.
  const { uPlot } = globalThis;
  if (!uPlot) return [];
  const bars = uPlot.paths.bars({ size: [1, 60], gap: 0 });
  const bar = (probe, opacity) => ({ fill: () => colour(probe, opacity), width: 0, paths: bars, points: { show: false } });
  const line = {
    stroke: () => colour("ink-tunnels"), fill: () => colour("ink-tunnels", 0.14), width: 1.5, points: { show: false },
  };
  return [
    chart(uPlot, "chart-tunnels", TALL, [line], (_, __, most) => [0, Math.max(4, most * 1.08)]),
    chart(uPlot, "chart-turnover", LOW, [bar("ink-opened", 1), bar("ink-ended", 1), bar("ink-abnormal", 1)],
      (_, least, most) => [Math.min(-2, least * 1.1), Math.max(2, most * 1.1)]),
  ];
}

function chart(uPlot, id, height, series, range) {
  const place = byId(id);
  const axis = {
    stroke: () => colour("ink-axis"), font: "11px system-ui, sans-serif", ticks: { show: false },
    grid: { stroke: () => colour("ink-grid"), width: 1 },
  };
  const options = {
    width: place.clientWidth || 300,
    height,
    // All times on the page are UTC.
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "hour" }, points: { show: false } },
    scales: { x: { time: true }, y: { range } },
    axes: [
      { ...axis, size: 24, gap: 4, space: 60, values: (_, ticks) => ticks.map((tick) => clock(tick * 1000).slice(0, 5)) },
      { ...axis, size: 52, gap: 4, space: 26, incrs: WHOLE_STEPS, values: (_, ticks) => ticks.map((tick) => count(Math.abs(tick))) },
    ],
    series: [{}, ...series],
    hooks: { setCursor: [(self) => readOut(self.cursor.idx)] },
  };
  const made = new uPlot(options, [[], ...series.map(() => [])], place);
  new ResizeObserver(() => {
    if (place.clientWidth > 0 && place.clientWidth !== made.width) made.setSize({ width: place.clientWidth, height });
  }).observe(place);
  return made;
}
/** There is no half of a connection. */
const WHOLE_STEPS = [1, 2, 5].flatMap((first) => [0, 1, 2, 3, 4, 5, 6].map((power) => first * 10 ** power)).sort((a, b) => a - b);

/** The colour of an element of the legend, as a canvas needs it. */
function colour(probe, opacity = 1) {
  const [red, green, blue] = getComputedStyle(byId(probe)).color.match(/[\d.]+/g);
  return `rgb(${red} ${green} ${blue} / ${opacity})`;
}

/** Says the numbers under the cursor; without one, those of the whole hour. */
function readOut(index) {
  if (!shown) return;
  const { until, step, tunnels, opened, ended, abnormal } = shown;
  if (index != null && tunnels[index] != null) {
    const time = Date.parse(until) - 1000 * step * (tunnels.length - 1 - index);
    put(byId("hour-readout"), `${clock(time)} UTC: ${count(tunnels[index])} open; within ${step} s ${count(opened[index])} opened, `
      + `${count(ended[index])} ended, ${count(abnormal[index])} of them abnormally`);
  } else if (tunnels.every((value) => value === null)) {
    put(byId("hour-readout"), `The first step of ${step} s is not over yet`);
  } else {
    put(byId("hour-readout"), `In the last hour ${count(sum(opened))} opened, ${count(sum(ended))} ended, `
      + `${count(sum(abnormal))} of them abnormally (no Close frame, or a timeout)`);
  }
}

/** The text alternatives: a sentence for each chart, and the table. */
function describe({ tunnels, opened, ended, abnormal, step }, times) {
  const known = tunnels.flatMap((value, index) => (value === null ? [] : [index]));
  if (known.length === 0) return;
  const least = known.reduce((best, index) => (tunnels[index] < tunnels[best] ? index : best));
  const most = known.reduce((best, index) => (tunnels[index] > tunnels[best] ? index : best));
  const at = (index) => `${count(tunnels[index])} at ${clock(times[index] * 1000).slice(0, 5)}`;
  byId("chart-tunnels").setAttribute("aria-label",
    `Open WebSockets over the last hour: now ${count(tunnels[known.at(-1)])}, least ${at(least)}, most ${at(most)} UTC.`);
  byId("chart-turnover").setAttribute("aria-label",
    `Over the last hour ${count(sum(opened))} opened, ${count(sum(ended))} ended, ${count(sum(abnormal))} of them abnormally.`);
  const rows = [];
  for (let end = tunnels.length; end > 0; end -= STEPS_A_ROW) {
    const start = Math.max(0, end - STEPS_A_ROW);
    const part = (values) => sum(values.slice(start, end));
    rows.push({
      time: clock((times[start] - step) * 1000).slice(0, 5), tunnels: tunnels[end - 1],
      opened: part(opened), ended: part(ended), abnormal: part(abnormal),
    });
  }
  keyed(byId("hour-rows"), rows, (row) => row.time, () => {
    const cells = ["time", "tunnels", "opened", "ended", "abnormal"].map((name) => [name, make(name === "time" ? "th" : "td",
      name === "time" ? { scope: "row" } : { class: "number" })]);
    const show = (row) => cells.forEach(([name, cell]) => put(cell, name === "time" ? row.time : count(row[name])));
    return { node: make("tr", {}, ...cells.map(([, cell]) => cell)), show };
  });
}

function sum(values) {
  return values.reduce((total, value) => total + (value ?? 0), 0);
}
