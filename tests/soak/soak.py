#!/usr/bin/env python3
"""Soak checks: promises of Holdline that only time, load and dying processes can test.

Each check starts the proxy's binary with an echo server behind it, on real sockets, prints what
it measured, and exits with 1 if the promise was not kept. README.md says how to read the results.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import random
import resource
import secrets
import signal
import sys
import time
import tomllib

from abuse import attack, check_abuse
from asleep import check_asleep
from blackhole import check_blackhole
from clock import check_clock
from fairness import check_fairness
from lab import (
    KIB, MIB, Lab, Report, Skipped, accepts, at_rate, bye, config, counted, describe, eventually, hold,
    mean, serve,
)
from peers import (
    BINARY, CONTINUATION, HOST, PING, TEXT, Client, EchoServer, End, Failure, accept_of, frame,
    parse, xor,
)
from pongs import check_pongs
from ports import check_ports
from refusals import check_refusals
from slots import check_admin, check_straddle, check_streams

# -- idle -----------------------------------------------------------------------------------------


async def check_idle(lab, options, report):
    """Connections without a byte of data outlive read_timeout, on pings alone."""
    port, _ = await lab.serve()
    listen = lab.free_port()
    proxy = await lab.start_proxy(listen, config(lab, [listen], [port], route='read_timeout = "60s"'))
    clients, failures = await lab.open(options.connections)
    report.none("handshakes that failed", failures)
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
    found = f"{line.get('ended_by')} {line.get('cause')} {line.get('code')}"
    report.check("ended_by, cause, code", found, found.startswith("client unresponsive"))
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
    """Reloads, every fifth of a broken file, cost no connection, no handshake and no memory."""
    port, _ = await lab.serve()
    listen, spare = lab.free_port(), lab.free_port()
    good, broken = reload_configs(lab, listen, spare, port)
    proxy = await lab.start_proxy(listen, good[0])
    clients, failures = await lab.open(options.connections)
    report.none("first handshakes that failed", failures)

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
    report.note("handshakes", round(options.rate * options.seconds))
    report.none("refused or cut short", refused)
    report.none("dropped", echoed)
    report.note("mean and slowest handshake", f"{mean(times) * 1000:.0f}, {max(times, default=0) * 1000:.0f} ms")
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
    report.none("handshakes that failed", failures)
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
    report.none(f"of {OUTAGE * OUTAGE_RATE} handshakes meanwhile failed", strays)

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

    report.none("handshakes after the restart that failed", await at_rate(RAMP_RATE, RAMP_SECONDS, one))
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
    """The restarted server's share of the handshakes of a span of time."""
    return mean([there for at, there in landings if since <= at < until])


def share_of_open(landings, until, elsewhere):
    """The restarted server's share of the open connections at a moment."""
    there = [there for at, there in landings if at < until]
    return sum(there) / max(1, len(there) + elsewhere)


# -- memory ---------------------------------------------------------------------------------------

PER_PROCESS, IN_FLIGHT, LIMIT, LIMIT_WSS, SETTLE = 4500, 200, 1792, 6656, 10


async def check_memory(lab, options, report):
    """An idle connection costs the proxy little memory of its own."""
    await weigh(lab, options, report, LIMIT)


async def check_memory_wss(lab, options, report):
    """An idle connection by TLS costs the proxy little more."""
    await weigh(lab, options, report, LIMIT_WSS, lab.certificate())


async def weigh(lab, options, report, limit, certificate=None):
    port, _ = await lab.serve()
    listen = lab.free_port()
    text = config(lab, [listen], [port])
    if certificate:
        files = '[listen.tls]\ncertificates = [{{ cert = "{}", key = "{}" }}]\n'.format(*certificate)
        text = text.replace("[[route]]", f"{files}[[route]]", 1)
    proxy = await lab.start_proxy(listen, text)
    await asyncio.sleep(2)
    before = proxy.rss_anon()
    holders = await start_holders(lab, listen, options.connections, certificate)
    ready = [await holder.event("ready", 300) for holder in holders]
    count = sum(event["open"] for event in ready)
    failures = sum((collections.Counter(event["failures"]) for event in ready), collections.Counter())
    report.none("handshakes that failed", failures)
    await asyncio.sleep(SETTLE)
    after = proxy.rss_anon()
    each = (after - before) / max(1, count)
    report.note("connections", f"{count} (in {len(holders)} processes)")
    report.note("open files of the proxy", proxy.open_files())
    report.check("dropped", lost := sum(len(holder.ends()) for holder in holders), not lost)
    report.note("RssAnon before and after", f"{before / KIB:.0f} -> {after / KIB:.0f} KiB")
    report.check("bytes per connection", f"{each:.0f} (limit {limit})", count and each < limit)


