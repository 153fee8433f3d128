// WebSockets of the npm package ws over HTTP/2 of Node's own, by extended CONNECT (RFC 8441): ws has the frames,
// what it has not is done here. All WebSockets to an origin share a connection.
'use strict';
const http2 = require('http2');
const { WebSocket, PerMessageDeflate, extension } = require('ws');

const sessions = new Map();

function connect(origin) {
  return new Promise((done, fail) => {
    const session = http2.connect(origin);
    session.on('error', fail);
    session.on('close', () => sessions.delete(origin));
    session.once('remoteSettings', ({ enableConnectProtocol }) =>
      enableConnectProtocol ? done(session) : fail(new Error('extended CONNECT is not announced')));
  });
}

function shared(origin) {
  if (!sessions.has(origin)) sessions.set(origin, connect(origin));
  return sessions.get(origin);
}

exports.Http2WebSocket = class extends WebSocket {
  constructor(url, protocols, { perMessageDeflate, maxPayload = 0 }) {
    super(null, undefined, { autoPong: true, maxPendingAutoPongs: 60, closeTimeout: 30_000 });
    this._isServer = false; // it masks what it sends
    this.ask(new URL(url.replace(/^ws/, 'http')), protocols, perMessageDeflate, maxPayload).catch((error) => {
      this.emit('error', error);
      this.emit('close', 1006, Buffer.alloc(0));
    });
  }

  async ask(url, protocols, perMessageDeflate, maxPayload) {
    const session = await shared(url.origin);
    const headers = {
      ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': url.protocol.slice(0, -1), ':authority': url.host,
      ':path': url.pathname + url.search, 'sec-websocket-version': '13',
    };
    if (protocols.length) headers['sec-websocket-protocol'] = protocols.join(', ');
    const deflate = perMessageDeflate && new PerMessageDeflate({ ...perMessageDeflate, maxPayload });
    if (deflate) headers['sec-websocket-extensions'] = extension.format({ 'permessage-deflate': deflate.offer() });
    const stream = session.request(headers, { endStream: false });
    const answer = await new Promise((done, fail) => stream.once('response', done).once('error', fail));
    if (answer[':status'] !== 200) {
      stream.close();
      throw new Error(`answered with ${answer[':status']}`);
    }
    this._protocol = answer['sec-websocket-protocol'] ?? '';
    const agreed = answer['sec-websocket-extensions'];
    if (agreed) {
      deflate.accept(extension.parse(agreed)['permessage-deflate']);
      this._extensions['permessage-deflate'] = deflate;
    }
    const limits = { maxBufferedChunks: 256 * 1024, maxFragments: 16 * 1024, maxPayload };
    this.setSocket(stream, Buffer.alloc(0), { allowSynchronousEvents: true, ...limits });
  }
};
