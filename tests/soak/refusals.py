"""What a refused handshake costs, beside one that is served."""

import asyncio
import pathlib
import statistics

from lab import config
from peers import HOST, Client, Failure, frame, split_head

ROUTES = """
[[route]]
name = "origin"
path = "/origin"
upstream = "echo"
allowed_origins = ["https://example.com"]

[[route]]
name = "full"
path = "/full"
upstream = "echo"
limits = { connections = 1 }

[[route]]
name = "rate"
path = "/rate"
upstream = "echo"
limits = { openings_per_ip = { rate = "1/m", burst = 1 } }

[[route]]
name = "close"
path = "/close"
upstream = "echo"
reject_with = "close"
limits = { connections = 1 }
"""
WAYS = {"/origin": 403, "/full": 503, "/rate": 429, "/close": 101, "/": 101}
SERVED = "/"
IN_FLIGHT = 20


async def check_refusals(lab, options, report):
    """A flood of handshakes that are refused costs less CPU than serving them."""
    port, _ = await lab.serve()
    listen = lab.free_port()
    proxy = await lab.start_proxy(listen, config(lab, [listen], [port], more=ROUTES))
    # They take the only place, and the only handshake of a minute.
    for path in ("/full", "/close", "/rate"):
        lab.clients.append(await Client.open(listen, path))
    costs = {path: [] for path in WAYS}
    for _ in range(options.rounds):
        for path, status in WAYS.items():
            before = cpu(proxy)
            await handshakes(listen, path, status, options.handshakes // options.rounds)
            costs[path].append((cpu(proxy) - before) / (options.handshakes // options.rounds))
    medians = {path: statistics.median(found) for path, found in costs.items()}
    served = medians.pop(SERVED)
    report.note("served, and closed", f"{served:.0f} us of CPU each")
    for path, cost in medians.items():
        words = f"{cost:.0f} us, {cost / served:.2f} of it"
        report.check(f"refused by {path.removeprefix('/')} ({WAYS[path]})", words, cost < served)


def cpu(proxy):
    """Microseconds that all threads of the proxy have run."""
    tasks = pathlib.Path(f"/proc/{proxy.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1000


async def handshakes(port, path, status, count):
    """Asks for so many handshakes, a few at a time, each over a connection of its own."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one():
        async with gate, asyncio.timeout(30):
            await handshake(port, path, status)

    await asyncio.gather(*(one() for _ in range(count)))


async def handshake(port, path, status):
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(
        b"GET %b HTTP/1.1\r\nHost: soak.test\r\nOrigin: https://evil.test\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n" % path.encode()
    )
    first, _ = split_head((await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n"))
    if first.split()[1] != b"%d" % status:
        raise Failure(f"{path}: {first.decode()}")
    if status == 101:
        writer.write(frame(8, b"\x03\xe8", masked=True))
    else:
        writer.write_eof()
    await reader.read()
    writer.close()
