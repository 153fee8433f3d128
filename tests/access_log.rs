//! The access log's targets, and what becomes of it under a flood and when a target takes nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::app::Startup;
use holdline::testing::config::Config;
use holdline::testing::listener::socket::Inherited;
use holdline::testing::telemetry::tally::Missing;
use holdline::testing::ws::close::{CloseCode, payload};
use holdline::testing::ws::frame::OpCode;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{PATIENCE, Proxy, Raw, echo};

const ANSWER: &str = "[[route]]\nname = \"plain\"\npath = \"/plain\"\nrespond = { status = 204 }\n";

/// A configuration with this `[log]`: a plain route, and an echo for everything else.
fn configuration(log: &str, echo: SocketAddr) -> String {
    format!(
        "[log]\n{log}\n[[listen]]\naddress = \"127.0.0.1:0\"\n{ANSWER}\
         [[route]]\nname = \"echo\"\npath = \"/\"\nupstream = \"up\"\n[upstream.up]\nservers = [\"{echo}\"]\n"
    )
}

/// Asks so often for the plain route, a hundred times at once.
async fn ask_plainly(client: &mut Raw, times: usize) {
    let request = "GET /plain HTTP/1.1\r\nHost: example.com\r\n\r\n";
    let mut left = times;
    while left > 0 {
        let some = left.min(100);
        client.write(request.repeat(some)).await;
        for _ in 0..some {
            assert!(client.head().await.starts_with("HTTP/1.1 204"));
        }
        left -= some;
    }
}

/// Opens a WebSocket and says goodbye.
async fn open_and_leave(proxy: &Proxy) {
    let mut client = proxy.open("/ws").await;
    client.send(OpCode::Close, &payload(CloseCode(1000), "")).await;
    client.close().await;
}

/// The lines of a file: of each what it says, and how many were left out before it.
fn lines(path: &Path) -> Vec<(serde_json::Value, u64)> {
    let text = std::fs::read_to_string(path).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    parsed.map(|line| (line.clone(), line["left_out"].as_u64().unwrap_or(0))).collect()
}

#[tokio::test]
async fn a_flood_of_requests_is_sampled_exactly_and_leaves_tunnels_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = format!("format = \"json\"\naccess = \"{}\"\nsample_above = \"1/h\"", path.display());
    let mut proxy = Proxy::with(&configuration(&log, echo().await)).await;
    ask_plainly(&mut proxy.connect().await, 1_000).await;
    open_and_leave(&proxy).await;
    for _ in 0..1_001 {
        proxy.ended().await;
    }
    proxy.running.proxy.log.close();
    let written = lines(&path);
    // One is allowed in an hour, and of the others each hundredth is written.
    let expected: Vec<_> = [0].into_iter().chain([99; 9]).chain([0]).collect();
    assert_eq!(written.iter().map(|(_, left_out)| *left_out).collect::<Vec<_>>(), expected);
    assert_eq!(written[10].0["cause"], "close", "a tunnel's end has an allowance of its own");
    let missing = proxy.running.proxy.log.missing();
    assert_eq!(missing, Missing { sampled: 990, ..Missing::default() }, "99 after the last line");
    let metrics = proxy.running.proxy.metrics_text(holdline::testing::telemetry::metrics::Format::Prometheus);
    let count = "holdline_access_log_lost_lines_total{reason=\"sampled\"} 990.0\n";
    assert!(metrics.contains(count), "{metrics}");
}

#[tokio::test]
async fn a_flood_of_what_never_became_a_request_is_sampled_and_still_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = format!("format = \"json\"\naccess = \"{}\"\nsample_above = \"1/h\"", path.display());
    let mut proxy = Proxy::with(&configuration(&log, echo().await)).await;
    for _ in 0..150 {
        let mut client = proxy.connect().await;
        client.write("no HTTP\r\n\r\n").await;
        client.rest().await;
        proxy.ended().await;
    }
    ask_plainly(&mut proxy.connect().await, 1).await;
    proxy.ended().await;
    proxy.running.proxy.log.close();
    let written: Vec<_> =
        lines(&path).iter().map(|(line, left_out)| (line["status"].clone(), *left_out)).collect();
    assert_eq!(written, [(400.into(), 0), (400.into(), 99), (204.into(), 0)]);
    let metrics = proxy.running.proxy.metrics_text(holdline::testing::telemetry::metrics::Format::Prometheus);
    assert!(metrics.contains("holdline_http_requests_total{route=\"\",status=\"400\"} 150.0\n"), "{metrics}");
}

