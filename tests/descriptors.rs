//! The limit of open files: one budget for clients and upstreams, and a reserve for the operator. Each test runs the
//! proxy in a process of its own, which may open few files.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use http::{Request, StatusCode};
use serde_json::Value;
use std::time::Duration;
use support::http2::Http2;
use support::operator::Operator;
use support::process::Process;
use support::{PATIENCE, Puppet, Raw, echo, nobody, upstream, web, ws_request};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// A proxy that may open so many files.
struct Small {
    process: Process,
    operator: Operator,
}

impl Small {
    fn start(files: u32, rest: &str) -> Self {
        let text = format!(
            "[log]\naccess = \"off\"\n[admin]\naddress = \"127.0.0.1:0\"\n[process]\nworkers = 1\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\nprotocols = [\"h1\", \"h2\"]\n{rest}"
        );
        let process = Process::start(&text, Some(files));
        let operator = Operator::at(process.admin());
        Self { process, operator }
    }

    async fn connect(&self) -> Raw {
        self.process.connect().await
    }

    fn log(&self) -> String {
        self.process.log.lock().unwrap().clone()
    }

    /// Waits until the log says so.
    async fn says(&self, text: &str) {
        let said = async {
            while !self.log().contains(text) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("{text:?} in {}", self.log()));
    }

    /// It never wanted more than it may have.
    fn was_content(&self) {
        let log = self.log();
        assert!(!log.contains("cannot accept") && !log.contains("Too many open files"), "{log}");
    }

    /// What its endpoints were charged with.
    async fn failures(&self) -> Vec<u64> {
        let status = self.operator.value("/api/status").await;
        let upstreams = status["upstreams"].as_array().unwrap().clone();
        let endpoints = upstreams.iter().flat_map(|upstream| upstream["endpoints"].as_array().unwrap());
        endpoints.map(|endpoint: &Value| endpoint["failures"].as_u64().unwrap()).collect()
    }
}

const ROUTE: &str = "[[route]]\npath = \"/\"\nupstream = \"up\"\nconnect_timeout = \"1s\"\n";

#[tokio::test]
async fn a_refusal_by_close_keeps_its_place_until_its_client_has_gone() {
    let rest = format!("{ROUTE}reject_with = \"close\"\n{}", upstream(&[nobody().await], ""));
    // There is room for 14.
    let proxy = Small::start(40, &rest);
    let mut refused = Vec::new();
    for _ in 0..14 {
        let mut client = proxy.connect().await;
        assert!(client.ask(&ws_request("/", "")).await.starts_with("HTTP/1.1 101"));
        assert_eq!(client.close().await.code.0, 1014);
        refused.push(client);
    }
    let mut next = proxy.connect().await;
    next.write(ws_request("/", "")).await;
    proxy.says("accepting pauses").await;
    refused.pop();
    assert!(next.head().await.starts_with("HTTP/1.1 101"), "its turn comes when one leaves");
    proxy.was_content();
}

#[tokio::test]
async fn idle_connections_to_upstreams_make_room_for_those_that_are_wanted() {
    let mut servers = Vec::new();
    for _ in 0..8 {
        servers.push(web().await);
    }
    // There is room for 190 clients, and a connection to an upstream for each.
    let proxy = Small::start(512, &format!("{ROUTE}{}", upstream(&servers, "")));
    let mut clients = Vec::new();
    for _ in 0..190 {
        clients.push(proxy.connect().await);
    }
    for request in
        ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"]
    {
        let mut asked = JoinSet::new();
        for mut client in clients.drain(..) {
            asked.spawn(async move { (client.ask(request).await, client) });
        }
        for (head, client) in asked.join_all().await {
            assert!(head.starts_with("HTTP/1.1 204"), "{head}");
            clients.push(client);
        }
    }
    proxy.was_content();
    assert_eq!(proxy.failures().await, [0; 8]);
}

#[tokio::test]
async fn streams_of_a_few_leave_room_for_others() {
    let (puppet, echo) = (Puppet::new().await, echo().await);
    let poll = format!(
        "[[route]]\npath = \"/poll\"\nupstream = \"poll\"\nconnect_timeout = \"1s\"\n\
         [upstream.poll]\nservers = [\"{}\"]\n",
        puppet.address()
    );
    let proxy = Small::start(128, &format!("{ROUTE}{poll}{}", upstream(&[echo], "")));
    let mut polls = JoinSet::new();
    let mut greedy = Vec::new();
    for _ in 0..2 {
        let mut client = Http2::over(TcpStream::connect(proxy.process.address).await.unwrap()).await;
        for _ in 0..60 {
            let request = Request::get("http://example.com/poll").body(()).unwrap();
            let (answer, _) = client.requests.send_request(request, true).unwrap();
            polls.spawn(async move { answer.await.map(|answer| answer.status()) });
        }
        greedy.push(client);
    }
    // Of 96, half are for streams beside the first of each connection.
    let mut held = Vec::new();
    for _ in 0..48 {
        held.push(puppet.accept().await);
    }
    for _ in 0..20 {
        let mut client = proxy.connect().await;
        assert!(client.ask(&ws_request("/", "")).await.starts_with("HTTP/1.1 101"));
        client.echo("served").await;
    }
    assert_eq!(proxy.operator.get("/readyz").await.status, 200);
    // Those that found no room within `connect_timeout` are told to come again.
    let refused = timeout(PATIENCE, polls.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(refused.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    proxy.was_content();
    assert_eq!(proxy.failures().await, [0, 0]);
}

#[tokio::test]
async fn whoever_is_silent_at_the_admin_endpoint_gives_way_to_a_health_check() {
    let proxy = Small::start(512, &format!("{ROUTE}{}", upstream(&[echo().await], "")));
    let support::operator::Place::Tcp(address) = proxy.operator.place else { unreachable!() };
    let mut viewer = proxy.operator.events("/api/events").await;
    let mut silent = Vec::new();
    for _ in 0..130 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(proxy.operator.get("/healthz").await.status, 200);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    assert!(viewer.next().await.is_some(), "who has asked stays");
    proxy.was_content();
}
