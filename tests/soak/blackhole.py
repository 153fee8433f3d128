"""The check `blackhole`: peers that vanish from the network, without a RST or a FIN, in every phase of a connection.

Clients, proxy and servers have network namespaces of their own, which veth pairs join to one more, a router. To
cut one off, its end of its link is set down. Clients and servers are sockets of this process, made in theirs.
"""

import asyncio
import atexit
import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import socket
import struct
import subprocess
import termios
import time

from lab import LIBC, Skipped, describe, eventually
from peers import TEXT, Client, EchoServer, End, Failure, split_head

PORT, KERNEL_PORT = 8080, 8081
CONNECT, HEADER, RESPONSE, INTERVAL, TIMEOUT, USER_TIMEOUT = 1, 1, 2, 1, 2, 2
# What may be added to a timeout until its effect shows.
SLACK = 1
# How late a server opens that is asked for /.../late; how often who sends does; the end of it all.
LATE, CHAT_EVERY, DEADLINE = 1, 0.1, 50

CLONE_NEWNET = 0x40000000


# -- the network ----------------------------------------------------------------------------------


class Network:
    """A namespace for each host, and one for the router that joins them.

    The router is there for silence: the end of a link whose other end goes down notices it, and its
    kernel no longer sends as it would; what happens to the router's end, the proxy does not notice.
    """

    HOSTS = {"proxy": 1, "client": 2, "upstream": 3, "spare": 4}

    def __init__(self):
        need_root_and_ip()
        prefix = f"holdline-{os.getpid()}-{secrets.token_hex(2)}"
        self.names = {role: f"{prefix}-{role}" for role in ("router", *self.HOSTS)}
        # Whatever ends this program in order, Ctrl-C at a bad moment too.
        atexit.register(self.delete)
        try:
            ip(f"netns add {name}" for name in self.names.values())
        except Failure as failure:
            self.delete()
            raise Skipped(f"network namespaces cannot be made here: {failure}") from None
        for host, number in self.HOSTS.items():
            self.join(host, number)
        with self.within("router"), open("/proc/sys/net/ipv4/ip_forward", "w") as forward:
            forward.write("1")

    def join(self, host, number):
        """Makes the link between a host and the router."""
        mac = f"02:00:00:00:00:{number:02x}"
        ip(
            [
                f"link add {host} type veth peer name uplink address {mac} netns {self.names[host]}",
                f"address add {router_address(number)}/24 dev {host}",
                f"link set {host} up",
                # Who is known for good is not asked for: no answer would be "no route to host".
                f"neighbour replace {address_of(host)} lladdr {mac} dev {host} nud permanent",
            ],
            self.names["router"],
        )
        ip([f"address add {address_of(host)}/24 dev uplink"], self.names[host])
        self.restore(host)

    def cut(self, host):
        """Lets every packet to and from a host vanish from now on; returns the moment."""
        ip(["link set uplink down"], self.names[host])
        return time.monotonic()

    def restore(self, host):
        """Lets packets through again."""
        gateway = router_address(self.HOSTS[host])
        ip(["link set uplink up", f"route replace default via {gateway}"], self.names[host])

    @contextlib.contextmanager
    def within(self, role):
        """Takes this thread to a namespace, and back."""
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self.names[role]}") as there:
            enter(there)
            try:
                yield
            finally:
                enter(here)

    def socket(self, host):
        """A TCP socket of a host or the router: it belongs where its thread was when it was made."""
        with self.within(host):
            made = socket.socket()
        made.setblocking(False)
        return made

    def delete(self):
        """Deletes the namespaces, as far as there are any; the links go with them."""
        for name in self.names.values():
            with contextlib.suppress(Failure):
                ip([f"netns delete {name}"])
        atexit.unregister(self.delete)


def address_of(host):
    """A host's address."""
    return f"10.91.{Network.HOSTS[host]}.2"


def router_address(number):
    """The router's address on a host's link."""
    return f"10.91.{number}.1"


def enter(namespace):
    """Takes this thread to a network namespace."""
    if LIBC.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise Failure(f"setns: {os.strerror(ctypes.get_errno())}")


def need_root_and_ip():
    """Raises where the check cannot be made."""
    if os.geteuid() != 0:
        raise Skipped("it needs root, for network namespaces")
    if not shutil.which("ip"):
        raise Skipped("it needs the program ip (iproute2)")


