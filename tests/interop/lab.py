"""What the interop scripts share: installing peers, running them and the proxy, printing results."""

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
HOST = "127.0.0.1"
TLS_HOST = "localhost"  # what certificates are for
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1


class Failure(Exception):
    """What a check found wrong."""


def same(found, wanted, what):
    """Fails unless two values are the same."""
    if found != wanted:
        raise Failure(f"{what}: {str(found)[:100]} instead of {str(wanted)[:100]}")


# -- installing -----------------------------------------------------------------------------------


def sh(*command, cwd=None):
    """Runs a command, quietly unless it fails; returns what it prints."""
    done = subprocess.run([*map(str, command)], cwd=cwd, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def once(cache, name, sources, install):
    """Runs `install` unless the cache has its result for these very files."""
    stamp, wanted = cache / f"{name}.stamp", "".join(path.read_text() for path in sources)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {name}", flush=True)
        install()
        stamp.write_text(wanted)


def install_npm(cache):
    """The packages of npm. They go beside no file of the clone."""
    files = [HERE / "peers/package.json", HERE / "peers/package-lock.json"]

    def install():
        for file in files:
            shutil.copy(file, cache)
        sh("npm", "ci", "--no-audit", "--no-fund", cwd=cache)

    once(cache, "npm", files, install)


def install_venv(cache, name, requirements, python=sys.executable):
    """A virtual environment; returns its Python."""
    venv = cache / name

    def install():
        sh(python, "-m", "venv", "--clear", venv)
        sh(venv / "bin/python", "-m", "pip", "install", "-q", "-r", requirements)

    once(cache, name, [requirements], install)
    return venv / "bin/python"


def install_tungstenite(cache):
    """The Rust peer; returns its binary."""
    crate = HERE / "tungstenite"
    sources = [crate / "Cargo.lock", crate / "src/main.rs"]
    target = cache / "tungstenite"
    build = ["cargo", "build", "-q", "--release", "--locked", "--target-dir", target]
    once(cache, "rust", sources, lambda: sh(*build, cwd=crate))
    return target / "release/tungstenite-peer"


@dataclasses.dataclass
class Certificate:
    """Files of a certificate for `TLS_HOST`, of the authority that signed it, and the hash of its public key."""

    ca: pathlib.Path
    cert: pathlib.Path
    key: pathlib.Path
    public: str

    @classmethod
    @contextlib.contextmanager
    def made(cls, python):
        """Makes it. What is started from now on trusts this authority and, but for Node, no other."""
        with tempfile.TemporaryDirectory(prefix="holdline-interop-") as directory:
            public = sh(python, "-B", HERE / "peers/certificate.py", directory, TLS_HOST)
            made = cls(*(pathlib.Path(directory, f"{name}.pem") for name in ("ca", "cert", "key")), public)
            os.environ |= dict.fromkeys(("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(made.ca))
            yield made


@contextlib.contextmanager
def cache_directory(given):
    """The directory for packages: the one given, else one that goes at the end."""
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="holdline-interop-") as directory:
            yield pathlib.Path(directory)


# -- processes ------------------------------------------------------------------------------------


def die_with_parent():
    """Runs in a new process: the kernel ends it when this program ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def spawn(*command, **streams):
    """Starts a process that does not outlive this one."""
    streams = {"stdin": asyncio.subprocess.DEVNULL, **streams}
    return await asyncio.create_subprocess_exec(
        *map(str, command), preexec_fn=die_with_parent, limit=1 << 24, **streams
    )


async def output(*command, given=b""):
    """Runs a command with this input; returns what it prints, and what it complains of as text."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    process = await spawn(*command, **pipes)
    printed, said = await process.communicate(given)
    if process.returncode:
        raise Failure(f"{command[0]} ended with {process.returncode}: {said.decode()[-300:]}")
    return printed, said.decode()


class Peer:
    """A process that does what it is asked, by lines of JSON."""

    def __init__(self, name, process):
        self.name, self.process, self.port = name, process, None
        self.can, self.answers, self.last = {}, {}, 0

    @classmethod
    async def start(cls, name, command):
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        peer = cls(name, await spawn(*command, **pipes))
        async with asyncio.timeout(30):
            line = await peer.process.stdout.readline()
        if not line:
            raise Failure(f"{name} did not start")
        peer.can = json.loads(line)["can"]
        peer.reader = asyncio.create_task(peer.read())
        return peer

    async def read(self):
        async for line in self.process.stdout:
            answer = json.loads(line)
            self.answered(answer["id"], answer)
        for asked in list(self.answers):
            self.answered(asked, {"error": f"{self.name} ended"})

    def answered(self, asked, answer):
        """Hands an answer to who waits for it; one that comes too late is nobody's."""
        future = self.answers.pop(asked)
        if not future.done():
            future.set_result(answer)

    async def ask(self, verb, timeout=20, **args):
        """Asks for one thing and waits for the answer."""
        self.last += 1
        answer = self.answers[self.last] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": self.last, "verb": verb, **args})
        self.process.stdin.write(line.encode() + b"\n")
        try:
            async with asyncio.timeout(timeout):
                got = await answer
        except TimeoutError:
            raise Failure(f"{self.name}: no answer to {verb}") from None
        if "error" in got:
            raise Failure(f"{self.name}, {verb}: {got['error']}")
        return got["ok"]

    async def listen(self):
        """Makes it a server."""
        self.port = await self.ask("listen", port=0)
        return self

    async def stop(self):
        """Ends the process: by the end of its requests, by a signal if it does not heed that."""
        if self.process.returncode is None:
            self.process.stdin.close()
            try:
                await asyncio.wait_for(self.process.wait(), 3)
            except TimeoutError:
                self.process.kill()
        await self.process.wait()
        await self.reader

    async def kill(self):
        self.process.kill()
        await self.process.wait()


TRANSPORTS = {
    "ws": 'protocols = ["h1"]',
    "h2c": 'protocols = ["h2"]',
    "wss/h1": 'protocols = ["h1"]\ntls = { certificates = [{ cert = "{cert}", key = "{key}" }] }',
    "wss/h2": 'protocols = ["h1", "h2"]\ntls = { certificates = [{ cert = "{cert}", key = "{key}" }] }',
}


@dataclasses.dataclass
class Listener:
    """One of the ways into the proxy."""

    transport: str
    port: int
    certificate: Certificate | None

    @classmethod
    def all(cls, certificate):
        """One for each transport; without a certificate for the first only."""
        transports = list(TRANSPORTS) if certificate else ["ws"]
        return {name: cls(name, port, certificate) for name, port in zip(transports, free_ports(len(transports)))}

    def url(self, path="", scheme="ws", host=None):
        """The address of a path there."""
        tls = self.transport.startswith("wss")
        return f"{scheme}{'s' * tls}://{host or (TLS_HOST if tls else HOST)}:{self.port}{path}"

    def toml(self):
        text = TRANSPORTS[self.transport]
        for name in ("cert", "key") if self.certificate else ():
            text = text.replace(f"{{{name}}}", str(getattr(self.certificate, name)))
        return f'[[listen]]\naddress = "{HOST}:{self.port}"\n{text}\n'


class Proxy:
    """A running Holdline with its files."""

    def __init__(self, directory, process, listeners):
        self.directory, self.process, self.listeners = directory, process, listeners
        self.port = listeners["ws"].port

    @classmethod
    async def start(cls, holdline, directory, listeners, text):
        """Starts it and waits until its ports accept."""
        write_config(directory, listeners, text)
        with open(directory / "stderr", "wb") as err:
            process = await spawn(holdline, "run", "--config", directory / "proxy.toml", stderr=err)
        proxy = cls(directory, process, listeners)
        for _ in range(500):
            if process.returncode is not None:
                raise Failure(f"the proxy ended at once: {proxy.last_words()}")
            if all([await accepts(listener.port) for listener in listeners.values()]):
                return proxy
            await asyncio.sleep(0.02)
        raise Failure("the proxy's ports do not accept")

    def url(self, transport, path="", scheme="ws", host=None):
        return self.listeners[transport].url(path, scheme, host)

    def reload(self, text):
        write_config(self.directory, self.listeners, text)
        self.process.send_signal(signal.SIGHUP)

    def log(self):
        """The access log."""
        path = self.directory / "access.log"
        lines = path.read_text().splitlines(True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    async def line(self, path):
        """Waits for the line of a connection."""
        for _ in range(250):
            for line in self.log():
                if line["path"] == path:
                    return line
            await asyncio.sleep(0.05)
        raise Failure(f"no line in the access log for {path}")

    def last_words(self):
        return "\n".join((self.directory / "stderr").read_text(errors="replace").splitlines()[-15:])

    async def stop(self):
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 15)
            except TimeoutError:
                self.process.kill()
        await self.process.wait()


def write_config(directory, listeners, text):
    """Writes the configuration in one step."""
    head = f'[log]\nformat = "json"\naccess = "{directory}/access.log"\nsample_above = "off"\n'
    listen = "".join(listener.toml() for listener in listeners.values())
    (directory / "new").write_text(head + listen + text)
    os.replace(directory / "new", directory / "proxy.toml")


async def accepts(port):
    """Whether somebody listens on the port."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


def free_port():
    return free_ports(1)[0]


def free_ports(count):
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.asynccontextmanager
async def proxy_of(holdline, text, certificate=None):
    """A proxy with a directory of its own; with a certificate it has all transports."""
    with tempfile.TemporaryDirectory(prefix="holdline-interop-") as directory:
        proxy = await Proxy.start(holdline, pathlib.Path(directory), Listener.all(certificate), text)
        try:
            yield proxy
        finally:
            await proxy.stop()


# -- results --------------------------------------------------------------------------------------


class Table:
    """check → ok or FAILED with the reason."""

    WIDTH = 64

    def __init__(self):
        self.good = self.bad = 0

    def row(self, name, failure=None):
        """Prints one result."""
        self.good, self.bad = self.good + (not failure), self.bad + bool(failure)
        print(f"{name:{self.WIDTH}} {f'FAILED: {failure}' if failure else 'ok'}", flush=True)

    async def check(self, name, work, timeout=60):
        """Runs one check; returns whether it held."""
        try:
            async with asyncio.timeout(timeout):
                await work
        except TimeoutError:
            self.row(name, f"took over {timeout} s")
        except Failure as failure:
            self.row(name, str(failure))
        except Exception as error:
            self.row(name, f"{type(error).__name__}: {error}")
        else:
            self.row(name)
            return True
        return False

    def end(self):
        """Prints the sum; returns the exit code."""
        print(f"{self.good} ok, {self.bad} failed")
        return 1 if self.bad else 0
