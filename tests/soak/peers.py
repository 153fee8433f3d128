"""The two sides of a WebSocket (RFC 6455), as the soak checks need them: an echo server and its client."""

import asyncio
import base64
import dataclasses
import hashlib
import json
import random
import secrets
import struct

HOST = "127.0.0.1"
TLS_HOST = "soak.test"  # what certificates are for

# -- frames ---------------------------------------------------------------------------------------

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Failure(Exception):
    """What kept a check, or one connection of it, from going on."""


def accept_of(key):
    """The Sec-WebSocket-Accept that belongs to a Sec-WebSocket-Key."""
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


def xor(payload, key):
    """Masks or unmasks a payload."""
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")
    return mixed.to_bytes(size, "little")


def frame(opcode, payload, masked, fin=True):
    """One frame as it goes on the wire."""
    size, mask_bit = len(payload), 0x80 if masked else 0
    first = opcode | (0x80 if fin else 0)
    if size < 126:
        head = struct.pack("!BB", first, mask_bit | size)
    elif size < 0x10000:
        head = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, size)
    if not masked:
        return head + payload
    key = secrets.token_bytes(4)
    return head + key + xor(payload, key)


def parse(data, at, masked):
    """The frame at `at` as (fin, opcode, payload, where the next begins), None if it is not whole."""
    if len(data) < at + 2:
        return None
    first, second = data[at], data[at + 1]
    if first & 0x70:
        raise Failure("reserved bits are set")
    if bool(second & 0x80) != masked:
        raise Failure("unmasked frame from a client" if masked else "masked frame from a server")
    size, at = second & 0x7F, at + 2
    wide = {126: 2, 127: 8}.get(size, 0)
    payload_at = at + wide + (4 if masked else 0)
    if len(data) < payload_at:
        return None
    if wide:
        size = int.from_bytes(data[at : at + wide], "big")
    if len(data) < payload_at + size:
        return None
    payload = data[payload_at : payload_at + size]
    if masked:
        payload = xor(payload, data[payload_at - 4 : payload_at])
    return bool(first & 0x80), first & 0x0F, payload, payload_at + size


