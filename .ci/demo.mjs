// Checks the page of `holdline demo` in a browser, against the real binary.
//
//   node .ci/demo.mjs [--holdline PATH] [--modules DIR] [--shots DIR] [--chromium PATH]
//
// DIR of --modules is where playwright-core was installed (`npm install playwright-core` there).
// Screenshots go to the directory of --shots. The exit code is 1 if anything was not as it should be.

import { spawn } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    holdline: { type: "string", default: "target/release/holdline" },
    modules: { type: "string", default: "." },
    shots: { type: "string", default: mkdtempSync(join(tmpdir(), "holdline-demo-")) },
    chromium: { type: "string", default: "/usr/bin/chromium" },
  },
});
const { chromium } = createRequire(join(resolve(options.modules), "index.js"))("playwright-core");

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const PATIENCE = 20_000;
// What Chromium itself writes when a handshake or a fetch fails: this check makes some fail.
const NETWORK = /Failed to load resource|WebSocket connection to .* failed|net::ERR_/;

/** Starts the demo on a free port; gives the process and the page's address. */
async function startDemo() {
  const demo = spawn(options.holdline, ["demo", "--listen", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((_, reject) => {
    demo.once("error", reject);
    demo.once("exit", (code, signal) => reject(new Error(`the demo ended: ${signal ?? `exit code ${code}`}`)));
  });
  ended.catch(() => {});
  const lines = [];
  const address = new Promise((found) => {
    createInterface({ input: demo.stdout }).on("line", (line) => {
      lines.push(line);
      const match = /^# Open (http:\/\/\S+) in a browser/.exec(line);
      if (match) found(match[1]);
    });
  });
  return { demo, lines, url: await within(Promise.race([address, ended]), "the demo's address") };
}

/** Ends the demo with SIGTERM; its exit code. */
function stopDemo(demo) {
  if (demo.exitCode !== null || demo.signalCode !== null) return Promise.resolve(demo.exitCode);
  const ended = new Promise((done) => demo.once("exit", (code) => done(code)));
  demo.kill("SIGTERM");
  return within(ended, "the end of the demo");
}

async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${PATIENCE / 1000} s`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The page as its visitor sees it. */
class Page {
  constructor(page) { this.page = page; }
  text(id) { return this.page.locator(`#${id}`).innerText(); }
  click(id) { return this.page.locator(`#${id}`).click(); }
  /** Waits until an element's text matches. */
  async sees(id, pattern) {
    const element = this.page.locator(`#${id}`);
    try {
      await element.filter({ hasText: pattern }).waitFor({ timeout: PATIENCE });
    } catch {
      throw new Error(`#${id}: expected ${pattern}, found ${JSON.stringify(await element.innerText().catch(() => null))}`);
    }
    console.log(`  ok  #${id} says ${pattern}`);
  }
  async connect(panel) {
    await this.click(`${panel}-connect`);
    await this.sees(`${panel}-state`, /^open$/);
  }
  async say(panel, text) {
    await this.page.locator(`#${panel}-input`).fill(text);
    await this.click(`${panel}-send`);
  }
  /** Waits until a counter is above what it was. */
  async moves(id) {
    const before = Number(await this.text(id));
    await this.page.waitForFunction(
      ([id, before]) => Number(document.getElementById(id).textContent) > before, [id, before], { timeout: PATIENCE },
    ).catch(() => { throw new Error(`#${id} stays at ${before}`); });
    console.log(`  ok  #${id} moves, from ${before} to ${await this.text(id)}`);
  }
  async shot(name) {
    const path = join(options.shots, `${name}.png`);
    await this.page.screenshot({ path, fullPage: true });
    console.log(`  screenshot ${path}`);
  }
}

async function visit(page, view) {
  console.log("both upstreams answer");
  for (const panel of ["chat", "echo"]) await view.connect(panel);
  await view.sees("chat-log", /guest-\d+ joined/);
  await view.say("chat", "good morning");
  await view.sees("chat-log", /guest-\d+\s*good morning/);
  await view.say("echo", "grüße, 你好");
  // Once as sent, once as it came back.
  await view.sees("echo-log", /grüße, 你好[\s\S]*grüße, 你好/);

  console.log("both sides of both connections are pinged, and answer");
  const counters = ["chat", "echo"].flatMap((panel) => ["client", "upstream"].flatMap((side) => (
    ["pings", "pongs"].map((what) => `${panel}-${side}-${what}`))));
  await Promise.all(counters.map((id) => view.moves(id)));
  await view.shot("1-connected");

  console.log("the chat upstream dies");
  await view.click("upstream-chat-stop");
  await view.sees("chat-state", /^closed$/);
  await view.sees("chat-verdict", /1014 bad gateway[\s\S]*ended by upstream/);
  await view.sees("ends", /upstream\s*(eof|reset)\s*1014/);
  await view.sees("echo-state", /^open$/);
  await view.shot("2-upstream-died");

  console.log("a handshake while it is dead");
  await view.click("chat-connect");
  await view.sees("chat-verdict", /1014 bad gateway[\s\S]*unreachable/);
  await view.shot("3-upstream-unreachable");

  console.log("it comes back");
  await view.click("upstream-chat-start");
  await view.sees("upstream-chat", /running/);
  await view.connect("chat");
  await view.say("chat", "good evening");
  await view.sees("chat-log", /guest-\d+\s*good evening/);

  console.log("the visitor leaves");
  await view.click("echo-connect");
  await view.sees("echo-verdict", /1000 normal closure[\s\S]*ended by client, close/);
  await view.shot("4-closed");
  await page.setViewportSize({ width: 390, height: 844 });
  await view.shot("5-narrow");
}

async function main() {
  const { demo, lines, url } = await startDemo();
  const complaints = [];
  let browser;
  try {
    console.log(`${options.holdline} serves ${url}`);
    browser = await chromium.launch({ executablePath: options.chromium, args: FLAGS });
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    page.on("console", (message) => {
      const where = message.location().url ?? "";
      if (message.type() !== "error" || NETWORK.test(message.text())) return;
      complaints.push(`console: ${message.text()} (${where})`);
    });
    page.on("pageerror", (error) => complaints.push(`uncaught: ${error.stack ?? error}`));
    await page.goto(url, { timeout: PATIENCE });
    const view = new Page(page);
    await visit(page, view).catch(async (error) => {
      await view.shot("failed").catch(() => {});
      throw error;
    });
  } finally {
    await browser?.close();
    const code = await stopDemo(demo).catch((error) => { demo.kill("SIGKILL"); return error.message; });
    if (code !== 0) complaints.push(`after SIGTERM the demo ended with ${code}`);
  }
  // The log of the same visit: one line for each connection, each with who and why.
  const ends = lines.filter((line) => /route=(chat|echo)/.test(line));
  console.log(`the access log of it:\n${ends.map((line) => `  ${line}`).join("\n")}`);
  if (ends.length !== 4) complaints.push(`the access log has ${ends.length} lines for the 4 handshakes`);
  if (!ends.every((line) => /end=(client|upstream|proxy)\/\w+/.test(line))) complaints.push("a line without its end");
  if (complaints.length > 0) throw new Error(complaints.join("\n"));
  console.log("demo: ok");
}

main().catch((error) => {
  console.error(`demo: NOT ok\n${error.message}`);
  process.exitCode = 1;
});
