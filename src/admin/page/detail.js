// Owns the panel of one connection: all that is known of it, the frames as they pass, and the order to close it.

import { confirm, notify } from "./dialogs.js";
import { byId, keyed, make, mark, put } from "./dom.js";
import { NONE, bytes, count, exactClock, moment, plural, span, trip } from "./format.js";
import { Refusal, events, get, post } from "./wire.js";
import { SENDABLE, code, end as endText, explain } from "./words.js";

/** Rows of the tail, and the frames that wait for them while it is held. */
const FRAMES = 300;
/** Between two looks at the connection, in milliseconds. */
const REFRESH = 2000;
/** Longest reason of a Close frame, in bytes (RFC 6455 5.5: 125 less the code). */
const LONGEST_REASON = 123;

/** Rows of the table of both sides: the name of the fields before "_client" and "_upstream". */
const SIDES = [
  ["idle", "Silent for", span],
  ["bytes", "Received", (value) => (value === null || value < 1000 ? bytes(value) : `${bytes(value)} (${count(value)})`)],
  ["messages", "Messages received", count],
  ["pings", "Pings sent to it", count],
  ["pongs", "Answered", count],
  ["rtt", "Round trip, last", trip],
  ["rtt_worst", "Round trip, worst", trip],
];

/** What each field is called; those that are not here come under their own names. */
const FACTS = {
  host: ["Host", plain], path: ["Path", plain],
  client: ["Client", plain], peer: ["Peer", (value, { client }) => (value === null || value === client ? "the client itself" : value)],
  route: ["Route", plain], upstream: ["Upstream", plain],
  endpoint: ["Endpoint", plain], tries: ["Endpoints tried", count],
  age: ["Age", span], opened: ["Opened", moment], duration: ["Lasted", span], started: ["Request arrived", moment], time: ["Ended", moment],
  protocol: ["Protocol", plain], tls: ["TLS", (value, { tls_version: version }) => (value ? version ?? "yes" : "no")],
  subprotocol: ["Subprotocol", plain], extensions: ["Extensions", plain],
  blind: ["Frames", (value) => (value === null ? "read" : `not read: ${value}`)], reason: ["Reason", (value) => value || NONE],
};
/** What peers write may be long. */
const LONG = new Set(["host", "path", "subprotocol", "extensions", "reason", "blind"]);
/** Shown elsewhere in the panel, or of no interest. */
const ELSEWHERE = new Set([
  "id", "settings", "tls_version", "ended_by", "cause", "code", ...SIDES.flatMap(([name]) => [`${name}_client`, `${name}_upstream`]),
]);

let current = null;
let findEnd = () => undefined;

/** Wires the panel up. `endOf(id)`: how that one ended, if it is known. */
export function startDetail(endOf) {
  findEnd = endOf;
  byId("detail-leave").addEventListener("click", leave);
  byId("detail-close").addEventListener("click", () => orderClose(current.id));
  byId("tail-hold").addEventListener("click", holdTail);
  // The panel is not modal, so that the table stays in use: Escape is ours.
  byId("detail").addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
  });
}

/** Closes the panel. At once, not in its `close` event: that comes later, when another may be open in it. */
function leave() {
  const { opener, stop } = current;
  stop.abort();
  current = null;
  byId("detail").close();
  history.replaceState(null, "", location.pathname + location.search);
  if (opener?.isConnected) opener.focus({ preventScroll: true });
}

/** Opens the panel on a live connection. */
export function openConnection(id) {
  begin(id);
  byId("detail-live").hidden = false;
  history.replaceState(null, "", `#connection=${encodeURIComponent(id)}`);
  follow(current);
  readTail(current);
}

/** Opens the panel on one that has ended. */
export function openEnd(line) {
  begin(line.id);
  byId("detail-live").hidden = true;
  fill(line);
  showEnd(line);
}

function begin(id) {
  const opener = current === null ? document.activeElement : current.opener;
  current?.stop.abort();
  current = { id, opener, stop: new AbortController(), frames: [], waiting: [], isHeld: false, leftOut: 0, last: null, isEnded: false };
  put(byId("detail-id"), id);
  for (const part of ["detail-facts", "detail-sides", "detail-settings", "tail-rows"]) keyed(byId(part), [], () => "", null);
  byId("detail-end").hidden = true;
  byId("detail-error").hidden = true;
  byId("detail-close").hidden = false;
  showHold();
  if (!byId("detail").open) byId("detail").show();
  byId("detail-title").focus({ preventScroll: true });
  byId("detail-body").scrollTop = 0;
}

