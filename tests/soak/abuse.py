"""The check `abuse`: what strangers do at the front door leaves those inside alone.

Tunnels echo over every kind of listener while attackers, in processes of their own, hold heads, handshakes and bodies
half open, say nothing on thousands of connections, and send junk to every port. README.md says what must hold.
"""

import asyncio
import collections
import contextlib
import json
import random
import select
import socket
import ssl
import struct
import time

from lab import KIB, MIB, base, eventually, listeners
from peers import HOST, Client

KINDS = ("plain", "tls", "proxy", "proxy_tls", "h2c")
# The proxy's timeouts, short so that the check is: all attackers of a phase are cut off within them.
TIMEOUT = 4
# The longest way out: a body that stalls, the answer, the idle time, the leave that is not taken; and a busy machine.
PATIENCE = 5 * TIMEOUT
ECHO_EVERY, SLOW = 0.1, 1.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PROXY_V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n"
PROXY_V2 = bytes.fromhex("0d0a0d0a000d0a515549540a2111000cc0000201c000020203e801bb")
POST = b"POST /sink HTTP/1.1\r\nHost: soak.test\r\nContent-Length: 100000\r\n\r\n"


def h2_frame(kind, flags, stream, payload=b""):
    """A frame of HTTP/2 (RFC 9113 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def h2_fields(method, path=b"/sink"):
    """The fields of a request, as literals (RFC 7541 6.2.2)."""
    fields = ((b":method", method), (b":scheme", b"http"), (b":authority", b"soak.test"), (b":path", path))
    return b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields)


def h2_open(method, flags):
    """A connection of HTTP/2 and its first HEADERS."""
    return PREFACE + h2_frame(4, 0, 0) + h2_frame(1, flags, 1, h2_fields(method))


def client_context():
    """TLS of clients that trust anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def client_hello():
    """A ClientHello, whole."""
    outgoing = ssl.MemoryBIO()
    side = client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="soak.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()
    return outgoing.read()


# -- attackers, each in a process of its own -------------------------------------------------------

# What is sent at once, and what then drips, a byte at a time; by kind of port.
HALVES = {
    "header drip": ("plain", lambda: (b"GET / HTTP/1.1\r\nHost: soak.test\r\n", b"X-Drip: " + b"x" * 4000)),
    "header drip, h2": ("h2c", lambda: (h2_open(b"GET", 1), h2_frame(9, 4, 1, bytes(4000)))),
    "PROXY header drip": ("proxy", lambda: (b"P", PROXY_V1[1:-2] + b" " * 50)),
    "ClientHello drip": ("tls", lambda: (b"", client_hello()[:-1])),
    "ClientHello drip, PROXY": ("proxy_tls", lambda: (PROXY_V1, client_hello()[:-1])),
    "stalled behind a ClientHello": ("tls", lambda: (client_hello(), b"")),
    "half a ClientHello": ("tls", lambda: (client_hello()[:100], b"")),
    "nothing at all": ("tls", lambda: (b"", b"")),
    "nothing at all, plain": ("plain", lambda: (b"", b"")),
    "a preface and nothing": ("h2c", lambda: (PREFACE + h2_frame(4, 0, 0), b"")),
    "body that stalls": ("plain", lambda: (POST + b"begun", b"")),
    "body that stalls, h2": ("h2c", lambda: (h2_open(b"POST", 4) + h2_frame(0, 0, 1, b"begun"), b"")),
    "answer that is not taken, h2": ("h2c", lambda: (
        PREFACE + h2_frame(4, 0, 0, bytes.fromhex("000400000000"))
        + h2_frame(1, 5, 1, h2_fields(b"GET", b"/sink/endless")), b"")),
}


