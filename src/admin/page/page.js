// Owns the page's life: it reads the state once, follows the proxy's events, and comes back when they break off.

import { showCauses } from "./bars.js";
import { filterBy, offerFilters, refreshConnections, startConnections } from "./connections.js";
import { openConnection, openEnd, startDetail } from "./detail.js";
import { askForToken, notify } from "./dialogs.js";
import { byId, put } from "./dom.js";
import { addEnds, endOf, filterEnds, resetEnds, startEnds } from "./ends.js";
import { moment } from "./format.js";
import { repaint, showHistory } from "./hour.js";
import { reload, showAge, showOverview } from "./overview.js";
import { showListeners, showRoutes, showUpstreams } from "./upstreams.js";
import { events, forgetToken, get, hasToken, onDenied } from "./wire.js";

/** All in milliseconds: the proxy says something every 2 s, so a stream without a word for this long is dead. */
const PATIENCE = 10_000;
const FIRST_RETRY = 1000;
const LAST_RETRY = 30_000;
/** The history has a new step every 10 s. */
const HISTORY = 10_000;

/** What is known of the proxy, and of the way to it. */
const known = { limits: [], version: null, started: null, heard: null, heardAt: performance.now(), historyAt: -Infinity };
const way = { error: null, retryAt: null, attempts: 0, stop: null, wake: () => {} };

/** Follows the proxy for as long as the page is looked at. */
async function follow() {
  for (;;) {
    await untilLookedAt();
    way.stop = new AbortController();
    way.retryAt = null;
    const { signal } = way.stop;
    try {
      await begin(AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]));
      for await (const { event, data } of events("api/events", { signal, patience: PATIENCE })) take(event, data);
      throw new Error("the proxy ended the stream");
    } catch (error) {
      // Nobody looks: that is no failure.
      if (signal.aborted) continue;
      way.error = error instanceof TypeError ? "The proxy cannot be reached." : `The connection broke off: ${error.message}.`;
    }
    await rest();
  }
}

function untilLookedAt() {
  if (!document.hidden) return null;
  return new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
}

/** Waits before the next attempt, twice as long each time, and not in step with other pages. */
function rest() {
  const span = Math.min(LAST_RETRY, FIRST_RETRY * 2 ** way.attempts) * (0.75 + Math.random() / 2);
  way.attempts += 1;
  way.retryAt = performance.now() + span;
  showWay();
  return new Promise((done) => {
    const timer = setTimeout(done, span);
    way.wake = () => {
      clearTimeout(timer);
      done();
    };
  });
}

/** Does not wait any longer: neither for the next attempt, nor for what comes of the one under way. */
function tryNow() {
  if (way.retryAt === null) way.stop.abort();
  else way.wake();
}

/** Reads what does not come with the events. */
async function begin(signal) {
  const [status, { ends }] = await Promise.all([get("api/status", signal), get("api/ends?limit=1000", signal)]);
  known.limits = status.limits;
  resetEnds(ends);
  showListeners(status.listeners);
  show(status);
}

function take(event, data) {
  if (event === "tick") show(data);
  if (event === "ends") addEnds(data.ends, data.left_out ?? 0);
}

function show(status) {
  // An upgrade brings its own page.
  if (known.version !== null && known.version !== status.version) location.reload();
  if (known.started !== null && known.started !== status.started) notify(`The proxy was restarted at ${moment(status.started)}.`, true);
  Object.assign(known, { version: status.version, started: status.started, heard: status.now, heardAt: performance.now() });
  Object.assign(way, { error: null, attempts: 0 });
  showOverview(status, known.limits);
  showCauses(status.ends, status.ends_lately, filterEnds);
  showUpstreams(status.upstreams, (upstream, endpoint) => filterBy({ upstream, endpoint }));
  showRoutes(status.routes, (route) => filterBy({ route }));
  offerFilters(status.routes, status.upstreams);
  showWay();
  refreshConnections();
  if (performance.now() - known.historyAt >= HISTORY) readHistory(way.stop.signal);
}

/** Without it the rest of the page is as good. */
async function readHistory(signal) {
  known.historyAt = performance.now();
  try {
    showHistory(await get("api/history", signal));
  } catch (error) {
    if (!signal.aborted) put(byId("hour-readout"), `The last hour could not be read: ${error.message}`);
  }
}

function showWay() {
  const retry = way.retryAt === null ? null : Math.max(0, way.retryAt - performance.now());
  showAge(performance.now() - known.heardAt, known.heard, way.error, retry);
  byId("forget-token").hidden = !hasToken();
}

/** Wires the switch of the theme: by the system's wish unless it is set. */
function startTheme() {
  const remembered = localStorage.getItem("holdline-theme") ?? "auto";
  for (const input of document.querySelectorAll("[name=theme]")) {
    input.checked = input.value === remembered;
    input.addEventListener("change", () => {
      localStorage.setItem("holdline-theme", input.value);
      setTheme(input.value);
    });
  }
  setTheme(remembered);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  repaint();
}

/** Opens the connection that the address names, so that it can be passed on. */
function openNamed() {
  const id = new URLSearchParams(location.hash.slice(1)).get("connection");
  if (id) openConnection(id);
}

function start() {
  startTheme();
  onDenied(askForToken);
  startDetail(endOf);
  startConnections(openConnection);
  startEnds(openEnd);
  byId("reload").addEventListener("click", reload);
  byId("lost-now").addEventListener("click", tryNow);
  byId("forget-token").addEventListener("click", () => {
    forgetToken();
    location.reload();
  });
  addEventListener("online", tryNow);
  // A page that nobody looks at costs the proxy nothing.
  document.addEventListener("visibilitychange", () => (document.hidden ? way.stop?.abort() : way.wake()));
  setInterval(showWay, 1000);
  openNamed();
  follow();
}

start();
