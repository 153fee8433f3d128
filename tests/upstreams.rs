//! Endpoints of a running proxy: balancing, failures, early ends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::ws::frame::OpCode;
use std::collections::HashMap;
use std::net::SocketAddr;
use support::{Proxy, Puppet, Raw, accepted, echo, nobody, opening, route, upstream};

/// How many of the tunnels each endpoint has.
fn shares(proxy: &Proxy) -> HashMap<String, u32> {
    let snapshot = proxy.running.proxy.snapshot.load();
    let endpoints = snapshot.upstream("up").unwrap().endpoints();
    endpoints.iter().map(|endpoint| (endpoint.address().to_string(), endpoint.active())).collect()
}

async fn open_many(proxy: &Proxy, many: usize) -> Vec<Raw> {
    let mut open = Vec::new();
    for number in 0..many {
        let mut client = proxy.open(&format!("/?room={number}")).await;
        client.echo("here").await;
        open.push(client);
    }
    open
}

#[tokio::test]
async fn least_conn_evens_out_and_honours_weights() {
    let (one, two) = (echo().await, echo().await);
    let servers = format!("servers = [{{ address = \"{one}\", weight = 3 }}, \"{two}\"]");
    let proxy = Proxy::start(&format!("{}\n[upstream.up]\n{servers}", route(""))).await;
    let _open = open_many(&proxy, 40).await;
    let shares = shares(&proxy);
    assert_eq!((shares[&one.to_string()], shares[&two.to_string()]), (30, 10));
}

#[tokio::test]
async fn a_hash_keeps_a_room_together() {
    let servers = [echo().await, echo().await, echo().await];
    let settings = "balance = { hash = \"query:room\" }";
    let mut proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&servers, settings))).await;
    let mut homes: HashMap<usize, SocketAddr> = HashMap::new();
    for round in 0..3 {
        for room in 0..10 {
            drop(proxy.open(&format!("/?round={round}&room={room}")).await);
            let home = proxy.report().await.0.endpoint.clone().unwrap().to_string().parse().unwrap();
            assert_eq!(*homes.entry(room).or_insert(home), home, "room {room}");
        }
    }
    assert!(homes.values().collect::<std::collections::HashSet<_>>().len() > 1, "rooms are spread");
}

#[tokio::test]
async fn full_endpoints_are_passed_over_and_a_full_upstream_is_503() {
    let (small, backup) = (echo().await, echo().await);
    let servers = format!(
        "servers = [{{ address = \"{small}\", max_conns = 1 }}, {{ address = \"{backup}\", backup = true, max_conns = 1 }}]"
    );
    let proxy = Proxy::start(&format!("{}\n[upstream.up]\n{servers}", route(""))).await;
    let _open = open_many(&proxy, 2).await;
    let shares = shares(&proxy);
    assert_eq!((shares[&small.to_string()], shares[&backup.to_string()]), (1, 1));
    let head = proxy.connect().await.ask(&opening("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
}

#[tokio::test]
async fn a_dead_endpoint_costs_one_try_and_no_client() {
    let (dead, alive) = (nobody().await, echo().await);
    let settings = "balance = \"round_robin\"\nfail_timeout = \"1h\"";
    let mut proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&[dead, alive], settings))).await;
    let mut tries = Vec::new();
    for _ in 0..6 {
        drop(proxy.open("/").await);
        tries.push(proxy.report().await.0.tries);
    }
    assert_eq!(tries.iter().filter(|&&tries| tries == 2).count(), 1, "{tries:?}");
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_what_it_accepted_is_left_out() {
    let bad = Puppet::new().await;
    let (address, good) = (bad.address(), echo().await);
    tokio::spawn(async move {
        loop {
            // It accepts and dies.
            drop(bad.open().await);
        }
    });
    let settings =
        "balance = \"round_robin\"\nearly_end = { within = \"5s\", max = 2 }\nfail_timeout = \"1h\"";
    let mut proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&[address, good], settings))).await;
    let mut bad_ones = 0;
    for _ in 0..10 {
        let mut client = proxy.open("/").await;
        client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
        client.rest().await;
        drop(client);
        let report = proxy.report().await;
        bad_ones += u32::from(report.0.endpoint.as_ref().unwrap().to_string() == address.to_string());
    }
    assert_eq!(bad_ones, 2, "two in a row, and it is left out");
}

#[tokio::test]
async fn a_unix_socket_is_an_upstream_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut scratch = [0; 2048];
        let _ = stream.read(&mut scratch).await.unwrap();
        stream.write_all(accepted("").as_bytes()).await.unwrap();
        stream.write_all(&support::frame(OpCode::Text, b"over unix", None)).await.unwrap();
        let _ = stream.read(&mut scratch).await;
    });
    let up = format!("[upstream.up]\nservers = [\"unix:{}\"]", path.display());
    let proxy = Proxy::start(&format!("{}\n{up}", route(""))).await;
    let mut client = proxy.open("/").await;
    assert_eq!(client.frame().await, (OpCode::Text, b"over unix".to_vec()));
}
