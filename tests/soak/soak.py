#!/usr/bin/env python3
"""Soak checks: promises of Holdline that only time, load and dying processes can test.

Each check starts the proxy's binary with an echo server behind it, on real sockets, prints what
it measured, and exits with 1 if the promise was not kept. README.md says how to read the results.
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import resource
import secrets
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import tomllib

HOST = "127.0.0.1"
KIB, MIB = 1024, 1024 * 1024

# -- RFC 6455: frames -----------------------------------------------------------------------------

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


# -- RFC 6455: the two sides ----------------------------------------------------------------------


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
        """Takes the head of the other side's part of the opening handshake."""
        raise NotImplementedError

    def on_message(self, message):
        """Takes a whole message."""
        raise NotImplementedError

    def on_end(self, end):
        """Learns the end, once."""
        raise NotImplementedError


class Client(Peer):
    """A client that sends one message at a time and checks what comes back."""

    __slots__ = ("path", "key", "opening", "reply", "ended")
    is_client = True
    OPEN_TIMEOUT, REPLY_TIMEOUT, LINGER = 10, 10, 2

    def __init__(self, path):
        super().__init__()
        self.path, self.key = path, base64.b64encode(secrets.token_bytes(16))
        loop = asyncio.get_running_loop()
        self.opening, self.ended, self.reply = loop.create_future(), loop.create_future(), None

    @classmethod
    async def open(cls, port, path="/"):
        """Connects and completes the opening handshake, or raises."""
        client, loop = cls(path), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(cls.OPEN_TIMEOUT):
                await loop.create_connection(lambda: client, HOST, port)
                await client.opening
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
        if not self.opening.done():
            self.opening.set_result(None)

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
        for waiting in (self.opening, self.reply):
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
            raise Failure("not an opening handshake")
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


# -- the processes that a check starts ------------------------------------------------------------


async def serve(port, record_path=None):
    """Runs the echo server until the process is ended."""
    record = open(record_path, "a", encoding="utf-8") if record_path else None
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: EchoServer(port, record), HOST, port, backlog=4096)
    say(event="ready")
    await asyncio.Event().wait()


async def hold(port, count, in_flight):
    """Opens connections, says how that went and how each ends, until the process is ended."""
    clients, failures = await open_many(port, count, in_flight)
    for client in clients:
        client.ended.add_done_callback(lambda end: say(event="end", **dataclasses.asdict(end.result())))
    say(event="ready", open=len(clients), failures=dict(failures))
    await asyncio.Event().wait()


def say(**event):
    """Tells the parent process something."""
    print(json.dumps(event), flush=True)


LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1


def die_with_parent():
    """Runs in a new process: the kernel ends it when this program ends, however that comes about."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def spawn(*command, **streams):
    """Starts a process that does not outlive this one."""
    return await asyncio.create_subprocess_exec(
        *map(str, command), stdin=asyncio.subprocess.DEVNULL, preexec_fn=die_with_parent, **streams
    )


class Child:
    """A `serve` or `hold` process, and what it has said."""

    def __init__(self, process):
        self.process, self.events = process, []
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        """Collects what the process says."""
        async for line in self.process.stdout:
            self.events.append(json.loads(line))

    async def event(self, name, timeout):
        """Waits for the first event of this name."""
        async def found():
            return next((event for event in self.events if event["event"] == name), None)

        return await eventually(found, timeout, f"no '{name}' from process {self.process.pid}")

    def ends(self):
        """The connections that have ended."""
        return [event for event in self.events if event["event"] == "end"]

    async def stop(self):
        """Kills the process, a stopped one too."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self.reader


