// Checks the status page of the admin endpoint in a browser, against the real binary.
//
//   node .ci/status-page.mjs [--holdline PATH] [--modules DIR] [--shots DIR] [--chromium PATH] [--cost TUNNELS]
//
// DIR of --modules is where playwright-core was installed (`npm install playwright-core` there).
// Screenshots go to the directory of --shots. The exit code is 1 if anything was not as it should be.
// --cost measures instead what a page that is looked at costs the proxy with so many tunnels (status-page-cost.mjs).

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { measureCost } from "./status-page-cost.mjs";
import { View, check, until, within } from "./status-page-view.mjs";
import { open, startEcho } from "./websocket.mjs";

const { values: options } = parseArgs({
  options: {
    holdline: { type: "string", default: "target/release/holdline" },
    modules: { type: "string", default: "." },
    shots: { type: "string", default: mkdtempSync(join(tmpdir(), "holdline-status-page-")) },
    chromium: { type: "string", default: "/usr/bin/chromium" },
    cost: { type: "string" },
  },
});
const { chromium } = createRequire(join(resolve(options.modules), "index.js"))("playwright-core");

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
/** Harmless tunnels, and all with the two hostile ones. */
const TUNNELS = 60;
const ALL = TUNNELS + 2;
const TOKEN = "a-token-for-the-check-0123456789";
/** Would leave a trace if it ever became markup. */
const HOSTILE = "<img src=x onerror=globalThis.hacked=1></script><script>globalThis.hacked=1</script>";

const work = mkdtempSync(join(tmpdir(), "holdline-status-"));

function config(endpoints, token = "off") {
  return `
[process]
shutdown_grace = "8s"
[log]
level = "info"
[admin]
address = "127.0.0.1:0"
token = "${token}"
[[listen]]
address = "127.0.0.1:0"
[[route]]
name = 'rooms'
path = "/rooms/"
upstream = "rooms"
ping = { client = "1s", upstream = "1s" }
[[route]]
name = '${HOSTILE}'
path = "/"
upstream = "rooms"
[upstream.rooms]
servers = [${endpoints.map((address) => `"${address}"`).join(", ")}]
`;
}

/** Starts the proxy; gives the process, its configuration's path, and where it listens. */
async function startProxy(text, name) {
  const path = join(work, `${name}.toml`);
  writeFileSync(path, text);
  const proxy = spawn(options.holdline, ["run", "--config", path], { stdio: ["ignore", "ignore", "pipe"] });
  const found = {};
  const ready = new Promise((done, fail) => {
    proxy.once("error", fail);
    proxy.once("exit", (code, signal) => fail(new Error(`the proxy ended: ${signal ?? `exit code ${code}`}\n${said.join("\n")}`)));
    createInterface({ input: proxy.stderr }).on("line", (line) => {
      said.push(line);
      const local = /\blocal=(\S+)/.exec(line)?.[1];
      if (local && /admin endpoint/.test(line)) found.admin = local;
      else if (local && /listening/.test(line)) found.address = local;
      if (found.admin && found.address) done();
    });
  });
  const said = [];
  ready.catch(() => {});
  await within(ready, "the proxy's addresses");
  return { proxy, path, url: `http://${found.admin}/`, ...found };
}

function stopProxy({ proxy }) {
  if (proxy.exitCode !== null || proxy.signalCode !== null) return Promise.resolve(proxy.exitCode);
  const ended = new Promise((done) => proxy.once("exit", (code) => done(code)));
  proxy.kill("SIGTERM");
  return within(ended, "the end of the proxy");
}

async function newView(browser, url, complaints, settings = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...settings });
  const view = new View(await context.newPage(), new URL(url).origin, complaints, options.shots);
  const answer = await view.page.goto(url);
  check(/default-src 'none'/.test(answer.headers()["content-security-policy"]), "the page comes with its policy");
  return view;
}

async function openTunnels(address) {
  const peers = [];
  for (let index = 0; index < TUNNELS; index += 1) peers.push(await open(address, `/rooms/${index}`));
  return peers;
}

