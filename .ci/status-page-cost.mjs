// Measures what the status page costs the proxy: its CPU with the page open on its table of connections against
// without, and the bytes that the page receives.

import { readFileSync } from "node:fs";
import { open } from "./websocket.mjs";

const SPAN = 60_000;
/** Of /proc/PID/stat, per second (USER_HZ is 100 on every Linux architecture that the kernel's ABI fixes it for). */
const TICKS = 100;
/** Handshakes under way at a time. */
const AT_ONCE = 50;

export async function measureCost(browser, { proxy, address, url }, tunnels) {
  for (let opened = 0; opened < tunnels; opened += AT_ONCE) {
    const length = Math.min(AT_ONCE, tunnels - opened);
    await Promise.all(Array.from({ length }, (_, index) => open(address, `/idle/${opened + index}`)));
  }
  console.log(`${tunnels} tunnels are open`);
  const without = await cpuOver(proxy.pid);
  console.log(`the page closed: ${without.toFixed(2)} % of a core over ${SPAN / 1000} s`);

  const page = await (await browser.newContext({ viewport: { width: 1440, height: 900 } })).newPage();
  const client = await page.context().newCDPSession(page);
  let received = 0;
  client.on("Network.dataReceived", ({ encodedDataLength, dataLength }) => { received += encodedDataLength || dataLength; });
  await client.send("Network.enable");
  await page.goto(url);
  await page.locator("#connections").scrollIntoViewIfNeeded();
  await page.locator("#connection-count").filter({ hasText: /1–50 of/ }).waitFor();
  received = 0;
  const withPage = await cpuOver(proxy.pid);
  const rate = Math.round(received / (SPAN / 1000));
  console.log(`the page open on the table: ${withPage.toFixed(2)} %, and it receives ${rate} bytes a second`);
  await page.close();
  const again = await cpuOver(proxy.pid);
  console.log(`the page closed again: ${again.toFixed(2)} %`);
  const cost = withPage - (without + again) / 2;
  console.log(`the page costs ${cost.toFixed(2)} % of a core`);
  if (cost > 2) throw new Error("that is over 2 %");
}

/** The share of a core that a process takes over the span, in percent. */
async function cpuOver(pid) {
  const before = cpu(pid);
  const start = performance.now();
  await new Promise((done) => setTimeout(done, SPAN));
  return (100 * (cpu(pid) - before)) / ((performance.now() - start) / 1000);
}

/** Seconds of CPU so far, user and system (proc(5): fields 14 and 15; the name before them may hold anything). */
function cpu(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}