class Proxy:
    """A running Holdline with its files."""

    GRACE = 15

    def __init__(self, process, port, directory):
        self.process, self.port, self.directory = process, port, directory

    def reload(self, text):
        """Replaces the configuration in one step, and asks for a reload."""
        write_config(self.directory, text)
        self.process.send_signal(signal.SIGHUP)

    def is_running(self):
        return self.process.returncode is None

    def rss_anon(self):
        """Bytes of anonymous resident memory: what the proxy itself has allocated."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * KIB

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def access_log(self):
        """The connections of the access log that were opened (status 101)."""
        path = self.directory / "access.log"
        if not path.exists():
            return []
        lines = (json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n"))
        return [line for line in lines if line.get("status") == 101]

    def endings(self):
        """How many connections ended in which way, in words."""
        found = collections.Counter(
            " ".join(str(line.get(field)) for field in ("who", "why", "code")) for line in self.access_log()
        )
        return listed(found) or "none"

    def last_words(self, lines=15):
        """The end of what the proxy wrote to stderr."""
        text = (self.directory / "stderr").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    async def stop(self):
        """Sends SIGTERM; returns how the process ended, and whether it did so by itself."""
        if not self.is_running():
            return f"had ended with {self.process.returncode}", False
        began = time.monotonic()
        self.process.terminate()
        try:
            code = await asyncio.wait_for(self.process.wait(), self.GRACE)
            return f"exit {code} after {time.monotonic() - began:.1f} s", True
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            return f"killed after {self.GRACE} s", False


class Lab:
    """One check's directory, ports, clients and processes; all go when the check ends."""

    def __init__(self, holdline):
        self.holdline = holdline
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="holdline-soak-"))
        self.children, self.clients, self.ports = [], [], set()
        self.proxy = None

    def free_port(self):
        """A port below the ephemeral range: no outgoing connection can take it meanwhile."""
        while True:
            port = random.randint(20000, 32000)
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind((HOST, port))
                if port not in self.ports:
                    self.ports.add(port)
                    return port

    async def child(self, *arguments):
        """Starts this program in a process of its own."""
        process = await spawn(sys.executable, __file__, *arguments, stdout=asyncio.subprocess.PIPE)
        child = Child(process)
        self.children.append(child)
        return child

    async def serve(self, port=None, record=None):
        """Starts an echo server; returns its port and process."""
        port = port or self.free_port()
        child = await self.child("serve", port, *(["--record", record] if record else []))
        await child.event("ready", 10)
        return port, child

    async def start_proxy(self, port, text):
        """Starts Holdline and waits until its port accepts."""
        path = write_config(self.directory, text)
        with open(self.directory / "stdout", "wb") as out, open(self.directory / "stderr", "wb") as err:
            process = await spawn(self.holdline, "run", "--config", path, stdout=out, stderr=err)
        self.proxy = Proxy(process, port, self.directory)

        async def ready():
            return not self.proxy.is_running() or await accepts(port)

        await eventually(ready, 10, "the proxy's port does not accept")
        if not self.proxy.is_running():
            raise Failure("the proxy ended at once")
        return self.proxy

    async def open(self, count):
        """Opens clients through the proxy; returns them and the counted failures."""
        clients, failures = await open_many(self.proxy.port, count)
        self.clients += clients
        return clients, failures

    async def hang_up(self):
        """Closes the clients that are still open; returns the counted failures."""
        failures = await counted(bye(client) for client in self.clients if not client.end)
        await asyncio.sleep(0.5)  # for the access log
        return failures

    async def close(self, keep):
        """Ends what still runs and removes the directory, unless it is to be kept."""
        for client in self.clients:
            client.abort()
        if self.proxy:
            await self.proxy.stop()
        for child in self.children:
            await child.stop()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)


def write_config(directory, text):
    """Writes the configuration file in one step."""
    path, fresh = directory / "proxy.toml", directory / "proxy.toml.new"
    fresh.write_text(text)
    os.replace(fresh, path)
    return path


def config(lab, listen, servers, route="", upstream="", more=""):
    """The configuration of one route to one upstream; the last three are added as they are."""
    listeners = "".join(f'[[listen]]\naddress = "{HOST}:{port}"\nbacklog = 4096\n' for port in listen)
    addresses = ", ".join(f'"{HOST}:{port}"' for port in servers)
    return f"""\
[process]
shutdown_grace = "5s"
[log]
format = "json"
access = "{lab.directory}/access.log"
{listeners}
[[route]]
name = "ws"
path = "/"
upstream = "echo"
{route}
[upstream.echo]
servers = [{addresses}]
{upstream}
{more}
"""


# -- what checks are made of ----------------------------------------------------------------------


