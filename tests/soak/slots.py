"""The checks `straddle`, `streams` and `admin`: a few clients cannot take the slots that all need.

Connections and descriptors are limited. Clients hold what they can get of them, by half frames of HTTP/2, by streams
that wait for a slow upstream, and by silence at the admin endpoint. Others must still be served. README.md says what
must hold.
"""

import asyncio
import collections
import contextlib
import json
import time

from abuse import PREFACE, Guest, h2_fields, h2_frame
from lab import base, counted, describe, eventually, listeners, spawn
from peers import HOST, Client, Failure

# How often strangers come, and how long each may take for a tunnel and an echo.
EVERY = 0.1

# -- what these checks share ------------------------------------------------------------------------


def limited(files):
    """What a command is started with that may open so many files."""
    return ("sh", "-c", f'ulimit -n {files}; exec "$0" "$@"')


async def ask(port, path):
    """Sends a GET on a connection of its own; returns the status and the body."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ")[1]), await reader.read()
    finally:
        writer.close()


class Times:
    """How long things took that are done again and again, and which failed."""

    def __init__(self, limit):
        self.limit, self.taken, self.failures = limit, [], collections.Counter()

    async def one(self, work):
        """Does something once."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.limit):
                await work()
        except TimeoutError:
            self.failures[f"not done after {self.limit:g} s"] += 1
        except Exception as error:  # noqa: BLE001: whatever it is, it is counted
            self.failures[describe(error)] += 1
        else:
            self.taken.append(time.monotonic() - began)

    async def keep_on(self, work, seconds):
        """Does it at a steady rate, whatever it takes."""
        began, started = time.monotonic(), []
        while time.monotonic() < began + seconds:
            started.append(asyncio.create_task(self.one(work)))
            await asyncio.sleep(EVERY)
        await asyncio.gather(*started)

    def judge(self, report, name):
        """There were some, and all were done in time."""
        words = f", {self.failures.total()} failed: {dict(self.failures.most_common(2))}" if self.failures else ""
        worst = f"{len(self.taken)}, worst {max(self.taken, default=0):.2f} s (limit {self.limit:g}){words}"
        report.check(name, worst, self.taken and not self.failures)


async def visit(port):
    """A stranger opens a tunnel, echoes, and goes."""
    client = await Client.open(port)
    try:
        await client.echo()
        await client.bye()
    finally:
        client.abort()


def judge_log(report, proxy):
    """Nothing was said of a shortage that the proxy should have seen coming."""
    words = (proxy.directory / "stderr").read_text(errors="replace")
    found = sum(words.count(phrase) for phrase in ("panicked", "cannot accept", "Too many open files"))
    report.check("panics and lines about descriptors in the log", found, not found)


async def judge_files(report, proxy, before, seconds):
    """Descriptors are given back."""
    # 32 connections to each upstream may be kept.
    limit = before + 64

    async def is_back():
        return proxy.open_files() <= limit

    with contextlib.suppress(Failure):
        await eventually(is_back, seconds, "", pause=0.1)
    now = proxy.open_files()
    report.check("open files afterwards", f"{before} -> {now} (limit {limit})", now <= limit)


# -- straddle ---------------------------------------------------------------------------------------

# A WINDOW_UPDATE of the connection (RFC 9113 6.9), in two halves.
UPDATE = h2_frame(8, 0, 0, b"\0\0\0\1")
FIRST, SECOND = UPDATE[:6], UPDATE[6:]
STRADDLE_FILES, STRADDLE_EVERY = 256, 0.3
# Of the listener whose connections must end by it, and of the other, whose connections must give way before it.
SHORT, LONG = 2, 60
# `header_timeout`, the same once more for one that does not take its leave, two checks of a quarter, a busy machine.
CUT_AFTER = SHORT + SHORT + 2 * SHORT / 4 + 1
# A slot is given up after 2 s, and there may be a turn of others to wait for.
ENTER_WITHIN = 8


