//! Who is charged with what went wrong: an endpoint for what no client can cause, and for the rest only where several
//! clients met it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::health::Availability;
use holdline::testing::outcome::Cause;
use holdline::testing::telemetry::metrics::Format;
use holdline::testing::ws::frame::OpCode;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::http2::Http2;
use support::{Proxy, Puppet, Raw, accepted, nobody, route, upstream, ws_request};

/// A server that drops whoever asks for a path with `destroy` in it, or everybody, as it is told.
#[derive(Clone)]
struct App {
    address: SocketAddr,
    /// Requests that it dropped.
    dropped: Arc<AtomicUsize>,
}

impl App {
    async fn new() -> Self {
        Self::that_drops("destroy").await
    }

    async fn that_drops(word: &'static str) -> Self {
        let puppet = Puppet::new().await;
        let app = Self { address: puppet.address(), dropped: Arc::default() };
        let dropped = Arc::clone(&app.dropped);
        tokio::spawn(async move {
            loop {
                let mut raw = puppet.accept().await;
                let dropped = Arc::clone(&dropped);
                tokio::spawn(async move {
                    loop {
                        let head = raw.head_or_end().await;
                        if head.contains(word) {
                            dropped.fetch_add(1, Ordering::Relaxed);
                        }
                        if head.is_empty() || head.contains(word) {
                            return;
                        }
                        let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned();
                        raw.write(if head.contains("websocket") { accepted("") } else { plain }).await;
                    }
                });
            }
        });
        app
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What a client asks for: a WebSocket, or a page.
const KINDS: [&str; 2] = ["websocket", "page"];

fn request(kind: &str, target: &str) -> String {
    match kind {
        "websocket" => ws_request(target, ""),
        _ => format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n"),
    }
}

/// A client whose address ends so asks for something; the head of its answer.
async fn ask(proxy: &Proxy, client: u8, request: &str) -> (String, Raw) {
    let mut raw = proxy.connect_from([127, 0, 0, client]).await;
    let head = raw.ask(request).await;
    (head, raw)
}

fn availabilities(proxy: &Proxy) -> Vec<Availability> {
    let snapshot = proxy.running.proxy.snapshot.load();
    let endpoints = snapshot.upstream("up").unwrap().endpoints();
    endpoints.iter().map(|endpoint| endpoint.availability()).collect()
}

fn out(proxy: &Proxy) -> usize {
    availabilities(proxy).iter().filter(|&&availability| availability != Availability::Up).count()
}

fn addresses(apps: &[App]) -> Vec<SocketAddr> {
    apps.iter().map(|app| app.address).collect()
}

#[tokio::test]
async fn what_one_client_broke_is_tried_on_one_other_and_charged_to_nobody() {
    for kind in KINDS {
        let apps = [App::new().await, App::new().await, App::new().await];
        let [one, two, backup] = apps.clone().map(|app| app.address);
        let servers = format!(
            "[upstream.up]\nservers = [\"{one}\", \"{two}\", {{ address = \"{backup}\", backup = true }}]\nfail_timeout = \"1h\""
        );
        let mut proxy = Proxy::start(&format!("{}\n{servers}", route(""))).await;
        for round in 1..=3 {
            let (head, _client) = ask(&proxy, 1, &request(kind, "/destroy")).await;
            assert!(head.starts_with("HTTP/1.1 502"), "{kind}: {head}");
            assert_eq!(proxy.ended().await.report.tries, 2);
            assert_eq!(
                apps.clone().map(|app| app.dropped()),
                [round, round, 0],
                "{kind}: the backup is spared"
            );
        }
        // Nor do several clients change that: a request that breaks everywhere is at fault.
        drop(ask(&proxy, 2, &request(kind, "/destroy?x=2")).await);
        assert_eq!(out(&proxy), 0, "{kind}");
    }
}

#[tokio::test]
async fn over_http2_it_is_the_same() {
    let apps = [App::new().await, App::new().await, App::new().await];
    let settings = "balance = \"round_robin\"\nfail_timeout = \"1h\"";
    let listen = "protocols = [\"h1\", \"h2\"]";
    let rest = format!("{listen}\n{}\n{}", route(""), upstream(&addresses(&apps), settings));
    let proxy = Proxy::start(&rest).await;
    let mut client = Http2::over(proxy.connect().await.stream).await;
    for round in 1..=3 {
        assert_eq!(client.connect("/destroy").await.0.status(), 502);
        let asked: usize = apps.iter().map(App::dropped).sum();
        assert_eq!(asked, 2 * round, "two of three are asked");
    }
    assert_eq!(out(&proxy), 0);
}

#[tokio::test]
async fn the_load_stays_spread_while_one_client_breaks_what_it_asks_for() {
    for retry in ["", "retry = \"off\""] {
        let apps = [App::new().await, App::new().await, App::new().await, App::new().await, App::new().await];
        let settings = format!("{retry}\nfail_timeout = \"1h\"");
        let proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&addresses(&apps), &settings))).await;
        let mut open = Vec::new();
        for number in 0..30 {
            let target = format!("/destroy?n={number}");
            assert!(ask(&proxy, 1, &ws_request(&target, "")).await.0.starts_with("HTTP/1.1 502"));
            open.push(proxy.open("/good").await);
        }
        let snapshot = proxy.running.proxy.snapshot.load();
        let active: Vec<u32> =
            snapshot.upstream("up").unwrap().endpoints().iter().map(|endpoint| endpoint.active()).collect();
        assert_eq!(active, [6; 5], "{retry}");
        assert_eq!(out(&proxy), 0, "{retry}");
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_several_clients_is_taken_out() {
    for kind in KINDS {
        let (broken, good) = (App::that_drops("HTTP").await, App::new().await);
        let settings = "balance = \"round_robin\"\nfail_timeout = \"1h\"";
        let servers = upstream(&[broken.address, good.address], settings);
        let proxy = Proxy::start(&format!("{}\n{servers}", route(""))).await;
        for client in [1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4] {
            let (head, _) = ask(&proxy, client, &request(kind, "/")).await;
            assert!(!head.starts_with("HTTP/1.1 502"), "{kind}: the other one answers");
        }
        assert_eq!(availabilities(&proxy), [Availability::Out, Availability::Up], "{kind}");
        let before = broken.dropped();
        drop(ask(&proxy, 5, &request(kind, "/")).await);
        assert_eq!(broken.dropped(), before, "{kind}: it is asked no more");
    }
}

#[tokio::test]
async fn no_more_than_max_ejected_are_out_by_what_clients_met() {
    for (max_ejected, most) in [("", 2), ("max_ejected = \"25%\"", 1), ("max_ejected = \"0%\"", 0)] {
        let mut apps = Vec::new();
        for _ in 0..4 {
            apps.push(App::that_drops("HTTP").await);
        }
        let settings =
            format!("retry = \"off\"\nbalance = \"round_robin\"\nfail_timeout = \"1h\"\n{max_ejected}");
        let proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&addresses(&apps), &settings))).await;
        for client in 1..40 {
            drop(ask(&proxy, client, &request(KINDS[usize::from(client % 2)], "/")).await);
        }
        assert_eq!(out(&proxy), most, "{max_ejected}");
    }
}