class Report:
    """The table of one check; whether its promise was kept."""

    def __init__(self, title):
        self.title, self.rows, self.kept = title, [], True

    def note(self, name, value):
        """A measurement that nothing depends on."""
        self.rows.append((name, str(value), ""))

    def check(self, name, value, ok):
        """A measurement that the promise depends on."""
        self.rows.append((name, str(value), "ok" if ok else "FAILED"))
        self.kept = self.kept and bool(ok)

    def none(self, name, failures):
        """Counted failures, of which there may be none."""
        words = f" ({listed(failures)})" if failures else ""
        self.check(name, f"{failures.total()}{words}", not failures)

    def show(self):
        """Prints the table."""
        width = max((len(name) for name, _, _ in self.rows), default=0)
        print(self.title)
        for name, value, verdict in self.rows:
            print(f"  {name:{width}}  {value:28} {verdict}".rstrip())
        print(f"  => {'kept' if self.kept else 'NOT KEPT'}\n", flush=True)


def describe(error):
    """An error in the few words by which it is counted."""
    return f"{type(error).__name__}: {error}".removeprefix("Failure: ").rstrip(": ")


def listed(counter):
    """A counter in one line."""
    return ", ".join(f"{count} x {what}" for what, count in counter.most_common(6))


async def counted(work):
    """Awaits all and counts the failures by their words."""
    results = await asyncio.gather(*work, return_exceptions=True)
    return collections.Counter(describe(result) for result in results if isinstance(result, Exception))


async def open_many(port, count, in_flight=200):
    """Opens clients, a limited number at a time; returns them and the counted failures."""
    gate, clients = asyncio.Semaphore(in_flight), []

    async def one():
        async with gate:
            clients.append(await Client.open(port))

    return clients, await counted(one() for _ in range(count))


async def bye(client):
    """Closes a client and insists on a clean end."""
    end = await client.bye()
    if end != End("close", 1000):
        raise Failure(f"ended: {end}")


async def at_rate(rate, seconds, work):
    """Starts `work()` so many times a second, whatever it takes; returns the counted failures."""
    began, started = time.monotonic(), []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0, began + number / rate - time.monotonic()))
        started.append(asyncio.create_task(work()))
    return await counted(started)


