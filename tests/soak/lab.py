"""What the soak checks are made of: the processes they start, their proxy, their table of results."""

import asyncio
import collections
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

from peers import HOST, TLS_HOST, Client, EchoServer, End, Failure

KIB, MIB = 1024, 1024 * 1024
PROGRAM = pathlib.Path(__file__).with_name("soak.py")

# -- the processes that a check starts ------------------------------------------------------------


async def serve(port, record_path=None):
    """Runs the echo server until the process is ended."""
    record = open(record_path, "a", encoding="utf-8") if record_path else None
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: EchoServer(port, record), HOST, port, backlog=4096)
    say(event="ready")
    await asyncio.Event().wait()


async def hold(port, count, in_flight, ca=None):
    """Opens connections, says how that went and how each ends, until the process is ended."""
    tls = ssl.create_default_context(cafile=ca) if ca else None
    clients, failures = await open_many(port, count, in_flight, tls)
    for client in clients:
        client.ended.add_done_callback(lambda end: say(event="end", **dataclasses.asdict(end.result())))
    say(event="ready", open=len(clients), failures=dict(failures))
    await asyncio.Event().wait()


def say(**event):
    """Tells the parent process something."""
    print(json.dumps(event), flush=True)


LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None, use_errno=True), 1


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

    def log_lines(self):
        """All whole lines of the access log."""
        path = self.directory / "access.log"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]

    def access_log(self):
        """The connections of the access log that were opened (status 101)."""
        return [line for line in self.log_lines() if line.get("status") == 101]

    def endings(self):
        """How many connections ended in which way, in words."""
        found = collections.Counter(
            " ".join(str(line.get(field)) for field in ("ended_by", "cause", "code")) for line in self.access_log()
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
        # What is to be undone at the very end, when no process is left.
        self.undo = contextlib.ExitStack()

    def free_port(self):
        """A port below the ephemeral range: no outgoing connection can take it meanwhile."""
        while True:
            port = random.randint(20000, 32000)
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind((HOST, port))
                if port not in self.ports:
                    self.ports.add(port)
                    return port

    def certificate(self):
        """Files of a certificate that vouches for itself, and of its key."""
        if not shutil.which("openssl"):
            raise Skipped("it needs the program openssl, for a certificate")
        files = cert, key = self.directory / "cert.pem", self.directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "30", "-subj", f"/CN={TLS_HOST}", "-addext", f"subjectAltName=DNS:{TLS_HOST}"]
            + ["-keyout", key, "-out", cert],
            check=True, capture_output=True,
        )
        return files

    async def child(self, *arguments):
        """Starts the program of these checks in a process of its own."""
        process = await spawn(sys.executable, PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE)
        child = Child(process)
        self.children.append(child)
        return child

    async def serve(self, port=None, record=None):
        """Starts an echo server; returns its port and process."""
        port = port or self.free_port()
        child = await self.child("serve", port, *(["--record", record] if record else []))
        await child.event("ready", 10)
        return port, child

    async def start_proxy(self, port, text, prefix=(), serves=None):
        """Starts Holdline and waits until it serves: its port accepts, if nothing else is said."""
        path = write_config(self.directory, text)
        with open(self.directory / "stdout", "wb") as out, open(self.directory / "stderr", "wb") as err:
            process = await spawn(*prefix, self.holdline, "run", "--config", path, stdout=out, stderr=err)
        self.proxy = Proxy(process, port, self.directory)

        async def ready():
            return not self.proxy.is_running() or await (serves() if serves else accepts(port))

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
        with self.undo:
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


def listeners(tables):
    """Listeners of a configuration: of each the port and its other settings, as text."""
    return "".join(f'[[listen]]\naddress = "{HOST}:{port}"\n{settings}' for port, settings in tables)


def base(lab):
    """The first tables of a configuration: a short end, and an access log that `Proxy.access_log` can read."""
    return f"""\
[process]
shutdown_grace = "5s"
[log]
format = "json"
access = "{lab.directory}/access.log"
"""


def config(lab, listen, servers, route="", upstream="", more=""):
    """The configuration of one route to one upstream; the last three are added as they are."""
    backlog = "backlog = 4096\n"
    addresses = ", ".join(f'"{HOST}:{port}"' for port in servers)
    return f"""\
{base(lab)}sample_above = "off"
{listeners((port, backlog) for port in listen)}
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


class Skipped(Exception):
    """Why a check cannot be made here."""


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
        wide = max([28, *(len(value) for _, value, verdict in self.rows if verdict)])
        print(self.title)
        for name, value, verdict in self.rows:
            print(f"  {name:{width}}  {value:{wide}} {verdict}".rstrip())
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


async def open_many(port, count, in_flight=200, tls=None):
    """Opens clients, a limited number at a time; returns them and the counted failures."""
    gate, clients = asyncio.Semaphore(in_flight), []

    async def one():
        async with gate:
            clients.append(await Client.open(port, tls=tls))

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