/** Looks at the connection again and again, until it ends or the panel is left. */
async function follow(mine) {
  while (mine === current && !mine.isEnded) {
    try {
      if (!document.hidden) fill(await get(`api/connections/${encodeURIComponent(mine.id)}`, mine.stop.signal));
      if (mine === current) byId("detail-error").hidden = true;
    } catch (error) {
      if (mine !== current) return;
      complain(error.message);
      if (error instanceof Refusal && error.status === 404) {
        miss(mine);
        return;
      }
    }
    await new Promise((done) => setTimeout(done, REFRESH));
  }
}

/** There is no such connection any more. */
function miss(mine) {
  byId("detail-close").hidden = true;
  const line = findEnd(mine.id);
  if (!line) return;
  mine.isEnded = true;
  fill(line);
  showEnd(line);
}

function complain(text) {
  byId("detail-error").hidden = false;
  put(byId("detail-error"), text);
}

function fill(connection) {
  if (current?.id !== connection.id) return;
  // Unknown fields are shown as they are, so that the page hides nothing.
  const names = [...Object.keys(FACTS).filter((name) => name in connection),
    ...Object.keys(connection).filter((name) => !(name in FACTS) && !ELSEWHERE.has(name))];
  const facts = names.map((name) => {
    const [label, format] = FACTS[name] ?? [name.replaceAll("_", " "), plain];
    return [name, label, format(connection[name], connection)];
  });
  keyed(byId("detail-facts"), facts, ([name]) => name, fact);
  keyed(byId("detail-settings"), Object.entries(connection.settings ?? {}).map(([name, value]) => [name, name, setting(name, value)]),
    ([name]) => name, fact);
  byId("detail-settings-part").hidden = connection.settings == null;
  keyed(byId("detail-sides"), SIDES.map((side) => ({ side, connection })), ({ side: [name] }) => name, sideRow);
}