async def accepts(port):
    """Whether somebody listens on the port."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


async def eventually(condition, timeout, complaint, pause=0.02):
    """Waits until a condition holds, and returns what it returned."""
    deadline = time.monotonic() + timeout
    while not (found := await condition()):
        if time.monotonic() > deadline:
            raise Failure(complaint)
        await asyncio.sleep(pause)
    return found


def mean(values):
    return sum(values) / max(1, len(values))


# -- idle -----------------------------------------------------------------------------------------


async def check_idle(lab, options, report):
    """Connections without a byte of data outlive read_timeout, on pings alone."""
    port, _ = await lab.serve()
    listen = lab.free_port()
    proxy = await lab.start_proxy(listen, config(lab, [listen], [port], route='read_timeout = "60s"'))
    clients, failures = await lab.open(options.connections)
    report.none("openings that failed", failures)
    await asyncio.sleep(options.minutes * 60)
    pings = sum(client.pings for client in clients)
    report.note("pings seen", f"{pings} ({pings / max(1, len(clients)):.1f} per connection)")
    dropped = collections.Counter(f"{client.end} {client.end.reason}" for client in clients if client.end)
    report.none("dropped", dropped)
    report.none("echoes that failed", await counted(client.echo() for client in clients))
    report.none("unclean ends", await lab.hang_up())
    report.note("endings in the log", proxy.endings())


# -- frozen ---------------------------------------------------------------------------------------

FROZEN_PING, FROZEN_TIMEOUT = 2, 3


async def check_frozen(lab, _options, report):
    """A client whose process stands still is found, told, and reported; others are left alone."""
    record = lab.directory / "closes"
    port, _ = await lab.serve(record=record)
    listen = lab.free_port()
    ping = f'ping = {{ client = "{FROZEN_PING}s", upstream = "25s", timeout = "{FROZEN_TIMEOUT}s" }}'
    proxy = await lab.start_proxy(listen, config(lab, [listen], [port], route=ping))
    (witness,), _ = await lab.open(1)
    holder = await lab.child("hold", listen, 1)
    report.check("connection to freeze", "open", (await holder.event("ready", 10))["open"] == 1)
    await asyncio.sleep(1)

    holder.process.send_signal(signal.SIGSTOP)
    line, seconds = await first_ending(proxy, FROZEN_PING + FROZEN_TIMEOUT + 5)
    limit = FROZEN_PING + FROZEN_TIMEOUT + 1
    report.check("in the log after SIGSTOP", f"{seconds:.2f} s (limit {limit})", seconds <= limit)
    found = f"{line.get('who')} {line.get('why')} {line.get('code')}"
    report.check("who, why, code", found, found.startswith("client unresponsive"))
    report.note("reason", line.get("reason"))
    told = await first_record(record)
    report.check("upstream was told", f"{told.get('kind')} {told.get('code')}", told.get("code") == 1001)

    holder.process.send_signal(signal.SIGCONT)
    end = await holder.event("end", 5)
    report.check("client reads on waking", f"{end['kind']} {end['code']} {end['reason']}", end["code"] == 1001)
    report.none("other client's failures", await counted([witness.echo()]))


async def first_ending(proxy, timeout):
    """Waits for the first line of the access log; returns it and how long that took."""
    began = time.monotonic()

    async def lines():
        return proxy.access_log()

    found = await eventually(lines, timeout, f"nothing in the access log after {timeout} s")
    return found[0], time.monotonic() - began


async def first_record(path):
    """Waits for the first end that the echo server has recorded."""
    async def lines():
        return path.read_text().splitlines()

    return json.loads((await eventually(lines, 2, "the upstream saw no end"))[0])


# -- reload ---------------------------------------------------------------------------------------

RELOAD_EVERY, ECHO_EVERY = 0.1, 0.2


async def check_reload(lab, options, report):
    """Reloads, every fifth of a broken file, cost no connection, no opening and no memory."""
    port, _ = await lab.serve()
    listen, spare = lab.free_port(), lab.free_port()
    good, broken = reload_configs(lab, listen, spare, port)
    proxy = await lab.start_proxy(listen, good[0])
    clients, failures = await lab.open(options.connections)
    report.none("first openings that failed", failures)

    until = time.monotonic() + options.seconds
    times = []
    reloads, sizes, echoed, refused = await asyncio.gather(
        keep_reloading(proxy, good, broken, until),
        sample_memory(proxy, until),
        keep_echoing(clients, until),
        at_rate(options.rate, options.seconds, lambda: open_and_shut(listen, times)),
    )
    report.note("SIGHUPs, with broken files", f"{reloads[0]}, {reloads[1]}")
    report.note("echoes", echoed.pop("echoes", 0))
    report.note("openings", round(options.rate * options.seconds))
    report.none("refused or cut short", refused)
    report.none("dropped", echoed)
    report.note("mean and slowest opening", f"{mean(times) * 1000:.0f}, {max(times, default=0) * 1000:.0f} ms")
    judge_memory(report, sizes)
    await judge_reloads(report, proxy, good, broken[0], spare)
    report.none("unclean ends", await lab.hang_up())
    report.note("endings in the log", proxy.endings())


def reload_configs(lab, listen, spare, port):
    """Configurations to take turns: good ones (the second has one more listener), and broken ones."""
    other = f'''
[[route]]
name = "other"
path = "/other/"
upstream = "other"
[upstream.other]
servers = ["{HOST}:{port}"]
'''

    def one(ping, extra=(), more=""):
        return config(lab, [listen, *extra], [port], route=ping, more=more)

    usual = 'ping = { client = "25s", upstream = "25s", timeout = "20s" }'
    plain = one(usual)
    good = [
        plain,
        one(usual, extra=[spare]),
        one('ping = { client = "3s", upstream = "4s", timeout = "10s" }\nread_timeout = "90s"'),
        one('read_timeout = "40s"\nsend_timeout = "30s"', more=other),
    ]
    broken = [
        plain + "[[route\n",
        plain.replace("upstream = \"echo\"", "upstream = \"nowhere\"", 1),
        plain.replace("timeout = \"20s\"", "timeout = \"soon\""),
        plain.replace("backlog", "backlogg"),
        plain[: plain.index("echo") + 2],
    ]
    assert not set(broken) & set(good)
    return good, broken


async def keep_reloading(proxy, good, broken, until):
    """Reloads until the time is over; returns how often, and how often with a broken file."""
    reloads = bad = 0
    while (now := time.monotonic()) < until:
        if reloads % 5 == 4:
            proxy.reload(broken[bad % len(broken)])
            bad += 1
        else:
            proxy.reload(good[(reloads - bad) % len(good)])
        reloads += 1
        await asyncio.sleep(max(0, now + RELOAD_EVERY - time.monotonic()))
    return reloads, bad


async def sample_memory(proxy, until):
    """The proxy's memory, once a second."""
    sizes = []
    while time.monotonic() < until:
        sizes.append(proxy.rss_anon())
        await asyncio.sleep(1)
    return sizes


