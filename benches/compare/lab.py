"""Owns what the comparison starts and reads: processes, ports, the certificate, /proc."""

import ctypes
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

HOST = "127.0.0.1"
TLS_HOST = "localhost"
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None, use_errno=True), 1


class Failure(Exception):
    """A measurement that could not be made."""


def cpus():
    """A processor for the proxies, and what is left for load and echo: they share it where there are only two."""
    all_there_are = sorted(os.sched_getaffinity(0))
    return {
        "proxy": all_there_are[-1],
        "load": all_there_are[0],
        "echo": all_there_are[1] if len(all_there_are) > 2 else all_there_are[0],
    }


def spawn(command, cpu, **streams):
    """Starts a process on one processor. It does not outlive this program."""

    def prepare():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, [cpu])

    return subprocess.Popen([str(word) for word in command], preexec_fn=prepare, **streams)


class Tool:
    """The echo or the load, and what it says."""

    def __init__(self, lab, cpu, *words):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = spawn([lab.tool, *words], cpu, **pipes)
        self.words, self.heard = words, b""

    def hear(self, event, timeout):
        """Waits for an event of this name; others are skipped."""
        until = time.monotonic() + timeout
        while True:
            line, newline, rest = self.heard.partition(b"\n")
            if newline:
                self.heard = rest
                said = json.loads(line)
                if said["event"] == event:
                    return said
                continue
            if not select.select([self.process.stdout], [], [], max(0, until - time.monotonic()))[0]:
                raise Failure(f"nothing from the {self.words[1]} load in {timeout:.0f} s")
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                raise Failure(f"the {' '.join(map(str, self.words[:2]))} ended with {self.process.wait()}")
            self.heard += more

    def tell(self, letter):
        self.process.stdin.write(letter)
        self.process.stdin.flush()

    def stop(self):
        """Ends it by the end of its input, or else by force."""
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Lab:
    """The directory, the certificate and the programs of one comparison."""

    def __init__(self, tool):
        self.tool, self.cpus = tool, cpus()
        # Of workers that run as nobody, too.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="holdline-compare-"))
        self.directory.chmod(0o755)
        self.cert, self.key, self.pem = (self.directory / name for name in ("cert.pem", "key.pem", "both.pem"))
        self.certificate()

    def certificate(self):
        """One ECDSA certificate that vouches for itself; both.pem is as HAProxy wants it."""
        if not shutil.which("openssl"):
            raise SystemExit("it needs the program openssl, for a certificate")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "30", "-subj", f"/CN={TLS_HOST}", "-addext", f"subjectAltName=DNS:{TLS_HOST}"]
            + ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", self.key, "-out", self.cert],
            check=True, capture_output=True,
        )
        self.pem.write_text(self.cert.read_text() + self.key.read_text())

    def echo(self):
        """Starts an echo; its process and port."""
        echo = Tool(self, self.cpus["echo"], "echo")
        return echo, echo.hear("ready", 10)["port"]

    def bare(self, upstream):
        """Starts a bare relay where the proxies run; its process and port."""
        bare = Tool(self, self.cpus["proxy"], "bare", "--to", f"{HOST}:{upstream}")
        return bare, bare.hear("ready", 10)["port"]

    def load(self, *words):
        return Tool(self, self.cpus["load"], "load", *words)

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def free_ports(count):
    """Ports below the ephemeral range that nobody listens on: no outgoing connection can take one meanwhile."""
    found = []
    port = 20000 + os.getpid() % 10000
    while len(found) < count:
        port = port + 1 if port < 32000 else 20000
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in free_ports.given:
            free_ports.given.add(port)
            found.append(port)
    return found


free_ports.given = set()


def tree(root):
    """A process and all that descend from it."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def rss_anon(root):
    """Bytes of anonymous resident memory of a process and its descendants: what they themselves have taken."""
    total = 0
    for process in tree(root):
        try:
            status = pathlib.Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))
    return total


def settled(roots, quiet, longest=20):
    """The same of several at once, each when it has not moved by half a percent for `quiet` seconds: allocators give
    back late."""
    seen, found = {root: [] for root in roots}, {}
    until = time.monotonic() + longest
    while len(found) < len(seen):
        for root in seen.keys() - found.keys():
            now = time.monotonic()
            seen[root] = [(at, size) for at, size in seen[root] if at > now - quiet] + [(now, rss_anon(root))]
            sizes = [size for _, size in seen[root]]
            still = now - seen[root][0][0] > quiet * 0.9 and max(sizes) - min(sizes) <= max(sizes) * 0.005
            if still or now > until:
                found[root] = sizes[-1]
        time.sleep(quiet / 20)
    return found