async function looksRight(browser, url, complaints) {
  for (const [name, settings] of Object.entries({
    light: { colorScheme: "light" },
    dark: { colorScheme: "dark" },
    phone: { colorScheme: "light", viewport: { width: 360, height: 780 } },
    "phone-dark": { colorScheme: "dark", viewport: { width: 360, height: 780 } },
  })) {
    console.log(`the page, ${name}`);
    const view = await newView(browser, url, complaints, settings);
    await view.sees("state", /^serving$/);
    await view.sees("tunnels", new RegExp(`^${ALL}$`));
    await view.at("connections").scrollIntoViewIfNeeded();
    await view.sees("connection-count", new RegExp(`1–50 of ${ALL}`));
    await view.sees("hour-readout", /opened|first step/);
    await view.fits(name);
    await view.isNamed(name);
    await view.page.evaluate(() => scrollTo(0, 0));
    await view.shot(name);
    await view.page.locator("#connection-rows button").first().click();
    await view.sees("detail-facts", /Host/);
    await view.fits(`${name}, a connection`);
    await view.isNamed(`${name}, a connection`);
    await view.shot(`${name}-connection`, false);
    await view.click("detail-close");
    await view.isNamed(`${name}, a question`);
    await view.shot(`${name}-question`, false);
    await view.page.keyboard.press("Escape");
    await view.page.context().close();
  }
}

async function findsConnections(view) {
  console.log("the table: search, order, pages");
  await view.at("connections").scrollIntoViewIfNeeded();
  await view.search("/rooms/17");
  await view.sees("connection-count", new RegExp(`^1–1 of 1 that match, ${ALL} in all$`));
  await view.sees("connection-rows", /\/rooms\/17\D/);
  await view.search("no such thing");
  await view.sees("connection-none", /matches these filters/);
  await view.showsAll();
  await view.sees("connection-rows", /\/rooms\/0\D/);
  await view.page.locator("[data-sort=age]").click();
  // The youngest is the one that was opened last.
  await view.page.locator("#connection-rows tr").first().filter({ hasText: "/hostile" }).waitFor();
  check(await view.page.locator("th:has([data-sort=age])").getAttribute("aria-sort") === "ascending", "the order is said");
  await view.click("page-next");
  await view.sees("connection-count", new RegExp(`^51–${ALL} of ${ALL}$`));
  await view.click("page-first");
  await view.sees("connection-count", /^1–50 of/);
  await view.at("filter-route").selectOption(HOSTILE);
  await view.sees("connection-count", /^1–2 of 2 that match/);
  await view.at("filter-route").selectOption("");
  await view.at("filter-age").selectOption("gt86400");
  await view.sees("connection-none", /matches these filters/);
  await view.showsAll();
}

async function watchesAndCloses(view, peer) {
  console.log("one connection: its frames as they pass, and its end by the operator's hand");
  await view.search("/rooms/17");
  await view.sees("connection-count", /^1–1 of 1 that match/);
  await view.page.locator("#connection-rows button").first().focus();
  await view.page.keyboard.press("Enter");
  await view.sees("detail-facts", /\/rooms\/17/);
  // The proxy's own pings show that the tail is there.
  await view.sees("tail-rows", /proxy → client\s*ping/);
  peer.send("x".repeat(1234));
  await view.sees("tail-rows", /client → (?:upstream)?\s*text\s*1,234 B/);
  await view.sees("tail-rows", /upstream → (?:client)?\s*text\s*1,234 B/);
  await view.sees("detail-sides", /Messages received\s*1\s*1/);
  await view.click("tail-hold");
  await view.sees("tail-state", /paused/);
  const rows = await view.page.locator("#tail-rows tr").count();
  await view.sees("tail-state", /paused; [3-9] frames/);
  check(await view.page.locator("#tail-rows tr").count() === rows, "paused, the tail stands");
  await view.click("tail-hold");
  await view.sees("tail-state", /frames seen/);
  await view.shot("frames", false);
  await view.page.keyboard.press("Escape");
  check(await view.page.evaluate(() => document.activeElement.closest("#connection-rows") !== null), "Escape leads back to the row");
  await view.page.keyboard.press("Enter");
  await view.sees("detail-facts", /\/rooms\/17/);
  await view.click("detail-close");
  await view.confirm({ code: "1008", reason: "ü".repeat(62) });
  await view.sees("confirm", /124 bytes; 123 fit/);
  await view.confirm({ code: "1006", reason: "" });
  await view.page.locator("#confirm [data-complaint]:not(:empty)").waitFor();
  await view.confirm({ code: "1008", reason: "asked to leave" });
  const end = await within(peer.closed, "the Close frame");
  check(end.code === 1008 && end.reason === "asked to leave", `the client was closed with ${end.code}, "${end.reason}"`);
  await view.sees("detail-end", /Ended by proxy \/ operator, 1008 policy violation/);
  await view.click("detail-leave");
  await view.showsAll();
}

