// A WebSocket server and a WebSocket client of a few lines each, for checks: without dependencies, and with more
// freedom than a browser's, which would not let a hostile header or reason out.

import { createHash, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { connect } from "node:net";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** One end of an open WebSocket. `masks`: it is the client's. */
class Peer {
  constructor(socket, head, masks) {
    Object.assign(this, { socket, masks, buffer: Buffer.alloc(0), onText: () => {} });
    this.closed = new Promise((done) => {
      this.tell = (end) => {
        this.end ??= end;
        done(this.end);
      };
    });
    socket.on("data", (bytes) => this.read(bytes));
    // Without a Close frame it is what browsers call 1006.
    socket.on("close", () => this.tell({ code: 1006, reason: "" }));
    socket.on("error", () => {});
    // A server's sockets stay half-open by default.
    socket.on("end", () => socket.end());
    if (head.length > 0) this.read(head);
  }

  send(text) { this.write(0x1, Buffer.from(text)); }

  close(code = 1000, reason = "") {
    const payload = Buffer.concat([Buffer.alloc(2), Buffer.from(reason)]);
    payload.writeUInt16BE(code);
    this.write(0x8, payload);
  }

  write(opcode, payload) {
    if (this.socket.destroyed) return;
    const long = payload.length > 125;
    const head = Buffer.alloc(long ? 4 : 2);
    head[0] = 0x80 | opcode;
    head[1] = (this.masks ? 0x80 : 0) | (long ? 126 : payload.length);
    if (long) head.writeUInt16BE(payload.length, 2);
    const mask = randomBytes(4);
    this.socket.write(this.masks ? Buffer.concat([head, mask, masked(payload, mask)]) : Buffer.concat([head, payload]));
  }

  read(bytes) {
    this.buffer = Buffer.concat([this.buffer, bytes]);
    for (let frame = this.take(); frame; frame = this.take()) this.obey(frame);
  }

  /** The next whole frame, if there is one; frames of more than 64 KiB do not come here. */
  take() {
    const { buffer } = this;
    if (buffer.length < 2) return null;
    const isLong = (buffer[1] & 0x7f) === 126;
    if (isLong && buffer.length < 4) return null;
    const length = isLong ? buffer.readUInt16BE(2) : buffer[1] & 0x7f;
    const start = (isLong ? 4 : 2) + (buffer[1] & 0x80 ? 4 : 0);
    if (buffer.length < start + length) return null;
    const body = buffer.subarray(start, start + length);
    const payload = buffer[1] & 0x80 ? masked(body, buffer.subarray(start - 4, start)) : body;
    this.buffer = buffer.subarray(start + length);
    return { opcode: buffer[0] & 0x0f, payload };
  }

  obey({ opcode, payload }) {
    if (opcode === 0x1) this.onText(payload.toString());
    if (opcode === 0x9) this.write(0xa, payload);
    if (opcode === 0x8) {
      this.tell({ code: payload.length < 2 ? 1005 : payload.readUInt16BE(), reason: payload.subarray(2).toString() });
      this.write(0x8, payload.subarray(0, 2));
      this.socket.end();
    }
  }
}

function masked(payload, mask) {
  return Buffer.from(payload.map((byte, index) => byte ^ mask[index % 4]));
}

/** An upstream that echoes texts and agrees to all extensions; gives its address and a way to end it. */
export async function startEcho() {
  const server = createServer((_, response) => response.end("not a WebSocket\n"));
  const sockets = new Set();
  server.on("upgrade", (request, socket, head) => {
    const accept = createHash("sha1").update(request.headers["sec-websocket-key"] + GUID).digest("base64");
    const extensions = request.headers["sec-websocket-extensions"];
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n`
      + `${extensions ? `Sec-WebSocket-Extensions: ${extensions}\r\n` : ""}\r\n`);
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    const peer = new Peer(socket, head, false);
    peer.onText = (text) => peer.send(text);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const stop = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return { address: `127.0.0.1:${server.address().port}`, stop };
}

/** A client, when its handshake has succeeded. `headers`: more lines of the request. */
export function open(address, path, headers = []) {
  const [host, port] = address.split(":");
  return new Promise((done, fail) => {
    const socket = connect({ host, port: Number(port) });
    const lines = [
      `GET ${path} HTTP/1.1`, `Host: ${address}`, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
      `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`, ...headers, "", "",
    ];
    let answer = Buffer.alloc(0);
    const listen = (bytes) => {
      answer = Buffer.concat([answer, bytes]);
      const end = answer.indexOf("\r\n\r\n");
      if (end < 0) return;
      socket.off("data", listen);
      const status = answer.toString("latin1").split(" ")[1];
      if (status === "101") done(new Peer(socket, answer.subarray(end + 4), true));
      else fail(new Error(`the handshake of ${path} was answered with ${status}`));
    };
    socket.on("data", listen);
    socket.on("error", fail);
    socket.on("connect", () => socket.write(lines.join("\r\n")));
  });
}