def ip(commands, namespace=None):
    """Lets iproute2 do all of these, in a namespace if one is given."""
    inside = ["-n", namespace] if namespace else []
    text = "".join(f"{command}\n" for command in commands)
    try:
        subprocess.run(
            ["ip", *inside, "-batch", "-"], input=text, capture_output=True, text=True, check=True, timeout=10
        )
    except subprocess.CalledProcessError as error:
        raise Failure(f"ip: {error.stderr.strip()}".replace("\n", "; ")) from None
    except subprocess.TimeoutExpired:
        raise Failure("ip: not done after 10 s") from None


# -- the two ends ---------------------------------------------------------------------------------


class Visitor(Client):
    """A client that notes when it asked, was answered, and came to its end."""

    __slots__ = ("asked", "status", "answered", "gone")

    def __init__(self, path):
        super().__init__(path)
        self.asked = self.status = self.answered = self.gone = None

    def connection_made(self, transport):
        self.asked = time.monotonic()
        super().connection_made(transport)

    def on_head(self, head):
        self.status, self.answered = int(split_head(head)[0].split(b" ")[1]), time.monotonic()
        super().on_head(head)

    def on_message(self, message):
        if self.reply and not self.reply.done():
            super().on_message(message)

    def on_end(self, end):
        self.gone = time.monotonic()
        super().on_end(end)

    async def answer(self):
        """Waits for an answer, whichever."""
        with contextlib.suppress(Failure):
            async with asyncio.timeout(self.OPEN_TIMEOUT):
                await asyncio.shield(self.handshake)
        if self.status is None:
            raise Failure(f"{self.path} had no answer, but {self.end}")


class Host(EchoServer):
    """An echo server that notes when it was asked and came to its end; the path may want more of it."""

    __slots__ = ("hosts", "path", "gone")

    def __init__(self, hosts):
        super().__init__(PORT)
        self.hosts = hosts

    def on_head(self, head):
        self.path = split_head(head)[0].split(b" ")[1].decode()
        self.hosts.append(self)
        if "/late" in self.path:
            asyncio.get_running_loop().call_later(LATE, super().on_head, head)
            return
        super().on_head(head)
        if "/chatty" in self.path:
            chat(self)

    def on_end(self, end):
        self.gone = time.monotonic()


def chat(peer):
    """Sends a message, and the next one later."""
    if not peer.end:
        peer.send(TEXT, b"a message that nobody asked for")
        asyncio.get_running_loop().call_later(CHAT_EVERY, chat, peer)


def vanish(peer):
    """Drops a connection so that its kernel forgets it at once, and does not go on sending to a cut link."""
    if not peer.transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.transport.abort()


# -- the stage ------------------------------------------------------------------------------------


def config(directory):
    """Two ways through the proxy: /pings/ finds the dead by pings, /kernel/ by tcp_user_timeout alone."""
    server, spare = (f'"{address_of(host)}:{PORT}"' for host in ("upstream", "spare"))
    return f"""\
[process]
shutdown_grace = "5s"
[log]
format = "json"
access = "{directory}/access.log"
sample_above = "off"
[[listen]]
address = "{address_of('proxy')}:{PORT}"
header_timeout = "{HEADER}s"
[[listen]]
address = "{address_of('proxy')}:{KERNEL_PORT}"
tcp_user_timeout = "{USER_TIMEOUT}s"
[defaults]
connect_timeout = "{CONNECT}s"
response_timeout = "{RESPONSE}s"
ping = {{ client = "{INTERVAL}s", upstream = "{INTERVAL}s", timeout = "{TIMEOUT}s" }}
[[route]]
path = "/pings/"
upstream = "pings"
[[route]]
path = "/pair/"
upstream = "pair"
[[route]]
path = "/kernel/"
upstream = "kernel"
ping = "off"
[upstream.pings]
servers = [{server}]
max_fails = 0
[upstream.pair]
servers = [{server}, {spare}]
balance = "round_robin"
max_fails = 0
[upstream.kernel]
servers = [{server}]
max_fails = 0
tcp_user_timeout = "{USER_TIMEOUT}s"
"""


