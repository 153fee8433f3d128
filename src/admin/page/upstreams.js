// Owns the upstreams with their endpoints and the orders about them, the routes, and the listeners.

import { confirm, notify } from "./dialogs.js";
import { byId, keyed, make, mark, put, stretch } from "./dom.js";
import { NONE, count, day, percent, plural } from "./format.js";
import { post } from "./wire.js";

const toBeClosed = (active) => `${plural(active, "open connection")} of it will be closed with 1012 (service restart) over the spread.`;

const ORDERS = {
  drain: { label: "Drain", isGrave: true, text: (active) => `It gets no new connections. ${toBeClosed(active)}` },
  down: { label: "Down", isGrave: true, text: (active) => `As drain, and it is not used even if all others fail. ${toBeClosed(active)}` },
  up: { label: "Up", isGrave: false, text: () => "It is again as the configuration says." },
};

const SPREAD = {
  name: "spread", label: "Spread", attributes: { placeholder: "as configured", spellcheck: "false" },
  hint: "Over how long they are closed, such as 30s or 5m; 0s: at once; off: they stay open. Empty: as configured.",
};

const STANDINGS = {
  available: "available",
  failed: "failed, resting",
  trial: "on trial",
  slow_start: "slow start",
};

/** Certificates that end sooner than this many days are marked. */
const SOON = 14;

/** Shows the upstreams. `onPick(upstream, endpoint)`: the operator wants to see those connections. */
export function showUpstreams(upstreams, onPick) {
  keyed(byId("upstream-list"), upstreams, (upstream) => upstream.name, () => upstreamBlock(onPick));
  byId("upstream-none").hidden = upstreams.length > 0;
}

function upstreamBlock(onPick) {
  const name = make("h3");
  const facts = make("p", { class: "soft" });
  const rows = make("tbody", { role: "rowgroup" });
  const caption = make("caption", { class: "unseen" });
  const heads = ["Endpoint", "State", "Standing", "Active", "Share of active", "Weight", "Orders"];
  const head = make("tr", { role: "row" }, ...heads.map((text) => make("th", {
    role: "columnheader", scope: "col", class: ["Active", "Weight"].includes(text) ? "number" : null,
  }, text)));
  const table = make("table", { class: "stacked endpoints", role: "table" }, caption, make("thead", { role: "rowgroup" }, head), rows);
  const node = make("section", { class: "upstream" }, make("div", { class: "head" }, name, facts), table);
  const show = (upstream) => {
    const { endpoints } = upstream;
    const active = endpoints.reduce((total, endpoint) => total + endpoint.active, 0);
    const usable = endpoints.filter((endpoint) => endpoint.state === "up" && endpoint.standing !== "failed").length;
    put(name, upstream.name);
    put(caption, `Endpoints of the upstream ${upstream.name}`);
    put(facts, `${upstream.balance}; ${count(active)} active; ${usable} of ${plural(endpoints.length, "endpoint")} usable`);
    mark(facts, "data-tone", usable === 0 ? "bad" : null);
    keyed(rows, endpoints.map((endpoint) => ({ ...endpoint, upstream: upstream.name, all: active })),
      (endpoint) => `${endpoint.server} ${endpoint.address}`, () => endpointRow(onPick));
  };
  return { node, show };
}

function endpointRow(onPick) {
  let endpoint;
  const address = make("span", { class: "mono" });
  const server = make("span", { class: "soft mono" });
  const state = make("span", { class: "chip" });
  const by = make("span", { class: "soft" });
  const standing = make("span", { class: "chip" });
  const active = make("button", { type: "button", class: "link", click: () => onPick(endpoint.upstream, endpoint.address) });
  const most = make("span", { class: "soft" });
  const bar = make("span", { class: "bar" });
  const share = make("span");
  const weight = cell("Weight", "number");
  const buttons = Object.keys(ORDERS).map((order) => [order, make("button", {
    type: "button", click: () => orderEndpoint(endpoint, order),
  }, `${ORDERS[order].label}…`)]);
  const node = make("tr", { role: "row" },
    make("th", { role: "rowheader", scope: "row" }, address, server),
    cell("State", "", state, " ", by), cell("Standing", "", standing),
    cell("Active", "number", active, most),
    cell("Share of active", "share", make("span", { class: "track", "aria-hidden": "true" }, bar), share),
    weight, cell("Orders", "buttons", ...buttons.map(([, button]) => button)));
  const show = (next) => {
    endpoint = next;
    put(address, next.address);
    const notes = [next.server === next.address ? null : `of ${next.server}`, next.backup ? "backup" : null];
    put(server, notes.filter(Boolean).join(", "));
    put(state, next.state);
    mark(state, "data-tone", { up: "good", drain: "warn", down: "bad" }[next.state]);
    put(by, next.by === "operator" ? "by the operator" : "");
    showStanding(standing, next);
    put(active, count(next.active));
    mark(active, "aria-label", `${plural(next.active, "active connection")} of ${next.address}: show them`);
    put(most, next.max_conns === null ? "" : ` of ${count(next.max_conns)}`);
    stretch(bar, next.all === 0 ? 0 : next.active / next.all);
    put(share, percent(next.active, next.all));
    put(weight, count(next.weight));
    for (const [order, button] of buttons) {
      mark(button, "aria-label", `${ORDERS[order].label} ${next.address} of ${next.upstream}`);
      // An order that already stands is not offered again; "up" takes one back.
      button.hidden = order === "up" ? next.by !== "operator" : next.state === order;
    }
  };
  return { node, show };
}

