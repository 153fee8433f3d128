"""The check `clock`: the wall clock jumps under the running proxy, by hours and years, and back.

The clock of the machine is left alone: libfaketime stands between the proxy and its CLOCK_REALTIME, and reads
from a file how far that is to be off. The monotonic clock stays true. At each jump everything that has a timeout
is under way; by this program's own clock it must end when it would have ended without.
"""

import asyncio
import collections
import datetime
import email.utils
import glob
import os
import shutil
import time

from lab import Skipped, bye, counted, eventually
from peers import HOST, Client, EchoServer, Failure, split_head

HOUR, YEAR = 3600, 365 * 86400
# How far the wall clock is off, in turn: each is a jump from the one before.
JUMPS = {"2 hours on": 2 * HOUR, "4 hours back": -2 * HOUR, "20 years on": 20 * YEAR, "back to now": 0}
PING, PONG, READ, LIFE, HEADER, RESPONSE, FAIL, RESOLVE = 1, 4, 4, 3, 2, 3, 3, 1
SLACK, TUNNELS = 1, 50


class Wall:
    """The proxy's wall clock."""

    def __init__(self, lab):
        libraries = glob.glob("/usr/lib*/faketime/libfaketime.so.1") + glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
        if not libraries:
            raise Skipped("it needs libfaketime (of Debian's package faketime)")
        self.library, self.file, self.off = libraries[0], lab.directory / "faketime", 0
        self.jump(0)

    def jump(self, off):
        """Sets how far the clock is off, from now on."""
        self.off = off
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{off:+d}\n")
        os.replace(fresh, self.file)

    def now(self):
        """What the proxy must take for the time."""
        return time.time() + self.off

    def prefix(self):
        """What the proxy is to be started with."""
        return (
            "env", f"LD_PRELOAD={self.library}", f"FAKETIME_TIMESTAMP_FILE={self.file}", "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )


class Names:
    """The proxy's own /etc/hosts, in a mount namespace of its own; where that cannot be made, there is none."""

    NAME = "server.soak.test"

    def __init__(self, lab):
        self.file = lab.directory / "hosts"
        self.can = os.geteuid() == 0 and bool(shutil.which("unshare"))
        self.set("127.0.0.1")

    def set(self, address):
        """Lets the name stand for another address: the file stays the same one."""
        self.file.write_text(f"127.0.0.1 localhost\n{address} {self.NAME}\n")

    def prefix(self):
        """What the proxy is to be started with."""
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", script, self.file) if self.can else ()


class Shaky(asyncio.Protocol):
    """A server whose 101 answers no key, which no client can cause; how many connections it took."""

    taken = 0

    def connection_made(self, transport):
        Shaky.taken += 1
        self.transport, self.head = transport, b""

    def data_received(self, data):
        self.head += data
        if b"\r\n\r\n" in self.head:
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
            )
            self.transport.close()