def halves(port, name, count, every, patience):
    """Holds `count` connections half open, and says how many there were, and how many the proxy cut off in time."""
    first, drip = HALVES[name][1]()
    poll, held, opened, failed, cut = select.epoll(), {}, 0, 0, 0
    began = time.monotonic()
    next_drip, at = began + every, 0

    def drain(wait):
        nonlocal cut
        for number, _ in poll.poll(wait):
            near = held[number]
            try:
                while near.recv(65536):
                    pass
            except BlockingIOError:
                continue
            except OSError:
                pass
            del held[number]
            poll.unregister(number)
            near.close()
            cut += 1

    for _ in range(count):
        near = socket.socket()
        near.settimeout(patience)
        try:
            near.connect((HOST, port))
            near.sendall(first)
        except OSError:
            failed += 1
            continue
        near.setblocking(False)
        opened += 1
        held[near.fileno()] = near
        poll.register(near, select.EPOLLIN | select.EPOLLRDHUP)
        if opened % 50 == 0:
            drain(0)
    deadline = time.monotonic() + patience
    while held and time.monotonic() < deadline:
        drain(0.05)
        if drip and time.monotonic() >= next_drip and at < len(drip):
            for near in held.values():
                with contextlib.suppress(OSError):
                    near.send(drip[at : at + 1])
            at, next_drip = at + 1, time.monotonic() + every
    print(json.dumps({"event": "done", "opened": opened, "failed": failed, "cut": cut, "left": len(held),
                      "seconds": round(time.monotonic() - began, 1)}), flush=True)


def mutate(data, dice):
    """Something like it."""
    data = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(data))
        match dice.randrange(5):
            case 0:
                data[at] = dice.randrange(256)
            case 1:
                del data[at : at + dice.randint(1, 20)]
            case 2:
                data[at:at] = dice.randbytes(dice.randint(1, 20))
            case 3:
                data[at:at] = data[at : at + 50]
            case 4:
                del data[at:]
        data = data or bytearray(b"x")
    return bytes(data)


def junk(ports, seconds, seed):
    """Sends junk to all ports in turn until the time is over."""
    dice, until, sent = random.Random(seed), time.monotonic() + seconds, collections.Counter()
    hello = client_hello()
    head = b"GET /ws HTTP/1.1\r\nHost: soak.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    frames = h2_open(b"GET", 5) + b"".join((
        h2_frame(8, 0, 0, b"\0\0\1\0"), h2_frame(6, 0, 0, bytes(8)), h2_frame(3, 0, 1, bytes(4)),
    ))
    seeds = [
        hello, head, frames, PROXY_V1 + head, PROXY_V2 + hello, PROXY_V2 + frames, PROXY_V1, PROXY_V2,
        POST + b"x" * 99,
    ]
    open_ones = collections.deque()
    while time.monotonic() < until:
        port = dice.choice(ports)
        what = dice.randbytes(dice.randint(1, 600)) if dice.random() < 0.2 else mutate(dice.choice(seeds), dice)
        near = socket.socket()
        try:
            near.settimeout(2)
            near.connect((HOST, port))
            near.sendall(what)
            if dice.random() < 0.3:
                near.shutdown(socket.SHUT_WR)
            sent["connections"] += 1
        except OSError:
            sent["not taken"] += 1
        open_ones.append(near)
        if len(open_ones) > 200:
            gone = open_ones.popleft()
            if dice.random() < 0.3:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
    print(json.dumps({"event": "done", **sent}), flush=True)


def attack(arguments):
    """Runs one attacker: what `Attackers.start` was given, as JSON."""
    what = json.loads(arguments)
    kind = what.pop("attack")
    {"halves": halves, "junk": junk}[kind](**what)


# -- those inside, and the check -------------------------------------------------------------------


class Guest(Client):
    """A client behind whatever its listener asks for."""

    __slots__ = ()

    @classmethod
    async def enter(cls, ports, kind):
        """Connects to a listener of this kind, and opens a tunnel."""
        client, loop = cls("/"), asyncio.get_running_loop()
        near = socket.socket()
        near.setblocking(False)
        try:
            async with asyncio.timeout(cls.OPEN_TIMEOUT):
                await loop.sock_connect(near, (HOST, ports[kind]))
                if kind.startswith("proxy"):
                    await loop.sock_sendall(near, PROXY_V1)
                secure = {"ssl": client_context(), "server_hostname": "soak.test"} if kind.endswith("tls") else {}
                await loop.create_connection(lambda: client, sock=near, **secure)
                await client.handshake
        except BaseException:
            client.abort()
            near.close()
            raise
        return client