function showStanding(chip, { standing, share, failures }) {
  const details = [standing === "slow_start" ? percent(share, 1) : null, failures > 0 ? plural(failures, "failure") : null];
  put(chip, [STANDINGS[standing] ?? standing, ...details.filter(Boolean)].join(", "));
  mark(chip, "data-tone", { available: "good", failed: "bad" }[standing] ?? "warn");
}

function cell(label, kind, ...children) {
  return make("td", { role: "cell", class: kind || null, "data-label": label }, ...children);
}

async function orderEndpoint({ upstream, address, active }, order) {
  const { label, isGrave, text } = ORDERS[order];
  await confirm({
    title: `${label} ${address} of ${upstream}?`,
    text: text(active),
    fields: order === "up" ? [] : [SPREAD],
    action: label,
    isGrave,
    act: async ({ spread }) => {
      const path = `api/upstreams/${encodeURIComponent(upstream)}/endpoints/${encodeURIComponent(address)}/${order}`;
      const { state, closing } = await post(path, spread ? { spread } : {});
      notify(`${upstream}, ${address}: now ${state}${closing > 0 ? `; ${plural(closing, "connection")} will be closed` : ""}.`);
    },
  });
}

/** Shows the routes. `onPick(name)`: the operator wants to see the connections of one. */
export function showRoutes(routes, onPick) {
  keyed(byId("route-rows"), routes, (route) => route.name, () => {
    let route;
    const name = make("button", { type: "button", class: "link mono", click: () => onPick(route.name) });
    const upstream = make("td");
    const numbers = ["tunnels", "opened", "ended"].map((field) => [field, make("td", { class: "number" })]);
    const show = (next) => {
      route = next;
      put(name, next.name);
      put(upstream, next.upstream ?? NONE);
      for (const [field, node] of numbers) put(node, count(next[field]));
    };
    return { node: make("tr", {}, make("th", { scope: "row" }, name), upstream, ...numbers.map(([, node]) => node)), show };
  });
}

/** Shows the listeners with their certificates. */
export function showListeners(listeners) {
  keyed(byId("listener-rows"), listeners, (listener) => listener.address, () => {
    const [address, spoken, certificates] = [make("th", { scope: "row", class: "mono" }), make("td"), make("td")];
    const show = (listener) => {
      const isElsewhere = listener.local && listener.local !== listener.address;
      put(address, isElsewhere ? `${listener.address} (${listener.local})` : listener.address);
      const words = [...listener.protocols, listener.tls ? "TLS" : "plain", listener.proxy_protocol ? "PROXY protocol" : null];
      put(spoken, words.filter(Boolean).join(", "));
      certificates.replaceChildren(...listener.certificates.map(certificate));
      if (listener.certificates.length === 0) put(certificates, NONE);
    };
    return { node: make("tr", {}, address, spoken, certificates), show };
  });
}

function certificate({ subject, names, not_after: end }) {
  const days = Math.floor((Date.parse(end) - Date.now()) / 86_400_000);
  const left = days < 0 ? `expired on ${day(end)}` : `until ${day(end)}, ${plural(days, "day")} left`;
  const tone = days < 0 ? "bad" : days < SOON ? "warn" : "good";
  return make("div", { class: "certificate" },
    make("span", { class: "mono", title: subject }, names.length > 0 ? names.join(", ") : subject), " ",
    make("span", { class: "chip", "data-tone": tone }, left));
}
