"""The check `asleep`: the proxy itself stands still, and no peer may pay for it.

SIGSTOP comes at the worst moment: every peer of every tunnel has a Ping of the proxy and has not answered it
yet, requests and answers are half under way. What was missing arrives while the proxy sleeps, far longer than
any of its timeouts.
"""

import asyncio
import collections
import os
import pathlib
import signal
import time

from lab import bye, counted, eventually
from peers import HOST, PING, PONG, TEXT, Client, EchoServer, Failure, split_head

INTERVAL, TIMEOUT, HEADER, SLACK = 2, 8, 2, 1
# Some timeouts end about the waking, when thousands of sockets are still to be read; then all of them before it.
SLEEPS = 7, 13
REQUESTS, QUIET = 50, 20
# For what is under way while the proxy sleeps.
PATIENCE = 30


class Holding:
    """A peer that keeps its Pong back while it is told to."""

    __slots__ = ()

    def on_frame(self, fin, opcode, payload):
        if opcode == PING and self.held is None and self.stage.holding:
            self.pings += 1
            self.held = payload
            self.stage.held += 1
        else:
            super().on_frame(fin, opcode, payload)

    def let_go(self):
        """Answers the Ping that was kept."""
        if self.held is not None:
            self.send(PONG, self.held)


class Sleeper(Holding, Client):
    """A client."""

    __slots__ = ("held", "stage")
    # A handshake may be under way while the proxy sleeps.
    OPEN_TIMEOUT = REPLY_TIMEOUT = PATIENCE

    def __init__(self, path, stage):
        super().__init__(path)
        self.held, self.stage = None, stage


class Dead(Sleeper):
    """A client that answers no Ping at all."""

    __slots__ = ()

    def on_frame(self, fin, opcode, payload):
        if opcode != PING:
            super().on_frame(fin, opcode, payload)


class Host(Holding, EchoServer):
    """A server that answers what is asked for below /late/ only when it is told to."""

    __slots__ = ("held", "stage", "asked")

    def __init__(self, stage):
        super().__init__(stage.port)
        self.held, self.stage, self.asked = None, stage, None
        stage.hosts.append(self)

    def on_head(self, head):
        if b"/late/" in head and self.asked is None:
            self.asked = head
            self.stage.late += 1
        elif b"upgrade: websocket" in head.lower():
            super().on_head(head)
        else:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    def let_go(self):
        if self.asked is not None:
            self.on_head(self.asked)
        super().let_go()


