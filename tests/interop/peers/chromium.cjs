// A page in headless Chromium, as client. It cannot send pings, fragments or an end without a Close.
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

async function main() {
  const browser = await chromium.launch({ executablePath: process.argv[2], args: flags });
  const page = await browser.newPage();
  await page.evaluate(script);
  const verbs = {};
  for (const verb of ['open', 'recv', 'seen', 'send', 'close'])
    verbs[verb] = (args) => page.evaluate(([name, given]) => window.peer[name](given), [verb, args]);
  verbs.version = () => browser.version();
  serve({ pieces: false, pings: false, drop: false, deflate: ['takeover'] }, verbs);
}

main();
