"""A connection through the proxy, and what is checked of it with every client and server."""

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import random

import lab
from lab import Failure, same

SIZES = [0, 125, 126, 65535, 65536, 1 << 20]
REASON = "as agreed: grüß dich"

# -- messages -------------------------------------------------------------------------------------


def text(size):
    return {"text": "".join(random.choices("abcdefgh ", k=size))}


def binary(size):
    return {"binary": base64.b64encode(random.randbytes(size)).decode()}


# -- connections ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Client:
    """A peer that opens its connections over one transport."""

    peer: lab.Peer
    transport: str
    protocol: str  # what the proxy's log must name

    @classmethod
    def all(cls, peers, transports):
        """The peers over each of these transports that they can."""
        pairs = itertools.product(transports, peers)
        return [cls(peer, name, protocol(name)) for name, peer in pairs if name in peer.can["transports"]]

    def __str__(self):
        return self.peer.name if self.transport == "ws" else f"{self.peer.name} by {self.transport}"


def protocol(transport):
    return "h2" if "h2" in transport else "h1"


@dataclasses.dataclass
class Side:
    """One end of a connection."""

    peer: lab.Peer
    name: str

    async def ask(self, verb, **args):
        return await self.peer.ask(verb, conn=self.name, **args)

    async def send(self, message, pieces=1):
        await self.ask("send", message=message, pieces=pieces)

    async def recv(self, wanted):
        same(await self.ask("recv"), wanted, f"message at {self.peer.name}")

    async def closed(self, timeout=10):
        """Waits for the end; returns code and reason as this side saw them."""
        for _ in range(timeout * 50):
            if found := (await self.ask("seen"))["closed"]:
                return tuple(found)
            await asyncio.sleep(0.02)
        raise Failure(f"{self.peer.name} saw no end within {timeout} s")

    async def told(self, code, reason=None):
        """Waits for the end, which must be this one."""
        found = await self.closed()
        same(found[0], readable(self.peer, code), f"code at {self.peer.name}, reason {found[1]!r}")
        if reason is not None:
            same(found[1], reason, f"reason at {self.peer.name}")


def readable(peer, code):
    """What a peer makes of a code: some do not know 1014 yet, and call it a violation."""
    return 1002 if code == 1014 and peer.name in ("tungstenite", "h2") else code


class Link:
    """A connection through the proxy."""

    names = itertools.count(1)

    def __init__(self, proxy, client, server):
        self.proxy, self.way, name = proxy, client, str(next(self.names))
        self.path = f"/{server.name}/{name}"
        self.url = proxy.url(client.transport, self.path)
        self.client, self.server = Side(client.peer, name), Side(server, name)
        self.ways = [(self.client, self.server), (self.server, self.client)]

    async def open(self, protocols=(), deflate=None):
        """Opens it and waits until the server knows it too."""
        await self.ask_to_open(protocols, deflate)
        await self.server_knows()
        return self

    async def ask_to_open(self, protocols=(), deflate=None):
        """Opens it, of which the server may learn nothing."""
        deflate = deflate or self.client.peer.can["deflate"][0]
        await self.client.ask("open", url=self.url, protocols=list(protocols), deflate=deflate)

    async def server_knows(self):
        for _ in range(500):
            with contextlib.suppress(Failure):
                return await self.server.ask("seen")
            await asyncio.sleep(0.01)
        raise Failure("the server has no such connection")

    async def bye(self):
        """Closes it by the client and checks what the proxy says of it."""
        await self.client.ask("close", code=1000, reason="bye")
        await self.server.told(1000, "bye")
        await self.client.closed()
        return await self.logged("client", ["close"], 1000)

    async def logged(self, who, why, code):
        """The line of the access log, which must say this."""
        line = await self.proxy.line(self.path)
        same(line["blind"], None, "blind")
        same((line["protocol"], line["tls"]), (self.way.protocol, self.url.startswith("wss:")), "protocol and TLS")
        if line["ended_by"] != who or line["cause"] not in why or line["code"] != code:
            raise Failure("logged as {ended_by} {cause} {code} {reason}".format_map(line))
        for side in (self.client, self.server):
            stray = [pong for pong in (await side.ask("seen"))["pongs"] if not pong.startswith("app-")]
            same(stray, [], f"pongs of the proxy at {side.peer.name}")
        return line


