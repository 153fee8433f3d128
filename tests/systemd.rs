//! What systemd hears: the real binary beside a socket that stands for systemd's.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy in a process of its own, and what systemd would hear of it. Ended with the test.
struct Unit {
    child: Child,
    log: BufReader<ChildStderr>,
    ears: UnixDatagram,
    config: PathBuf,
    _folder: TempDir,
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Unit {
    /// Starts one that leads everything to `server`.
    fn start(server: SocketAddr, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, socket) = (folder.path().join("proxy.toml"), folder.path().join("notify"));
        let ears = UnixDatagram::bind(&socket).unwrap();
        ears.set_read_timeout(Some(PATIENCE)).unwrap();
        std::fs::write(&config, configuration(server, 1)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdline"));
        command.args(["run", "--config"]).arg(&config).env("NOTIFY_SOCKET", &socket);
        command.env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID").envs(environment.iter().copied());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, ears, config, _folder: folder }
    }

    /// The next message, one assignment a line.
    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.ears.recv(&mut buffer).expect("a message in time");
        std::str::from_utf8(&buffer[..length]).unwrap().to_owned()
    }

    /// The next message that is no mere sign of life.
    fn hear_news(&self) -> String {
        loop {
            let message = self.hear();
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// The port that the log says it listens on.
    fn address(&mut self) -> String {
        let line = self.log_line("listening");
        line.split("local=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    /// Reads the log up to a line that holds `text`.
    fn log_line(&mut self, text: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the log ended before {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for its end; the log up to there.
    fn end(mut self) -> String {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{log}");
        log
    }
}

fn configuration(server: SocketAddr, listeners: usize) -> String {
    let process = "[process]\nshutdown_grace = \"10s\"\ndrain_spread = \"0s\"\n[log]\naccess = \"off\"\n";
    let route =
        format!("[[route]]\npath = \"/\"\nupstream = \"up\"\n[upstream.up]\nservers = [\"{server}\"]\n");
    let listen = (1..=listeners).map(|n| format!("[[listen]]\naddress = \"127.0.0.{n}:0\"\n"));
    format!("{process}{}{route}", listen.collect::<String>())
}

/// An address where nobody listens, as good as any where nothing is proxied.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Reads the head of a request or of an answer.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Opens a WebSocket through the proxy, with the example of RFC 6455 1.3; both ends of it.
fn open(proxy: &str, server: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(proxy).unwrap();
    let handshake = "GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    client.write_all(handshake.as_bytes()).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    head(&mut upstream);
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    upstream.write_all(answer.as_bytes()).unwrap();
    assert!(head(&mut client).starts_with("HTTP/1.1 101"));
    (client, upstream)
}

/// `CLOCK_MONOTONIC` in microseconds, as the kernel shows it.
fn monotonic() -> u128 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    Duration::from_secs_f64(seconds).as_micros()
}

const SERVING: &str = "READY=1\nSTATUS=serving 0 tunnels on 1 listener\n";

#[test]
fn start_reload_and_end_are_told() {
    let server = nobody();
    let unit = Unit::start(server, &[]);
    assert_eq!(unit.hear(), SERVING);
    std::fs::write(&unit.config, configuration(server, 2)).unwrap();
    unit.signal("HUP");
    let reloading = unit.hear();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
    let age = monotonic().abs_diff(since.parse().unwrap());
    assert!(age < PATIENCE.as_micros(), "systemd compares it with its own clock: {reloading}");
    assert_eq!(unit.hear(), "READY=1\nSTATUS=serving 0 tunnels on 2 listeners\n");
    unit.signal("TERM");
    // 10 s of grace, 1 s of last words, 3 s for the access log and 5 s more.
    assert_eq!(unit.hear(), "STOPPING=1\nSTATUS=closing 0 tunnels\nEXTEND_TIMEOUT_USEC=19000000\n");
    let log = unit.end();
    assert!(!log.contains("cutting"), "nothing was left that had to be cut: {log}");
}

#[test]
fn a_failed_reload_is_over_too_and_its_reason_is_the_status() {
    let server = nobody();
    let unit = Unit::start(server, &[]);
    assert_eq!(unit.hear(), SERVING);
    let file = unit.config.display();
    let reload = |text: &str| {
        std::fs::write(&unit.config, text).unwrap();
        unit.signal("HUP");
        assert!(unit.hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        unit.hear()
    };
    let good = configuration(server, 1);
    let after = reload(&good.replace("access", "acess").replace("servers", "server"));
    let found = "log.acess: unknown key, did you mean \"access\"? (and 2 more)";
    let still = "still serving 0 tunnels on 1 listener";
    assert_eq!(after, format!("READY=1\nSTATUS=reload failed: {file}:5: {found}; {still}\n"));
    // A mistake that shows only when the configuration is put to use.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let after = reload(&good.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string()));
    assert!(after.starts_with("READY=1\nSTATUS=reload failed: listen: 127.0.0.1:"), "{after}");
    assert!(after.contains("another process listens there"), "{after}");
    assert_eq!(reload(&good), SERVING, "the next that succeeds clears it");
}

#[test]
fn it_shows_that_it_is_alive_to_the_end_and_counts_what_is_open() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut unit = Unit::start(server.local_addr().unwrap(), &[("WATCHDOG_USEC", "200000")]);
    assert_eq!(unit.hear_news(), SERVING);
    for _ in 0..3 {
        assert_eq!(unit.hear(), "WATCHDOG=1\n");
    }
    let address = unit.address();
    let (client, upstream) = open(&address, &server);
    unit.signal("HUP");
    assert!(unit.hear_news().starts_with("RELOADING=1\n"));
    assert_eq!(unit.hear_news(), "READY=1\nSTATUS=serving 1 tunnel on 1 listener\n");
    unit.signal("TERM");
    assert!(unit.hear_news().starts_with("STOPPING=1\nSTATUS=closing 1 tunnel\n"));
    for _ in 0..3 {
        assert_eq!(unit.hear(), "WATCHDOG=1\n", "the shutdown waits for the peers, and is alive");
    }
    drop((client, upstream));
    let log = unit.end();
    assert!(!log.contains("cutting"), "the beat keeps no shutdown from its end: {log}");
}

#[test]
fn the_watchdog_of_another_process_is_left_alone() {
    let unit = Unit::start(nobody(), &[("WATCHDOG_USEC", "2000"), ("WATCHDOG_PID", "1")]);
    assert_eq!(unit.hear(), SERVING);
    unit.signal("HUP");
    assert!(unit.hear().starts_with("RELOADING=1\n"));
    assert_eq!(unit.hear(), SERVING);
    unit.signal("TERM");
    assert!(unit.hear().starts_with("STOPPING=1\n"));
    unit.end();
}

#[test]
fn without_systemd_nothing_is_told_and_nothing_fails() {
    let mut unit = Unit::start(nobody(), &[("NOTIFY_SOCKET", ""), ("WATCHDOG_USEC", "1000")]);
    unit.log_line("serving");
    unit.signal("HUP");
    unit.log_line("reloaded");
    unit.signal("TERM");
    unit.ears.set_nonblocking(true).unwrap();
    let ears = unit.ears.try_clone().unwrap();
    let log = unit.end();
    assert!(!log.contains("systemd"), "{log}");
    assert!(ears.recv(&mut [0; 16]).is_err());
}

#[test]
fn a_systemd_that_does_not_hear_stops_nothing() {
    let mut unit = Unit::start(nobody(), &[("NOTIFY_SOCKET", "/no/such/socket")]);
    assert!(unit.log_line("cannot notify systemd").contains("No such file"));
    unit.signal("TERM");
    unit.end();
}
