// The status page as the checks of it see it, and how they wait for things.

import { join } from "node:path";

const PATIENCE = 20_000;
/** What Chromium itself writes of a request that fails: the checks make some fail. */
const NETWORK = /Failed to load resource|net::ERR_/;

export async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${PATIENCE / 1000} s`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Looks again and again whether something holds. */
export async function until(holds, what) {
  const late = performance.now() + PATIENCE;
  while (!holds()) {
    if (performance.now() > late) throw new Error(`${what}: not within ${PATIENCE / 1000} s`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

export function check(holds, what) {
  if (!holds) throw new Error(`not so: ${what}`);
  console.log(`  ok  ${what}`);
}

/** The page as the operator sees it. */
export class View {
  constructor(page, origin, complaints, shots) {
    Object.assign(this, { page, shots });
    page.setDefaultTimeout(PATIENCE);
    page.on("console", (message) => {
      if (!["error", "warning"].includes(message.type()) || NETWORK.test(message.text())) return;
      complaints.push(`console: ${message.text()}`);
    });
    page.on("pageerror", (error) => complaints.push(`uncaught: ${error.stack ?? error}`));
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (url.protocol !== "data:" && url.origin !== origin) complaints.push(`a request to another origin: ${url}`);
    });
  }
  at(id) { return this.page.locator(`#${id}`); }
  click(id) { return this.at(id).click(); }
  async sees(id, pattern) {
    try {
      await this.at(id).filter({ hasText: pattern, visible: true }).waitFor();
    } catch {
      const found = await this.at(id).innerText().catch(() => null);
      throw new Error(`#${id}: expected ${pattern}, found ${JSON.stringify(found)}`);
    }
    console.log(`  ok  #${id} says ${pattern}`);
  }
  async search(text) {
    await this.at("filter-text").fill(text);
  }
  /** Takes the filters away. What was found with them must be gone before the next is looked for. */
  async showsAll() {
    await this.click("filter-clear");
    await this.sees("connection-count", /of \d+$/);
  }
  /** Answers the dialog that asks before something is done. */
  async confirm(values) {
    await this.at("confirm").waitFor();
    for (const [name, value] of Object.entries(values)) await this.at(`confirm-${name}`).fill(value);
    await this.click("confirm-do");
  }
  async shot(name, fullPage = true) {
    const path = join(this.shots, `status-${name}.png`);
    await this.page.screenshot({ path, fullPage });
    console.log(`  screenshot ${path}`);
  }
  async fits(what) {
    const [wide, room] = await this.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    check(wide <= room, `${what}: ${wide} px are not wider than ${room} px`);
  }
  /** Everything that can be used or read as a unit has a name for those who do not see it. */
  async isNamed(what) {
    const client = await this.page.context().newCDPSession(this.page);
    const { nodes } = await client.send("Accessibility.getFullAXTree");
    await client.detach();
    const units = nodes.filter((node) => !node.ignored && NAMED.has(node.role?.value));
    const nameless = units.filter((node) => !node.name?.value?.trim());
    const but = nameless.map((node) => ` (but not a ${node.role.value})`).join("");
    check(units.length > 2 && but === "", `${what}: ${units.length} controls, tables, images and dialogs have names${but}`);
  }
  /** Nothing that a peer wrote has become markup. */
  async isSafe() {
    const hacked = await this.page.evaluate(() => globalThis.hacked);
    check(hacked === undefined && await this.page.locator("body img, body script").count() === 0, "hostile text stayed text");
  }
}
const NAMED = new Set([
  "button", "link", "textbox", "searchbox", "combobox", "ComboBoxSelect", "spinbutton", "radio", "checkbox", "table", "image",
  "img", "dialog", "search", "navigation",
]);
