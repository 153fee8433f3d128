//! Endpoints of a running proxy: balancing, failures, early ends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::config::Config;
use holdline::testing::upstream::ports::{Usage, ports_per_source};
use holdline::testing::ws::frame::OpCode;
use std::collections::HashMap;
use std::net::SocketAddr;
use support::{Proxy, Puppet, Raw, accepted, echo, nobody, route, upstream, with_listen, ws_request};

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
            let home = proxy.ended().await.report.endpoint.clone().unwrap().to_string().parse().unwrap();
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
    let head = proxy.connect().await.ask(&ws_request("/", "")).await;
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
        tries.push(proxy.ended().await.report.tries);
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
    // Each is another client, which says no word before the end.
    for number in 0..10 {
        let mut client = proxy.connect_from([127, 0, 0, 1 + number]).await;
        assert!(client.ask(&ws_request("/", "")).await.starts_with("HTTP/1.1 101"));
        let report = proxy.running.proxy.tunnels.all();
        if report.iter().any(|session| session.endpoint.address().to_string() == good.to_string()) {
            client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
        }
        client.rest().await;
        drop(client);
        let ended = proxy.ended().await;
        bad_ones += u32::from(ended.report.endpoint.as_ref().unwrap().to_string() == address.to_string());
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

#[tokio::test]
async fn connections_come_from_each_source_address() {
    let server = Puppet::new().await;
    let settings = "source = [\"127.0.0.2\", \"127.0.0.3\", \"::1\"]";
    let text = format!("{}\n{}", route(""), upstream(&[server.address()], settings));
    let mut proxy = Proxy::start(&text).await;
    let ports = |proxy: &Proxy| {
        let snapshot = proxy.running.proxy.snapshot.load();
        let upstream = snapshot.upstream("up").unwrap();
        upstream.ports(&upstream.endpoints()[0]).unwrap()
    };
    let mut clients = Vec::new();
    let mut seen: HashMap<String, u32> = HashMap::new();
    for _ in 0..6 {
        let mut client = proxy.connect().await;
        client.write(ws_request("/", "")).await;
        let (upstream, _) = server.open().await;
        *seen.entry(upstream.stream.peer_addr().unwrap().ip().to_string()).or_default() += 1;
        client.head().await;
        clients.push((client, upstream));
    }
    assert_eq!(seen, HashMap::from([("127.0.0.2".to_owned(), 3), ("127.0.0.3".to_owned(), 3)]));
    assert_eq!(ports(&proxy), Usage { taken: 6, all: 2 * ports_per_source() }, "::1 does not reach it");
    drop(clients);
    for _ in 0..6 {
        proxy.ended().await;
    }
    assert_eq!(ports(&proxy).taken, 0);
}

#[tokio::test]
async fn a_kept_connection_keeps_its_port() {
    let server = Puppet::new().await;
    let proxy = Proxy::before(&[server.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    let mut asked = server.accept().await;
    asked.head().await;
    asked.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    let snapshot = proxy.running.proxy.snapshot.load();
    let upstream = snapshot.upstream("up").unwrap();
    let endpoint = &upstream.endpoints()[0];
    assert_eq!(upstream.ports(endpoint).unwrap().taken, 1);
}

#[tokio::test]
async fn a_source_address_of_another_machine_stops_a_reload() {
    let server = echo().await;
    let mut proxy = Proxy::before(&[server]).await;
    let source = "source = [\"127.0.0.2\", \"192.0.2.1\"]";
    let text = format!("{}\n{}", route(""), upstream(&[server], source));
    let config = Config::parse(&with_listen(&text), "test").unwrap();
    let error = proxy.running.reload(config).await.unwrap_err().to_string();
    assert!(
        error.starts_with("upstream up: source 192.0.2.1: ") && error.contains("no interface"),
        "{error}"
    );
    proxy.open("/").await.echo("still").await;
}
