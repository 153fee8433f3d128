"""The PyPI package aiohttp, as client and as server. Its API has no fragments."""

import asyncio
import contextlib

from aiohttp import ClientSession, WSMsgType, web
from peer import Conn, Peer, decode, encode

LOOSE = {"autoping": False, "max_msg_size": 0}
COMPRESS = {"off": 0, "takeover": 15}


class Aiohttp(Peer):
    def __init__(self):
        super().__init__()
        self.tasks = []

    async def listen(self, port):
        async def handler(request):
            socket = web.WebSocketResponse(protocols=["chat.v2"], **LOOSE)
            await socket.prepare(request)
            await self.keep(request.path.rsplit("/", 1)[-1], socket, lambda: request.transport)
            return socket

        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        return runner.addresses[0][1]

    async def open(self, conn, url, protocols, deflate):
        session = ClientSession()
        try:
            socket = await session.ws_connect(url, protocols=protocols, compress=COMPRESS[deflate], **LOOSE)
        except Exception:
            await session.close()
            raise
        self.conns[conn] = None
        transport = socket._response.connection.transport
        self.tasks.append(asyncio.create_task(self.keep_client(conn, session, socket, lambda: transport)))
        await asyncio.sleep(0)

    async def keep_client(self, name, session, socket, transport):
        async with session:
            await self.keep(name, socket, transport)

    async def keep(self, name, socket, transport):
        """Reads a connection to its end."""
        conn = self.conns[name] = Conn()
        conn.socket, conn.transport, conn.closing = socket, transport, False
        # Once its close() has begun, its receive() would close with 1000 and might be first.
        while conn.closed is None and not conn.closing:
            await take(conn, await socket.receive())
        while conn.closed is None:  # the handler's return would close it with 1000
            await asyncio.sleep(0.01)

    async def send(self, conn, message, pieces):
        data, socket = decode(message), self.find(conn).socket
        await (socket.send_str(data) if isinstance(data, str) else socket.send_bytes(data))

    async def ping(self, conn, data):
        await self.find(conn).socket.ping(data.encode())

    async def close(self, conn, code, reason):
        found = self.find(conn)
        found.closing = True
        await found.socket.close(code=code, message=reason.encode())
        found.closed = [found.socket.close_code, ""]

    async def drop(self, conn):
        self.find(conn).transport().abort()

    async def seen(self, conn):
        found = self.find(conn)
        socket = found.socket
        return {
            "pings": found.pings, "pongs": found.pongs, "closed": found.closed,
            "protocol": getattr(socket, "ws_protocol", None) or getattr(socket, "protocol", None) or "",
            "extensions": "permessage-deflate" if socket.compress else "",
        }


async def take(conn, message):
    """Notes one message of a connection."""
    if message.type is WSMsgType.PING:
        conn.pings.append(message.data.decode("latin-1"))
        # The connection may have ended behind it: how, the next messages say.
        with contextlib.suppress(ConnectionResetError):
            await conn.socket.pong(message.data)
    elif message.type is WSMsgType.PONG:
        conn.pongs.append(message.data.decode("latin-1"))
    elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
        conn.messages.put_nowait(encode(message.data))
    elif message.type is WSMsgType.CLOSE:
        conn.closed = [message.data, message.extra or ""]
    elif message.type is WSMsgType.CLOSED:
        conn.closed = [conn.socket.close_code, ""]
    elif message.type is WSMsgType.ERROR:
        conn.closed = [conn.socket.close_code, f"error: {message.data}"]


CAN = {"pieces": False, "pings": True, "drop": True, "deflate": list(COMPRESS), "transports": ["ws", "wss/h1"]}
asyncio.run(Aiohttp().serve(CAN))