#[tokio::test]
async fn one_client_with_many_targets_takes_out_one_at_most() {
    let mut apps = Vec::new();
    for _ in 0..6 {
        apps.push(App::new().await);
    }
    let settings = "retry = \"off\"\nbalance = \"round_robin\"\nfail_timeout = \"1h\"";
    let proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&addresses(&apps), settings))).await;
    for number in 0..60 {
        drop(ask(&proxy, 1, &ws_request(&format!("/destroy/{number}"), "")).await);
    }
    assert_eq!(out(&proxy), 1);
}

#[tokio::test]
async fn a_single_endpoint_stays_in_use_whatever_clients_meet() {
    let app = App::new().await;
    let settings = "fail_timeout = \"1h\"";
    let proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&[app.address], settings))).await;
    for client in 1..6 {
        assert!(ask(&proxy, client, &ws_request("/destroy", "")).await.0.starts_with("HTTP/1.1 502"));
    }
    assert_eq!(out(&proxy), 0);
}

#[tokio::test]
async fn what_no_client_can_cause_counts_at_once_and_without_a_limit() {
    let lying = Puppet::new().await;
    let address = lying.address();
    tokio::spawn(async move {
        loop {
            let mut raw = lying.accept().await;
            raw.head().await;
            raw.write(accepted("").replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="))
                .await;
        }
    });
    let settings = "retry = \"off\"\nbalance = \"round_robin\"\nfail_timeout = \"1h\"";
    let servers = upstream(&[nobody().await, nobody().await, address], settings);
    let proxy = Proxy::start(&format!("{}\n{servers}", route(""))).await;
    for _ in 0..3 {
        assert!(ask(&proxy, 1, &ws_request("/", "")).await.0.starts_with("HTTP/1.1 502"));
    }
    assert_eq!(availabilities(&proxy), [Availability::Out; 3]);
}

#[tokio::test]
async fn what_the_handshake_decides_is_a_bad_gateway_and_no_fault_of_the_server() {
    let odd_key = ws_request("/", "").replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=");
    let cases = [
        ("Sec-WebSocket-Protocol: xmpp\r\n", ws_request("/", ""), "a subprotocol that was not offered"),
        (
            "Sec-WebSocket-Protocol: a, b\r\n",
            ws_request("/", "Sec-WebSocket-Protocol: a, b\r\n"),
            "more than one subprotocol",
        ),
        (
            "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n",
            ws_request("/", "Sec-WebSocket-Protocol: a, b\r\n"),
            "more than one subprotocol",
        ),
        (
            "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            ws_request("/", ""),
            "an extension that was not offered",
        ),
        ("", odd_key, "not 16 bytes"),
    ];
    for (lines, handshake, reason) in cases {
        for retry in ["", "retry = \"off\""] {
            let puppets = [Puppet::new().await, Puppet::new().await];
            let servers = puppets.each_ref().map(Puppet::address);
            for puppet in puppets {
                tokio::spawn(async move {
                    loop {
                        let mut raw = puppet.accept().await;
                        raw.head().await;
                        raw.write(accepted(lines)).await;
                    }
                });
            }
            let settings = format!("{retry}\nfail_timeout = \"1h\"");
            let mut proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&servers, &settings))).await;
            for client in 1..4 {
                assert!(ask(&proxy, client, &handshake).await.0.starts_with("HTTP/1.1 502"), "{reason}");
                let ended = proxy.ended().await;
                assert_eq!(
                    (ended.report.tries, ended.outcome.ending.cause),
                    (1, Cause::BadAnswer),
                    "{reason}"
                );
                assert!(ended.outcome.ending.reason.contains(reason), "{}", ended.outcome.ending.reason);
            }
            assert_eq!(out(&proxy), 0, "{reason}");
        }
    }
}

