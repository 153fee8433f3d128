//! The limits on connections and handshakes: which clients are refused, with what status, and for how long.

mod support;

use holdline::testing::outcome::Cause;
use std::net::SocketAddr;
use support::{Proxy, Raw, echo, route, upstream, ws_request};

fn config(process: &str, settings: &str, server: SocketAddr) -> String {
    format!("[process]\n{process}\n{}\n{}", route(settings), upstream(&[server], ""))
}

/// Asks for a WebSocket; the head of the answer.
async fn ask(proxy: &Proxy) -> (Raw, String) {
    let mut client = proxy.connect().await;
    let head = client.ask(&ws_request("/", "")).await;
    (client, head)
}

#[tokio::test]
async fn each_limit_refuses_in_its_way_and_ends_with_its_tunnels() {
    let server = echo().await;
    let cases = [
        ("max_connections = 2", "", "503", "over the limit max_connections"),
        ("", "limits = { connections = 2 }", "503", "over the limit connections"),
        ("", "limits = { connections_per_ip = 2 }", "429", "over the limit connections_per_ip"),
    ];
    for (process, settings, status, reason) in cases {
        let mut proxy = Proxy::start(&config(process, settings, server)).await;
        let first = proxy.open("/").await;
        let _second = proxy.open("/").await;
        let (_, head) = ask(&proxy).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert!(head.to_ascii_lowercase().contains("retry-after: 10\r\n"), "{head}");
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.cause, &*ended.outcome.ending.reason, ended.report.tries),
            (Cause::Limit, reason, 0)
        );
        drop(first);
        proxy.ended().await;
        // Its place is free when its end is written.
        proxy.open("/").await;
    }
}

#[tokio::test]
async fn plain_requests_are_not_counted() {
    let settings = "limits = { connections = 1, openings_per_ip = { rate = \"1/h\" } }";
    let rest = format!(
        "{}\n[[route]]\npath_exact = \"/here\"\nrespond = {{ status = 200 }}\n{settings}\n{}",
        route(settings),
        upstream(&[echo().await], "")
    );
    let proxy = Proxy::start(&rest).await;
    let _tunnel = proxy.open("/").await;
    for _ in 0..3 {
        let mut client = proxy.connect().await;
        assert!(client.ask("GET /here HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn handshakes_are_metered_and_told_when_to_come_again() {
    let settings = "limits = { openings_per_ip = { rate = \"1/h\", burst = 2 } }";
    let server = echo().await;
    let mut proxy = Proxy::start(&config("", settings, server)).await;
    drop((proxy.open("/").await, proxy.open("/").await));
    for _ in 0..2 {
        proxy.ended().await;
    }
    let (_, head) = ask(&proxy).await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    let wait =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("retry-after: ")?.parse().ok());
    let wait: u64 = wait.expect("a number of seconds");
    assert!((3590..=3600).contains(&wait), "{wait}");
    assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Limit);

    // A reload changes the rate, and forgets nothing: what was used up counts.
    proxy.reload(&config("", "limits = { openings_per_ip = { rate = \"2/h\", burst = 2 } }", server)).await;
    assert!(ask(&proxy).await.1.starts_with("HTTP/1.1 429"));
    proxy.reload(&config("", "", server)).await;
    proxy.open("/").await;
}

#[tokio::test]
async fn counts_outlive_a_reload() {
    let server = echo().await;
    let mut proxy = Proxy::start(&config("", "", server)).await;
    let tunnels = [proxy.open("/").await, proxy.open("/").await];
    proxy.reload(&config("", "limits = { connections = 2 }", server)).await;
    assert!(ask(&proxy).await.1.starts_with("HTTP/1.1 503"), "those that are open count");
    for mut tunnel in tunnels {
        tunnel.echo("and stay").await;
    }
}

#[tokio::test]
async fn a_page_is_told_by_a_close() {
    let settings = "reject_with = \"close\"\nlimits = { connections_per_ip = 1 }";
    let proxy = Proxy::start(&config("", settings, echo().await)).await;
    let _first = proxy.open("/").await;
    let close = proxy.open("/").await.close().await;
    assert_eq!((close.code.0, &*close.text), (1013, "over the limit connections_per_ip"));
}

#[tokio::test]
async fn a_handshake_that_gets_another_answer_counts_while_that_lasts() {
    let puppet = support::Puppet::new().await;
    let settings = "limits = { connections_per_ip = 1 }";
    let mut proxy = Proxy::start(&config("", settings, puppet.address())).await;
    let mut first = proxy.connect().await;
    first.write(ws_request("/", "")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
    assert!(first.head().await.starts_with("HTTP/1.1 200"));
    assert!(ask(&proxy).await.1.starts_with("HTTP/1.1 429"));
    proxy.ended().await;
    server.write("k").await;
    assert_eq!(first.bytes(2).await, b"ok");
    // Its place is free when its end is written.
    proxy.ended().await;
    let mut next = proxy.connect().await;
    next.write(ws_request("/", "")).await;
    puppet.open().await;
    assert!(next.head().await.starts_with("HTTP/1.1 101"));
}