# -- checks of a client and a server --------------------------------------------------------------


async def check_sizes(link):
    """Texts and binaries of sizes at which the frame's head changes."""
    await link.open()
    for sender, receiver in link.ways:
        for make, size in itertools.product((text, binary), SIZES):
            message = make(size)
            await sender.send(message)
            await receiver.recv(message)
    await link.bye()


async def check_utf8(link):
    """Text beyond ASCII."""
    await link.open()
    message = {"text": "grüß dich, 世界 🌍" * 500}
    for sender, receiver in link.ways:
        await sender.send(message)
        await receiver.recv(message)
    await link.bye()


async def check_pieces(link):
    """Fragments with pauses, so that the proxy's pings go between them."""
    await link.open()
    for sender, receiver in link.ways:
        if sender.peer.can["pieces"]:
            for message in (text(1000), binary(200_000), text(40)):
                await sender.send(message, pieces=4)
                await receiver.recv(message)
    await link.bye()


async def check_deflate(link, deflate):
    """permessage-deflate, agreed on end to end."""
    await link.open(deflate=deflate)
    for side in (link.client, link.server):
        extensions = (await side.ask("seen"))["extensions"]
        if "permessage-deflate" not in extensions:
            raise Failure(f"{side.peer.name} has {extensions!r}")
    message = {"text": "the same again and again, " * 4000}
    for _, (sender, receiver) in itertools.product(range(3), link.ways):
        await sender.send(message)
        await receiver.recv(message)
    line = await link.bye()
    if max(line["bytes_client"], line["bytes_upstream"]) > 100_000:
        raise Failure(f"not compressed: {line['bytes_client']} and {line['bytes_upstream']} bytes")
    agreed = (line["extensions"] or "").count("no_context_takeover")
    if (deflate == "no_takeover") != (agreed == 2):
        raise Failure(f"agreed on {line['extensions']!r}")


async def check_storm(link):
    """Both sides send at random moments, the proxy pings in between: everything arrives, in order."""
    await link.open()
    await asyncio.gather(*(stream(*way) for way in link.ways))
    line = await link.bye()
    for side in ("client", "upstream"):
        if not line[f"pings_{side}"] or not line[f"pongs_{side}"]:
            raise Failure(f"{side}: {line[f'pings_{side}']} pings, {line[f'pongs_{side}']} pongs")


async def stream(sender, receiver):
    """Sends messages with pauses around the interval of the pings; checks them."""
    messages = [random.choice((text, binary))(random.choice((1, 20, 700, 70_000))) for _ in range(25)]

    async def send():
        for message in messages:
            pieces = random.choice((1, 3)) if sender.peer.can["pieces"] and len(str(message)) > 50 else 1
            await sender.send(message, pieces)
            await asyncio.sleep(random.uniform(0, 0.05))

    async def recv():
        for message in messages:
            await receiver.recv(message)

    await asyncio.gather(send(), recv())


async def check_pings(link):
    """Pings of each application arrive once, their pongs return once; no pong is the proxy's."""
    await link.open()
    ways = [(a, b) for a, b in link.ways if a.peer.can["pings"]]
    sent = {side.peer: [f"app-{side.peer.name}-{number}" for number in range(25)] for side, _ in ways}
    await asyncio.gather(*(ping_all(sender, sent[sender.peer]) for sender, _ in ways))
    for sender, receiver in ways:
        await check_pings_seen(sender, "pongs", sent[sender.peer])
        if receiver.peer.can["pings"]:
            pings = await check_pings_seen(receiver, "pings", sent[sender.peer])
            if len(pings) == len(sent[sender.peer]):
                raise Failure(f"{receiver.peer.name} saw no ping of the proxy")
    await link.bye()