/// Without traffic nobody tries it: it is to be tried, and not known to fail.
#[tokio::test]
async fn an_endpoint_whose_time_out_is_over_is_on_trial() {
    let settings = "fail_timeout = \"20ms\"";
    let proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&[nobody().await], settings))).await;
    assert!(ask(&proxy, 1, &ws_request("/", "")).await.0.starts_with("HTTP/1.1 502"));
    let is_over = async {
        while availabilities(&proxy) != [Availability::Trial] {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, is_over).await.expect("its time ends by itself");
    let text = proxy.running.proxy.metrics_text(Format::Prometheus);
    let standings: Vec<_> =
        text.lines().filter(|line| line.starts_with("holdline_endpoint_standing{")).collect();
    assert!(
        standings.iter().any(|line| line.contains("\"trial\"") && line.ends_with(" 1.0")),
        "{standings:?}"
    );
    assert!(
        standings.iter().any(|line| line.contains("\"failed\"") && line.ends_with(" 0.0")),
        "{standings:?}"
    );
}

#[tokio::test]
async fn a_post_that_wants_another_protocol_is_sent_once() {
    let apps = [App::new().await, App::new().await];
    let proxy = Proxy::before(&addresses(&apps)).await;
    let post = "POST /destroy HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n";
    assert!(ask(&proxy, 1, post).await.0.starts_with("HTTP/1.1 502"));
    assert_eq!(apps.iter().map(App::dropped).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_slow_answer_is_charged_where_several_clients_waited() {
    let (slow, good) = (Puppet::new().await, App::new().await);
    let address = slow.address();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(slow.accept().await);
        }
    });
    let settings = "balance = \"round_robin\"\nfail_timeout = \"1h\"";
    let servers = upstream(&[address, good.address], settings);
    let proxy = Proxy::start(&format!("{}\n{servers}", route("response_timeout = \"50ms\""))).await;
    for _ in 0..4 {
        assert!(ask(&proxy, 1, &ws_request("/", "")).await.0.starts_with("HTTP/1.1 101"));
    }
    assert_eq!(out(&proxy), 0);
    for _ in 0..2 {
        assert!(ask(&proxy, 2, &ws_request("/", "")).await.0.starts_with("HTTP/1.1 101"));
    }
    assert_eq!(availabilities(&proxy), [Availability::Out, Availability::Up]);
}

/// Sessions that end with a goodbye of the application's own, and a FIN.
#[tokio::test]
async fn servers_that_close_after_a_goodbye_stay_in_use() {
    let puppets = [Puppet::new().await, Puppet::new().await];
    let servers = puppets.each_ref().map(Puppet::address);
    for puppet in puppets {
        tokio::spawn(async move {
            loop {
                let (mut raw, _) = puppet.open().await;
                tokio::spawn(async move { assert_eq!(raw.frame().await.1, b"bye") });
            }
        });
    }
    let settings = "balance = \"round_robin\"\nearly_end = { within = \"1h\", max = 1 }";
    let mut proxy = Proxy::start(&format!("{}\n{}", route(""), upstream(&servers, settings))).await;
    for client in 1..12 {
        let (_, mut raw) = ask(&proxy, client, &ws_request("/", "")).await;
        raw.send(OpCode::Text, b"bye").await;
        raw.rest().await;
        drop(raw);
        assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Eof);
    }
    assert_eq!(availabilities(&proxy), [Availability::Up; 2]);
    let load: HashMap<_, _> = proxy.running.proxy.tunnels.totals().into_iter().collect();
    assert_eq!(load["all"].opened, 11);
}