async function showsEnds(view, peers, hostile, blind) {
  console.log("hostile words: in a header, and in the reason of an end");
  await view.search("/blind");
  await view.sees("connection-count", /^1–1 of 1 that match/);
  await view.page.locator("#connection-rows button").click();
  await view.sees("detail-facts", /x; y="<img src=x onerror/);
  await view.click("detail-leave");
  await view.showsAll();
  blind.socket.destroy();
  hostile.close(1000, HOSTILE);
  await within(hostile.closed, "the hostile client's end");
  peers[18].socket.resetAndDestroy();
  await view.at("ends").scrollIntoViewIfNeeded();
  await view.sees("end-rows", /onerror/);
  await view.sees("end-rows", /client reset|client eof/);
  await view.page.locator("#end-rows tr").filter({ hasText: "onerror" }).locator("button").click();
  await view.sees("detail-end", /Ended by client \/ close, 1000 normal closure/);
  await view.sees("detail-end", /<img src=x onerror/);
  await view.isSafe();
  await view.click("detail-leave");
  await view.page.locator("#cause-rows tr").filter({ hasText: "operator" }).locator("button").click();
  await view.sees("end-count", /^1 of 1 shown/);
  await view.at("end-cause").selectOption("");
}

async function showsWhatCameBefore(browser, url, complaints) {
  console.log("what came before the page was opened");
  const view = await newView(browser, url, complaints);
  await view.sees("live", /^live, /);
  await view.page.locator("#cause-rows tr").filter({ hasText: "operator" }).filter({ hasText: /\+1\b/ }).waitFor();
  console.log("  ok  an end of the last five minutes is told by the proxy, not by what the page saw");
  await view.at("hour-readout").scrollIntoViewIfNeeded();
  await view.shot("opened-after");
  await view.page.context().close();
}

async function ordersEndpoints(view, peers, address) {
  console.log("an endpoint is drained, and comes back");
  const row = () => view.page.locator(".endpoints tbody tr").filter({ hasText: address });
  await row().getByRole("button", { name: `Drain ${address} of rooms` }).click();
  await view.confirm({ spread: "soon" });
  await view.page.locator("#confirm [data-complaint]:not(:empty)").waitFor();
  await view.confirm({ spread: "0s" });
  await row().filter({ hasText: /drain by the operator/ }).waitFor();
  await view.sees("notices", /now drain; \d+ connections will be closed/);
  const closing = Number(/now drain; (\d+)/.exec(await view.at("notices").innerText())[1]);
  await row().locator("[data-label=Active]").filter({ hasText: /^0$/ }).waitFor();
  await until(() => peers.filter((peer) => peer.end?.code === 1012).length === closing, `${closing} clients closed with 1012`);
  console.log(`  ok  ${closing} clients were closed with 1012`);
  await view.shot("drained");
  await row().getByRole("button", { name: `Up ${address} of rooms` }).click();
  await view.confirm({});
  await row().locator("[data-label=State]").filter({ hasText: /^up\s*$/ }).waitFor();
  console.log("  ok  up again");
}

async function reloads(view, path, good) {
  console.log("a reload that fails, and one that does not");
  writeFileSync(path, `${good}\n[upstream.rooms]\n`);
  await view.click("reload");
  await view.confirm({});
  await view.page.locator("#confirm [data-complaint]:not(:empty)").waitFor();
  await view.page.keyboard.press("Escape");
  await view.sees("reload-failed", /The last reload failed/);
  writeFileSync(path, good);
  await view.click("reload");
  await view.confirm({});
  await view.sees("notices", /Reloaded/);
  await view.at("reload-failed").waitFor({ state: "hidden" });
}

async function losesAndFinds(view, { proxy }) {
  console.log("the proxy falls silent, and comes back");
  proxy.kill("SIGSTOP");
  try {
    await view.sees("live", /^lost, /);
    await view.sees("lost", /What is shown is of [\d:]+ UTC/);
    await view.shot("lost", false);
  } finally {
    proxy.kill("SIGCONT");
  }
  await view.click("lost-now");
  await view.sees("live", /^live, /);
}

async function remembersTheme(view) {
  console.log("the theme");
  const ground = () => view.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const before = await ground();
  await view.page.getByRole("radio", { name: "Dark" }).check({ force: true });
  check(await ground() !== before, "the switch changes the colours");
  await view.page.reload();
  check(await ground() !== before, "it is remembered");
  await view.page.getByRole("radio", { name: "Auto" }).check({ force: true });
}

async function asksForToken(browser, complaints) {
  console.log("with a token");
  const echo = await startEcho();
  const proxy = await startProxy(config([echo.address], TOKEN), "token");
  try {
    const view = await newView(browser, proxy.url, complaints);
    await view.at("token").waitFor();
    await view.isNamed("the prompt");
    await view.at("token-input").fill("not-the-token-0123456789");
    await view.page.keyboard.press("Enter");
    await view.sees("token-wrong", /not accepted/);
    await view.shot("token", false);
    await view.at("token-input").fill(TOKEN);
    await view.page.keyboard.press("Enter");
    await view.sees("live", /^live, /);
    await view.page.reload();
    await view.sees("live", /^live, /);
    check(await view.at("token").isHidden(), "it is not asked for again");
    await view.page.context().close();
  } finally {
    await stopProxy(proxy);
    echo.stop();
  }
}

async function drains(view, proxy) {
  console.log("the proxy is told to end");
  proxy.proxy.kill("SIGTERM");
  await view.sees("state", /^draining$/);
  await view.shot("draining", false);
}

async function visit(browser, complaints) {
  const upstreams = [await startEcho(), await startEcho()];
  const text = config(upstreams.map((upstream) => upstream.address));
  const proxy = await startProxy(text, "status");
  console.log(`${options.holdline} serves ${proxy.url}`);
  try {
    const peers = await openTunnels(proxy.address);
    // A target with a raw "<" is refused; quotes and braces pass, and so do headers, though not for frames to be read.
    const blind = await open(proxy.address, "/blind", [`Sec-WebSocket-Extensions: x; y="${HOSTILE}"`]);
    const hostile = await open(proxy.address, `/hostile"onerror='{}?%3Cimg%3E`);
    await looksRight(browser, proxy.url, complaints);
    const view = await newView(browser, proxy.url, complaints, { colorScheme: "light" });
    await view.sees("live", /^live, /);
    try {
      await findsConnections(view);
      await watchesAndCloses(view, peers[17]);
      await showsEnds(view, peers, hostile, blind);
      await showsWhatCameBefore(browser, proxy.url, complaints);
      await ordersEndpoints(view, peers, upstreams[0].address);
      await reloads(view, proxy.path, text);
      await remembersTheme(view);
      await losesAndFinds(view, proxy);
      await view.sees("hour-readout", /[1-9]\d* opened, [1-9]\d* ended/);
      await view.isSafe();
      await drains(view, proxy);
    } catch (error) {
      await view.shot("failed").catch(() => {});
      throw error;
    }
  } finally {
    await stopProxy(proxy).catch((error) => { proxy.proxy.kill("SIGKILL"); complaints.push(error.message); });
    for (const upstream of upstreams) upstream.stop();
  }
}

async function main() {
  const complaints = [];
  const browser = await chromium.launch({ executablePath: options.chromium, args: FLAGS });
  try {
    if (options.cost) {
      const echo = await startEcho();
      const proxy = await startProxy(config([echo.address]), "cost");
      await measureCost(browser, proxy, Number(options.cost)).finally(() => stopProxy(proxy)).finally(echo.stop);
      return;
    }
    await visit(browser, complaints);
    await asksForToken(browser, complaints);
  } catch (error) {
    complaints.push(error.stack);
  } finally {
    await browser.close();
    rmSync(work, { recursive: true });
  }
  if (complaints.length > 0) throw new Error(complaints.join("\n"));
  console.log("status page: ok");
}

main().catch((error) => {
  console.error(`status page: NOT ok\n${error.stack ?? error.message}`);
  process.exitCode = 1;
});