class Watch:
    """The tunnels that echo the whole time, and a stranger who comes in again and again."""

    def __init__(self, ports, guests, direct):
        self.ports, self.guests, self.direct = ports, guests, direct
        self.trips, self.without, self.entries = [], [], []
        self.failures, self.refused = collections.Counter(), collections.Counter()
        self.tasks = []

    def start(self):
        self.tasks = [asyncio.create_task(self.echo(guest, self.trips)) for guest in self.guests]
        self.tasks += [asyncio.create_task(self.echo(guest, self.without)) for guest in self.direct]
        self.tasks.append(asyncio.create_task(self.enter()))

    async def echo(self, guest, trips):
        await asyncio.sleep(random.random() * ECHO_EVERY)
        while True:
            began = time.monotonic()
            try:
                await guest.echo()
            except Exception as error:  # noqa: BLE001: whatever it is, it is counted
                self.failures[f"{type(error).__name__}: {error}"] += 1
                return
            trips.append(time.monotonic() - began)
            await asyncio.sleep(ECHO_EVERY)

    async def enter(self):
        for turn in range(1 << 30):
            began = time.monotonic()
            try:
                guest = await Guest.enter(self.ports, KINDS[turn % len(KINDS)])
                await guest.echo()
                self.entries.append(time.monotonic() - began)
                await guest.bye()
            except Exception as error:  # noqa: BLE001
                self.refused[f"{KINDS[turn % len(KINDS)]}: {type(error).__name__}: {error}"] += 1
            await asyncio.sleep(ECHO_EVERY)

    def take(self):
        """What was seen since it was asked last."""
        taken = [sorted(times) for times in (self.trips, self.without, self.entries)]
        for times in (self.trips, self.without, self.entries):
            times.clear()
        return taken

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Attackers:
    """Processes that attack, and what they said."""

    def __init__(self, lab):
        self.lab = lab

    async def run(self, attacks, timeout):
        """Runs all at once, to their ends."""
        children = [await self.lab.child("attack", json.dumps(attack)) for attack in attacks]
        done = [await child.event("done", timeout) for child in children]
        for child in children:
            self.lab.children.remove(child)
            await child.stop()
        return done


def config(lab, ports, server, sink, cert):
    """A listener of each kind."""
    pair = f'{{ cert = "{cert[0]}", key = "{cert[1]}" }}'
    tls = f'[listen.tls]\ncertificates = [{pair}]\nhandshake_timeout = "{TIMEOUT}s"\n'
    behind = 'proxy_protocol = "accept"\n'
    more = {
        "plain": "", "tls": tls, "proxy": behind, "proxy_tls": behind + tls, "h2c": 'protocols = ["h1", "h2"]\n',
    }
    timeouts = "".join(f'{name} = "{TIMEOUT}s"\n' for name in ("header_timeout", "keepalive_timeout", "body_timeout"))
    return f"""\
{base(lab)}[real_ip]
trusted = ["127.0.0.0/8"]
{listeners((ports[kind], timeouts + more[kind]) for kind in KINDS)}
[defaults]
response_timeout = "{TIMEOUT}s"
close_timeout = "{TIMEOUT}s"
[[route]]
path = "/"
upstream = "echo"
[[route]]
path = "/sink"
upstream = "sink"
[upstream.echo]
servers = ["{HOST}:{server}"]
max_fails = 0
[upstream.sink]
max_fails = 0
servers = ["{HOST}:{sink}"]
"""