class Stage:
    """The proxy, and the connections of one phase."""

    def __init__(self, lab, network, report):
        self.lab, self.network, self.report = lab, network, report
        self.proxy, self.visitors, self.hosts = None, [], []
        self.standstill = 0

    async def start(self):
        """Starts the two servers and the proxy."""
        for host in ("upstream", "spare"):
            listener = self.network.socket(host)
            listener.bind((address_of(host), PORT))
            await asyncio.get_running_loop().create_server(lambda: Host(self.hosts), sock=listener)
        inside = ("ip", "netns", "exec", self.network.names["proxy"])
        text = config(self.lab.directory)
        self.proxy = await self.lab.start_proxy(PORT, text, inside, self.proxy_serves)

    async def proxy_serves(self):
        """Whether the proxy has said so: its ports cannot be reached from here."""
        return '"serving"' in self.lab.proxy.last_words()

    async def watch(self):
        """Measures how long this program was kept from running: on a busy machine all times are late."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            self.standstill = max(self.standstill, time.monotonic() - before - 0.05)

    async def visit(self, path, port=PORT):
        """Lets a client ask for a connection."""
        visitor, near = Visitor(path), self.network.socket("client")
        self.visitors.append(visitor)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            await loop.sock_connect(near, (address_of("proxy"), port))
        await loop.create_connection(lambda: visitor, sock=near)
        return visitor

    async def opened(self, path, port=PORT):
        """Opens a connection."""
        visitor = await self.visit(path, port)
        async with asyncio.timeout(5):
            await visitor.handshake
        return visitor

    async def use(self, path):
        """Opens, uses and closes a connection; returns its client and how it ended."""
        visitor = await self.opened(path)
        await visitor.echo()
        return visitor, await visitor.bye()

    async def host(self, path):
        """Waits for the server's end of a connection."""
        async def found():
            return next((host for host in self.hosts if host.path == path), None)

        return await eventually(found, 5, f"{path} did not reach the server")

    async def line(self, timeout, **fields):
        """Waits for the line of the access log that has these fields."""
        async def found():
            lines = self.proxy.log_lines()
            return next((line for line in lines if fields.items() <= line.items()), None)

        return await eventually(found, timeout, f"no line with {fields} in the access log")

    async def end(self, peer, timeout):
        """Waits for the end that a peer sees."""
        async def ended():
            return peer.end

        await eventually(ended, timeout, f"{type(peer).__name__.lower()} of {peer.path} saw no end in {timeout} s")

    @contextlib.asynccontextmanager
    async def phase(self, title, host):
        """One phase: nothing of it may be left in the proxy while the host is still cut off; then all is well."""
        before = self.proxy.open_files()
        self.report.note(title, "")
        try:
            yield
        except (Failure, TimeoutError) as error:
            self.report.check("  not finished", describe(error), False)
        await self.leave()
        await self.judge_left(before)
        self.network.restore(host)
        await eventually(lambda: self.is_back(host), 5, f"the restored link of {host} carries nothing")
        await self.judge_service()

    async def is_back(self, host):
        """Whether the router reaches a host: the kernel takes up to a second to use a link again."""
        with self.network.socket("router") as probe, contextlib.suppress(ConnectionRefusedError):
            try:
                async with asyncio.timeout(0.1):
                    await asyncio.get_running_loop().sock_connect(probe, (address_of(host), PORT))
            except TimeoutError:
                return False
        return True

    async def leave(self):
        """Drops what is still open at both ends."""
        for visitor in self.visitors:
            visitor.handshake.cancel()
        for peer in (*self.visitors, *self.hosts):
            if peer.transport:
                vanish(peer)
        self.visitors.clear()
        self.hosts.clear()

    async def judge_left(self, before):
        """The proxy's descriptors must be as many as before."""
        async def as_before():
            return self.proxy.open_files() == before

        with contextlib.suppress(Failure):
            await eventually(as_before, 2, "")
        after = self.proxy.open_files()
        self.report.check("  open files before, after", f"{before}, {after}", before == after)

    async def judge_service(self, name="  restored, a handshake ends"):
        """With all links there, a connection opens, echoes and closes."""
        before = self.proxy.open_files()
        try:
            _, end = await self.use("/pings/whole")
        except (Failure, TimeoutError) as error:
            end = describe(error)
        self.report.check(name, end, end == End("close", 1000))
        await self.leave()

        async def quiet():
            return self.proxy.open_files() <= before

        await eventually(quiet, 5, "a handshake over the restored link left something open")

    def judge_log(self, line, who, *whys, **fields):
        """A line of the access log says who, why, and what else is given."""
        found = {name: line[name] for name in fields}
        said = ", ".join([f"{line['ended_by']}/{line['cause']}", *(f"{name} {value}" for name, value in found.items())])
        self.report.check("  log", said, line["ended_by"] == who and line["cause"] in whys and found == fields)

    def judge_close(self, name, peer, code, since, limit):
        """A peer was sent a Close with a code, in time."""
        told = peer.end.kind == "close" and peer.end.code == code
        self.judge_time(f"{name} {peer.end}", told, peer.gone - since, 0, limit)

    def judge_answer(self, visitor, status, least):
        """A client was answered with a status, not before a timeout and not long after it."""
        seconds = visitor.answered - visitor.asked
        self.judge_time(f"client reads {visitor.status}", visitor.status == status, seconds, least, least + SLACK)

    def judge_time(self, what, ok, seconds, least, limit):
        """A span of time between two limits, of something that is as it should be."""
        # The proxy's clock began a moment before or after this one.
        in_time = least - 0.05 <= seconds <= limit
        self.report.check(f"  {what}", f"{seconds:.2f} s (limit {limit:g})", ok and in_time)


