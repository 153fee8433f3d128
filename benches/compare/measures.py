"""Owns what is measured: each measure loads a proxy that was started for it, and returns numbers by their names."""

import dataclasses
import time

from lab import Failure, rss_anon
from proxies import DIRECT

# Bytes of a message: connections that send, one message under way on each. Large ones are fewer, so that what is under
# way fits the buffers of the kernel.
SIZES = {64: 64, 4 * 1024: 64, 16 * 1024: 16, 64 * 1024: 16, 1024 * 1024: 4}
RATE = 2000


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of everything; `QUICK` is for seeing that it works."""

    idle: int = 9000
    active: int = 8000
    seconds: float = 1.2
    warm_up: float = 0.3
    rate_seconds: float = 4
    openings_at_once: int = 64
    held: int = 1000
    held_rate: int = 1000
    held_openings: int = 100
    reloads: int = 4
    # For so many seconds memory must not have moved.
    quiet: float = 3


QUICK = Scale(
    idle=100, active=100, seconds=0.3, warm_up=0.1, rate_seconds=0.5, openings_at_once=8, held=50, held_rate=200,
    held_openings=40, reloads=2, quiet=0.3,
)


@dataclasses.dataclass(frozen=True)
class Number:
    """One row of the results."""

    title: str
    unit: str
    digits: int = 1
    more_is_better: bool = False
    compared: bool = True


NUMBERS = {
    "idle": Number("memory per idle `ws` tunnel", "B", 0),
    "idle-tls": Number("memory per idle `wss` tunnel", "B", 0),
    "storm": Number("memory after all have closed, to before", "x", 2),
    "storm-tls": Number("memory after all `wss` have closed, to before", "x", 2),
    "empty": Number("memory of the empty proxy", "MiB"),
    **{
        f"trip-{size}": Number(f"CPU per round trip, {name}, {SIZES[size]} active", "µs")
        for size, name in zip(SIZES, ("64 B", "4 KiB", "16 KiB", "64 KiB", "1 MiB"))
    },
    "trip-many": Number("CPU per round trip, 64 B, {active:,} active", "µs"),
    "trip-64-tls": Number("CPU per round trip, 64 B, 64 active, `wss`", "µs"),
    "trip-65536-tls": Number("CPU per round trip, 64 KiB, 16 active, `wss`", "µs"),
    "trip-64-tls12": Number("CPU per round trip, 64 B, 64 active, `wss` with TLS 1.2", "µs"),
    "trip-65536-tls12": Number("CPU per round trip, 64 KiB, 16 active, `wss` with TLS 1.2", "µs"),
    "trips-64": Number("round trips a second, 64 B, 64 active", "/s", 0, True),
    "opening": Number("CPU per handshake and its end", "µs"),
    "opening-tls": Number("CPU per handshake and its end, `wss`", "µs"),
    "opening-user": Number("the share of that outside of the kernel", "%", 0),
    "opening-user-tls": Number("the share of that outside of the kernel, `wss`", "%", 0),
    "openings": Number("handshakes a second", "/s", 0, True),
    "openings-tls": Number("handshakes a second, `wss`", "/s", 0, True),
    **{at: Number(f"latency, {at}, {RATE:,} messages a second", "µs") for at in ("p50", "p99", "p99.9")},
    **{
        f"added-{at}": Number(f"added latency, {at}, {RATE:,} messages a second", "µs")
        for at in ("p50", "p99", "p99.9")
    },
    "late": Number("how late the load was itself, p99, which is in the latencies", "µs", compared=False),
    "trip-rate": Number(f"CPU per round trip, 64 B, {RATE:,} a second", "µs"),
    "request": Number("CPU per plain request", "µs"),
    "requests": Number("plain requests a second", "/s", 0, True),
    "reload-refused": Number("reload under load: handshakes refused or broken", "", 0),
    "reload-closed": Number("reload under load: tunnels closed", "", 0),
    "reload-processes": Number("reload under load: processes more, at most", "", 0),
    "reload-memory": Number("reload under load: memory more, at most", "MiB"),
}


def load(lab, scale, proxy, kind, connections, *more, tls=None, seconds=None):
    """Runs a load to its end; what came of it."""
    seconds = seconds or scale.seconds
    words = [kind, *proxy.target(tls), "--connections", connections, "--seconds", seconds]
    tool = lab.load(*words, "--warm-up", scale.warm_up, *proxy.watch(), *more)
    try:
        return tool.hear("result", seconds + scale.warm_up + 60)
    finally:
        tool.stop()


def whole(result, connections=None):
    """The same, if nothing went wrong."""
    bad = {**result["failures"], **{why: count for why, count in result["ended"].items() if why != "closed"}}
    if bad or (connections and result["opened"] != connections):
        raise Failure(f"{result['opened']} opened, and there were {bad}")
    return result


def busy(result):
    """How busy the proxy's processor was, and that of load and echo: whose is at 1 was what all waited for."""
    cpu = result["cpu"]
    return {"proxy": cpu.get("proxy", 0) / cpu["seconds"], "load": (cpu["load"] + cpu["echo"]) / cpu["seconds"]}


