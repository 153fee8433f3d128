//! What an idle tunnel takes of the proxy's memory. The size of each part is asserted where its type is.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use rustix::process::{Resource, getrlimit, setrlimit};
use support::process::Process;
use support::{Raw, echo, route, upstream, ws_request};

/// Tunnels before the measurement: they grow the tables that all share.
const BEFORE: usize = 500;
/// Tunnels that are measured. A page is 4096 bytes: noise of 50 pages is 137 bytes of each.
const MEASURED: usize = 1500;
/// In bytes of anonymous memory, which leaves out the kernel's socket buffers. `docs/performance.md` says 1,147.
const MOST: usize = 1600;
/// The report, the handle and the session alone take this much. Less would mean that nothing was measured.
const LEAST: usize = 400;

/// The anonymous memory of a process, in bytes.
fn anonymous(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

async fn open(process: &Process, count: usize) -> Vec<Raw> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = process.connect().await;
        assert!(client.ask(&ws_request("/room?of=many", "")).await.starts_with("HTTP/1.1 101"));
        client.echo("hello").await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn an_idle_tunnel_takes_little_more_than_a_kilobyte() {
    // Client and server of each tunnel are in this process.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let server = echo().await;
    let text = format!(
        "[log]\naccess = \"off\"\n[process]\nworkers = 1\n[[listen]]\naddress = \"127.0.0.1:0\"\n{}\n{}",
        route(""),
        upstream(&[server], "")
    );
    let process = Process::start(&text, None);
    let _before = open(&process, BEFORE).await;
    let before = anonymous(&process);
    let _measured = open(&process, MEASURED).await;
    let each = anonymous(&process).saturating_sub(before) / MEASURED;
    println!("an idle tunnel takes {each} bytes");
    assert!((LEAST..=MOST).contains(&each), "{each} bytes for an idle tunnel");
}
