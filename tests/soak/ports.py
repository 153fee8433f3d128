"""Local ports to the upstream: shared by several source addresses, and used up."""

import asyncio
import collections
import os
import pathlib

from blackhole import CLONE_NEWNET, enter, ip, need_root_and_ip
from lab import LIBC, Skipped, bye, config, counted, eventually, open_many
from peers import Failure

# Of each address to each port that it connects to. Clients take ports as well: as many to each listener.
FIRST, LAST = 40000, 40099
PORTS = LAST - FIRST + 1
SOURCES = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
SERVERS = 2
ROOM = PORTS * len(SOURCES) * SERVERS


async def check_ports(lab, _options, report):
    """Every port of every source address serves for every server; none is left, and nothing breaks."""
    network_of_its_own(lab)
    servers = [(await lab.serve())[0] for _ in range(SERVERS)]
    listen = [lab.free_port() for _ in range(ROOM // PORTS + 2)]
    source = ", ".join(f'"{address}"' for address in SOURCES)
    proxy = await lab.start_proxy(listen[0], config(lab, listen, servers, upstream=f"source = [{source}]"))
    # One of each listener's ports may be in TIME_WAIT, as the check for its readiness was.
    clients, failures = [], collections.Counter()
    for port in listen[1:-1]:
        more, failed = await open_many(port, PORTS)
        clients += more
        failures += failed
    lab.clients += clients
    report.none(f"handshakes that failed, of {ROOM} for {ROOM} ports", failures)
    report.check("warnings that ports run out", warnings(proxy), warnings(proxy) == SERVERS)
    lines = [await refused(proxy, listen[-1]) for _ in range(5)]
    found = {(line["status"], line["ended_by"], line["cause"], line["tries"]) for line in lines}
    report.check("one more is refused as", found, found == {(503, "proxy", "unreachable", SERVERS)})
    report.note("  in these words", lines[0]["reason"])
    report.none("echoes that failed beside it", await counted(client.echo() for client in clients))
    await bye(clients[0])
    # It may be that the proxy closed that connection first: then its port is in TIME_WAIT for a second.
    await eventually(lambda: opens(listen[-1]), 10, "no handshake after one has ended")
    report.check("endpoints taken out", taken_out(proxy), taken_out(proxy) == 0)


def network_of_its_own(lab):
    """Takes this program and what it starts to a network namespace with few ports, until the check ends."""
    need_root_and_ip()
    here = lab.undo.enter_context(open("/proc/thread-self/ns/net"))
    if LIBC.unshare(CLONE_NEWNET) != 0:
        raise Skipped("network namespaces cannot be made here")
    lab.undo.callback(enter, here)
    ip(["link set lo up"])
    try:
        pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{FIRST} {LAST}")
    except OSError as error:
        raise Skipped(f"ip_local_port_range cannot be set: {os.strerror(error.errno)}") from error


def warnings(proxy):
    return proxy.last_words(1000).count("local ports run out")


def taken_out(proxy):
    return proxy.last_words(1000).count("endpoint taken out")


async def refused(proxy, port):
    """The line of a handshake for which there is no port."""
    before = len(proxy.log_lines())
    _, failures = await open_many(port, 1)
    if not failures:
        raise Failure("it opened, although every port was taken")

    async def line():
        return proxy.log_lines()[before:]

    return (await eventually(line, 5, "no line of the refused handshake"))[0]


async def opens(port):
    clients, _ = await open_many(port, 1)
    await asyncio.gather(*map(bye, clients))
    return clients