async def keep_echoing(clients, until):
    """Lets every client echo until the time is over; returns the counted failures and "echoes"."""
    echoes = 0

    async def one(client):
        nonlocal echoes
        await asyncio.sleep(random.random() * ECHO_EVERY)
        while time.monotonic() < until:
            await client.echo()
            echoes += 1
            await asyncio.sleep(ECHO_EVERY)

    failures = await counted(one(client) for client in clients)
    failures["echoes"] = echoes
    return failures


async def open_and_shut(port, times):
    """One short connection: opened (`times` learns how long that took), used once, closed."""
    began = time.monotonic()
    client = await Client.open(port)
    times.append(time.monotonic() - began)
    await client.echo()
    await bye(client)


def judge_memory(report, sizes):
    """Compares the first ten seconds with the last; both conditions together are growth."""
    span = min(10, max(1, len(sizes) // 2))
    first, last = mean(sizes[:span]), mean(sizes[-span:])
    growth = last - first
    text = f"{first / KIB:.0f} -> {last / KIB:.0f} KiB ({growth / first:+.1%})"
    report.check(f"RssAnon, first and last {span} s", text, growth <= 4 * MIB or growth <= first / 5)


async def judge_reloads(report, proxy, good, broken, spare):
    """Shows that reloads were not just ignored: a listener comes, a broken file changes nothing, it goes."""
    proxy.reload(good[1])
    await eventually(lambda: accepts(spare), 3, "a listener that was added does not accept")
    proxy.reload(broken)
    await asyncio.sleep(1)
    await open_and_shut(spare, times=[])

    async def refuses():
        return not await accepts(spare)

    proxy.reload(good[0])
    await eventually(refuses, 3, "a listener that was taken out still accepts")
    report.check("a reload adds, keeps, removes", "a listener", True)


# -- kill -----------------------------------------------------------------------------------------

OUTAGE, OUTAGE_RATE = 5, 20
SLOW_START, RAMP_SECONDS, RAMP_RATE = 10, 25, 40


async def check_kill(lab, options, report):
    """A killed server costs its own clients only, tells them 1014, and comes back slowly."""
    (kept, _), (lost, server) = await lab.serve(), await lab.serve()
    listen = lab.free_port()
    recovery = f'max_fails = 1\nfail_timeout = "2s"\nslow_start = "{SLOW_START}s"'
    proxy = await lab.start_proxy(listen, config(lab, [listen], [kept, lost], upstream=recovery))
    clients, failures = await lab.open(options.connections)
    report.none("openings that failed", failures)
    homes = dict(zip(clients, await asyncio.gather(*(home(client) for client in clients))))
    victims = [client for client in clients if homes[client] == lost]
    others = [client for client in clients if homes[client] == kept]
    report.check("spread over two servers", f"{len(others)} + {len(victims)}", others and victims)

    server.process.kill()
    strays = await at_rate(OUTAGE_RATE, OUTAGE, lambda: open_at(listen, kept))
    told = sum(1 for client in victims if client.end and client.end.code == 1014)
    report.check("told 1014", f"{told} of {len(victims)}", told == len(victims))
    report.note("in the words", victims[0].end.reason if victims and victims[0].end else "")
    report.none("other clients that failed", await counted(client.echo() for client in others))
    report.none(f"of {OUTAGE * OUTAGE_RATE} openings meanwhile failed", strays)

    await server.stop()
    await lab.serve(lost)
    await watch_ramp(lab, report, lost, len(others))
    report.none("other clients that failed later", await counted(client.echo() for client in others))
    report.none("unclean ends", await lab.hang_up())
    report.note("endings in the log", proxy.endings())


async def home(client):
    """The port of the server at the other end."""
    return int(await client.ask(b"?server"))


async def open_at(port, expected):
    """A short connection that must reach the server expected."""
    client = await Client.open(port)
    if (found := await home(client)) != expected:
        raise Failure(f"reached {found}")
    await bye(client)


async def watch_ramp(lab, report, restarted, elsewhere):
    """Opens connections at a steady rate, keeps them, and judges where they went, by the second."""
    began, landings = time.monotonic(), []

    async def one():
        opened = time.monotonic() - began
        client = await Client.open(lab.proxy.port)
        lab.clients.append(client)
        landings.append((opened, await home(client) == restarted))

    report.none("openings after the restart that failed", await at_rate(RAMP_RATE, RAMP_SECONDS, one))
    for second in range(RAMP_SECONDS):
        new = share(landings, second, second + 1)
        total = share_of_open(landings, second + 1, elsewhere)
        report.note(f"  its share, second {second + 1}", f"{new:4.0%} of new, {total:4.0%} of open")
    judge_ramp(report, landings, elsewhere)


def judge_ramp(report, landings, elsewhere):
    """A ramp begins below a flood and ends near one half."""
    first = min((at for at, there in landings if there), default=RAMP_SECONDS)
    report.note("first one to the restarted server", f"after {first:.1f} s")
    flood = share(landings, first, first + 2)
    report.check("its share of new, next 2 s", f"{flood:.0%} (limit 60%)", flood < 0.6)
    new = share(landings, RAMP_SECONDS - 5, RAMP_SECONDS)
    total = share_of_open(landings, RAMP_SECONDS, elsewhere)
    even = any(0.4 <= value <= 0.6 for value in (new, total))
    report.check("its share at last", f"{new:.0%} of new, {total:.0%} of open", even)


def share(landings, since, until):
    """The restarted server's share of the openings of a span of time."""
    return mean([there for at, there in landings if since <= at < until])


def share_of_open(landings, until, elsewhere):
    """The restarted server's share of the open connections at a moment."""
    there = [there for at, there in landings if at < until]
    return sum(there) / max(1, len(there) + elsewhere)


# -- memory ---------------------------------------------------------------------------------------

PER_PROCESS, IN_FLIGHT, LIMIT, SETTLE = 4500, 200, 2560, 10


async def check_memory(lab, options, report):
    """An idle connection costs the proxy little memory of its own."""
    port, _ = await lab.serve()
    listen = lab.free_port()
    proxy = await lab.start_proxy(listen, config(lab, [listen], [port]))
    await asyncio.sleep(2)
    before = proxy.rss_anon()
    holders = await start_holders(lab, listen, options.connections)
    ready = [await holder.event("ready", 300) for holder in holders]
    count = sum(event["open"] for event in ready)
    failures = sum((collections.Counter(event["failures"]) for event in ready), collections.Counter())
    report.none("openings that failed", failures)
    await asyncio.sleep(SETTLE)
    after = proxy.rss_anon()
    each = (after - before) / max(1, count)
    report.note("connections", f"{count} (in {len(holders)} processes)")
    report.note("open files of the proxy", proxy.open_files())
    report.check("dropped", lost := sum(len(holder.ends()) for holder in holders), not lost)
    report.note("RssAnon before and after", f"{before / KIB:.0f} -> {after / KIB:.0f} KiB")
    report.check("bytes per connection", f"{each:.0f} (limit {LIMIT})", count and each < LIMIT)


async def start_holders(lab, port, connections):
    """Starts as many `hold` processes as it takes."""
    processes = -(-connections // PER_PROCESS)
    sizes = [connections // processes + (number < connections % processes) for number in range(processes)]
    in_flight = max(1, IN_FLIGHT // processes)
    return [await lab.child("hold", port, size, "--in-flight", in_flight) for size in sizes]


# -- selftest -------------------------------------------------------------------------------------


async def selftest():
    """Checks the client and the echo server of this file against each other."""
    check_frames()
    check_configs()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EchoServer(4711), HOST, 0)
    port = server.sockets[0].getsockname()[1]
    client = await Client.open(port)
    for size in (0, 1, 125, 126, 65535, 65536, 300000):
        message = secrets.token_bytes(size)
        assert await client.ask(message) == message, size
    assert await client.ask(b"?server") == b"4711"
    client.transport.write(b"".join(frame(opcode, part, True, fin) for opcode, part, fin in (
        (TEXT, b"one ", False), (PING, b"?", True), (CONTINUATION, b"message", True))))
    client.reply = loop.create_future()
    assert await client.reply == b"one message"
    assert await client.bye() == End("close", 1000)
    await check_clumsy_client(port)
    print("selftest: ok")


def check_frames():
    """Frames of all lengths read back, however they are cut."""
    for size in (0, 5, 125, 126, 65535, 65536):
        for masked in (False, True):
            payload = secrets.token_bytes(size)
            wire = frame(BINARY, payload, masked)
            assert parse(wire, 0, masked) == (True, BINARY, payload, len(wire))
            cuts = (cut for cut in (0, 1, 2, 3, len(wire) - 1) if cut < len(wire))
            assert all(parse(wire[:cut], 0, masked) is None for cut in cuts)
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert xor(bytes.fromhex("7f9f4d5158"), bytes.fromhex("37fa213d")) == b"Hello"
    assert End.of_close(b"\x03\xe9bye") == End("close", 1001, "bye")


def check_configs():
    """The good configurations are TOML; of the broken ones, two are not."""
    lab = argparse.Namespace(directory="/tmp")
    good, broken = reload_configs(lab, 1, 2, 3)
    for text in good:
        assert {"listen", "route", "upstream"} <= set(tomllib.loads(text))
    for text in (broken[0], broken[-1]):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            raise AssertionError(tomllib.loads(text))


async def check_clumsy_client(port):
    """One byte at a time is understood; an unmasked frame is not."""
    reader, writer = await asyncio.open_connection(HOST, port)
    opening = b"GET / HTTP/1.1\r\nsec-websocket-KEY: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    for byte in opening + frame(TEXT, b"slow", True):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(6) == frame(TEXT, b"slow", False)
    writer.write(frame(TEXT, b"bare", False))
    assert await reader.read() == b""
    writer.close()


# -- command line ---------------------------------------------------------------------------------

CHECKS = {
    "idle": (check_idle, "idle: {connections} connections, {minutes:g} min without data"),
    "frozen": (check_frozen, "frozen: a client process stands still"),
    "reload": (check_reload, "reload: {connections} connections, {rate} openings/s, {seconds:g} s of SIGHUPs"),
    "kill": (check_kill, "kill: {connections} clients, one of two servers dies and returns"),
    "memory": (check_memory, "memory: {connections} idle connections"),
}


async def run_check(name, options):
    """Runs one check and prints its table; whether the promise was kept."""
    check, title = CHECKS[name]
    report, lab = Report(title.format(**vars(options))), Lab(options.holdline)
    try:
        try:
            await check(lab, options, report)
        except (Failure, OSError, TimeoutError) as error:
            report.check("not finished", describe(error), False)
        if lab.proxy:
            report.check("SIGTERM at the end", *await lab.proxy.stop())
        report.show()
        if lab.proxy and not report.kept:
            print(f"{lab.directory} is kept; the proxy's last words:\n{lab.proxy.last_words()}\n", flush=True)
    finally:
        await lab.close(keep=lab.proxy and not report.kept)
    return report.kept


async def run_checks(names, parser, options):
    """Runs checks one after the other; whether all promises were kept."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    kept = []
    for name in names:
        defaults = vars(parser.parse_args([name]))
        kept.append(await run_check(name, argparse.Namespace(**{**defaults, **vars(options)})))
    return all(kept)


def command_line():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (check, _) in CHECKS.items():
        commands.add_parser(name, help=check.__doc__, description=check.__doc__)
    commands.add_parser("all", help="all of these, in order")
    for name, command in commands.choices.items():
        add = command.add_argument
        add("--holdline", type=pathlib.Path, default=pathlib.Path("target/release/holdline"), metavar="PATH")
        if name in (numbers := {"idle": 1000, "reload": 500, "kill": 200, "memory": 9000}):
            add("--connections", type=int, default=numbers[name])
        if name == "idle":
            add("--minutes", type=float, default=5)
        if name == "reload":
            add("--seconds", type=float, default=60)
            add("--rate", type=int, default=100, help="openings a second")
    add = commands.add_parser("serve", help="an echo server").add_argument
    add("port", type=int)
    add("--record", help="file for the end of each connection, a line of JSON each")
    add = commands.add_parser("hold", help="clients that hold connections open").add_argument
    add("port", type=int)
    add("count", type=int)
    add("--in-flight", type=int, default=IN_FLIGHT)
    commands.add_parser("selftest")
    return parser


def main():
    """Runs the command; returns the exit code."""
    parser = command_line()
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.command == "serve":
        return asyncio.run(serve(options.port, options.record))
    if options.command == "hold":
        return asyncio.run(hold(options.port, options.count, options.in_flight))
    if options.command == "selftest":
        return asyncio.run(selftest())
    options.holdline = options.holdline.resolve()
    names = list(CHECKS) if options.command == "all" else [options.command]
    return 0 if asyncio.run(run_checks(names, parser, options)) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