class Stage:
    """The proxy, its servers and its clock."""

    def __init__(self, lab, report):
        self.lab, self.report, self.wall, self.names = lab, report, Wall(lab), Names(lab)
        self.listen, self.echo, self.shaky, self.mute = (lab.free_port() for _ in range(4))
        self.proxy = None

    async def start(self):
        """Starts the servers, in this process, and the proxy."""
        loop = asyncio.get_running_loop()
        # The name is to change its address: so the server listens on all of the loopback's.
        for address, port, protocol in (
            (HOST, self.echo, lambda: EchoServer(self.echo)), ("127.0.0.2", self.echo, lambda: EchoServer(self.echo)),
            (HOST, self.shaky, Shaky), (HOST, self.mute, asyncio.Protocol),
        ):
            server = await loop.create_server(protocol, address, port)
            self.lab.undo.callback(server.close)
        prefix = (*self.names.prefix(), *self.wall.prefix())
        self.proxy = await self.lab.start_proxy(self.listen, config(self), prefix)

    async def open(self, path):
        """Opens a tunnel; returns its client and when that was."""
        client = await Client.open(self.listen, path)
        return client, time.monotonic()

    async def last(self, path):
        """Opens a tunnel and waits for its end; its line of the access log, and how long it was open."""
        client, at = await self.open(path)
        async with asyncio.timeout(10):
            await asyncio.shield(client.ended)
        seconds = time.monotonic() - at
        return await self.line(path), seconds

    async def get(self, path, half=False):
        """A plain request, whole or half; its answer's status and Date, and how long that took."""
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(HOST, self.listen)
        rest = b"" if half else b"Connection: close\r\n\r\n"
        writer.write(b"GET %b HTTP/1.1\r\nHost: soak.test\r\n%b" % (path.encode(), rest))
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        status, headers = split_head(answer.partition(b"\r\n\r\n")[0])
        return status.decode(), headers.get(b"date", b"").decode(), time.monotonic() - began

    async def line(self, path):
        """Waits for a line of the access log."""
        async def found():
            return next((line for line in self.proxy.log_lines() if line["path"] == path), None)

        return await eventually(found, 10, f"no line of {path} in the access log")

    def judge_time(self, what, seconds, least):
        """Something took as long as it should."""
        ok = least - 0.1 <= seconds <= least + SLACK
        self.report.check(f"  {what}", f"{seconds:.2f} s ({least} to {least + SLACK})", ok)

    def judge_wall(self, what, moment):
        """Something bears the time of the wall clock."""
        off = moment - self.wall.now()
        self.report.check(f"  {what}, off by", f"{off:.1f} s", abs(off) <= 1 + SLACK)


def config(stage):
    """A route for each timeout."""
    name = stage.names.NAME if stage.names.can else HOST

    def route(path, upstream, settings=""):
        return f'[[route]]\npath = "{path}"\nupstream = "{upstream}"\n{settings}\n'

    routes = "".join((
        route("/open/", "echo"),
        route("/quiet/", "echo", f'ping = "off"\nread_timeout = "{READ}s"'),
        route("/short/", "echo", f'max_lifetime = "{LIFE}s"'),
        route("/mute/", "mute", f'response_timeout = "{RESPONSE}s"'),
        route("/shaky/", "shaky"),
        route("/named/", "named"),
    ))
    return f"""\
[process]
shutdown_grace = "5s"
[log]
format = "json"
access = "{stage.lab.directory}/access.log"
sample_above = "off"
[[listen]]
address = "{HOST}:{stage.listen}"
header_timeout = "{HEADER}s"
[defaults]
ping = {{ client = "{PING}s", upstream = "{PING}s", timeout = "{PONG}s" }}
[[route]]
path = "/date/"
respond = {{ status = 200 }}
{routes}
[upstream.echo]
servers = ["{HOST}:{stage.echo}"]
[upstream.mute]
servers = ["{HOST}:{stage.mute}"]
max_fails = 0
retry = "off"
[upstream.shaky]
servers = ["{HOST}:{stage.echo}", "{HOST}:{stage.shaky}"]
balance = "round_robin"
fail_timeout = "{FAIL}s"
[upstream.named]
servers = ["{name}:{stage.echo}"]
resolve = {{ interval = "{RESOLVE}s" }}
"""


async def check_clock(lab, _options, report):
    """The wall clock jumps by hours and years: what has a timeout ends in time, all else stays."""
    stage = Stage(lab, report)
    await stage.start()
    report.note("look-ups of names", "made" if stage.names.can else "skipped: they need root and unshare")
    tunnels = [await stage.open(f"/open/{number}") for number in range(TUNNELS)]
    for number, (title, off) in enumerate(JUMPS.items()):
        report.note(title, "")
        await jump(stage, number, off, [client for client, _ in tunnels])
    await judge_ends(stage, tunnels)


