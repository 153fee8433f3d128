"""The PyPI packages h2 and wsproto, as client: a connection of HTTP/2 for each WebSocket."""

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated, DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded, StreamReset, WindowUpdated,
)  # fmt: skip
from h2.settings import SettingCodes
from peer import Conn, Peer, decode, encode
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

NO_TAKEOVER = {"client_no_context_takeover": True, "server_no_context_takeover": True}
DEFLATE = {
    "off": lambda: [],
    "takeover": lambda: [PerMessageDeflate()],
    "no_takeover": lambda: [PerMessageDeflate(**NO_TAKEOVER)],
}


class Tunnel(Conn):
    """A WebSocket on a stream of its own connection."""

    def __init__(self, url, extensions):
        super().__init__()
        self.url, self.extensions = urlsplit(url), extensions
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.settings, self.answer = (asyncio.get_running_loop().create_future() for _ in range(2))
        self.stream, self.unsent, self.parts = None, bytearray(), []

    async def open(self, protocols):
        """Opens the connection and asks for the WebSocket."""
        tls = self.url.scheme == "wss"
        context = ssl.create_default_context() if tls else None
        if tls:
            context.set_alpn_protocols(["h2"])
        self.reader, self.writer = await asyncio.open_connection(self.url.hostname, self.url.port, ssl=context)
        if tls and self.writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            raise ConnectionError("no HTTP/2 by ALPN")
        self.http.initiate_connection()
        self.flush()
        self.task = asyncio.create_task(self.read())
        if not (await self.settings).get(SettingCodes.ENABLE_CONNECT_PROTOCOL):
            raise ConnectionError("extended CONNECT is not announced")
        self.ask(protocols)
        status = await self.answer
        if status != "200":
            raise ConnectionError(f"answered with {status}")

    def ask(self, protocols):
        headers = {
            ":method": "CONNECT", ":protocol": "websocket", ":authority": self.url.netloc, ":path": self.url.path,
            ":scheme": "https" if self.url.scheme == "wss" else "http", "sec-websocket-version": "13",
        }  # fmt: skip
        if protocols:
            headers["sec-websocket-protocol"] = ", ".join(protocols)
        if self.extensions:
            offers = (f"{extension.name}; {extension.offer()}" for extension in self.extensions)
            headers["sec-websocket-extensions"] = ", ".join(offers)
        self.stream = self.http.get_next_available_stream_id()
        self.http.send_headers(self.stream, list(headers.items()))
        self.flush()

    def agree(self, answer):
        """Takes up what the server chose."""
        self.protocol = answer.get("sec-websocket-protocol", "")
        self.agreed = answer.get("sec-websocket-extensions", "")
        for extension in self.extensions:
            if self.agreed.startswith(extension.name):
                extension.finalize(self.agreed)
        self.socket = Connection(ConnectionType.CLIENT, self.extensions)
        self.answer.set_result(answer[":status"])

    async def read(self):
        """Reads the connection to its end."""
        try:
            while self.closed is None and (data := await self.reader.read(1 << 16)):
                for event in self.http.receive_data(data):
                    self.take(event)
                self.flush()
            self.over("the end of the connection")
        except Exception as error:
            self.over(f"{type(error).__name__}: {error}")
        # What was written last, a Close perhaps, goes out first.
        with contextlib.suppress(OSError):
            self.writer.close()
            await self.writer.wait_closed()

    def over(self, why):
        """Notes the end, unless a Close did."""
        self.closed = self.closed or [1006, why]
        for future in (self.settings, self.answer):
            if not future.done():
                future.set_exception(ConnectionError(why))
                future.exception()  # perhaps nobody waits for it

    def take(self, event):
        """One event of HTTP/2."""
        if isinstance(event, RemoteSettingsChanged) and not self.settings.done():
            self.settings.set_result({code: change.new_value for code, change in event.changed_settings.items()})
        elif isinstance(event, ResponseReceived):
            self.agree(dict(event.headers))
        elif isinstance(event, DataReceived):
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.socket.receive_data(event.data)
            for frame in self.socket.events():
                self.take_frame(frame)
        elif isinstance(event, (StreamEnded, StreamReset, ConnectionTerminated)):
            self.over(type(event).__name__)
        elif isinstance(event, WindowUpdated):
            self.flush()

    def take_frame(self, event):
        """One event of the WebSocket."""
        if isinstance(event, Ping):
            self.pings.append(event.payload.decode("latin-1"))
            if self.socket.state is ConnectionState.OPEN:
                self.say(event.response())
        elif isinstance(event, Pong):
            self.pongs.append(event.payload.decode("latin-1"))
        elif isinstance(event, CloseConnection):
            if self.socket.state is ConnectionState.REMOTE_CLOSING:
                self.say(event.response())
            self.http.end_stream(self.stream)
            self.closed = [event.code, event.reason or ""]
        elif isinstance(event, (TextMessage, BytesMessage)):
            self.parts.append(event.data)
            if event.message_finished:
                self.messages.put_nowait(encode(type(event.data)().join(self.parts)))
                self.parts.clear()

    def say(self, event):
        self.unsent += self.socket.send(event)
        self.flush()

    def flush(self):
        """Writes what the windows allow; more follows when they widen."""
        while self.unsent:
            size = min(self.http.local_flow_control_window(self.stream), self.http.max_outbound_frame_size)
            if size <= 0:
                break
            self.http.send_data(self.stream, bytes(self.unsent[:size]))
            del self.unsent[:size]
        self.writer.write(self.http.data_to_send())


class H2(Peer):
    async def open(self, conn, url, protocols, deflate):
        tunnel = self.conns[conn] = Tunnel(url, DEFLATE[deflate]())
        await tunnel.open(protocols)

    async def send(self, conn, message, pieces):
        tunnel, data = self.find(conn), decode(message)
        event = TextMessage if isinstance(data, str) else BytesMessage
        size = -(-len(data) // pieces)
        for piece in range(pieces):
            last = piece == pieces - 1
            tunnel.say(event(data=data[piece * size : (piece + 1) * size], message_finished=last))
            if not last:
                await asyncio.sleep(0.05)

    async def ping(self, conn, data):
        self.find(conn).say(Ping(payload=data.encode()))

    async def close(self, conn, code, reason):
        self.find(conn).say(CloseConnection(code=code, reason=reason))

    async def drop(self, conn):
        self.find(conn).writer.transport.abort()

    async def seen(self, conn):
        found = self.find(conn)
        return {
            "pings": found.pings, "pongs": found.pongs, "closed": found.closed, "protocol": found.protocol,
            "extensions": found.agreed,
        }  # fmt: skip


CAN = {"pieces": True, "pings": True, "drop": True, "deflate": list(DEFLATE), "transports": ["h2c", "wss/h2"]}
asyncio.run(H2().serve(CAN))
