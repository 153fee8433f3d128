// Pages in headless Chromium, as client: `chromium.cjs PROGRAM [KEY]`, where KEY is the SHA-256 of the one public key
// that it takes from servers unasked. They cannot send pings, fragments or an end without a Close.
'use strict';
const { chromium } = require('playwright-core');
const { serve } = require('./peer.cjs');

// Runs in the page.
function script() {
  const conns = new Map();
  const encode = (buffer) => btoa(Array.from(new Uint8Array(buffer), (b) => String.fromCharCode(b)).join(''));
  const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  function open({ conn, url, protocols }) {
    const socket = new WebSocket(url, protocols);
    const kept = { socket, messages: [], closed: null };
    conns.set(conn, kept);
    socket.binaryType = 'arraybuffer';
    socket.onmessage = ({ data }) =>
      kept.messages.push(typeof data === 'string' ? { text: data } : { binary: encode(data) });
    return new Promise((done, fail) => {
      socket.onopen = () => done();
      socket.onclose = ({ code, reason }) => {
        kept.closed = [code, reason];
        fail(new Error(`closed with ${code} ${reason}`));
      };
    });
  }

  async function recv({ conn }) {
    const { messages } = conns.get(conn);
    for (let left = 2000; left && !messages.length; left--) await new Promise((done) => setTimeout(done, 5));
    if (!messages.length) throw new Error('no message within 10 s');
    return messages.shift();
  }

  function seen({ conn }) {
    const { socket, closed } = conns.get(conn);
    return { pings: [], pongs: [], closed, protocol: socket.protocol, extensions: socket.extensions };
  }

  const send = ({ conn, message }) =>
    conns.get(conn).socket.send('binary' in message ? decode(message.binary) : message.text);
  const close = ({ conn, code, reason }) => conns.get(conn).socket.close(code, reason);
  window.peer = { open, recv, seen, send, close };
}

const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update'];

// A page of each server's own: for a WebSocket Chromium opens no connection of HTTP/2, but it uses the page's.
class Pages {
  constructor(browser) {
    this.browser = browser;
    this.byOrigin = new Map();
    this.byConn = new Map();
  }

  of(url) {
    const { origin } = new URL(url.replace(/^ws/, 'http'));
    if (!this.byOrigin.has(origin)) this.byOrigin.set(origin, this.make(origin));
    return this.byOrigin.get(origin);
  }

  async make(origin) {
    const page = await this.browser.newPage();
    await page.addInitScript(script);
    await page.goto(`${origin}/page`);
    return page;
  }

  async ask(verb, args) {
    if (verb === 'open') this.byConn.set(args.conn, await this.of(args.url));
    const page = this.byConn.get(args.conn);
    if (!page) throw new Error(`no connection ${args.conn}`);
    return page.evaluate(([name, given]) => window.peer[name](given), [verb, args]);
  }
}

async function main() {
  const [executablePath, key] = process.argv.slice(2);
  const args = key ? [...flags, `--ignore-certificate-errors-spki-list=${key}`] : flags;
  const browser = await chromium.launch({ executablePath, args });
  const pages = new Pages(browser);
  const verbs = { version: () => browser.version() };
  for (const verb of ['open', 'recv', 'seen', 'send', 'close']) verbs[verb] = (given) => pages.ask(verb, given);
  const transports = ['ws', 'wss/h1', 'wss/h2'];
  serve({ pieces: false, pings: false, drop: false, deflate: ['takeover'], transports }, verbs);
}

main();
