//! Logins that are bound to their connection (NTLM, Negotiate): they complete, and no other client is served with one.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use http::{Request, StatusCode};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::http2::Http2;
use support::{Proxy, Puppet, Raw, accepting, route, upstream, ws_request};

/// A server that logs in connections, as IIS does: in three steps, of which the second has a challenge.
#[derive(Clone)]
struct Intranet {
    address: SocketAddr,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
    /// The bodies that came, by who sent them.
    posted: Arc<Mutex<HashMap<String, String>>>,
}

impl Intranet {
    async fn new(scheme: &'static str, challenge: &'static str) -> Self {
        let puppet = Puppet::new().await;
        let server = Self { address: puppet.address(), open: Arc::default(), posted: Arc::default() };
        let this = server.clone();
        tokio::spawn(async move {
            loop {
                let raw = puppet.accept().await;
                let this = this.clone();
                this.open.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    this.serve(raw, scheme, challenge).await;
                    this.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    async fn serve(&self, mut raw: Raw, scheme: &str, challenge: &str) {
        let (mut who, mut challenged) = (None, false);
        loop {
            let head = raw.head_or_end().await;
            if head.is_empty() {
                return;
            }
            let of = |name: &str| {
                let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
                line.map(|line| line[name.len()..].trim().to_owned())
            };
            let body = match of("content-length:").map(|length| length.parse().unwrap()) {
                Some(length) => String::from_utf8(raw.bytes(length).await).unwrap(),
                None => String::new(),
            };
            let token = of("authorization:")
                .and_then(|value| value.strip_prefix(scheme).map(|token| token.trim().to_owned()));
            match token.as_deref() {
                Some("one") => {
                    challenged = true;
                    raw.write(refusal(&format!("{scheme} two"))).await;
                    continue;
                }
                Some(name) if challenged => who = Some(name.to_owned()),
                _ => {}
            }
            let Some(who) = &who else {
                raw.write(refusal(challenge)).await;
                continue;
            };
            if head.to_ascii_lowercase().contains("upgrade: websocket") {
                raw.write(accepting(&head, &format!("X-User: {who}\r\n"))).await;
                raw.rest().await;
                return;
            }
            self.posted.lock().unwrap().insert(who.clone(), body);
            raw.write(format!("HTTP/1.1 200 OK\r\nX-User: {who}\r\nContent-Length: 4\r\n\r\nmail")).await;
        }
    }

    /// Waits until so many connections are open.
    async fn is_left_with(&self, connections: usize) {
        let left = async {
            while self.open.load(Ordering::Relaxed) != connections {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(support::PATIENCE, left).await.expect("connections close in time");
    }
}

fn refusal(challenge: &str) -> String {
    format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 2\r\n\r\nno")
}

/// Asks for a page; the status, and the user that the server takes the client for.
async fn page(client: &mut Raw, lines: &str) -> (u16, Option<String>) {
    let head = client.ask(&format!("GET /mail HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).await;
    let answer = read(&head);
    client.bytes(if answer.0 == 200 { 4 } else { 2 }).await;
    answer
}

fn read(head: &str) -> (u16, Option<String>) {
    let user =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("x-user: ").map(str::to_owned));
    (head[9..12].parse().unwrap(), user)
}

async fn log_in(client: &mut Raw, scheme: &str, name: &str) {
    assert_eq!(page(client, "").await.0, 401);
    assert_eq!(page(client, &format!("Authorization: {scheme} one\r\n")).await.0, 401);
    let answer = page(client, &format!("Authorization: {scheme} {name}\r\n")).await;
    assert_eq!(answer, (200, Some(name.to_owned())), "{scheme}");
}

async fn before(server: &Intranet, settings: &str) -> Proxy {
    Proxy::start(&format!("{}\n{}", route(""), upstream(&[server.address], settings))).await
}

#[tokio::test]
async fn a_login_completes_and_is_its_clients_alone() {
    let schemes = [
        ("NTLM", "NTLM"),
        ("nEgotiate", "Basic realm=\"x\", Negotiate"),
        ("Nego2", "Nego2"),
        ("Kerberos", "Kerberos"),
    ];
    for (scheme, challenge) in schemes {
        for settings in ["", "keepalive = \"off\""] {
            let server = Intranet::new(scheme, challenge).await;
            let proxy = before(&server, settings).await;
            let (mut alice, mut bob) = (proxy.connect().await, proxy.connect().await);
            log_in(&mut alice, scheme, "alice").await;
            assert_eq!(page(&mut bob, "").await, (401, None), "{scheme} {settings}");
            log_in(&mut bob, scheme, "bob").await;
            assert_eq!(page(&mut alice, "").await, (200, Some("alice".to_owned())), "{scheme} {settings}");
            assert_eq!(page(&mut bob, "").await, (200, Some("bob".to_owned())), "{scheme} {settings}");
            drop(alice);
            let mut carol = proxy.connect().await;
            assert_eq!(page(&mut carol, "").await, (401, None), "{scheme} {settings}");
            drop((bob, carol));
            server.is_left_with(0).await;
        }
    }
}

#[tokio::test]
async fn what_has_a_body_goes_over_the_same_connection() {
    let server = Intranet::new("NTLM", "NTLM").await;
    let proxy = before(&server, "").await;
    let mut alice = proxy.connect().await;
    log_in(&mut alice, "NTLM", "alice").await;
    let head = alice.ask("POST /mail HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(read(&head), (200, Some("alice".to_owned())));
    assert_eq!(server.posted.lock().unwrap()["alice"], "hello");
}

#[tokio::test]
async fn a_websocket_opens_behind_such_a_login() {
    let server = Intranet::new("NTLM", "NTLM").await;
    let proxy = before(&server, "").await;
    // The handshake itself logs in ...
    let mut alice = proxy.connect().await;
    for (lines, status) in
        [("", 401), ("Authorization: NTLM one\r\n", 401), ("Authorization: NTLM alice\r\n", 101)]
    {
        let head = alice.ask(&ws_request("/ws", lines)).await;
        assert_eq!(read(&head).0, status, "{lines}");
        if status == 401 {
            alice.bytes(2).await;
        }
    }
    // ... or what was asked before it did.
    let mut bob = proxy.connect().await;
    log_in(&mut bob, "NTLM", "bob").await;
    assert_eq!(read(&bob.ask(&ws_request("/ws", "")).await), (101, Some("bob".to_owned())));
    let mut carol = proxy.connect().await;
    assert_eq!(read(&carol.ask(&ws_request("/ws", "")).await).0, 401);
    drop((alice, bob, carol));
    server.is_left_with(0).await;
}

#[tokio::test]
async fn a_client_stays_with_the_endpoint_that_it_logged_in_to() {
    let servers = [Intranet::new("NTLM", "NTLM").await, Intranet::new("NTLM", "NTLM").await];
    let addresses = [servers[0].address, servers[1].address];
    let servers = upstream(&addresses, "balance = \"round_robin\"");
    let proxy = Proxy::start(&format!("{}\n{servers}", route(""))).await;
    let (mut alice, mut bob) = (proxy.connect().await, proxy.connect().await);
    for client in [&mut alice, &mut bob] {
        log_in(client, "NTLM", "somebody").await;
        for _ in 0..3 {
            assert_eq!(page(client, "").await.0, 200);
        }
    }
}

fn get(client: &str, lines: &[(&str, &str)]) -> Request<()> {
    let request = Request::get("http://example.com/mail").header("x-forwarded-for", client);
    let request = lines.iter().fold(request, |request, &(name, value)| request.header(name, value));
    request.body(()).unwrap()
}

/// The status, and the user that the server takes the client for; the body is read.
async fn over_http2(client: &mut Http2, request: Request<()>) -> (StatusCode, Option<String>) {
    let response = client.ask(request).await;
    let (parts, mut body) = response.into_parts();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    (parts.status, parts.headers.get("x-user").map(|user| user.to_str().unwrap().to_owned()))
}

#[tokio::test]
async fn over_http2_a_login_is_the_connections() {
    let server = Intranet::new("NTLM", "NTLM").await;
    let proxy = Proxy::start(&format!(
        "protocols = [\"h1\", \"h2\"]\n{}\n{}",
        route(""),
        upstream(&[server.address], "")
    ))
    .await;
    let mut alice = Http2::over(proxy.connect().await.stream).await;
    let mut bob = Http2::over(proxy.connect().await.stream).await;
    let step = |token: &'static str| get("192.0.2.1", &[("authorization", token)]);
    assert_eq!(over_http2(&mut alice, step("NTLM one")).await.0, 401);
    assert_eq!(over_http2(&mut alice, step("NTLM alice")).await, (StatusCode::OK, Some("alice".to_owned())));
    assert_eq!(over_http2(&mut bob, get("192.0.2.1", &[])).await.0, 401);
    assert_eq!(over_http2(&mut alice, get("192.0.2.1", &[])).await.1, Some("alice".to_owned()));
    let (response, _stream) = alice.connect("/ws").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-user"], "alice");
}

/// People behind one address, or with another one, over the same connection of a proxy in front.
#[tokio::test]
async fn a_proxy_in_front_speaks_for_many() {
    let server = Intranet::new("NTLM", "NTLM").await;
    let proxy = Proxy::start(&format!(
        "protocols = [\"h1\", \"h2\"]\n{}\n{}\n[real_ip]\ntrusted = [\"127.0.0.0/8\"]",
        route(""),
        upstream(&[server.address], "")
    ))
    .await;
    let mut front = Http2::over(proxy.connect().await.stream).await;
    let step = |token: &'static str| get("192.0.2.1", &[("authorization", token)]);
    assert_eq!(over_http2(&mut front, step("NTLM one")).await.0, 401);
    let bob = get("192.0.2.2", &[("authorization", "NTLM bob")]);
    assert_eq!(over_http2(&mut front, bob).await.0, 401, "it was no challenge of his");
    assert_eq!(over_http2(&mut front, step("NTLM alice")).await, (StatusCode::OK, Some("alice".to_owned())));
    for client in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(
            over_http2(&mut front, get(client, &[])).await,
            (StatusCode::UNAUTHORIZED, None),
            "{client}"
        );
    }
    // The same over HTTP/1.1.
    let mut front = proxy.connect().await;
    let lines = |token: &str| format!("X-Forwarded-For: 192.0.2.1\r\nAuthorization: {token}\r\n");
    assert_eq!(page(&mut front, &lines("NTLM one")).await.0, 401);
    assert_eq!(page(&mut front, &lines("NTLM alice")).await, (200, Some("alice".to_owned())));
    for client in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(
            page(&mut front, &format!("X-Forwarded-For: {client}\r\n")).await,
            (401, None),
            "{client}"
        );
    }
}

#[tokio::test]
async fn what_refused_to_become_a_tunnel_is_used_no_more() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    let upgrades = [
        ws_request("/", ""),
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n".to_owned(),
    ];
    for upgrade in upgrades {
        let mut client = proxy.connect().await;
        client.write(&upgrade).await;
        let mut first = puppet.accept().await;
        first.head().await;
        first.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 403"));
        assert_eq!(first.rest().await, b"", "it is closed");
        client.write("GET /page HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut second = puppet.accept().await;
        second.head().await;
        second.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        assert_eq!([proxy.ended().await.report.status, proxy.ended().await.report.status], [403, 200]);
    }
}