def per(result, count):
    """Microseconds of the proxy's processor for each of so many; nothing where there is no proxy."""
    if not count:
        raise Failure("nothing came through")
    return result["cpu"]["proxy"] * 1e6 / count if "proxy" in result["cpu"] else None


def user_share(result):
    """How much of the proxy's processor time it ran outside of the kernel, in percent."""
    return result["user"]["proxy"] * 100 if "proxy" in result["user"] else None


# -- the measures ---------------------------------------------------------------------------------


def idle(lab, scale, proxy, tls=None):
    """Many connections that say nothing, and what is left when they have closed. It yields where the proxy's memory is
    to settle, and is sent how much that is: so that the proxies can be waited for together."""
    suffix = "-tls" if tls else ""
    empty = yield
    tool = lab.load("hold", *proxy.target(tls), "--connections", scale.idle)
    try:
        opened = tool.hear("opened", 120)
        if opened["opened"] != scale.idle:
            raise Failure(f"{opened['opened']} of {scale.idle} opened: {opened['failures']}")
        full = yield
        tool.tell(b"m")
        messages = tool.hear("messages", 60)
        if messages["received"] != scale.idle or messages["ended"]:
            raise Failure(f"{messages['received']} of {scale.idle} are alive: {messages['ended']}")
        tool.tell(b"c")
        closed = tool.hear("closed", 60)["closed"]
        if closed != {"closed": scale.idle}:
            raise Failure(f"all were to close, and there were {closed}")
    finally:
        tool.stop()
    after = yield
    numbers = {f"idle{suffix}": (full - empty) / scale.idle, f"storm{suffix}": after / empty}
    return numbers | ({} if tls else {"empty": empty / 1024 / 1024}), {}


def idle_tls(lab, scale, proxy):
    return idle(lab, scale, proxy, tls="1.3")


def messages(lab, scale, proxy):
    """Round trips, as many as there can be."""
    numbers, shares = {}, {}
    for size, connections in SIZES.items():
        result = whole(load(lab, scale, proxy, "rounds", connections, "--size", size), connections)
        numbers[f"trip-{size}"], shares[f"trip-{size}"] = per(result, result["received"]), busy(result)
        if size == 64:
            numbers["trips-64"] = result["received"] / result["cpu"]["seconds"]
    return numbers, shares


def messages_tls(lab, scale, proxy, tls="1.3", suffix="-tls"):
    numbers, shares = {}, {}
    for size in 64, 64 * 1024:
        name = f"trip-{size}{suffix}"
        result = load(lab, scale, proxy, "rounds", SIZES[size], "--size", size, tls=tls)
        numbers[name], shares[name] = per(whole(result, SIZES[size]), result["received"]), busy(result)
    return numbers, shares


def messages_tls12(lab, scale, proxy):
    return messages_tls(lab, scale, proxy, "1.2", "-tls12")