# -- the phases: the upstream vanishes ------------------------------------------------------------


async def upstream_before_connect(stage):
    """SYNs are lost: 504 after connect_timeout."""
    async with stage.phase("upstream gone before the connect", "upstream"):
        stage.network.cut("upstream")
        visitor = await stage.visit(path := "/pings/connect")
        await visitor.answer()
        stage.judge_answer(visitor, 504, CONNECT)
        stage.judge_log(await stage.line(2, path=path), "upstream", "unreachable", status=504, tries=1)


async def upstream_before_connect_of_two(stage):
    """SYNs to one of two servers are lost: the other one is tried."""
    async with stage.phase("one of two upstreams gone before the connect", "upstream"):
        stage.network.cut("upstream")
        paths = [f"/pair/{number}" for number in range(4)]
        used = await asyncio.gather(*(stage.use(path) for path in paths))
        good = sum(end == End("close", 1000) for _, end in used)
        stage.report.check("  handshakes that echo", f"{good} of {len(paths)}", good == len(paths))
        slowest = max(visitor.answered - visitor.asked for visitor, _ in used)
        stage.judge_time("slowest handshake", True, slowest, CONNECT, CONNECT + SLACK)
        lines = [await stage.line(2, path=path) for path in paths]
        at_spare = {line["endpoint"] for line in lines} == {f"{address_of('spare')}:{PORT}"}
        tries = sorted((line["status"], line["tries"]) for line in lines)
        # In turn: two of the four begin at the server that is gone.
        ok = at_spare and tries == [(101, 1), (101, 1), (101, 2), (101, 2)]
        stage.report.check("  log: status and tries", ", ".join(f"{s} {t}" for s, t in tries), ok)


async def upstream_before_answer(stage):
    """The request arrived and the answer is lost: 504 after response_timeout."""
    async with stage.phase("upstream gone before its answer", "upstream"):
        visitor = await stage.visit(path := "/pings/late/answer")
        await stage.host(path)
        stage.network.cut("upstream")
        await visitor.answer()
        stage.judge_answer(visitor, 504, RESPONSE)
        stage.judge_log(await stage.line(2, path=path), "upstream", "response_timeout", status=504, tries=1)


async def upstream_of_tunnel(stage):
    """A ping finds that the upstream is gone."""
    async with stage.phase("upstream gone under a tunnel, pings", "upstream"):
        visitor = await stage.opened(path := "/pings/upstream")
        cut = stage.network.cut("upstream")
        await stage.end(visitor, INTERVAL + TIMEOUT + 5)
        stage.judge_close("client reads", visitor, 1014, cut, INTERVAL + TIMEOUT + SLACK)
        stage.judge_log(await stage.line(2, path=path), "upstream", "unresponsive", code=1014)


