// Owns the table of live connections: filters, order, pages. It asks only while it is on the screen.

import { byId, keyed, make, mark, options, put } from "./dom.js";
import { bytes, count, moment, span, trip } from "./format.js";
import { get } from "./wire.js";

/** Rows of a page, and the least time between two requests in milliseconds. */
const ROWS = 50;
const REFRESH = 2000;
/** After the last key of a search, in milliseconds. */
const TYPING = 250;

/** What each age in the filter asks for, in seconds. */
const AGES = {
  "": {},
  "lt60": { max_age: 60 },
  "lt600": { max_age: 600 },
  "gt600": { min_age: 600 },
  "gt3600": { min_age: 3600 },
  "gt86400": { min_age: 86_400 },
};

/** Columns of pairs: what they sort by, and how the value of a side is written. */
const PAIRS = [
  { key: "idle", format: span },
  { key: "bytes", format: bytes },
  { key: "messages", format: count },
  { key: "rtt", format: trip },
];

const view = { sort: "age", order: "desc", offset: 0, matched: 0, isVisible: false, isHeld: false };
let pending = null;
let asked = -Infinity;
let open = () => {};

/** Wires the section up. `onOpen(id)`: the operator wants to see one. */
export function startConnections(onOpen) {
  open = onOpen;
  let typing;
  byId("filter-text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(restart, TYPING);
  });
  for (const id of ["filter-route", "filter-endpoint", "filter-age"]) byId(id).addEventListener("change", restart);
  byId("filter-form").addEventListener("submit", (event) => event.preventDefault());
  byId("filter-clear").addEventListener("click", () => filterBy({}));
  byId("sort").addEventListener("change", () => {
    const [sort, order] = byId("sort").value.split(" ");
    sortBy(sort, order);
  });
  for (const button of document.querySelectorAll("#connection-table [data-sort]")) {
    const { sort } = button.dataset;
    // What is largest is looked for first.
    button.addEventListener("click", () => sortBy(sort, view.sort === sort && view.order === "desc" ? "asc" : "desc"));
  }
  const turns = { first: () => 0, previous: () => view.offset - ROWS, next: () => view.offset + ROWS, last: lastOffset };
  for (const [name, offset] of Object.entries(turns)) byId(`page-${name}`).addEventListener("click", () => turnTo(offset()));
  byId("hold").addEventListener("click", hold);
  new IntersectionObserver((entries) => {
    view.isVisible = entries.at(-1).isIntersecting;
    refreshConnections();
  }).observe(byId("connections"));
  showOrder();
}

/** Offers the routes and endpoints that there are as filters. */
export function offerFilters(routes, upstreams) {
  options(byId("filter-route"), [["", "All routes"], ...routes.map(({ name }) => [name, name])]);
  const ofUpstream = ({ name, endpoints }) => endpoints.map(({ address }) => [JSON.stringify([name, address]), `${name}: ${address}`]);
  options(byId("filter-endpoint"), [["", "All endpoints"], ...upstreams.flatMap(ofUpstream)]);
}

/** Sets the filters, and brings the table into view if there are any. */
export function filterBy({ text = "", route = "", upstream, endpoint }) {
  byId("filter-text").value = text;
  byId("filter-route").value = route;
  byId("filter-endpoint").value = endpoint ? JSON.stringify([upstream, endpoint]) : "";
  byId("filter-age").value = "";
  if (text || route || endpoint) byId("connections").scrollIntoView();
  restart();
}

/** Asks again if the page is visible and the last request is long enough ago. */
export function refreshConnections() {
  if (!view.isVisible || view.isHeld || document.hidden || performance.now() - asked < REFRESH - 100) return;
  load();
}

function restart() {
  turnTo(0);
}

function turnTo(offset) {
  view.offset = Math.max(0, offset);
  load();
}

function lastOffset() {
  return Math.max(0, Math.ceil(view.matched / ROWS) - 1) * ROWS;
}

function sortBy(sort, order) {
  Object.assign(view, { sort, order });
  showOrder();
  restart();
}

