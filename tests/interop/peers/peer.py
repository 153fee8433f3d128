"""The loop of a peer: takes requests from the driver, a JSON object a line, and answers each by its id."""

import asyncio
import base64
import json
import sys


def say(**answer):
    print(json.dumps(answer), flush=True)


def encode(data):
    """A message as the driver knows it."""
    return {"text": data} if isinstance(data, str) else {"binary": base64.b64encode(data).decode()}


def decode(message):
    """What `encode` was given."""
    return message["text"] if "text" in message else base64.b64decode(message["binary"])


class Conn:
    """What a connection has seen."""

    def __init__(self):
        self.messages, self.pings, self.pongs, self.closed = asyncio.Queue(), [], [], None

    async def recv(self):
        async with asyncio.timeout(10):
            return await self.messages.get()


class Peer:
    """A library; subclasses have a coroutine for each verb."""

    def __init__(self):
        self.conns = {}

    def find(self, name):
        if name not in self.conns:
            raise LookupError(f"no connection {name}")
        return self.conns[name]

    async def recv(self, conn):
        return await self.find(conn).recv()

    async def answer(self, id, verb, **args):
        try:
            say(id=id, ok=await getattr(self, verb)(**args))
        except Exception as error:
            say(id=id, error=f"{type(error).__name__}: {error}")

    async def serve(self, can):
        """Answers until stdin ends."""
        reader = asyncio.StreamReader(limit=1 << 24)
        loop, tasks = asyncio.get_running_loop(), set()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        say(can=can)
        async for line in reader:
            task = asyncio.create_task(self.answer(**json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