async def start_holders(lab, port, connections, certificate=None):
    """Starts as many `hold` processes as it takes."""
    processes = -(-connections // PER_PROCESS)
    sizes = [connections // processes + (number < connections % processes) for number in range(processes)]
    in_flight = max(1, IN_FLIGHT // processes)
    more = ["--ca", certificate[0]] if certificate else []
    return [await lab.child("hold", port, size, "--in-flight", in_flight, *more) for size in sizes]


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
    handshake = b"GET / HTTP/1.1\r\nsec-websocket-KEY: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    for byte in handshake + frame(TEXT, b"slow", True):
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
    "reload": (check_reload, "reload: {connections} connections, {rate} handshakes/s, {seconds:g} s of SIGHUPs"),
    "kill": (check_kill, "kill: {connections} clients, one of two servers dies and returns"),
    "memory": (check_memory, "memory: {connections} idle connections"),
    "memory-wss": (check_memory_wss, "memory: {connections} idle connections by TLS"),
    "asleep": (check_asleep, "asleep: {connections} tunnels, and a proxy that stands still"),
    "clock": (check_clock, "clock: the wall clock jumps under the proxy"),
    "fairness": (check_fairness, "fairness: small messages beside tunnels that move all they can"),
    "pongs": (check_pongs, "pongs: small messages beside 50 Mbit/s of Pongs"),
    "refusals": (check_refusals, "refusals: {handshakes} handshakes of each kind"),
    "ports": (check_ports, "ports: local ports to the upstream, and no more of them"),
    "abuse": (check_abuse, "abuse: {tunnels} tunnels, and what strangers do at the front door"),
    "straddle": (check_straddle, "straddle: half frames of HTTP/2, and slots that others want"),
    "streams": (check_streams, "streams: 9 clients of HTTP/2 with 120 streams each, and 1,024 open files"),
    "admin": (check_admin, "admin: 130 silent connections at the admin endpoint"),
    "blackhole": (check_blackhole, "blackhole: peers that vanish from the network without a word"),
}


async def run_check(name, options):
    """Runs one check and prints its table; whether the promise was kept."""
    check, title = CHECKS[name]
    report, lab = Report(title.format(**vars(options))), Lab(options.holdline)
    try:
        try:
            await check(lab, options, report)
        except Skipped as why:
            print(f"{report.title}\n  skipped: {why}\n", flush=True)
            return True
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
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asyncio.current_task().cancel)
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
        if name in (numbers := {"idle": 1000, "reload": 500, "kill": 200, "memory": 9000, "memory-wss": 4000, "asleep": 1500}):
            add("--connections", type=int, default=numbers[name])
        if name == "idle":
            add("--minutes", type=float, default=5)
        if name == "reload":
            add("--seconds", type=float, default=60)
            add("--rate", type=int, default=100, help="handshakes a second")
        if name == "refusals":
            add("--handshakes", type=int, default=5000, help="of each kind")
            add("--rounds", type=int, default=5, help="that these are spread over, in turn")
        if name == "abuse":
            add("--seconds", type=float, default=60, help="of junk")
            add("--tunnels", type=int, default=50)
            add("--half-open", type=int, default=10_000, help="connections that say nothing, or half a ClientHello")
            add("--together", action="store_true", help="all these kinds in one phase")
            add("--drips", type=int, default=500, help="connections of each other kind")
        if name in ("straddle", "streams", "admin"):
            add("--seconds", type=float, default=10, help="that others are watched for")
        if name == "pongs":
            add("--seconds", type=float, default=9, help="for each number")
        if name == "fairness":
            add("--seconds", type=float, default=9, help="for each number")
            add("--rounds", type=int, default=3, help="that these seconds are spread over")
    add = commands.add_parser("serve", help="an echo server").add_argument
    add("port", type=int)
    add("--record", help="file for the end of each connection, a line of JSON each")
    add = commands.add_parser("hold", help="clients that hold connections open").add_argument
    add("port", type=int)
    add("count", type=int)
    add("--in-flight", type=int, default=IN_FLIGHT)
    add("--ca", help="of the server's certificate: connect by TLS")
    commands.add_parser("attack", help="an attacker of `abuse`").add_argument("what", help="JSON")
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
        return asyncio.run(hold(options.port, options.count, options.in_flight, options.ca))
    if options.command == "attack":
        return attack(options.what)
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
