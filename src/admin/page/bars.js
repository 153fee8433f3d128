// Owns the charts that are tables: each row has its bar beside its number, so that nothing is told by the bar alone.

import { byId, keyed, make, mark, put, stretch } from "./dom.js";
import { NONE, count, edge, percent } from "./format.js";
import { code, explain } from "./words.js";

/** Shows the ends by cause, and those of the last minutes. `onPick(endedBy, cause)`: the operator wants to see those ends. */
export function showCauses(ends, lately, onPick) {
  const causes = byCause(ends);
  for (const { ended_by: endedBy, cause: word, count: ended } of lately) {
    const cause = causes.find(({ key }) => key === `${endedBy}/${word}`);
    if (cause) cause.lately += ended;
  }
  const most = Math.max(1, ...causes.map((cause) => cause.count));
  const all = causes.reduce((total, cause) => total + cause.count, 0);
  keyed(byId("cause-rows"), causes.map((cause) => ({ ...cause, most, all })), (cause) => cause.key, () => causeRow(onPick));
  put(byId("cause-total"), `${count(all)} since the start`);
  byId("cause-none").hidden = causes.length > 0;
}

/** The ends of all codes together, most frequent cause first. */
function byCause(ends) {
  const causes = new Map();
  for (const { ended_by: endedBy, cause: word, code: number, count: ended } of ends) {
    const key = `${endedBy}/${word}`;
    const cause = causes.get(key) ?? { key, endedBy, word, count: 0, lately: 0, codes: [] };
    cause.count += ended;
    cause.codes.push([number, ended]);
    causes.set(key, cause);
  }
  return [...causes.values()].sort((a, b) => b.count - a.count);
}

function causeRow(onPick) {
  const who = make("span", { class: "who" });
  const word = make("button", { type: "button", class: "link" });
  const codes = make("span", { class: "soft codes" });
  const bar = make("span", { class: "bar" });
  const number = make("td", { class: "number" });
  const part = make("td", { class: "number soft" });
  const lately = make("td", { class: "number" });
  const node = make("tr", {},
    make("th", { scope: "row" }, who, " ", word, codes),
    make("td", { class: "track", "aria-hidden": "true" }, bar), number, part, lately);
  let cause;
  word.addEventListener("click", () => onPick(cause.endedBy, cause.word));
  const show = (next) => {
    cause = next;
    put(who, cause.endedBy);
    mark(who, "data-who", cause.endedBy);
    mark(bar, "data-who", cause.endedBy);
    put(word, cause.word);
    mark(word, "title", `${explain(cause.word)}. Show these ends`);
    const known = cause.codes.filter(([value]) => value !== null);
    const isAlone = cause.codes.length === 1;
    put(codes, known.map(([value, ended]) => (isAlone ? value : `${value} × ${count(ended)}`)).join(", "));
    mark(codes, "title", cause.codes.map(([value, ended]) => `${code(value)}: ${count(ended)}`).join("\n"));
    stretch(bar, cause.count / cause.most);
    put(number, count(cause.count));
    put(part, percent(cause.count, cause.all));
    put(lately, cause.lately === 0 ? NONE : `+${count(cause.lately)}`);
  };
  return { node, show };
}

/**
 * Shows a histogram of both sides: the client's bars grow to the left, the upstream's to the right.
 * `notes`: texts by bucket. Buckets at both ends that nobody is in are left out, if `isTrimmed`.
 */
export function showHistogram(body, { edges, client, upstream }, { notes = () => "", isTrimmed = false } = {}) {
  let buckets = client.map((_, index) => ({
    index, label: bucketLabel(edges, index), client: client[index], upstream: upstream[index],
    note: notes(edges[index - 1] ?? 0, edges[index] ?? Infinity),
  }));
  if (isTrimmed) {
    const used = buckets.filter((bucket) => bucket.client + bucket.upstream > 0).map((bucket) => bucket.index);
    buckets = buckets.slice(Math.min(...used, buckets.length), Math.max(...used, -1) + 1);
  }
  const most = Math.max(1, ...buckets.flatMap((bucket) => [bucket.client, bucket.upstream]));
  keyed(body, buckets.map((bucket) => ({ ...bucket, most })), (bucket) => bucket.index, histogramRow);
}

function bucketLabel(edges, index) {
  if (index === 0) return `≤ ${edge(edges[0])}`;
  if (index === edges.length) return `> ${edge(edges.at(-1))}`;
  const [low, high] = [edge(edges[index - 1]), edge(edges[index])];
  // "55–60 s" is enough where both have the same unit.
  const unit = high.split(" ")[1];
  return low.endsWith(` ${unit}`) ? `${low.split(" ")[0]}–${high}` : `${low} – ${high}`;
}

function histogramRow() {
  // The roles are said because a phone lays these rows out as grids, which takes them away.
  const label = make("th", { scope: "row", role: "rowheader" });
  const side = (name) => ({ bar: make("span", { class: "bar", "data-who": name }), number: make("td", { class: "number", role: "cell" }) });
  const [left, right] = [side("client"), side("upstream")];
  const note = make("td", { class: "note", role: "cell" });
  const node = make("tr", { role: "row" },
    left.number, make("td", { class: "track left", "aria-hidden": "true" }, left.bar), label,
    make("td", { class: "track", "aria-hidden": "true" }, right.bar), right.number, note);
  const show = (bucket) => {
    put(label, bucket.label);
    for (const [parts, value] of [[left, bucket.client], [right, bucket.upstream]]) {
      put(parts.number, count(value));
      mark(parts.number, "data-none", value === 0);
      stretch(parts.bar, value / bucket.most);
    }
    put(note, bucket.note);
    mark(node, "data-marked", bucket.note !== "" && bucket.client + bucket.upstream > 0);
  };
  return { node, show };
}

/** The upper edge of the bucket that holds a quantile, as text. */
export function quantile({ edges, ...sides }, side, part) {
  const counts = sides[side];
  const all = counts.reduce((total, value) => total + value, 0);
  if (all === 0) return NONE;
  let below = 0;
  const bucket = counts.findIndex((value) => (below += value) >= part * all);
  return bucket >= edges.length ? `> ${edge(edges.at(-1))}` : `≤ ${edge(edges[bucket])}`;
}
