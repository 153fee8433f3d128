"""The check `fairness`: one tunnel that moves all it can leaves the latency of the others alone.

On two cores everything that works slows down everything else. What is the proxy's doing is told apart by a second
proxy: the small messages go through the one, and the large frames in turn through the other, which costs the
machine as much, and through the same. The two are compared. What comes of the loads without any proxy stands
beside them.
"""

import asyncio
import dataclasses
import math
import os
import pathlib
import sys

from lab import KIB, MIB, Child, Proxy, accepts, die_with_parent, eventually, spawn, write_config
from peers import HOST

LOADS = pathlib.Path(__file__).with_name("loads.py")
TUNNELS, RATE = 100, 10
# What the median may rise by: on the way there and on the way back, a turn of each large tunnel is waited for.
MORE = 0.003


@dataclasses.dataclass
class Setting:
    """One comparison."""

    workers: int
    floods: int
    size: int

    def __str__(self):
        workers = f"{self.workers} worker" if self.workers else "a worker for each CPU"
        size = f"{self.size // MIB} MiB" if self.size >= MIB else f"{self.size // KIB} KiB"
        return f"{workers}, {self.floods} tunnel{'s'[: self.floods > 1]} with frames of {size}"


SETTINGS = (
    Setting(workers=0, floods=1, size=64 * KIB),
    Setting(workers=0, floods=1, size=MIB),
    Setting(workers=0, floods=os.cpu_count(), size=64 * KIB),
    Setting(workers=1, floods=1, size=64 * KIB),
    Setting(workers=1, floods=1, size=MIB),
)


class Measured:
    """The round trips of one way, over all rounds."""

    def __init__(self):
        self.times, self.late, self.lost, self.bits, self.seconds = [], [], 0, 0, 0

    def quantile(self, share, of=None):
        """The time that this share of them did not exceed."""
        times = sorted(self.times if of is None else of)
        return times[min(len(times) - 1, math.ceil(share * len(times)) - 1)] if times else math.inf

    def __str__(self):
        p50, p99, most = (1000 * self.quantile(share) for share in (0.5, 0.99, 1))
        rate = f", beside {self.bits / self.seconds / 1e9:4.1f} Gbit/s" if self.bits else ""
        return f"p50 {p50:6.2f}  p99 {p99:6.2f}  max {most:6.2f} ms{rate}"


class Stage:
    """The two servers, and two proxies before both."""

    def __init__(self, lab):
        self.lab, self.sink = lab, None
        self.echo_port, self.sink_port, self.same_port, self.other_port = (lab.free_port() for _ in range(4))
        self.proxies = []

    async def start(self):
        """Starts the servers."""
        await self.load("echo", self.echo_port)
        self.sink = await self.load("sink", self.sink_port, stdin=asyncio.subprocess.PIPE)

    async def load(self, *arguments, stdin=asyncio.subprocess.DEVNULL):
        """Starts one of the loads."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, LOADS, *map(str, arguments), stdin=stdin, stdout=asyncio.subprocess.PIPE,
            preexec_fn=die_with_parent, limit=16 * MIB,
        )
        child = Child(process)
        self.lab.children.append(child)
        await child.event("ready", 10)
        return child

    async def start_proxies(self, workers):
        """Starts both proxies anew."""
        for proxy in self.proxies:
            await proxy.stop()
        self.proxies = [await self.proxy(workers, port) for port in (self.same_port, self.other_port)]
        self.lab.proxy = self.proxies[0]

    async def proxy(self, workers, port):
        """Starts a proxy."""
        directory = self.lab.directory / str(port)
        directory.mkdir(exist_ok=True)
        path = write_config(directory, config(workers, port, self.echo_port, self.sink_port))
        with open(directory / "stderr", "wb") as err:
            process = await spawn(self.lab.holdline, "run", "--config", path, stderr=err)
        await eventually(lambda: accepts(port), 10, "the proxy's port does not accept")
        return Proxy(process, port, directory)

    async def taken(self):
        """What the sink has taken so far, in bytes, and when it was."""
        seen = len(self.sink.events)
        self.sink.process.stdin.write(b"\n")

        async def said():
            return self.sink.events[seen:]

        event = (await eventually(said, 5, "the sink does not answer"))[0]
        return event["bytes"], event["at"]

    async def measure(self, measured, port, floods, size, seconds):
        """One round of probes, to one port, while others flood."""
        flooding = [await self.load("flood", flood, size) for flood in floods]
        probe = await self.load("probe", port, TUNNELS, RATE, seconds)
        before, since = await self.taken()
        event = await probe.event("probed", seconds + 10)
        after, until = await self.taken()
        # It ends by itself.
        await probe.process.wait()
        for child in (*flooding, probe):
            await child.stop()
            self.lab.children.remove(child)
        measured.times += event["times"]
        measured.late += event["late"]
        measured.lost += event["lost"]
        measured.bits += 8 * (after - before)
        measured.seconds += until - since


def config(workers, port, echo, sink):
    """Two upstreams, and nothing that is sent but by the peers."""
    return f"""\
[process]
workers = {workers}
shutdown_grace = "5s"
[log]
access = "off"
[[listen]]
address = "{HOST}:{port}"
[defaults]
ping = "off"
[[route]]
path = "/"
upstream = "echo"
[[route]]
path = "/heavy/"
upstream = "sink"
[upstream.echo]
servers = ["{HOST}:{echo}"]
[upstream.sink]
servers = ["{HOST}:{sink}"]
"""


async def check_fairness(lab, options, report):
    """A tunnel that moves gigabits leaves the others of its proxy alone."""
    stage = Stage(lab)
    await stage.start()
    for setting in SETTINGS:
        report.note(str(setting), "")
        await stage.start_proxies(setting.workers)
        await compare(stage, setting, options, report)
    await stage.proxies[1].stop()


async def compare(stage, setting, options, report):
    """Measures all ways in turn, again and again: what the machine does meanwhile befalls all alike."""
    ways = {
        "no proxy": (stage.echo_port, None),
        "no proxy, beside large frames": (stage.echo_port, stage.sink_port),
        "the proxy": (stage.same_port, None),
        "the proxy, large frames through another": (stage.same_port, stage.other_port),
        "the proxy, large frames through it too": (stage.same_port, stage.same_port),
    }
    measured = {way: Measured() for way in ways}
    for _ in range(options.rounds):
        for way, (port, flood) in ways.items():
            floods = [flood] * setting.floods if flood else []
            await stage.measure(measured[way], port, floods, setting.size, options.seconds / options.rounds)
    for way, found in measured.items():
        report.note(f"  {way}", found)
    *_, other, same = measured.values()
    judge(report, other, same, measured.values())


def judge(report, other, same, measured):
    """Compares the two that differ in nothing but which proxy the large frames go through."""
    median, was = same.quantile(0.5), other.quantile(0.5)
    ratio = f"{median / was:.1f} x p50, {same.quantile(0.99) / other.quantile(0.99):.1f} x p99"
    limit = was + MORE
    report.check("  the last two", f"{ratio} (limit of p50: {1000 * limit:.1f} ms)", median <= limit)
    late = [late for found in measured for late in found.late]
    p50, p99 = (1000 * same.quantile(share, late) for share in (0.5, 0.99))
    report.note("  probes sent late, p50 and p99", f"{p50:.2f}, {p99:.2f} ms")
    lost = sum(found.lost for found in measured)
    report.check("  probes without an answer", lost, not lost)