async def check_pings_seen(side, what, wanted):
    """Those of the applications: each once, in order. Pings of the proxy are among the pings."""
    for _ in range(250):
        seen = (await side.ask("seen"))[what]
        found = [payload for payload in seen if what == "pongs" or payload.startswith("app-")]
        if len(found) >= len(wanted):
            break
        await asyncio.sleep(0.02)
    if found == wanted:
        return seen
    missing = [payload for payload in wanted if payload not in found]
    surplus = [payload for payload in {*found} if found.count(payload) > wanted.count(payload)]
    order = {payload: number for number, payload in enumerate(wanted)}
    early = [a for a, b in itertools.pairwise(found) if order.get(a, -1) > order.get(b, len(order))]
    raise Failure(f"{what} at {side.peer.name}: missing {missing}, too many {surplus}, too early {early}")


async def ping_all(sender, payloads):
    for payload in payloads:
        await sender.ask("ping", data=payload)
        await asyncio.sleep(random.uniform(0, 0.06))


async def check_quiet(link):
    """An application that sends no pings sees no pongs."""
    await link.open()
    for side in (link.client, link.server):
        await pinged(side, 10)
        same((await side.ask("seen"))["pongs"], [], f"pongs at {side.peer.name}")
    line = await link.bye()
    if not (line["pongs_client"] and line["pongs_upstream"]):
        raise Failure(f"pongs {line['pongs_client']}/{line['pongs_upstream']}")


async def pinged(side, times):
    """Waits until the proxy has pinged a side so often, if its API tells."""
    for _ in range(1000):
        if not side.peer.can["pings"] or len((await side.ask("seen"))["pings"]) >= times:
            return
        await asyncio.sleep(0.01)
    raise Failure(f"too few pings at {side.peer.name}")


async def check_protocol(link):
    """The subprotocol is the server's choice."""
    await link.open(protocols=["chat.v1", "chat.v2"])
    for side in (link.client, link.server):
        same((await side.ask("seen"))["protocol"], "chat.v2", f"subprotocol at {side.peer.name}")
    same((await link.bye())["subprotocol"], "chat.v2", "logged subprotocol")


async def check_close(link, by_client, code):
    """A Close keeps its code and reason."""
    await link.open()
    closer, other = link.ways[0] if by_client else link.ways[1]
    reason = REASON if code != 1000 else ""
    await closer.ask("close", code=code, reason=reason)
    await other.told(code, reason)
    if "aiohttp" not in (closer.peer.name, other.peer.name):  # which answers, and reads, 1000
        await closer.told(code)
    await link.logged("client" if by_client else "upstream", ["close"], code)


async def check_server_drop(link):
    """A server that drops the connection: the client reads why."""
    await link.open()
    await link.server.ask("drop")
    await link.client.told(1014)
    await link.logged("upstream", ["eof", "reset"], 1014)


async def check_client_drop(link):
    """A client that drops the connection: the server reads 1001."""
    await link.open()
    await link.client.ask("drop")
    await link.server.told(1001)
    await link.logged("client", ["eof", "reset"], 1001)


def pair_checks(client, server):
    """The checks that both peers can do: their names and what they run."""
    yield "messages of 0 to 1 MiB", check_sizes
    yield "UTF-8", check_utf8
    if client.can["pieces"] or server.can["pieces"]:
        yield "fragments", check_pieces
    for deflate in ("takeover", "no_takeover"):
        if deflate in client.can["deflate"] and deflate in server.can["deflate"]:
            yield f"permessage-deflate, {deflate}", lambda link, d=deflate: check_deflate(link, d)
    yield "both send at random", check_storm
    yield "pings of both", check_pings
    yield "no pongs unasked", check_quiet
    yield "subprotocol", check_protocol
    for code, by in itertools.product((1000, 3000, 4000), ("client", "server")):
        yield f"close {code} by {by}", lambda link, c=code, b=by: check_close(link, b == "client", c)
    yield "server drops", check_server_drop
    if client.can["drop"]:
        yield "client drops", check_client_drop