class Straddlers:
    """Connections on which some frame is half there at every moment."""

    def __init__(self, port, comes_again):
        self.port, self.comes_again = port, comes_again
        # How long those lasted that were cut.
        self.lasted = []

    async def one(self):
        """Holds a connection until it is cut; another one then, if these come again."""
        while True:
            await self.hold()
            if not self.comes_again:
                return

    async def hold(self):
        reader, writer = await asyncio.open_connection(HOST, self.port)
        began = time.monotonic()
        try:
            writer.write(PREFACE + h2_frame(4, 0, 0) + FIRST)
            while not await self.is_over(reader):
                # The end of a frame, and the beginning of the next.
                writer.write(SECOND + FIRST)
        except OSError:
            pass
        finally:
            writer.close()
        self.lasted.append(time.monotonic() - began)

    @staticmethod
    async def is_over(reader):
        """Reads what comes until the next half is due; whether the proxy has closed the connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STRADDLE_EVERY):
                while await reader.read(65536):
                    pass
                return True
        return False


def straddle_config(lab, short, long, server):
    """Two listeners, which differ in `header_timeout`, before an echo server."""
    more = 'protocols = ["h1", "h2"]\nbacklog = 4096\n'
    tables = [(port, f'header_timeout = "{timeout}s"\n{more}') for port, timeout in ((short, SHORT), (long, LONG))]
    return f"""\
{base(lab)}{listeners(tables)}
[[route]]
path = "/"
upstream = "echo"
[upstream.echo]
servers = ["{HOST}:{server}"]
"""


async def keep_echoing(guests, work):
    """Lets all echo for as long as some work takes; returns the counted failures."""
    work = asyncio.ensure_future(work)

    async def one(guest):
        while not work.done():
            await guest.echo()
            await asyncio.sleep(EVERY)

    failures = await counted(one(guest) for guest in guests)
    await work
    return failures


async def check_straddle(lab, options, report):
    """Half frames of HTTP/2 hold neither connections beyond their timeout nor slots that others want."""
    short, long = lab.free_port(), lab.free_port()
    echo, _ = await lab.serve()
    proxy = await lab.start_proxy(short, straddle_config(lab, short, long, echo), limited(STRADDLE_FILES))
    guests = [await Guest.enter({"plain": port}, "plain") for port in (short, long) for _ in range(5)]
    lab.clients += guests
    before = proxy.open_files()

    few = Straddlers(short, comes_again=False)
    tasks = [asyncio.create_task(few.one()) for _ in range(40)]
    lost = await keep_echoing(guests, asyncio.wait(tasks, timeout=CUT_AFTER))
    cut = f"{len(few.lasted)} of {len(tasks)}, the last after {max(few.lasted, default=0):.1f} s (limit {CUT_AFTER:g})"
    report.check("cut off", cut, len(few.lasted) == len(tasks))

    # Of 256 files, 68 are the process's own, and each connection takes two: 94 slots for 160 of them.
    many, entries = Straddlers(long, comes_again=True), Times(ENTER_WITHIN)
    tasks += [asyncio.create_task(many.one()) for _ in range(160)]
    await asyncio.sleep(0.5)
    more = await keep_echoing(guests, entries.keep_on(lambda: visit(long), options.seconds))
    report.check("gave their slots, and came again", len(many.lasted), many.lasted)
    entries.judge(report, "new tunnels meanwhile")
    report.none("tunnels that failed", lost + more)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    judge_log(report, proxy)
    report.none("unclean ends", await lab.hang_up())
    await judge_files(report, proxy, before, 10)


# -- streams ----------------------------------------------------------------------------------------

STREAM_FILES, STREAM_CLIENTS, STREAMS = 1024, 9, 120
READY_WITHIN, OPEN_WITHIN = 1, 2


def streams_config(lab, ports, servers):
    """A route for each upstream, `echo` for the rest; each would be left out after its first failure."""
    upstreams = "".join(
        f'[[route]]\npath = "/{name if name != "echo" else ""}"\nupstream = "{name}"\nconnect_timeout = "1s"\n'
        f'[upstream.{name}]\nservers = ["{HOST}:{port}"]\nmax_fails = 1\nfail_timeout = "60s"\n'
        for name, port in servers.items()
    )
    return f"""\
{base(lab)}sample_above = "off"
[admin]
address = "{HOST}:{ports['admin']}"
[[listen]]
address = "{HOST}:{ports['listen']}"
protocols = ["h1", "h2"]
backlog = 4096
{upstreams}
"""


async def slow(reader, writer):
    """An upstream that takes a second for each answer."""
    # The last one is the end of the check.
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(1)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    writer.close()


async def mute(reader, writer):
    """An upstream that never answers."""
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await reader.read()
    writer.close()


class Streams:
    """A client of HTTP/2 that asks again on a new stream whenever one is answered."""

    def __init__(self, port, path):
        self.port, self.fields = port, h2_fields(b"GET", path)
        self.answered, self.ended = 0, False
        self.next = 1

    def request(self):
        number, self.next = self.next, self.next + 2
        return h2_frame(1, 5, number, self.fields)

    async def run(self):
        """Keeps all its streams busy until it is cancelled."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            writer.write(PREFACE + h2_frame(4, 0, 0) + b"".join(self.request() for _ in range(STREAMS)))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == 4 and not head[4] & 1:
                    writer.write(h2_frame(4, 1, 0))
                elif head[3] == 6 and not head[4] & 1:
                    writer.write(h2_frame(6, 1, 0, payload))
                elif head[3] == 1:
                    self.answered += 1
                if head[3] == 3 or (head[3] in (0, 1) and head[4] & 1):
                    writer.write(self.request())
        except (OSError, asyncio.IncompleteReadError):
            self.ended = True
        finally:
            writer.close()


