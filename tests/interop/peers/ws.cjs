// The npm package ws, as client and as server: `ws.cjs`, as server over TLS `ws.cjs tls CERT KEY`, as client over
// HTTP/2 `ws.cjs h2`.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');
const { WebSocket, WebSocketServer } = require('ws');
const { Http2WebSocket } = require('./over_http2.cjs');
const { serve, sleep, take } = require('./peer.cjs');

const [mode, cert, key] = process.argv.slice(2);
const [Socket, transports] = mode === 'h2' ? [Http2WebSocket, ['h2c', 'wss/h2']] : [WebSocket, ['ws', 'wss/h1']];

const conns = new Map();
const noTakeover = { clientNoContextTakeover: true, serverNoContextTakeover: true };
const deflates = { off: false, takeover: { threshold: 0 }, no_takeover: { ...noTakeover, threshold: 0 } };

function keep(name, socket) {
  const conn = { socket, messages: [], pings: [], pongs: [], closed: null };
  conns.set(name, conn);
  socket.on('message', (data, binary) =>
    conn.messages.push(binary ? { binary: data.toString('base64') } : { text: data.toString() }));
  socket.on('ping', (data) => conn.pings.push(data.toString('latin1')));
  socket.on('pong', (data) => conn.pongs.push(data.toString('latin1')));
  socket.on('close', (code, reason) => (conn.closed = [code, reason.toString()]));
  socket.on('error', (error) => (conn.error = error));
  return conn;
}

function find(name) {
  if (!conns.has(name)) throw new Error(`no connection ${name}`);
  return conns.get(name);
}

// What is no WebSocket is echoed too.
function listen({ port }) {
  const handleProtocols = (offered) => (offered.has('chat.v2') ? 'chat.v2' : false);
  const plain = (request, response) => request.pipe(response);
  const server = mode === 'tls'
    ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, plain)
    : http.createServer(plain);
  const sockets = new WebSocketServer({ server, perMessageDeflate: { threshold: 0 }, handleProtocols });
  sockets.on('connection', (socket, request) => keep(request.url.split('/').pop(), socket));
  return new Promise((done) => server.listen(port, '127.0.0.1', () => done(server.address().port)));
}

function open({ conn, url, protocols, deflate }) {
  const { socket } = keep(conn, new Socket(url, protocols, { perMessageDeflate: deflates[deflate] }));
  return new Promise((done, fail) => {
    socket.on('open', () => done());
    socket.on('error', fail);
  });
}

async function send({ conn, message, pieces }) {
  const { socket } = find(conn);
  const binary = 'binary' in message;
  const data = binary ? Buffer.from(message.binary, 'base64') : Buffer.from(message.text);
  const size = Math.ceil(data.length / pieces);
  for (let piece = 0; piece < pieces; piece++) {
    const part = data.subarray(piece * size, (piece + 1) * size);
    await new Promise((done) => socket.send(part, { binary, fin: piece === pieces - 1 }, done));
    if (piece < pieces - 1) await sleep(50);
  }
}

serve({ pieces: true, pings: true, drop: true, deflate: Object.keys(deflates), transports }, {
  listen,
  open,
  send,
  recv: ({ conn }) => take(find(conn).messages),
  ping: ({ conn, data }) => find(conn).socket.ping(data),
  close: ({ conn, code, reason }) => find(conn).socket.close(code, reason),
  drop: ({ conn }) => find(conn).socket.terminate(),
  seen: ({ conn }) => {
    const { socket, pings, pongs, closed } = find(conn);
    return { pings, pongs, closed, protocol: socket.protocol, extensions: socket.extensions };
  },
});
