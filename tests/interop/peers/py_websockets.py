"""The PyPI package websockets, as client and as server."""

import asyncio

from peer import Conn, Peer, decode, encode
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode

LOOSE = {"ping_interval": None, "max_size": None}
DEFLATE = {
    "off": None,
    "takeover": [ClientPerMessageDeflateFactory(client_max_window_bits=True)],
    "no_takeover": [
        ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
    ],
}


class Watching:
    """Notes control frames, which the library hides."""

    def process_event(self, event):
        notes = vars(self).setdefault("control", {Opcode.PING: [], Opcode.PONG: []})
        if getattr(event, "opcode", None) in notes:
            notes[event.opcode].append(bytes(event.data).decode("latin-1"))
        super().process_event(event)


class Client(Watching, ClientConnection):
    pass


class Server(Watching, ServerConnection):
    pass


class Websockets(Peer):
    def __init__(self):
        super().__init__()
        self.tasks = []

    async def listen(self, port):
        async def handler(socket):
            await self.keep(socket.request.path.rsplit("/", 1)[-1], socket)

        server = await serve(
            handler, "127.0.0.1", port, subprotocols=["chat.v2"], select_subprotocol=choose,
            create_connection=Server, **LOOSE,
        )
        return server.sockets[0].getsockname()[1]

    async def open(self, conn, url, protocols, deflate):
        socket = await connect(
            url, subprotocols=protocols or None, compression=None, extensions=DEFLATE[deflate],
            create_connection=Client, proxy=None, **LOOSE,
        )
        self.conns[conn] = None
        self.tasks.append(asyncio.create_task(self.keep(conn, socket)))
        await asyncio.sleep(0)

    async def keep(self, name, socket):
        """Reads a connection to its end."""
        conn = self.conns[name] = Conn()
        conn.socket = socket
        try:
            while True:
                conn.messages.put_nowait(encode(await socket.recv()))
        except ConnectionClosed:
            await socket.wait_closed()
            conn.closed = [socket.close_code, socket.close_reason]

    async def send(self, conn, message, pieces):
        data, socket = decode(message), self.find(conn).socket
        await socket.send(slowly(data, pieces) if pieces > 1 else data)

    async def ping(self, conn, data):
        await self.find(conn).socket.ping(data)

    async def close(self, conn, code, reason):
        await self.find(conn).socket.close(code, reason)

    async def drop(self, conn):
        self.find(conn).socket.transport.abort()

    async def seen(self, conn):
        found = self.find(conn)
        socket = found.socket
        control = vars(socket).get("control", {})
        extensions = ", ".join(map(repr, socket.protocol.extensions))
        return {
            "pings": control.get(Opcode.PING, []), "pongs": control.get(Opcode.PONG, []),
            "closed": found.closed,
            "protocol": socket.subprotocol or "",
            "extensions": extensions.replace("PerMessageDeflate", "permessage-deflate"),
        }


async def slowly(data, pieces):
    size = -(-len(data) // pieces)
    for piece in range(pieces):
        yield data[piece * size : (piece + 1) * size]
        if piece < pieces - 1:
            await asyncio.sleep(0.05)


def choose(_socket, offered):
    return "chat.v2" if "chat.v2" in offered else None


CAN = {"pieces": True, "pings": True, "drop": True, "deflate": list(DEFLATE), "transports": ["ws", "wss/h1"]}
asyncio.run(Websockets().serve(CAN))