def many(lab, scale, proxy):
    """Round trips of so many that no buffer or structure stays in the processor's caches."""
    result = whole(load(lab, scale, proxy, "rounds", scale.active, seconds=scale.seconds * 2), scale.active)
    return {"trip-many": per(result, result["received"])}, {"trip-many": busy(result)}


def openings(lab, scale, proxy, tls=None):
    """Openings one after the other, each with its end."""
    suffix = "-tls" if tls else ""
    result = whole(load(lab, scale, proxy, "openings", scale.openings_at_once, tls=tls))
    numbers = {
        f"opening{suffix}": per(result, result["opened"]),
        f"openings{suffix}": result["opened"] / result["cpu"]["seconds"],
        f"opening-user{suffix}": user_share(result),
    }
    return numbers, {f"opening{suffix}": busy(result)}


def openings_tls(lab, scale, proxy):
    return openings(lab, scale, proxy, tls="1.3")


def latency(lab, scale, proxy):
    """Messages at a fixed rate. What is added is for `add_latency` to say, which knows the echo's own."""
    result = load(lab, scale, proxy, "rate", 64, "--rate", RATE, seconds=scale.rate_seconds)
    if whole(result, 64)["lost"]:
        raise Failure(f"{result['lost']} messages were lost")
    numbers = {at: result["latency"][at] for at in ("p50", "p99", "p99.9")}
    numbers |= {"trip-rate": per(result, result["latency"]["count"]), "late": result["lateness"]["p99"]}
    return numbers, {"trip-rate": busy(result)}


def add_latency(of_round):
    """Adds to a round's latencies by how much they are more than those of no proxy at all."""
    direct = of_round.get(DIRECT, {})
    for name, numbers in of_round.items():
        if name != DIRECT:
            numbers |= {f"added-{at}": numbers[at] - direct[at] for at in ("p50", "p99", "p99.9") if at in direct}


def http(lab, scale, proxy):
    """Plain requests over connections that are kept."""
    result = whole(load(lab, scale, proxy, "http", 64), 64)
    numbers = {"request": per(result, result["received"]), "requests": result["received"] / result["cpu"]["seconds"]}
    return numbers, {"request": busy(result)}


def reload(lab, scale, proxy):
    """Reloads under open tunnels with messages, and under openings."""
    if proxy.kind.reload is None:
        return {}, {}
    begun_with = len(proxy.processes())
    words = ["--rate", scale.held_rate, "--openings", scale.held_openings, *proxy.target()]
    seconds = scale.reloads + 1
    tool = lab.load("rate", *words, "--connections", scale.held, "--warm-up", 0, "--seconds", seconds)
    try:
        tool.hear("opened", 60)
        full = rss_anon(proxy.process.pid)
        refused, processes, memory = 0, 0, 0
        for _ in range(scale.reloads):
            begun = time.monotonic()
            refused += proxy.reload()
            processes = max(processes, len(proxy.processes()) - begun_with)
            memory = max(memory, rss_anon(proxy.process.pid) - full)
            # One a second, as a control plane might at its worst.
            time.sleep(max(0, begun + 1 - time.monotonic()))
        result = tool.hear("result", seconds + 60)
    finally:
        tool.stop()
    if result["opened"] != scale.held:
        raise Failure(f"{result['opened']} of {scale.held} opened: {result['failures']}")
    failed = sum(result["openings"]["failures"].values())
    numbers = {
        "reload-refused": refused + failed, "reload-closed": sum(result["ended"].values()),
        "reload-processes": processes, "reload-memory": memory / 1024 / 1024,
    }
    return numbers, {}


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is done, and whether it is done with all proxies together."""

    work: callable
    together: bool = False


MEASURES = {
    "idle": Measure(idle, together=True),
    "idle-tls": Measure(idle_tls, together=True),
    "messages": Measure(messages),
    "messages-tls": Measure(messages_tls),
    "messages-tls12": Measure(messages_tls12),
    "many": Measure(many),
    "openings": Measure(openings),
    "openings-tls": Measure(openings_tls),
    "latency": Measure(latency),
    "http": Measure(http),
    "reload": Measure(reload),
}
