//! The trail of a connection in the log at `level = "debug"`: one id leads from its accept to its report.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use support::{PATIENCE, Puppet, Raw, accepting, route, upstream, ws_request};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A proxy in a process of its own, whose log can be read.
struct Process {
    child: Child,
    log: mpsc::UnboundedReceiver<Value>,
    address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Process {
    async fn start(folder: &Path, level: &str, server: SocketAddr) -> Self {
        let path = folder.join("proxy.toml");
        let log = format!("[log]\nlevel = \"{level}\"\nformat = \"json\"\naccess = \"off\"\n");
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
        let rest = format!("{}\n{}", route(""), upstream(&[server], ""));
        std::fs::write(&path, format!("{log}{listen}{rest}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdline"));
        let mut child = command.args(["run", "--config"]).arg(&path).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let read = stderr.lines().map_while(Result::ok);
            read.map(|line| serde_json::from_str(&line).unwrap()).try_for_each(|line| lines.send(line))
        });
        let mut process = Self { child, log, address: ([127, 0, 0, 1], 0).into() };
        let listening = process.until(|line| line["message"] == "listening").await;
        process.address = listening.last().unwrap()["local"].as_str().unwrap().parse().unwrap();
        process.until(|line| line["message"] == "serving").await;
        process
    }

    /// Reads the log up to a line, which is the last that is returned.
    async fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            lines.push(timeout(PATIENCE, self.log.recv()).await.expect("a line in time").unwrap());
            if is_last(lines.last().unwrap()) {
                return lines;
            }
        }
    }

    async fn connect(&self) -> Raw {
        Raw::new(TcpStream::connect(self.address).await.unwrap())
    }
}

/// The messages of one id: that of the event, or of the connection's span.
fn trail<'a>(lines: &'a [Value], id: &str) -> Vec<&'a str> {
    let is_its = |line: &&Value| line["id"] == id || line["id"].is_null() && line["span"]["id"] == id;
    lines.iter().filter(is_its).map(|line| line["message"].as_str().unwrap()).collect()
}

const WEBSOCKET: [&str; 8] = [
    "connection accepted",
    "request read",
    "route found",
    "endpoint picked",
    "connected",
    "endpoint answered",
    "tunnel opened",
    "ended",
];

#[tokio::test]
async fn one_id_leads_from_the_accept_to_the_report() {
    let (folder, puppet) = (tempfile::tempdir().unwrap(), Puppet::new().await);
    let mut process = Process::start(folder.path(), "debug", puppet.address()).await;
    let mut client = process.connect().await;
    client.write(ws_request("/chat?token=secret", "")).await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    server.write(accepting(&head, "")).await;
    client.head().await;
    let mut lines = process.until(|line| line["message"] == "tunnel opened").await;
    drop((client, server));
    lines.extend(process.until(|line| line["message"] == "ended").await);
    let ended = lines.last().unwrap();
    let id = ended["id"].as_str().unwrap();
    assert_eq!(trail(&lines, id), WEBSOCKET);
    assert_eq!(lines.iter().find(|line| line["message"] == "route found").unwrap()["route"], "all");
    assert!(!format!("{lines:?}").contains("secret"), "a secret of the target");
}

#[tokio::test]
async fn later_requests_of_a_connection_have_ids_of_their_own() {
    let (folder, puppet) = (tempfile::tempdir().unwrap(), Puppet::new().await);
    let mut process = Process::start(folder.path(), "debug", puppet.address()).await;
    let mut client = process.connect().await;
    let mut ids = Vec::new();
    let mut connection = None;
    for path in ["/first", "/second"] {
        client.write(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        client.head().await;
        let lines = process.until(|line| line["message"] == "ended").await;
        let id = lines.last().unwrap()["id"].as_str().unwrap().to_owned();
        let read = lines.iter().find(|line| line["message"] == "request read").unwrap();
        assert_eq!((&read["id"], &read["target"]), (&id.as_str().into(), &path.into()));
        let span = read["span"]["id"].as_str().unwrap().to_owned();
        assert_eq!(*connection.get_or_insert(span.clone()), span, "both came over one connection");
        ids.push(id);
    }
    assert_eq!(connection.as_ref(), Some(&ids[0]), "the first request has the connection's id");
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_connection_without_a_request_keeps_its_id() {
    let (folder, puppet) = (tempfile::tempdir().unwrap(), Puppet::new().await);
    let mut process = Process::start(folder.path(), "debug", puppet.address()).await;
    let mut client = process.connect().await;
    client.write("no HTTP\r\n\r\n").await;
    let lines = process.until(|line| line["message"] == "ended").await;
    let id = lines.last().unwrap()["id"].as_str().unwrap();
    assert_eq!(trail(&lines, id), ["connection accepted", "ended"]);
}

#[tokio::test]
async fn at_info_there_is_no_trail() {
    let (folder, puppet) = (tempfile::tempdir().unwrap(), Puppet::new().await);
    let mut process = Process::start(folder.path(), "info", puppet.address()).await;
    let mut client = process.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    client.rest().await;
    let id = process.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let lines =
        process.until(|line| line["message"].as_str().is_some_and(|text| text.contains("stop"))).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
}