@dataclasses.dataclass(frozen=True)
class End:
    """How a connection ended, as one side saw it: close, eof, reset or violation."""

    kind: str
    code: int | None = None
    reason: str = ""

    @classmethod
    def of_close(cls, payload):
        """The end that a Close frame tells."""
        if len(payload) < 2:
            return cls("close")
        return cls("close", int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace"))

    def __str__(self):
        return self.kind if self.code is None else f"{self.kind} {self.code}"


# -- the two sides --------------------------------------------------------------------------------


class Peer(asyncio.Protocol):
    """What both sides of a WebSocket do: read frames, answer pings and Close, record the end."""

    __slots__ = ("transport", "buffer", "opened", "parts", "pings", "close_sent", "end")
    is_client = False

    def __init__(self):
        self.transport, self.buffer, self.parts = None, b"", []
        self.opened = self.close_sent = False
        self.pings, self.end = 0, None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        try:
            self.buffer = self.consume(self.buffer + data if self.buffer else data)
        except Failure as failure:
            self.finish(End("violation", reason=str(failure)))
            self.transport.abort()

    def connection_lost(self, error):
        self.finish(End("reset" if error else "eof"))

    def consume(self, data):
        """Takes what is whole in `data`; returns the rest."""
        if not self.opened:
            head, mark, rest = data.partition(b"\r\n\r\n")
            if not mark:
                return data
            self.on_head(head)
            self.opened, data = True, rest
        at = 0
        while not self.end and (found := parse(data, at, masked=not self.is_client)):
            fin, opcode, payload, at = found
            self.on_frame(fin, opcode, payload)
        return data[at:]

    def on_frame(self, fin, opcode, payload):
        """Takes one frame."""
        if opcode == PING:
            self.pings += 1
            self.send(PONG, payload)
        elif opcode == CLOSE:
            self.on_close(payload)
        elif opcode in (CONTINUATION, TEXT, BINARY):
            self.parts.append(payload)
            if fin:
                message, self.parts = b"".join(self.parts), []
                self.on_message(message)

    def on_close(self, payload):
        """Answers a Close frame, unless it is itself the answer to ours."""
        self.finish(End.of_close(payload))
        if not self.close_sent:
            self.send(CLOSE, payload)
            self.close_sent = True

    def send(self, opcode, payload):
        """Sends one frame; nothing follows a Close."""
        if not self.close_sent:
            self.transport.write(frame(opcode, payload, masked=self.is_client))

    def close(self, code):
        """Begins the closing handshake."""
        self.send(CLOSE, struct.pack("!H", code))
        self.close_sent = True

    def finish(self, end):
        """Records the end; the first sign of it counts."""
        if self.end is None:
            self.end = end
            self.on_end(end)

    def on_head(self, head):
        """Takes the head of the other side's part of the handshake."""
        raise NotImplementedError

    def on_message(self, message):
        """Takes a whole message."""
        raise NotImplementedError

    def on_end(self, end):
        """Learns the end, once."""
        raise NotImplementedError


class Client(Peer):
    """A client that sends one message at a time and checks what comes back."""

    __slots__ = ("path", "key", "handshake", "reply", "ended")
    is_client = True
    OPEN_TIMEOUT, REPLY_TIMEOUT, LINGER = 10, 10, 2

    def __init__(self, path):
        super().__init__()
        self.path, self.key = path, base64.b64encode(secrets.token_bytes(16))
        loop = asyncio.get_running_loop()
        self.handshake, self.ended, self.reply = loop.create_future(), loop.create_future(), None

    @classmethod
    async def open(cls, port, path="/", tls=None):
        """Connects, by TLS if there is a context for it, and completes the handshake, or raises."""
        client, loop = cls(path), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(cls.OPEN_TIMEOUT):
                await loop.create_connection(
                    lambda: client, HOST, port, ssl=tls, server_hostname=TLS_HOST if tls else None
                )
                await client.handshake
        except BaseException:
            client.abort()
            raise
        return client

    async def ask(self, message):
        """Sends a message and returns the next one that comes."""
        if self.end:
            raise Failure(f"ended: {self.end}")
        self.reply = asyncio.get_running_loop().create_future()
        self.send(TEXT, message)
        async with asyncio.timeout(self.REPLY_TIMEOUT):
            return await self.reply

    async def echo(self):
        """Sends a random message and checks that it comes back."""
        message = secrets.token_hex(random.randint(4, 200)).encode()
        if await self.ask(message) != message:
            raise Failure("the echo differs")

    async def bye(self):
        """Closes with 1000 and returns how the connection ended."""
        self.close(1000)
        async with asyncio.timeout(self.REPLY_TIMEOUT):
            return await asyncio.shield(self.ended)

    def abort(self):
        """Drops the connection, if there is one."""
        if self.transport:
            self.transport.abort()

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(
            b"GET %b HTTP/1.1\r\nHost: soak.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (self.path.encode(), self.key)
        )

    def on_head(self, head):
        status, headers = split_head(head)
        if status.split(b" ")[1:2] != [b"101"]:
            raise Failure(f"refused: {status.decode('latin-1')}")
        if headers.get(b"sec-websocket-accept") != accept_of(self.key):
            raise Failure("wrong Sec-WebSocket-Accept")
        if not self.handshake.done():
            self.handshake.set_result(None)

    def on_message(self, message):
        if self.reply is None or self.reply.done():
            raise Failure("a message that nobody asked for")
        self.reply.set_result(message)

    def on_close(self, payload):
        super().on_close(payload)
        # The server closes TCP first (RFC 6455 7.1.1); one that does not is not waited for long.
        asyncio.get_running_loop().call_later(self.LINGER, self.transport.abort)

    def on_end(self, end):
        self.ended.set_result(end)
        for waiting in (self.handshake, self.reply):
            if waiting and not waiting.done():
                waiting.set_exception(Failure(f"ended: {end} {end.reason}".strip()))


class EchoServer(Peer):
    """A server that echoes and never pings. It tells its port to whoever asks with `?server`."""

    __slots__ = ("port", "record")

    def __init__(self, port, record=None):
        super().__init__()
        self.port, self.record = port, record

    def on_head(self, head):
        _, headers = split_head(head)
        key = headers.get(b"sec-websocket-key")
        if key is None:
            raise Failure("not a handshake")
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_of(key)
        )

    def on_message(self, message):
        self.send(TEXT, str(self.port).encode() if message == b"?server" else message)

    def on_close(self, payload):
        super().on_close(payload)
        self.transport.close()

    def on_end(self, end):
        if self.record and self.opened:
            print(json.dumps({"port": self.port, **dataclasses.asdict(end)}), file=self.record, flush=True)


def split_head(head):
    """The first line of an HTTP message head, and its headers by lower-case name."""
    first, *lines = head.split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}