#[tokio::test]
async fn syslog_gets_each_line_with_its_severity_before_and_after_its_daemon_is_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let bind = || {
        let daemon = UnixDatagram::bind(&path).unwrap();
        daemon.set_read_timeout(Some(PATIENCE)).unwrap();
        daemon
    };
    let daemon = bind();
    let log = format!("access = \"syslog:unix:{}\"\nfacility = \"daemon\"", path.display());
    let mut proxy = Proxy::with(&configuration(&log, echo().await)).await;
    let received = |daemon: &UnixDatagram| {
        let mut buffer = [0; 4096];
        let length = daemon.recv(&mut buffer).expect("a message in time");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut client = proxy.connect().await;
    ask_plainly(&mut client, 1).await;
    proxy.ended().await;
    let tag = format!("holdline[{}]: ", std::process::id());
    let (priority, line) =
        received(&daemon).split_once(&tag).map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(priority, "<30>", "daemon, info");
    assert!(line.contains(" GET example.com/plain 204 route=plain end=proxy/done"), "{line}");
    drop(proxy.open("/ws").await);
    proxy.ended().await;
    let line = received(&daemon);
    assert!(line.starts_with("<29>") && line.contains("end=client/eof"), "daemon, notice: {line}");

    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    let daemon = bind();
    // A line at least is sent when a second has passed since the last attempt to connect.
    let (began, mut asked) = (Instant::now(), 0);
    daemon.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 4096];
    while daemon.recv(&mut buffer).is_err() {
        assert!(began.elapsed() < PATIENCE, "nothing came back");
        ask_plainly(&mut client, 1).await;
        proxy.ended().await;
        asked += 1;
    }
    let Missing { target, .. } = proxy.running.proxy.log.missing();
    assert!(target < asked, "{target} of {asked} lines are lost");
    assert!(String::from_utf8_lossy(&buffer).contains(" 204 "));
}

#[tokio::test]
async fn no_client_writes_a_field_of_the_line_or_commands_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let hosts: [(&[u8], &str); 5] = [
        (
            b"x/ 200 route=evil end=client/close tries=0 ",
            "x\\x2F\\x20200\\x20route=evil\\x20end=client\\x2Fclose\\x20tries=0",
        ),
        (b"x\t\"y\"\\", "x\\x09\\x22y\\x22\\x5C"),
        (b"\xff\xc2\x9b31m", "\\xFF\\xC2\\x9B31m"),
        ("\u{202e}gpj.exe".as_bytes(), "\\xE2\\x80\\xAEgpj.exe"),
        (b"user:hunter2@x", "x"),
    ];
    for (format, is_json) in [("text", false), ("json", true)] {
        let path = folder.path().join(format);
        let log = format!("access = \"{}\"\nformat = \"{format}\"", path.display());
        let proxy = Proxy::with(&configuration(&log, "127.0.0.1:1".parse().unwrap())).await;
        for (host, _) in hosts {
            let mut client = proxy.connect().await;
            client
                .write([b"GET /\xc2\x9b31m\xe2\x80\xae HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat())
                .await;
            assert!(client.head().await.starts_with("HTTP/1.1 400"));
        }
        proxy.running.proxy.log.close();
        let written = std::fs::read_to_string(path).unwrap();
        assert!(written.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)), "{written}");
        for (line, (_, shown)) in written.lines().zip(hosts) {
            if is_json {
                assert!(line.contains("/\\u009b31m\\u202e\""), "{line}");
                continue;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let path = "/\\xC2\\x9B31m\\xE2\\x80\\xAE";
            assert_eq!(words[3..6], ["GET", &format!("{shown}{path}"), "400"], "{line}");
            assert!(words[6].starts_with("end=proxy/refused"), "{line}");
        }
        assert_eq!(written.lines().count(), hosts.len());
    }
}