async def jump(stage, number, off, clients):
    """Lets the clock jump while everything is under way."""
    report, out_since = stage.report, await take_out(stage)
    quiet, short, mute, half = (asyncio.create_task(work) for work in (
        stage.last(f"/quiet/{number}"),
        stage.last(f"/short/{number}"),
        stage.get(f"/mute/{number}"),
        stage.get("/half", half=True),
    ))
    await asyncio.sleep(0.3)  # until all have reached the proxy
    pings, began = sum(client.pings for client in clients), time.monotonic()

    stage.wall.jump(off)
    await judge_date(stage, number)
    names = asyncio.create_task(judge_name(stage, f"127.0.0.{2 - number % 2}"))
    await judge_out(stage, out_since)
    _, _, seconds = await half
    stage.judge_time("half a head is cut", seconds, HEADER)
    status, _, seconds = await mute
    stage.judge_time(status, seconds, RESPONSE)
    for why, ended, least in (("lifetime", short, LIFE), ("read_timeout", quiet, READ)):
        line, seconds = await ended
        stage.judge_time(f"{line['ended_by']}/{line['cause']}", seconds, least)
        off = line["duration"] - seconds
        report.check("    its duration in the log, off by", f"{off:.2f} s", line["cause"] == why and abs(off) <= SLACK)
    await names
    judge_pings(stage, sum(client.pings for client in clients) - pings, time.monotonic() - began, len(clients))


async def take_out(stage):
    """Opens until the shaky endpoint has failed; returns when it did, and so is out of use."""
    before = Shaky.taken

    async def failed():
        client, at = await stage.open("/shaky/")
        await bye(client)
        return at if Shaky.taken > before else None

    return await eventually(failed, 2 * FAIL, "the shaky endpoint is not tried")


async def judge_date(stage, number):
    """The clock is followed by what shows the time, and so really has jumped."""
    # A second answer: the time of the first may have been kept.
    for asked in range(2):
        status, date, _ = await stage.get(path := f"/date/{number}/{asked}")
        stage.judge_wall("Date", email.utils.parsedate_to_datetime(date).timestamp())
    line = await stage.line(path)
    stage.judge_wall("time in the log", datetime.datetime.fromisoformat(line["started"]).timestamp())


async def judge_out(stage, since):
    """An endpoint that failed is out for as long as it should, neither shorter nor longer."""
    before = Shaky.taken

    async def tried():
        client, _ = await stage.open("/shaky/")
        await bye(client)
        return Shaky.taken > before

    await eventually(tried, FAIL + 5, "the shaky endpoint never comes back")
    stage.judge_time("an endpoint's fail_timeout", time.monotonic() - since, FAIL)


async def judge_name(stage, address):
    """A name that stands for another address is looked up as before."""
    if not stage.names.can:
        return
    stage.names.set(address)
    began = time.monotonic()

    async def found():
        path = f"/named/{time.monotonic_ns()}"
        client, _ = await stage.open(path)
        await bye(client)
        return (await stage.line(path))["endpoint"] == f"{address}:{stage.echo}"

    await eventually(found, 10, f"{stage.names.NAME} is not looked up any more")
    seconds = time.monotonic() - began
    stage.report.check("  a name is looked up anew", f"{seconds:.2f} s", seconds <= RESOLVE + SLACK)


def judge_pings(stage, pings, seconds, clients):
    """Pings go on, and do not come in a storm."""
    each = pings / clients
    ok = seconds / PING / 2 <= each <= seconds / (0.9 * PING) + 1
    stage.report.check("  Pings to a client", f"{each:.1f} in {seconds:.1f} s", ok)


async def judge_ends(stage, tunnels):
    """The tunnels that were open all the time end well, and their durations are true."""
    report, clients = stage.report, [client for client, _ in tunnels]
    report.none("echoes that failed", await counted(client.echo() for client in clients))
    await asyncio.sleep(PING / 2)
    report.none("unclean ends", await counted(bye(client) for client in clients))
    false, now = collections.Counter(), time.monotonic()
    for client, at in tunnels:
        line = await stage.line(client.path)
        for name, true in (("duration", now - at), ("idle_client", 0), ("idle_upstream", PING / 2)):
            if abs(line[name] - true) > SLACK:
                false[f"{name} {line[name]}"] += 1
    report.none("durations and silences that are false", false)
    report.note("endings in the log", stage.proxy.endings())