async def sink(reader, writer):
    """An upstream that reads all it is sent, and has an answer without an end."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/endless" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        else:
            while await reader.read(65536):
                pass
    writer.close()


async def check_abuse(lab, options, report):
    """Those inside notice nothing, and nothing stays behind."""
    cert = lab.certificate()
    ports = {kind: lab.free_port() for kind in KINDS}
    echo, _ = await lab.serve()
    server = await asyncio.start_server(sink, HOST, 0)
    text = config(lab, ports, echo, server.sockets[0].getsockname()[1], cert)
    proxy = await lab.start_proxy(ports["plain"], text)
    guests = [await Guest.enter(ports, KINDS[number % len(KINDS)]) for number in range(options.tunnels)]
    lab.clients += guests
    direct = [await Client.open(echo) for _ in range(options.tunnels // 5)]
    lab.clients += direct
    watch, attackers = Watch(ports, guests, direct), Attackers(lab)
    watch.start()
    await asyncio.sleep(3)
    files, memory = proxy.open_files(), proxy.rss_anon()
    report.note("round trip before, p50, p99 and worst", in_ms(watch.take()[0]))
    most = 0
    for names in [list(HALVES)] if options.together else [[name] for name in HALVES]:
        attacks = [part for name in names for part in parts(name, ports, options)]
        done, peak = await beside(proxy, attackers.run(attacks, 180))
        most = max(most, peak)
        for name, one, two in zip(names, done[::2], done[1::2]):
            opened, left = one["opened"] + two["opened"], one["left"] + two["left"]
            found = f"{opened} open, {left} of them not cut off, {max(one['seconds'], two['seconds'])} s"
            report.check(name, found, opened and not left)
        judge(report, watch)
    attack = {"attack": "junk", "ports": list(ports.values()), "seconds": options.seconds}
    attacks = [dict(attack, seed=seed) for seed in range(3)]
    done, peak = await beside(proxy, attackers.run(attacks, options.seconds + 60))
    sent = sum(one.get("connections", 0) for one in done)
    report.check(f"junk for {options.seconds:g} s", f"{sent} connections", sent and proxy.is_running())
    judge(report, watch)
    report.note("RssAnon at most", f"{max(most, peak) / MIB:.1f} MiB")
    await judge_rest(report, proxy, files, memory)
    await watch.stop()
    report.none("tunnels that failed", watch.failures)
    report.none("strangers that were kept out", watch.refused)
    judge_words(report, proxy)
    report.none("unclean ends", await lab.hang_up())
    server.close()


def parts(name, ports, options):
    """One attack, by two processes."""
    count = options.half_open if name in ("nothing at all", "half a ClientHello") else options.drips
    attack = {"attack": "halves", "port": ports[HALVES[name][0]], "name": name, "every": 0.05, "patience": PATIENCE}
    return [dict(attack, count=count // 2), dict(attack, count=count - count // 2)]


async def beside(proxy, work):
    """Does the work; what came of it, and the most memory of the proxy meanwhile."""
    most = 0

    async def look():
        nonlocal most
        while True:
            most = max(most, proxy.rss_anon())
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    try:
        return await work, most
    finally:
        looking.cancel()


def in_ms(times):
    """The median, what 99 % did not exceed, and the worst of sorted times."""
    return ", ".join(f"{1000 * quantile(times, share):.1f}" for share in (0.5, 0.99, 1)) + " ms"


def quantile(times, share):
    """The time that this share of sorted times did not exceed."""
    return times[min(len(times) - 1, int(share * len(times)))] if times else 0


def judge(report, watch):
    """What those inside, and those who came, saw of a phase."""
    trips, without, entries = watch.take()
    # What the attackers, and whoever else, take of the machine befalls those without a proxy as well.
    machine = quantile(without, 0.99)
    report.note("  round trip without the proxy, p50, p99 and worst", in_ms(without))
    report.check("  round trip, p50, p99 and worst", in_ms(trips), trips and quantile(trips, 0.99) < SLOW + machine)
    report.check("  new tunnel, p50, p99 and worst", in_ms(entries), entries and quantile(entries, 0.99) < TIMEOUT + 4 * machine)


async def judge_rest(report, proxy, files, memory):
    """Descriptors and memory are as before."""
    # 32 connections to each of the two upstreams may be kept for the next request.
    most_files, most_memory = files + 64, memory + 8 * MIB

    async def is_back():
        return proxy.open_files() <= most_files and proxy.rss_anon() <= most_memory

    began = time.monotonic()
    with contextlib.suppress(Exception):
        await eventually(is_back, 2 * TIMEOUT + 20, "", pause=0.2)
    seconds = time.monotonic() - began
    now = proxy.open_files()
    report.check("open files", f"{files} -> {now} (limit {most_files}), {seconds:.1f} s", now <= most_files)
    now = proxy.rss_anon()
    text = f"{memory / KIB:.0f} -> {now / KIB:.0f} KiB (limit {most_memory // KIB})"
    report.check("RssAnon", text, now <= most_memory)


def judge_words(report, proxy):
    """No panic, and no flood of words."""
    words = (proxy.directory / "stderr").read_text(errors="replace")
    report.check("panics", panics := words.count("panicked"), not panics)
    report.check("lines of the log", lines := len(words.splitlines()), lines < 100)
    log = proxy.directory / "access.log"
    report.note("access log", f"{log.stat().st_size / MIB:.1f} MiB, {len(log.read_text().splitlines())} lines")