#[tokio::test]
async fn what_a_refused_head_holds_is_escaped_once() {
    let folder = tempfile::tempdir().unwrap();
    for (format, expected) in [
        ("text", [r" GET /\x01\xFF\x5Cx01?pin=*** 400 ", r#" reason="the target has a byte 0x01" "#]),
        ("json", [r#""path":"/\u0001\\xFF\\x01?pin=***""#, r#""reason":"the target has a byte 0x01""#]),
    ] {
        let path = folder.path().join(format);
        let log = format!("access = \"{}\"\nformat = \"{format}\"", path.display());
        let proxy = Proxy::with(&configuration(&log, "127.0.0.1:1".parse().unwrap())).await;
        for head in [
            &b"GET /\x01\xff\\x01?pin=\xfe HTTP/1.1\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\n\x1b[31m\"\xff\r\n\r\n",
        ] {
            let mut client = proxy.connect().await;
            client.write(head).await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400") && !answer.contains('\x1b'), "{answer:?}");
        }
        proxy.running.proxy.log.close();
        let written = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = written.lines().collect();
        expected.iter().for_each(|part| assert!(lines[0].contains(part), "{part} in {written}"));
        let line = match format {
            "text" => r#"reason="the header line \x22\x1B[31m\x22\xEF\xBF\xBD\x22 has no colon""#,
            _ => r#""reason":"the header line \"\u001b[31m\"\uFFFD\" has no colon""#,
        };
        assert!(lines[1].contains(&line.replace("\\uFFFD", "\u{fffd}")), "{line} in {written}");
    }
}

#[tokio::test]
async fn a_reload_leads_lines_to_another_target_and_those_before_to_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    let echo = echo().await;
    let file = format!("access = \"{}\"\nformat = \"json\"", path.display());
    let syslog = format!("access = \"syslog:{}\"\nfacility = \"local0\"", daemon.local_addr().unwrap());
    let mut proxy = Proxy::with(&configuration(&file, echo)).await;
    let mut client = proxy.connect().await;
    ask_plainly(&mut client, 500).await;
    for _ in 0..500 {
        proxy.ended().await;
    }
    let next = Config::parse(&configuration(&syslog, echo), "test").unwrap();
    // A listener on another port would be another.
    proxy.running.reload(next).await.unwrap();
    ask_plainly(&mut client, 1).await;
    proxy.ended().await;
    let mut buffer = [0; 4096];
    let length = daemon.recv(&mut buffer).expect("a message in time");
    let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
    assert!(message.starts_with("<134>1 2") && message.contains(" 204 route=plain"), "{message}");
    assert_eq!(lines(&path).len(), 500);
}

#[tokio::test]
async fn journald_must_be_there() {
    let echo = "127.0.0.1:1".parse().unwrap();
    let config = Config::parse(&configuration("access = \"journald\"", echo), "test").unwrap();
    let startup = Startup::prepare(config, Inherited::default()).await;
    match (startup, Path::new("/run/systemd/journal/socket").exists()) {
        (Err(error), false) => {
            let expected = "log.access: journald: /run/systemd/journal/socket: No such file or directory";
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        (startup, is_there) => assert_eq!(startup.is_ok(), is_there),
    }
}

/// A proxy in a process of its own; what it says on the standard error can be read, what it says on the
/// standard output only when somebody does.
struct Process {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    address: String,
}

impl Process {
    fn start(folder: &Path, log: &str) -> Self {
        let path = folder.join("proxy.toml");
        std::fs::write(&path, configuration(log, "127.0.0.1:1".parse().unwrap())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdline"));
        command.args(["run", "--config"]).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut process = Self { child, log, address: String::new() };
        let line = process.log_line("listening");
        process.address = line.split("local=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        process.log_line("serving");
        process
    }

    /// Reads the log up to a line that holds `text`.
    fn log_line(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the log ended before {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Asks so often for the plain route; every request is answered.
    fn ask(&self, times: usize) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /plain HTTP/1.1\r\nHost: example.com\r\n\r\n";
        let last = "GET /plain HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n";
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            (1..times).for_each(|_| writer.write_all(request.as_bytes()).unwrap());
            writer.write_all(last.as_bytes()).unwrap();
        });
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        writing.join().unwrap();
        assert_eq!(answers.matches("HTTP/1.1 204").count(), times);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of a field's numbers in the log.
fn sum(log: &str, field: &str) -> usize {
    let values = log.split_whitespace().filter_map(|word| word.strip_prefix(field)?.strip_prefix('='));
    values.map(|number| number.parse::<usize>().unwrap()).sum()
}

#[test]
fn a_standard_output_that_nobody_reads_holds_up_neither_a_request_nor_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), "sample_above = \"off\"");
    let asked = 20_000;
    process.ask(asked);
    process.signal("TERM");
    let mut log = String::new();
    let began = Instant::now();
    process.log.read_to_string(&mut log).unwrap();
    assert_eq!(process.child.wait().unwrap().code(), Some(0), "{log}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(log.contains("the target of the access log accepts nothing"), "{log}");
    let mut written = String::new();
    process.child.stdout.take().unwrap().read_to_string(&mut written).unwrap();
    let lines = written.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    assert!(lines.clone().all(|line| line.contains(" 204 ")));
    let (written, queue, target) = (lines.count(), sum(&log, "queue"), sum(&log, "target"));
    assert!(written > 100 && queue > 1_000 && target > 10_000, "{written}, {queue}, {target}");
    assert_eq!(written + queue + target, asked, "{log}");
}

#[test]
fn a_reload_leads_away_from_a_target_that_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), "sample_above = \"off\"");
    process.ask(2_000);
    let path = folder.path().join("access.log");
    let text = std::fs::read_to_string(folder.path().join("proxy.toml")).unwrap();
    let text = text.replace("[log]", &format!("[log]\naccess = \"{}\"", path.display()));
    std::fs::write(folder.path().join("proxy.toml"), text).unwrap();
    process.signal("HUP");
    process.log_line("reloaded");
    process.ask(10);
    let lost = process.log_line("the target of the access log accepts nothing");
    process.signal("TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 10);
    assert!((1_000..2_000).contains(&sum(&lost, "lines")), "{lost}");
}

#[test]
fn a_file_that_cannot_be_opened_anew_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("log");
    std::fs::create_dir(&inner).unwrap();
    let path = inner.join("access.log");
    let log = format!("access = \"{}\"", path.display());
    let mut process = Process::start(folder.path(), &log);
    process.ask(1);
    std::fs::rename(&inner, folder.path().join("moved")).unwrap();
    process.signal("USR1");
    let line = process.log_line("cannot reopen the access log");
    assert!(line.contains(path.to_str().unwrap()) && line.contains("No such file"), "{line}");
    process.ask(1);
    process.signal("TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
    let written = std::fs::read_to_string(folder.path().join("moved/access.log")).unwrap();
    assert_eq!(written.lines().count(), 2, "the file before stays in use");
}
