// The npm packages socket.io and socket.io-client.
'use strict';
const { createServer } = require('http');
const { randomUUID } = require('crypto');
const { Server } = require('socket.io');
const { io } = require('socket.io-client');
const { serve, sleep } = require('./peer.cjs');

let staying;

function listen({ port }) {
  const http = createServer();
  new Server(http).on('connection', (socket) => {
    socket.on('echo', (data, answer) => answer(data, http.address().port));
    socket.on('call me', () => socket.emit('called', socket.handshake.query.user));
  });
  return new Promise((done) => http.listen(port, '127.0.0.1', () => done(http.address().port)));
}

// A client that says who it is in each request: in the query, in a header and in a cookie.
function connect(url, transports) {
  const user = randomUUID();
  const extraHeaders = { 'X-User': user, Cookie: `user=${user}` };
  return io(url, { transports, query: { user }, extraHeaders, forceNew: true });
}

function connected(socket) {
  return new Promise((done, fail) => {
    socket.once('connect', done);
    socket.once('connect_error', fail);
    setTimeout(() => fail(new Error('not connected within 10 s')), 10_000).unref();
  });
}

async function upgraded(socket, to) {
  for (let left = 1000; left && socket.io.engine.transport.name !== to; left--) await sleep(10);
}

// Sends text and bytes, and compares what comes back; returns who answered.
async function echo(socket) {
  let server;
  for (const data of ['grüß dich 🌍', 'x'.repeat(200_000), Buffer.alloc(100_000, 'ab')]) {
    const [back, port] = await new Promise((done, fail) => {
      socket.timeout(10_000).emit('echo', data, (error, ...got) => (error ? fail(error) : done(got)));
    });
    if (Buffer.compare(Buffer.from(data), Buffer.from(back))) throw new Error('the echo differs');
    server = port;
  }
  return server;
}

async function called(socket) {
  const call = new Promise((done) => socket.once('called', done));
  socket.emit('call me');
  if ((await call) !== socket.io.opts.query.user) throw new Error('another client was called');
}

async function talkOne(url, transports) {
  const socket = connect(url, transports);
  try {
    await connected(socket);
    await echo(socket);
    await upgraded(socket, transports.at(-1));
    await echo(socket);
    await called(socket);
    await sleep(200); // for pings of the proxy
    return socket.io.engine.transport.name;
  } finally {
    socket.disconnect();
  }
}

async function talk({ url, transports, clients }) {
  const results = await Promise.allSettled(Array.from({ length: clients }, () => talkOne(url, transports)));
  const [good, bad] = ['fulfilled', 'rejected'].map((status) => results.filter((result) => result.status === status));
  const failures = bad.map((result) => String(result.reason));
  return { failures, transports: [...new Set(good.map((result) => result.value))] };
}

async function stay({ url }) {
  staying = connect(url, ['polling', 'websocket']);
  await connected(staying);
  await upgraded(staying, 'websocket');
  return echo(staying);
}

// The client reconnects by itself.
async function again() {
  for (let left = 1000; left && staying.connected; left--) await sleep(10);
  for (let left = 1000; left && !staying.connected; left--) await sleep(10);
  const server = await echo(staying);
  staying.disconnect();
  return server;
}

serve({}, { listen, talk, stay, again });