function showOrder() {
  byId("sort").value = `${view.sort} ${view.order}`;
  for (const button of document.querySelectorAll("#connection-table [data-sort]")) {
    const isSorted = button.dataset.sort === view.sort;
    mark(button.closest("th"), "aria-sort", isSorted ? (view.order === "desc" ? "descending" : "ascending") : null);
  }
}

/** Stops and starts the refreshing: rows that move cannot be read, or hit. */
function hold() {
  view.isHeld = !view.isHeld;
  mark(byId("hold"), "aria-pressed", view.isHeld);
  put(byId("hold"), view.isHeld ? "Paused: go on" : "Pause");
  if (!view.isHeld) load();
}

function query() {
  const [upstream, endpoint] = byId("filter-endpoint").value === "" ? ["", ""] : JSON.parse(byId("filter-endpoint").value);
  const all = {
    q: byId("filter-text").value.trim(), route: byId("filter-route").value, upstream, endpoint, ...AGES[byId("filter-age").value],
    sort: view.sort, order: view.order, offset: view.offset, limit: ROWS,
  };
  return new URLSearchParams(Object.entries(all).filter(([, value]) => value !== ""));
}

async function load() {
  asked = performance.now();
  // Only the answer to the last question counts.
  pending?.abort();
  pending = new AbortController();
  const { signal } = pending;
  try {
    const answer = await get(`api/connections?${query()}`, signal);
    if (answer.connections.length === 0 && answer.matched > 0 && view.offset > 0) {
      view.matched = answer.matched;
      turnTo(lastOffset());
      return;
    }
    show(answer);
  } catch (error) {
    if (!signal.aborted) put(byId("connection-count"), `Could not be read: ${error.message}`);
  }
}

function show({ total, matched, offset, connections }) {
  view.matched = matched;
  const last = offset + connections.length;
  const range = matched === 0 ? "None" : `${count(offset + 1)}–${count(last)} of ${count(matched)}`;
  put(byId("connection-count"), matched === total ? range : `${range} that match, ${count(total)} in all`);
  byId("page-first").disabled = byId("page-previous").disabled = offset === 0;
  byId("page-next").disabled = byId("page-last").disabled = last >= matched;
  byId("connection-none").hidden = matched > 0;
  put(byId("connection-none"), total === 0 ? "No WebSocket is open." : "No open WebSocket matches these filters.");
  keyed(byId("connection-rows"), connections, (connection) => connection.id, row);
}

function row({ id }) {
  const client = make("button", { type: "button", class: "link mono", click: () => open(id) });
  const host = make("span", { class: "soft" });
  const path = make("span");
  const route = cell("Route", "mono wide");
  const endpoint = cell("Endpoint", "mono wide");
  const age = cell("Age", "number");
  const pairs = PAIRS.map((pair) => ({
    ...pair,
    client: cell(NAMES[pair.key], `number ${pair.key}`),
    upstream: cell("upstream", `number ${pair.key}`),
  }));
  const node = make("tr", { role: "row" },
    make("th", { role: "rowheader", scope: "row" }, client),
    make("td", { role: "cell", class: "target mono", "data-label": "Target" }, host, path),
    route, endpoint, age, ...pairs.flatMap((pair) => [pair.client, pair.upstream]));
  // The whole row can be hit; the button in it is what the keyboard finds.
  node.addEventListener("click", (event) => {
    if (!event.target.closest("button") && getSelection().isCollapsed) open(id);
  });
  const fill = (connection) => {
    put(client, connection.client);
    mark(client, "title", `${connection.id}, opened ${moment(connection.opened)}`);
    put(host, connection.host);
    put(path, connection.path);
    mark(path.parentElement, "title", `${connection.host}${connection.path}`);
    put(route, connection.route);
    put(endpoint, connection.endpoint);
    mark(endpoint, "title", connection.endpoint);
    put(age, span(connection.age));
    for (const pair of pairs) {
      for (const side of ["client", "upstream"]) put(pair[side], pair.format(connection[`${pair.key}_${side}`]));
    }
  };
  return { node, show: fill };
}

const NAMES = { idle: "Idle", bytes: "Received", messages: "Messages", rtt: "Round trip" };

function cell(label, kind) {
  return make("td", { role: "cell", class: kind, "data-label": label });
}