class Stage:
    """The proxy, and what is under way through it."""

    def __init__(self, lab):
        self.lab, self.port, self.listen, self.proxy = lab, lab.free_port(), lab.free_port(), None
        self.clear()

    def clear(self):
        """Forgets one sleep before the next."""
        self.hosts, self.holding, self.held, self.late = [], False, 0, 0
        self.asleep = asyncio.Event()
        self.lab.clients.clear()

    async def start(self):
        """Starts the server, in this process, and the proxy."""
        loop = asyncio.get_running_loop()
        self.lab.undo.callback((await loop.create_server(lambda: Host(self), HOST, self.port, backlog=4096)).close)
        self.proxy = await self.lab.start_proxy(self.listen, config(self))

    async def open(self, path, kind=Sleeper):
        """Opens a tunnel."""
        client, loop = kind(path, self), asyncio.get_running_loop()
        await loop.create_connection(lambda: client, HOST, self.listen)
        self.lab.clients.append(client)
        async with asyncio.timeout(client.OPEN_TIMEOUT):
            await client.handshake
        return client

    async def open_many(self, paths):
        """Opens tunnels, not all at the same time."""
        gate = asyncio.Semaphore(100)

        async def one(path):
            async with gate:
                return await self.open(path)

        return await asyncio.gather(*(one(path) for path in paths))

    async def request(self, path, half=False):
        """A plain request; its head may come in two halves. Returns the status of its answer."""
        reader, writer = await asyncio.open_connection(HOST, self.listen)
        writer.write(b"GET %b HTTP/1.1\r\nHost: soak.test\r\n" % path.encode())
        if half:
            await self.asleep.wait()
        writer.write(b"Connection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        writer.close()
        if not answer:
            raise Failure("closed without an answer")
        status = split_head(answer.partition(b"\r\n\r\n")[0])[0]
        if b" 200 " not in status + b" ":
            raise Failure(status.decode())

    async def stop(self):
        """Stops the proxy, and returns when it stands still."""
        pid = self.proxy.process.pid
        os.kill(pid, signal.SIGSTOP)

        async def stands():
            tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
            return all("\nState:\tT" in (task / "status").read_text() for task in tasks)

        await eventually(stands, 5, "the proxy does not stop")
        self.asleep.set()

    def wake(self):
        """Lets the proxy go on."""
        self.proxy.process.send_signal(signal.SIGCONT)


def config(stage):
    """Timeouts of all kinds, shorter than the sleep."""
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
response_timeout = "{TIMEOUT}s"
ping = {{ client = "{INTERVAL}s", upstream = "{INTERVAL}s", timeout = "{TIMEOUT}s" }}
[[route]]
path = "/"
upstream = "up"
[[route]]
path = "/quiet/"
upstream = "up"
ping = "off"
read_timeout = "{TIMEOUT}s"
[upstream.up]
servers = ["{HOST}:{stage.port}"]
max_fails = 0
"""


async def check_asleep(lab, options, report):
    """A proxy that stood still itself (SIGSTOP, a paused machine) holds it against no peer."""
    stage = Stage(lab)
    await stage.start()
    for seconds in SLEEPS:
        report.note(f"asleep for {seconds} s", "")
        stage.clear()
        await sleep(stage, report, options.connections, seconds)
    report.note("endings in the log", stage.proxy.endings())


async def sleep(stage, report, connections, seconds):
    """Lets the proxy stand still once, and looks what became of its connections."""
    before = len(stage.proxy.access_log())
    clients = await stage.open_many(f"/{number}" for number in range(connections))
    dead = await stage.open(f"/dead/{seconds}", Dead)
    handshakes = start(stage.open(f"/late/{number}") for number in range(REQUESTS))
    requests = start(stage.request("/late/") for _ in range(REQUESTS))
    quiet = await stage.open_many(f"/quiet/{number}" for number in range(QUIET))
    await all_held(stage, 2 * len(clients), 2 * REQUESTS)
    halves = start(stage.request("/", half=True) for _ in range(REQUESTS))
    # It goes the way of the halves, behind them.
    await stage.request("/")
    await stage.stop()
    report.check("  Pings unanswered at SIGSTOP", stage.held, stage.held > 2 * len(clients))
    report.check("  tunnels ended before", ended := len(stage.proxy.access_log()) - before, not ended)

    for client in quiet:
        client.reply = asyncio.get_running_loop().create_future()
        client.send(TEXT, b"sent while it slept")
    for peer in (*clients, *stage.hosts):
        peer.let_go()
    await asyncio.sleep(seconds)
    woke = time.monotonic()
    stage.wake()
    report.none("  handshakes under way that failed", await counted(handshakes))
    report.none("  requests under way that failed", await counted(requests))
    report.none("  requests half sent that failed", await counted(halves))
    await judge_quiet(report, quiet)
    await judge_dead(stage, report, dead, woke)
    clients += [handshake.result() for handshake in handshakes if not handshake.exception()]
    await judge_tunnels(stage, report, clients)


def start(work):
    """Begins all of it."""
    return [asyncio.create_task(one) for one in work]


async def all_held(stage, pings, late):
    """Waits until every peer has a Ping, and the server every request that it is to answer late."""
    stage.holding = True

    async def held():
        # The server of the dead client holds one as well.
        return stage.held > pings and stage.late >= late

    await eventually(held, INTERVAL + TIMEOUT - 1, "not all have been pinged")
    stage.holding = False


async def judge_quiet(report, quiet):
    """What was sent while the proxy slept has come, before a timeout that began anew is over."""
    async def echoed(client):
        async with asyncio.timeout(TIMEOUT):
            if await client.reply != b"sent while it slept":
                raise Failure("the echo differs")

    report.none("  messages of the meantime that were lost", await counted(echoed(client) for client in quiet))
    report.none("  unclean ends of their tunnels", await counted(bye(client) for client in quiet))


async def judge_dead(stage, report, dead, woke):
    """A client that really is dead is found in time, counted from the waking."""
    async def line():
        return next((line for line in stage.proxy.log_lines() if line["path"] == dead.path), None)

    found = await eventually(line, TIMEOUT + INTERVAL + 5, "the dead client was not found")
    seconds = time.monotonic() - woke
    said, limit = f"{found['ended_by']}/{found['cause']} after {seconds:.2f} s", TIMEOUT + SLACK
    is_right = (found["ended_by"], found["cause"]) == ("client", "unresponsive") and seconds <= limit
    report.check("  a client that is dead", said, is_right)
    report.note("  it reads", f"{dead.end} {dead.end.reason}" if dead.end else "nothing")


async def judge_tunnels(stage, report, clients):
    """All that were well are open."""
    dropped = collections.Counter(f"{client.end} {client.end.reason}" for client in clients if client.end)
    report.none(f"  of {len(clients)} tunnels dropped", dropped)
    report.none("  echoes that failed", await counted(client.echo() for client in clients))
    report.none("  unclean ends", await stage.lab.hang_up())
