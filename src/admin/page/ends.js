// Owns the table of recent ends.

import { byId, keyed, make, options, put } from "./dom.js";
import { bytes, clock, count, moment, plural, span } from "./format.js";
import { code, explain } from "./words.js";

/** Ends that the page keeps, as many as the proxy does; and rows that are shown at a time. */
const KEPT = 1000;
const ROWS = 50;

let ends = [];
let rows = ROWS;
let lost = 0;
let open = () => {};

/** Wires the section up. `onOpen(end)`: the operator wants to see one. */
export function startEnds(onOpen) {
  open = onOpen;
  byId("end-filter-form").addEventListener("submit", (event) => event.preventDefault());
  for (const [id, event] of [["end-cause", "change"], ["end-text", "input"]]) byId(id).addEventListener(event, () => {
    rows = ROWS;
    show();
  });
  byId("end-more").addEventListener("click", () => {
    rows += ROWS;
    show();
  });
}

/** Begins with what the proxy remembers, newest first. */
export function resetEnds(lines) {
  ends = lines.slice(0, KEPT);
  lost = 0;
  show();
}

/** Adds what ended since; `leftOut` more were not told. */
export function addEnds(lines, leftOut) {
  // What was read at the start may be told again.
  const known = new Set(ends.slice(0, 2 * lines.length + 100).map((end) => end.id));
  const fresh = lines.filter((line) => !known.has(line.id)).sort((a, b) => endedAt(b) - endedAt(a));
  ends = [...fresh, ...ends].slice(0, KEPT);
  lost += leftOut;
  show();
}

/** The end of a connection, if it is among them. */
export function endOf(id) {
  return ends.find((end) => end.id === id);
}

/** Shows the ends of one cause, and brings the table into view. */
export function filterEnds(endedBy, word) {
  offerCauses([`${endedBy}/${word}`]);
  byId("end-cause").value = `${endedBy}/${word}`;
  byId("end-text").value = "";
  byId("ends").scrollIntoView();
  rows = ROWS;
  show();
}

function offerCauses(more = []) {
  const chosen = byId("end-cause").value;
  const causes = new Set([...ends.map((end) => `${end.ended_by}/${end.cause}`), ...more, ...(chosen ? [chosen] : [])]);
  options(byId("end-cause"), [["", "All causes"], ...[...causes].sort().map((cause) => [cause, cause.replace("/", " / ")])]);
}

function show() {
  offerCauses();
  const cause = byId("end-cause").value;
  const text = byId("end-text").value.trim().toLowerCase();
  const matches = (end) => (cause === "" || `${end.ended_by}/${end.cause}` === cause) && (text === "" || words(end).includes(text));
  const matched = ends.filter(matches);
  const seen = matched.slice(0, rows);
  put(byId("end-count"), `${count(seen.length)} of ${count(matched.length)} shown, of the last ${count(ends.length)}`
    + (lost > 0 ? `; ${plural(lost, "more end")} came too fast to be told here` : ""));
  byId("end-more").hidden = seen.length === matched.length;
  byId("end-none").hidden = matched.length > 0;
  keyed(byId("end-rows"), seen, (end) => end.id, row);
}

function words({ id, client, host, path, route, endpoint, reason }) {
  return [id, client, host, path, route, endpoint, reason].join(" ").toLowerCase();
}

/** The moment of an end. */
export function endedAt({ time }) {
  return Date.parse(time);
}

function row(end) {
  const at = endedAt(end);
  const time = make("button", { type: "button", class: "link mono", title: moment(at), click: () => open(end) }, clock(at));
  const who = make("span", { class: "who", "data-who": end.ended_by }, end.ended_by);
  const cause = make("td", { role: "cell", class: "cause", "data-label": "Cause", title: explain(end.cause) }, who, ` ${end.cause}`,
    end.code === null ? null : make("span", { class: "soft", title: code(end.code) }, ` ${end.code}`));
  const cell = (label, kind, text, title) => make("td", { role: "cell", class: kind, "data-label": label, title }, text);
  const node = make("tr", { role: "row" },
    make("th", { role: "rowheader", scope: "row" }, time), cause,
    cell("Reason", "reason", end.reason, end.reason),
    cell("Client", "mono", end.client),
    make("td", { role: "cell", class: "target mono", "data-label": "Target", title: `${end.host}${end.path}` },
      make("span", { class: "soft" }, end.host), make("span", {}, end.path)),
    cell("Endpoint", "mono", end.endpoint ?? "none"),
    cell("Lasted", "number", span(end.duration)),
    cell("Silence", "number", span(end.idle_client)), cell("upstream", "number", span(end.idle_upstream)),
    cell("Received", "number", bytes(end.bytes_client)), cell("upstream", "number", bytes(end.bytes_upstream)));
  node.addEventListener("click", (event) => {
    if (!event.target.closest("button") && getSelection().isCollapsed) open(end);
  });
  // Nothing of an end changes any more.
  return { node, show: () => {} };
}
