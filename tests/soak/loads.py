#!/usr/bin/env python3
"""The processes of the checks `fairness` and `pongs`: quick and plain, on blocking sockets, with frames made once.

`flood` sends large frames as fast as they are taken, `pace` frames of a kind at a rate, to a `sink` that only counts
them; `probe` sends small ones at
fixed moments, over many connections, to an `echo`. Each says what it did in a line of JSON.
"""

import argparse
import contextlib
import json
import select
import socket
import struct
import sys
import threading
import time

from peers import BINARY, HOST, accept_of, split_head

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: soak.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BUFFER = 4 * 1024 * 1024
# What a probe sends: the moment it was due, and bytes to make a message of a usual size.
PROBE, DUE = 64, struct.Struct("!d")
PONG = bytes.fromhex("8a8000000000")
ASKED, ANSWERED = 6 + PROBE, 2 + PROBE


def say(**event):
    """Tells the parent process something."""
    print(json.dumps(event), flush=True)


def connect(port, path):
    """A WebSocket, opened."""
    near = socket.create_connection((HOST, port))
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    near.sendall(HANDSHAKE % path.encode())
    head = read_head(near)
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise SystemExit(f"refused: {head!r}")
    return near


def read_head(near):
    """Reads up to an empty line, and not further."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := near.recv(1)):
            raise SystemExit("closed within a head")
        head += byte
    return head


def accept(listener):
    """The next WebSocket that is opened; a connection that says nothing only looked whether somebody listens."""
    while True:
        near, _ = listener.accept()
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(SystemExit, OSError):
            _, headers = split_head(read_head(near).removesuffix(b"\r\n\r\n"))
            near.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_of(headers[b"sec-websocket-key"])
            )
            return near
        near.close()


def head_of(size, masked):
    """The head of a binary frame; masked with zeros, which leave the payload as it is."""
    bit, key = (0x80, bytes(4)) if masked else (0, b"")
    if size < 126:
        return struct.pack("!BB", 0x80 | BINARY, bit | size) + key
    if size < 0x10000:
        return struct.pack("!BBH", 0x80 | BINARY, bit | 126, size) + key
    return struct.pack("!BBQ", 0x80 | BINARY, bit | 127, size) + key


def flood(port, size):
    """Sends frames as fast as they are taken, until the process is ended."""
    near = connect(port, "/heavy/")
    frame = head_of(size, masked=True) + bytes(size)
    frames = memoryview(frame * max(1, BUFFER // len(frame)))
    say(event="ready")
    with contextlib.suppress(OSError):
        while True:
            near.sendall(frames)


def pace(port, kind, megabits):
    """Sends so many megabits a second, of empty Pongs or of data in large frames, until the process is ended."""
    near = connect(port, "/heavy/")
    data = head_of(16 * 1024, masked=True) + bytes(16 * 1024)
    frames = PONG * 10_000 if kind == "pongs" else data * 4
    say(event="ready")
    start, sent = time.monotonic(), 0
    with contextlib.suppress(OSError):
        while True:
            near.sendall(frames)
            sent += len(frames)
            time.sleep(max(0, start + 8 * sent / (megabits * 1e6) - time.monotonic()))


def sink(port):
    """Takes whatever comes, over any number of connections; says how much that was when asked, by a line."""
    totals, lock = {}, threading.Lock()

    def take(near):
        buffer = memoryview(bytearray(1024 * 1024))
        with contextlib.suppress(OSError):
            while length := near.recv_into(buffer):
                with lock:
                    totals["bytes"] = totals.get("bytes", 0) + length

    def serve(listener):
        while True:
            threading.Thread(target=take, args=(accept(listener),), daemon=True).start()

    listener = socket.create_server((HOST, port), backlog=64)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    say(event="ready")
    for _ in sys.stdin:
        say(event="taken", bytes=totals.get("bytes", 0), at=time.monotonic())


def echo(port):
    """Answers probes, over any number of connections."""
    listener = socket.create_server((HOST, port), backlog=1024)
    poll, peers = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    head = head_of(PROBE, masked=False)
    say(event="ready")
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                near = accept(listener)
                peers[near.fileno()] = near, bytearray()
                poll.register(near, select.EPOLLIN)
                continue
            near, read = peers[number]
            data = b""
            with contextlib.suppress(OSError):
                data = near.recv(65536)
            if not data:
                poll.unregister(number)
                del peers[number]
                near.close()
                continue
            read += data
            whole = len(read) // ASKED
            answers = (head + read[at + 6 : at + ASKED] for at in range(0, whole * ASKED, ASKED))
            with contextlib.suppress(OSError):
                near.sendall(b"".join(answers))
            del read[: whole * ASKED]


def probe(port, count, rate, seconds):
    """Sends each connection's messages when they are due, answered or not, and says how long after that moment each
    answer came, and how late it was sent itself."""
    near = [connect(port, "/") for _ in range(count)]
    read, head, pad = {one: bytearray() for one in near}, head_of(PROBE, masked=True), bytes(PROBE - DUE.size)
    times, late, every = [], [], 1 / (count * rate)
    say(event="ready")
    start, number, total = time.monotonic() + 0.05, 0, round(seconds * count * rate)
    deadline = start + seconds + 5
    while len(times) < total and (now := time.monotonic()) < deadline:
        while number < total and (due := start + number * every) <= now:
            near[number % count].sendall(head + DUE.pack(due) + pad)
            late.append(time.monotonic() - due)
            number += 1
        pause = start + number * every - time.monotonic() if number < total else 0.1
        readable, _, _ = select.select(near, (), (), max(0, pause))
        for one in readable:
            if not (data := one.recv(65536)):
                raise SystemExit("closed by the other side")
            now, buffer = time.monotonic(), read[one]
            buffer += data
            while len(buffer) >= ANSWERED:
                times.append(now - DUE.unpack_from(buffer, 2)[0])
                del buffer[:ANSWERED]
    say(event="probed", lost=total - len(times), times=times, late=late)


def main():
    """Runs one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    numbers = {
        "flood": {"size": int},
        "pace": {"kind": str, "megabits": float},
        "sink": {},
        "echo": {},
        "probe": {"count": int, "rate": float, "seconds": float},
    }
    for name, arguments in numbers.items():
        add = commands.add_parser(name, help=globals()[name].__doc__).add_argument
        for argument, kind in {"port": int, **arguments}.items():
            add(argument, type=kind)
    options = vars(parser.parse_args())
    globals()[options.pop("command")](**options)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