async def upstream_of_sending_client(stage):
    """The kernel finds that the upstream is gone: what the client sends is not acknowledged."""
    async with stage.phase("upstream gone under a tunnel, tcp_user_timeout", "upstream"):
        visitor = await stage.opened(path := "/kernel/upstream", KERNEL_PORT)
        chat(visitor)
        cut = stage.network.cut("upstream")
        await stage.end(visitor, USER_TIMEOUT + 5)
        stage.judge_close("client reads", visitor, 1014, cut, USER_TIMEOUT + SLACK)
        stage.judge_log(await stage.line(2, path=path), "upstream", "tcp_timeout", code=1014)


# -- the phases: the client vanishes --------------------------------------------------------------


async def client_before_request(stage):
    """Half a head is cut off by header_timeout."""
    async with stage.phase("client gone within its request head", "client"):
        loop = asyncio.get_running_loop()
        with stage.network.socket("client") as near:
            await loop.sock_connect(near, (address_of("proxy"), PORT))
            await loop.sock_sendall(near, b"GET /pings/ HTTP/1.1\r\nHost: soak.test\r\nUpgr")
            sent = time.monotonic()
            await acknowledged(near)
            stage.network.cut("client")
            line = await stage.line(HEADER + 5, status=408)
        stage.judge_time("in the log", True, time.monotonic() - sent, HEADER, HEADER + SLACK)
        stage.judge_log(line, "proxy", "refused", status=408)


async def acknowledged(near):
    """Waits until nothing that was sent is under way."""
    async def all_arrived():
        return not struct.unpack("i", fcntl.ioctl(near, termios.TIOCOUTQ, bytes(4)))[0]

    await eventually(all_arrived, 2, "what was sent did not arrive")


async def client_before_answer(stage):
    """The upstream opens for a client that is gone: the tunnel opens and ends."""
    async with stage.phase("client gone while its handshake waits", "client"):
        await stage.visit(path := "/pings/late/handshake")
        host = await stage.host(path)
        cut = stage.network.cut("client")
        await stage.end(host, LATE + INTERVAL + TIMEOUT + 5)
        stage.judge_close("upstream reads", host, 1001, cut, LATE + INTERVAL + TIMEOUT + SLACK)
        line = await stage.line(2, path=path)
        stage.judge_log(line, "client", "unresponsive", "tcp_timeout", status=101, code=1001)


async def client_of_tunnel(stage):
    """A ping finds that the client is gone."""
    async with stage.phase("client gone under a tunnel, pings", "client"):
        await stage.opened(path := "/pings/client")
        host = await stage.host(path)
        cut = stage.network.cut("client")
        await stage.end(host, INTERVAL + TIMEOUT + 5)
        stage.judge_close("upstream reads", host, 1001, cut, INTERVAL + TIMEOUT + SLACK)
        stage.judge_log(await stage.line(2, path=path), "client", "unresponsive", code=1001)


async def client_of_sending_upstream(stage):
    """The kernel finds that the client is gone: what the upstream sends is not acknowledged."""
    async with stage.phase("client gone under a tunnel, tcp_user_timeout", "client"):
        await stage.opened(path := "/kernel/chatty", KERNEL_PORT)
        host = await stage.host(path)
        cut = stage.network.cut("client")
        await stage.end(host, USER_TIMEOUT + 5)
        stage.judge_close("upstream reads", host, 1001, cut, USER_TIMEOUT + SLACK)
        stage.judge_log(await stage.line(2, path=path), "client", "tcp_timeout", code=1001)


PHASES = (
    upstream_before_connect,
    upstream_before_connect_of_two,
    upstream_before_answer,
    upstream_of_tunnel,
    upstream_of_sending_client,
    client_before_request,
    client_before_answer,
    client_of_tunnel,
    client_of_sending_upstream,
)


async def check_blackhole(lab, _options, report):
    """Peers that vanish without a word, in any phase, are found in time, told of, and leave nothing behind."""
    async with asyncio.timeout(DEADLINE):
        network = Network()
        lab.undo.callback(network.delete)
        stage = Stage(lab, network, report)
        watch = asyncio.create_task(stage.watch())
        await stage.start()
        await stage.judge_service("  at first, a handshake ends")
        files = stage.proxy.open_files()
        for phase in PHASES:
            await phase(stage)
        last = stage.proxy.open_files()
        report.check("open files at first, at last", f"{files}, {last}", files == last)
        report.note("longest standstill of this program", f"{stage.standstill:.2f} s")
        watch.cancel()