async def check_streams(lab, options, report):
    """Streams that wait for a slow upstream leave room for others under a limit of 1,024 open files."""
    ports = {name: lab.free_port() for name in ("listen", "admin")}
    servers = [await asyncio.start_server(serve, HOST, 0, backlog=4096) for serve in (slow, mute)]
    echo, _ = await lab.serve()
    addresses = [server.sockets[0].getsockname()[1] for server in servers]
    names = {"echo": echo, "slow": addresses[0], "mute": addresses[1]}
    proxy = await lab.start_proxy(ports["listen"], streams_config(lab, ports, names), limited(STREAM_FILES))
    guests = [await Guest.enter({"plain": ports["listen"]}, "plain") for _ in range(10)]
    lab.clients += guests
    before = proxy.open_files()

    crowd = [Streams(ports["listen"], b"/slow" if number % 3 == 0 else b"/mute") for number in range(STREAM_CLIENTS)]
    tasks = [asyncio.create_task(one.run()) for one in crowd]
    await asyncio.sleep(1)
    entries, health = Times(OPEN_WITHIN), Times(READY_WITHIN)
    peak = proxy.open_files()
    lost = await keep_echoing(guests, asyncio.gather(
        entries.keep_on(lambda: visit(ports["listen"]), options.seconds),
        health.keep_on(lambda: is_ready(ports["admin"]), options.seconds),
    ))
    peak = max(peak, proxy.open_files())
    report.check("open files at most", f"{peak} of {STREAM_FILES}", peak < STREAM_FILES)
    report.check("clients of HTTP/2 that were cut off", cut := sum(one.ended for one in crowd), not cut)
    entries.judge(report, "new tunnels meanwhile")
    health.judge(report, "/readyz meanwhile")
    report.none("tunnels that failed", lost)
    await judge_endpoints(report, ports["admin"], len(names))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await judge_lines(report, proxy, len(entries.taken), sum(one.answered for one in crowd))
    judge_log(report, proxy)
    report.none("unclean ends", await lab.hang_up())
    await judge_files(report, proxy, before, 10)
    for server in servers:
        server.close()


async def is_ready(port):
    """Asks whether the proxy is ready, or raises."""
    status, _ = await ask(port, "/readyz")
    if status != 200:
        raise Failure(f"/readyz: {status}")


async def judge_endpoints(report, port, count):
    """No endpoint was charged with a failure, and all are in use."""
    _, body = await ask(port, "/api/status")
    endpoints = [one for upstream in json.loads(body)["upstreams"] for one in upstream["endpoints"]]
    failures = sum(one["failures"] for one in endpoints)
    report.check("failures charged to endpoints", failures, not failures and len(endpoints) == count)
    used = sum(one["state"] == "up" and one["standing"] == "available" for one in endpoints)
    report.check("endpoints in use", f"{used} of {len(endpoints)}", used == count)


async def judge_lines(report, proxy, tunnels, answers):
    """The access log has a line for each tunnel that came and went, and for each answer."""
    async def written():
        lines = proxy.log_lines()
        opened = sum(line.get("status") == 101 for line in lines)
        answered = sum(line.get("status") in (204, 503) for line in lines)
        return (opened, answered) if opened >= tunnels and answered >= answers else None

    with contextlib.suppress(Failure):
        await eventually(written, 3, "")
    lines = proxy.log_lines()
    opened = sum(line.get("status") == 101 for line in lines)
    counts = collections.Counter(line.get("status") for line in lines)
    report.check("lines of tunnels", f"{opened} of {tunnels}", opened == tunnels)
    answered = counts[204] + counts[503]
    report.check("lines of answers", f"{answered} of {answers}", answers and answered >= answers)
    report.note("  answered 204 and 503", f"{counts[204]}, {counts[503]}")


# -- admin ------------------------------------------------------------------------------------------

SILENT, ADMIN_WITHIN = 130, 2


class Silent:
    """Connections that ask nothing: a third stay away once cut, a third come again at once, a third send half a head."""

    def __init__(self, port):
        self.port, self.cut = port, 0

    async def one(self, number):
        comes_again, first = number % 3 > 0, b"GET /rea" if number % 3 == 2 else b""
        while True:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            try:
                writer.write(first)
                await reader.read()
            except OSError:
                pass
            finally:
                writer.close()
            self.cut += 1
            if not comes_again:
                return


async def check_admin(lab, options, report):
    """Silent connections do not keep operators and health checks from the admin endpoint."""
    ports = {name: lab.free_port() for name in ("listen", "admin")}
    echo, _ = await lab.serve()
    text = streams_config(lab, ports, {"echo": echo})
    proxy = await lab.start_proxy(ports["listen"], text)
    crowd = Silent(ports["admin"])
    tasks = [asyncio.create_task(crowd.one(number)) for number in range(SILENT)]
    await asyncio.sleep(0.5)
    health, operator = Times(ADMIN_WITHIN), Times(ADMIN_WITHIN)

    async def ctl():
        process = await spawn(lab.holdline, "ctl", "--address", f"{HOST}:{ports['admin']}", "status",
                              stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        if process.returncode:
            raise Failure(f"ctl: {output.decode(errors='replace').strip()}")

    async def keep_asking():
        until = time.monotonic() + options.seconds
        while time.monotonic() < until:
            await operator.one(ctl)
            await asyncio.sleep(EVERY)

    await asyncio.gather(health.keep_on(lambda: is_ready(ports["admin"]), options.seconds), keep_asking())
    report.check("silent ones that were cut off", crowd.cut, crowd.cut)
    health.judge(report, "/readyz meanwhile")
    operator.judge(report, "holdline ctl status meanwhile")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    judge_log(report, proxy)
