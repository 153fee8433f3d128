// Owns what stands at the top: the state of the proxy, the age of what is shown, connections now, and the figures of
// silence and round-trip times.

import { quantile, showHistogram } from "./bars.js";
import { confirm, notify } from "./dialogs.js";
import { byId, mark, put, stretch } from "./dom.js";
import { clock, count, edge, moment, percent, plural, span } from "./format.js";
import { post } from "./wire.js";

const QUANTILES = [["p50", 0.5], ["p90", 0.9], ["p99", 0.99]];

/** Descriptors fewer than this part of the room are left: it is time to look. */
const TIGHT = 0.1;

/** Shows a status; `limits` are the known idle limits, which come seldom. */
export function showOverview(status, limits) {
  showHead(status);
  showNow(status.connections);
  const near = (low, high) => limitsBetween(limits, low, high);
  showHistogram(byId("silence-rows"), status.silence, { notes: near });
  showHistogram(byId("trip-rows"), status.round_trip, { isTrimmed: true });
  byId("trip-none").hidden = byId("trip-rows").hasChildNodes();
  for (const side of ["client", "upstream"]) {
    for (const [name, part] of QUANTILES) put(byId(`trip-${name}-${side}`), quantile(status.round_trip, side, part));
  }
}

function showHead({ version, started, uptime, state, reloads }) {
  put(byId("version"), version);
  put(byId("state"), state);
  mark(byId("state"), "data-tone", state === "serving" ? "good" : "warn");
  put(byId("uptime"), span(uptime));
  mark(byId("uptime"), "title", `since ${moment(started)}`);
  showReloads(reloads);
}

function showReloads({ succeeded, failed, last_success: last, last_error: error }) {
  put(byId("reload-last"), last === null ? "none yet" : moment(last));
  mark(byId("reload-last"), "title", `${count(succeeded)} succeeded, ${count(failed)} failed`);
  byId("reload-failed").hidden = !error;
  put(byId("reload-error"), error ?? "");
}

function showNow({ tunnels, clients, capacity }) {
  put(byId("tunnels"), count(tunnels));
  document.title = `${count(tunnels)} · Holdline`;
  put(byId("clients"), count(clients));
  put(byId("capacity"), `${percent(clients, capacity)} of the ${count(capacity)} that fit`);
  stretch(byId("capacity-bar"), clients / capacity);
  mark(byId("capacity-bar"), "data-tone", capacity - clients < TIGHT * capacity ? "warn" : null);
}

/**
 * The known limits whose expiry falls into a bucket, as text. An expiry is seen a little after the limit, so a limit
 * that is an edge belongs to the bucket above it.
 */
function limitsBetween(limits, low, high) {
  const names = new Map();
  for (const { seconds, name } of limits) {
    if (seconds >= low && seconds < high) names.set(seconds, [...(names.get(seconds) ?? []), name]);
  }
  return [...names].map(([seconds, all]) => `${edge(seconds)}: ${all.join(", ")}`).join("; ");
}

/** Asks for a reload of the configuration, and does it. */
export async function reload() {
  await confirm({
    title: "Reload the configuration?",
    text: "The file is read again, as on SIGHUP. Open WebSockets stay open. If it holds any mistake, nothing changes.",
    action: "Reload",
    act: async () => {
      const { warnings = [] } = await post("api/reload", {});
      notify(warnings.length === 0 ? "Reloaded." : `Reloaded, with ${plural(warnings.length, "warning")}:\n${warnings.join("\n")}`,
        warnings.length > 0);
    },
  });
}

/** Says how old the figures are, and what is done about it. `retry`: milliseconds to the next attempt, or null. */
export function showAge(age, heard, error, retry) {
  const isLost = error !== null;
  document.documentElement.toggleAttribute("data-stale", isLost);
  mark(byId("live"), "data-tone", isLost ? "bad" : "good");
  put(byId("live"), isLost ? `lost, ${span(Math.floor(age / 1000))} old` : `live, ${Math.round(age / 1000)} s old`);
  byId("lost").hidden = !isLost;
  if (!isLost) return;
  const since = `What is shown is of ${clock(heard)} UTC, ${span(Math.floor(age / 1000))} ago.`;
  put(byId("lost-since"), heard === null ? "Nothing was heard from it yet." : since);
  put(byId("lost-error"), error);
  put(byId("lost-retry"), retry === null ? "Trying now." : `Next attempt in ${Math.ceil(retry / 1000)} s.`);
}