/** A value of a field that nobody foresaw. */
function plain(value) {
  if (value === null || value === undefined) return NONE;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Numbers of settings are spans, but for sizes. */
function setting(name, value) {
  if (value === null) return "off";
  if (typeof value !== "number") return plain(value);
  return /size|bytes/.test(name) ? `${bytes(value)} (${count(value)})` : span(value);
}

function fact([name, label]) {
  const value = make("dd");
  const node = make("div", { class: LONG.has(name) ? "long" : null }, make("dt", {}, label), value);
  return { node, show: ([, , text]) => put(value, text) };
}

function sideRow({ side: [name, label, format] }) {
  const [client, upstream] = [make("td", { class: "number" }), make("td", { class: "number" })];
  const show = ({ connection }) => {
    put(client, format(connection[`${name}_client`] ?? null));
    put(upstream, format(connection[`${name}_upstream`] ?? null));
  };
  return { node: make("tr", {}, make("th", { scope: "row" }, label), client, upstream), show };
}

// The tail.

async function readTail(mine) {
  put(byId("tail-state"), "waiting for frames");
  try {
    for await (const { event, data } of events(`api/connections/${encodeURIComponent(mine.id)}/frames`, { signal: mine.stop.signal })) {
      if (mine !== current) return;
      if (event === "frame") receive(mine, data);
      if (event === "left_out") mine.leftOut += data.count;
      if (event === "end") {
        mine.isEnded = true;
        fill(data);
        showEnd(data);
      }
      scheduleTail(mine);
    }
    if (mine === current && !mine.isEnded) put(byId("tail-state"), "the tail ended");
  } catch (error) {
    if (mine === current) put(byId("tail-state"), `no tail: ${error.message}`);
  }
}

function receive(mine, frame) {
  const time = Date.parse(frame.time);
  const after = mine.last === null ? null : (time - mine.last) / 1000;
  mine.last = time;
  mine.serial = (mine.serial ?? 0) + 1;
  mine.waiting.push({ ...frame, after, key: mine.serial });
  if (mine.waiting.length > FRAMES) mine.waiting.shift();
}

/** Draws at most once in a frame of the screen, however many frames came. */
function scheduleTail(mine) {
  if (mine.isDue) return;
  mine.isDue = true;
  requestAnimationFrame(() => {
    mine.isDue = false;
    if (mine === current) showTail(mine);
  });
}

function showTail(mine) {
  const leftOut = mine.leftOut > 0 ? `; ${count(mine.leftOut)} came too fast and were left out` : "";
  if (mine.isHeld) {
    const orMore = mine.waiting.length === FRAMES ? " or more" : "";
    put(byId("tail-state"), `paused; ${plural(mine.waiting.length, "frame")}${orMore} since${leftOut}`);
    return;
  }
  mine.frames = [...mine.waiting.reverse(), ...mine.frames].slice(0, FRAMES);
  mine.waiting = [];
  const seen = mine.serial ?? 0;
  const below = seen > FRAMES ? `, the last ${FRAMES} below` : "";
  put(byId("tail-state"), seen === 0 && !mine.isEnded ? "waiting for frames" : `${plural(seen, "frame")} seen${below}${leftOut}`);
  keyed(byId("tail-rows"), mine.frames, (frame) => frame.key, frameRow);
}

/** From whom to whom. A frame's side is the peer that sent it; of the proxy's own, the one that is sent it. */
function wayOf({ side, origin, course }) {
  if (origin === "proxy") return `proxy → ${side}`;
  const other = side === "client" ? "upstream" : "client";
  return `${side} → ${course === "ends" ? "proxy" : other}`;
}

function frameRow(frame) {
  const { time, side, opcode, fin, length, origin, after } = frame;
  const isOurs = origin === "proxy";
  const node = make("tr", { "data-origin": origin },
    make("th", { scope: "row", class: "mono" }, exactClock(time)),
    make("td", { class: "number soft" }, after === null ? "" : `+${after < 10 ? `${after.toFixed(3)} s` : span(after)}`),
    make("td", {}, make("span", { class: "who", "data-who": isOurs ? "proxy" : side }, wayOf(frame))),
    make("td", { class: "mono" }, opcode, fin ? null : make("span", { class: "soft", title: "not the last frame of its message" }, " …")),
    make("td", { class: "number" }, `${count(length)} B`));
  return { node, show: () => {} };
}

function holdTail() {
  current.isHeld = !current.isHeld;
  showHold();
  showTail(current);
}

function showHold() {
  mark(byId("tail-hold"), "aria-pressed", current.isHeld);
  put(byId("tail-hold"), current.isHeld ? "Paused: go on" : "Pause");
}

// The end.

function showEnd(line) {
  byId("detail-close").hidden = true;
  byId("detail-error").hidden = true;
  byId("detail-end").hidden = false;
  put(byId("detail-end-cause"), `Ended by ${endText(line)}`);
  put(byId("detail-end-explained"), explain(line.cause));
  put(byId("detail-end-reason"), line.reason ? `“${line.reason}”` : "");
}

async function orderClose(id) {
  await confirm({
    title: `Close connection ${id}?`,
    text: "Both sides are sent a Close frame with this code and reason.",
    fields: [
      {
        name: "code", label: "Code", type: "number", value: String(SENDABLE[0]),
        choices: SENDABLE.map((number) => [String(number), code(number)]),
        hint: "1012 tells the client to come back after a random while; 1008 that it is not wanted.",
        attributes: { min: "1000", max: "4999", required: true },
      },
      {
        name: "reason", label: "Reason", hint: `Clients are shown it. At most ${LONGEST_REASON} bytes of UTF-8.`,
        check: (text) => {
          const size = new TextEncoder().encode(text).length;
          return size > LONGEST_REASON ? `The reason has ${size} bytes; ${LONGEST_REASON} fit.` : null;
        },
      },
    ],
    action: "Close it",
    isGrave: true,
    act: async ({ code: number, reason }) => {
      await post(`api/connections/${encodeURIComponent(id)}/close`, { code: Number(number), reason });
      notify(`Connection ${id} is being closed with ${code(Number(number))}.`);
    },
  });
}
