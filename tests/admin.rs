//! The operator's window: what is told, who may ask, what is ordered.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::app::signal::Signals;
use holdline::app::{Ended, Startup};
use holdline::config::Config;
use holdline::outcome::{Cause, EndedBy};
use holdline::ws::frame::OpCode;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::operator::Operator;
use support::{Proxy, Puppet, Raw, accepted, echo, opening, route, upstream, with_listen};
use tokio::net::TcpStream;

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A proxy with an admin endpoint, and its operator. `rest` is the configuration but for what each has.
async fn start(rest: &str) -> (Proxy, Operator) {
    let proxy = Proxy::start(&format!("{ADMIN}{rest}")).await;
    let operator = Operator::at(proxy.running.admin_addr().unwrap());
    (proxy, operator)
}

/// The same before one upstream with these servers.
async fn before(servers: &[SocketAddr]) -> (Proxy, Operator) {
    start(&format!("{}\n{}", route(""), upstream(servers, ""))).await
}

#[tokio::test]
async fn it_is_ready_until_the_end_begins_and_answers_until_the_end() {
    let puppet = Puppet::new().await;
    let (proxy, operator) = before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write(opening("/", "")).await;
    let (server, _) = puppet.open().await;
    client.head().await;
    let ready = operator.get("/readyz").await;
    assert_eq!((ready.status, &*ready.body), (200, "ready\n"));
    let mut events = operator.events("/api/events").await;
    let ending = tokio::spawn(proxy.running.shut_down(pending()));
    assert_eq!(client.close().await.code.0, 1001);
    let ready = operator.get("/readyz").await;
    assert_eq!((ready.status, &*ready.body), (503, "draining\n"));
    assert_eq!(operator.get("/healthz").await.status, 200, "it lives");
    let status = operator.value("/api/status").await;
    assert_eq!((&status["state"], &status["connections"]["tunnels"]), (&json!("draining"), &json!(1)));
    let reload = operator.post("/api/reload", "{}").await;
    assert_eq!(reload.status, 503, "{}", reload.error());
    assert!(TcpStream::connect(proxy.address).await.is_err(), "clients are not taken any more");
    drop((client, server));
    assert_eq!(ending.await.unwrap(), Ended::InTime);
    while events.next().await.is_some() {}
    let support::operator::Place::Tcp(address) = operator.place else { panic!("on TCP") };
    assert!(TcpStream::connect(address).await.is_err(), "nothing remains");
}

#[tokio::test]
async fn status_tells_of_the_whole() {
    let servers = [echo().await, echo().await];
    let settings =
        "max_fails = 3\n[[route]]\nname = \"fixed\"\npath = \"/fixed\"\nrespond = { status = 204 }";
    let (proxy, operator) = start(&format!("{}\n{}", route(""), upstream(&servers, settings))).await;
    let _clients = [proxy.open("/").await, proxy.open("/").await, proxy.open("/").await];
    let status = operator.value("/api/status").await;
    assert_eq!(
        (&status["state"], &status["version"]),
        (&json!("serving"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(
        (&status["connections"]["tunnels"], &status["connections"]["clients"]),
        (&json!(3), &json!(3))
    );
    assert!(status["connections"]["room"].as_u64().unwrap() >= 3);
    let listener = &status["listeners"][0];
    assert_eq!((&listener["address"], &listener["tls"]), (&json!("127.0.0.1:0"), &json!(false)));
    assert_eq!(listener["local"], json!(proxy.address.to_string()));
    assert_eq!(listener["protocols"], json!(["h1"]));
    let up = &status["upstreams"][0];
    assert_eq!((&up["name"], &up["balance"]), (&json!("up"), &json!("least_conn")));
    let active: u64 =
        up["endpoints"].as_array().unwrap().iter().map(|one| one["active"].as_u64().unwrap()).sum();
    assert_eq!(active, 3);
    let first = json!({
        "address": servers[0].to_string(), "server": servers[0].to_string(), "state": "up", "by": "configuration",
        "standing": "available", "active": up["endpoints"][0]["active"], "weight": 1, "share": 1.0, "backup": false,
        "failures": 0, "max_conns": null,
    });
    assert_eq!(up["endpoints"][0], first);
    assert_eq!(
        status["routes"],
        json!([
            { "name": "all", "upstream": "up", "tunnels": 3, "opened": 3, "ended": 0 },
            { "name": "fixed", "upstream": null, "tunnels": 0, "opened": 0, "ended": 0 },
        ])
    );
    let reloads = &status["reloads"];
    assert_eq!((&reloads["succeeded"], &reloads["failed"]), (&json!(0), &json!(0)));
    assert!(reloads["last_error"].is_null(), "{reloads}");
}

#[tokio::test]
async fn what_is_not_there_or_not_so_is_explained() {
    let (_proxy, operator) = before(&[echo().await]).await;
    for (method, path, body, status) in [
        ("GET", "/nothing", "", 404),
        ("GET", "/api/nothing/at/all", "", 404),
        ("GET", "/api/connections/0000000000000000", "", 404),
        ("GET", "/api/connections/no-id", "", 404),
        ("GET", "/api/connections/0000000000000000/frames", "", 404),
        ("POST", "/api/connections/0000000000000000/close", "{}", 404),
        ("GET", "/api/connections?colour=blue", "", 400),
        ("GET", "/api/connections?limit=501", "", 400),
        ("GET", "/api/connections?sort=name", "", 400),
        ("GET", "/api/connections?client=nobody", "", 400),
        ("GET", "/api/connections?min_age=-1", "", 400),
        ("GET", "/api/reload", "", 405),
        ("DELETE", "/api/status", "", 405),
        ("OPTIONS", "/api/reload", "", 405),
        ("POST", "/api/upstreams/none/endpoints/a:1/drain", "{}", 404),
        ("POST", "/api/upstreams/up/endpoints/a:1/drain", "{}", 404),
        ("POST", "/api/upstreams/up/endpoints/a:1/drain", "{\"spread\":\"3 apples\"}", 422),
        ("POST", "/api/upstreams/up/endpoints/a:1/drain", "{\"speed\":\"3s\"}", 400),
        ("POST", "/api/upstreams/up/endpoints/a:1/drain", "[", 400),
        ("POST", "/api/reload", &" ".repeat(20_000), 413),
    ] {
        let reply = operator.ask(method, path, "Content-Type: application/json\r\n", body).await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.body);
        reply.error();
    }
    let wrong = operator.get("/api/reload").await;
    assert!(wrong.head.contains("allow: post"), "{}", wrong.head);
    let known = operator.post("/api/upstreams/none/endpoints/a:1/drain", "{}").await.error();
    assert_eq!(known, "no upstream \"none\"; there is up");
    let head = operator.ask("HEAD", "/api/status", "", "").await;
    assert_eq!((head.status, &*head.body), (200, ""));
}

#[tokio::test]
async fn every_answer_keeps_browsers_from_making_something_else_of_it() {
    let (_proxy, operator) = before(&[echo().await]).await;
    for path in
        ["/", "/page.js", "/page.css", "/uplot.js", "/uplot.css", "/api/status", "/healthz", "/nothing"]
    {
        let reply = operator.get(path).await;
        for line in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
        ] {
            assert!(reply.head.contains(line), "{path}: {}", reply.head);
        }
    }
    let page = operator.get("/").await;
    assert!(page.head.contains("text/html") && page.head.contains("no-cache"), "{}", page.head);
}

#[tokio::test]
async fn with_a_token_only_health_and_the_page_are_open() {
    let config = format!("{}\n{}", route(""), upstream(&[echo().await], ""));
    let token = "0123456789abcdef0123456789abcdef";
    let mut proxy = Proxy::start(&format!("{ADMIN}token = \"{token}\"\n{config}")).await;
    let nobody = Operator::at(proxy.running.admin_addr().unwrap()).with("Host: anything.example\r\n");
    let operator = nobody.with(&format!("Host: anything.example\r\nAuthorization: Bearer {token}\r\n"));
    for path in ["/healthz", "/readyz", "/", "/page.js"] {
        assert_eq!(nobody.get(path).await.status, 200, "{path}");
    }
    for path in
        ["/metrics", "/api/status", "/api/connections", "/api/events", "/api/openapi.json", "/api/nothing"]
    {
        let refused = nobody.get(path).await;
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.head.contains("www-authenticate: bearer"), "{}", refused.head);
        refused.error();
    }
    assert_eq!(nobody.post("/api/reload", "{}").await.status, 401);
    assert_eq!(operator.get("/api/status").await.status, 200);
    let address = proxy.running.admin_addr().unwrap();
    proxy.reload(&format!("{ADMIN}token = \"another-one-of-sixteen\"\n{config}")).await;
    assert_eq!(proxy.running.admin_addr(), Some(address), "the same socket goes on");
    assert_eq!(operator.get("/api/status").await.status, 401, "a token that was changed");
}

#[tokio::test]
async fn pages_of_other_sites_get_nothing() {
    let (_proxy, operator) = before(&[echo().await]).await;
    let rebound = operator.with("Host: evil.example\r\n");
    assert_eq!(rebound.get("/api/status").await.status, 403);
    assert_eq!(rebound.get("/").await.status, 403);
    assert_eq!(rebound.get("/healthz").await.status, 403);
    let foreign = operator.with("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n");
    assert_eq!(foreign.get("/api/events").await.status, 403);
    let followed =
        operator.with("Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n");
    assert_eq!(followed.get("/").await.status, 200, "a link to the page");
    assert_eq!(followed.get("/api/status").await.status, 403);
    let path = "/api/upstreams/up/endpoints/a:1/drain";
    let form = operator.ask("POST", path, "Content-Type: text/plain\r\n", "{}").await;
    assert_eq!((form.status, form.error().contains("application/json")), (403, true));
    let other = operator.with("Host: localhost\r\nOrigin: http://evil.example\r\n");
    assert_eq!(other.post(path, "{}").await.status, 403);
    let own = operator.with("Host: localhost\r\nOrigin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(own.post(path, "{}").await.status, 404, "it is asked, and there is no such endpoint");
}

#[tokio::test]
async fn a_token_that_was_chosen_as_subprotocol_is_not_told() {
    let puppet = Puppet::new().await;
    let (mut proxy, operator) = before(&[puppet.address()]).await;
    for (chosen, told) in
        [("SECRETJWT", "***"), ("hunter", "***"), ("graphql-transport-ws", "graphql-transport-ws")]
    {
        let mut client = proxy.connect().await;
        let offers = format!("Sec-WebSocket-Protocol: access_token, {chosen}\r\n");
        let offers = if told == chosen { offers.replace("access_token", "x") } else { offers };
        client.write(opening("/ws", &offers)).await;
        let mut server = puppet.accept().await;
        server.head().await;
        server.write(accepted(&format!("Sec-WebSocket-Protocol: {chosen}\r\n"))).await;
        let answer = client.head().await;
        assert!(answer.contains(chosen), "the client gets it: {answer}");
        let one = operator.value("/api/connections").await["connections"][0].clone();
        let path = format!("/api/connections/{}", one["id"].as_str().unwrap());
        assert_eq!(operator.value(&path).await["subprotocol"], told);
        drop((client, server));
        proxy.ended().await;
        let ends = operator.value("/api/ends").await;
        assert_eq!(ends["ends"][0]["subprotocol"], told);
    }
}

#[tokio::test]
async fn connections_are_told_one_by_one() {
    let (proxy, operator) = before(&[echo().await]).await;
    let mut client = proxy.open("/room?token=secret").await;
    client.echo("hello").await;
    let list = operator.value("/api/connections").await;
    assert_eq!((&list["total"], &list["matched"], &list["offset"]), (&json!(1), &json!(1), &json!(0)));
    let one = &list["connections"][0];
    assert_eq!((&one["path"], &one["host"]), (&json!("/room?token=***"), &json!("example.com")));
    assert_eq!(
        (&one["route"], &one["upstream"], &one["protocol"]),
        (&json!("all"), &json!("up"), &json!("h1"))
    );
    assert_eq!((&one["bytes_client"], &one["messages_upstream"]), (&json!(11), &json!(1)));
    assert_eq!((&one["rtt_client"], &one["blind"]), (&Value::Null, &Value::Null));
    let detail = operator.value(&format!("/api/connections/{}", one["id"].as_str().unwrap())).await;
    assert_eq!((&detail["id"], &detail["tries"]), (&one["id"], &json!(1)));
    assert_eq!(
        (&detail["settings"]["ping_client"], &detail["settings"]["read_timeout"]),
        (&json!(25.0), &Value::Null)
    );
    assert_eq!(detail["pings_client"], json!(0));
}

#[tokio::test]
async fn thousands_of_connections_are_told_in_pages() {
    const N: usize = 1200;
    let (proxy, operator) = before(&[echo().await]).await;
    let mut clients = Vec::new();
    for place in 0..N {
        clients.push(proxy.open(&format!("/{place}")).await);
    }
    clients[1034].echo("the one that spoke").await;
    let mut seen = HashSet::new();
    let mut ages = Vec::new();
    for offset in (0..N).step_by(500) {
        let page = operator.value(&format!("/api/connections?limit=500&offset={offset}")).await;
        assert_eq!((&page["total"], &page["matched"]), (&json!(N), &json!(N)));
        for one in page["connections"].as_array().unwrap() {
            assert!(seen.insert(one["id"].as_str().unwrap().to_owned()), "twice");
            ages.push(one["opened"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(seen.len(), N);
    assert!(ages.is_sorted(), "those that have lasted longest come first");
    let matched = async |query: &str| {
        let page = operator.value(&format!("/api/connections?{query}")).await;
        let first = page["connections"][0]["path"].as_str().unwrap_or_default().to_owned();
        (page["matched"].as_u64().unwrap(), first)
    };
    assert_eq!(matched("q=%2F1034").await, (1, "/1034".to_owned()));
    assert_eq!(matched("sort=bytes&limit=1").await, (N as u64, "/1034".to_owned()));
    assert_eq!(matched("sort=messages&limit=1").await, (N as u64, "/1034".to_owned()));
    assert_eq!(matched("sort=age&order=asc&limit=1").await, (N as u64, "/1199".to_owned()));
    assert_eq!(matched("client=127.0.0.0/8").await.0, N as u64);
    assert_eq!(matched("client=127.0.0.1").await.0, N as u64);
    for none in [
        "client=10.0.0.0/8",
        "client=unix:",
        "route=other",
        "upstream=other",
        "endpoint=a:1",
        "min_age=1h",
        "max_age=0",
    ] {
        assert_eq!(matched(none).await.0, 0, "{none}");
    }
    assert_eq!(matched("offset=5000").await, (N as u64, String::new()));
}

/// The state of each endpoint, as status has it.
async fn states(operator: &Operator) -> Vec<(String, String)> {
    let status = operator.value("/api/status").await;
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap().clone();
    let word = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    endpoints.iter().map(|one| (word(one, "state"), word(one, "by"))).collect()
}

fn state(state: &str, by: &str) -> (String, String) {
    (state.to_owned(), by.to_owned())
}

#[tokio::test]
async fn a_drained_endpoint_is_left_and_comes_back() {
    let servers = [echo().await, echo().await];
    let (mut proxy, operator) = before(&servers).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(proxy.open("/").await);
    }
    let path = |order: &str| format!("/api/upstreams/up/endpoints/{}/{order}", servers[0]);
    let drained = operator.post(&path("drain"), "{\"spread\":\"0s\"}").await;
    assert_eq!((drained.status, drained.value()), (200, json!({ "state": "drain", "closing": 3 })));
    for _ in 0..3 {
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (EndedBy::Proxy, Cause::Drain)
        );
        assert_eq!(ended.outcome.ending.code.map(|code| code.0), Some(1012));
        assert_eq!(ended.report.endpoint.as_ref().unwrap().to_string(), servers[0].to_string());
    }
    assert_eq!(states(&operator).await, [state("drain", "operator"), state("up", "configuration")]);
    let list = operator.value(&format!("/api/connections?endpoint={}", servers[0])).await;
    assert_eq!(list["matched"], json!(0));
    for _ in 0..4 {
        clients.push(proxy.open("/").await);
    }
    assert_eq!(operator.value("/api/status").await["upstreams"][0]["endpoints"][0]["active"], json!(0));
    let up = operator.post(&path("up"), "").await;
    assert_eq!(up.value(), json!({ "state": "up", "closing": 0 }));
    assert_eq!(states(&operator).await[0], state("up", "configuration"));
    clients.push(proxy.open("/").await);
    assert_eq!(operator.value("/api/status").await["upstreams"][0]["endpoints"][0]["active"], json!(1));
}

#[tokio::test]
async fn a_drain_closes_over_its_spread() {
    let server = echo().await;
    // An hour passes at once, which only the runtime's clock can do.
    let engine = "[process]\nengine = \"tokio\"";
    let (mut proxy, operator) = start(&format!("{engine}\n{}\n{}", route(""), upstream(&[server], ""))).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(proxy.open("/").await);
    }
    let path = format!("/api/upstreams/up/endpoints/{server}/drain");
    let stay = operator.post(&path, "{\"spread\":\"off\"}").await;
    assert_eq!(stay.value()["closing"], json!(0), "they stay");
    let hour = operator.post(&path, "{\"spread\":\"1h\"}").await;
    assert_eq!(hour.value()["closing"], json!(20));
    // A moment of 3600 s is now with a chance of one in millions, for none of twenty.
    for client in &mut clients {
        client.echo("still here").await;
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
    for client in &mut clients {
        loop {
            let (opcode, payload) = client.frame().await;
            if opcode == OpCode::Close {
                assert_eq!(payload[..2], 1012_u16.to_be_bytes());
                break;
            }
            assert_eq!(opcode, OpCode::Ping, "an hour has passed");
        }
    }
    drop(clients);
    for _ in 0..20 {
        assert_eq!(proxy.ended().await.outcome.ending.cause, Cause::Drain);
    }
}

#[tokio::test]
async fn what_was_opening_when_its_endpoint_was_drained_is_closed_as_well() {
    let puppet = Puppet::new().await;
    let (proxy, operator) = before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write(opening("/", "")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    let drained = operator
        .post(&format!("/api/upstreams/up/endpoints/{}/down", puppet.address()), "{\"spread\":\"0s\"}")
        .await;
    assert_eq!(drained.value(), json!({ "state": "down", "closing": 0 }));
    server.write(support::accepted("")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(client.close().await.code.0, 1012);
    let refused = proxy.connect().await.ask(&opening("/", "")).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "down is not used even where there is no other: {refused}");
}

#[tokio::test]
async fn an_order_stands_across_reloads_until_the_file_says_something_else() {
    let servers = [echo().await, echo().await];
    let (mut proxy, operator) = before(&servers).await;
    let mut client = proxy.open("/").await;
    let with = |state: &str, settings: &str| {
        let [first, second] = servers;
        let first = format!("{{ address = \"{first}\", state = \"{state}\" }}");
        format!("{ADMIN}{}\n[upstream.up]\nservers = [{first}, \"{second}\"]\n{settings}", route(""))
    };
    operator.post(&format!("/api/upstreams/up/endpoints/{}/down", servers[0]), "{\"spread\":\"off\"}").await;
    assert_eq!(states(&operator).await[0], state("down", "operator"));
    proxy.reload(&with("up", "drain_timeout = \"0s\"")).await;
    assert_eq!(states(&operator).await[0], state("down", "operator"), "the file says of it what it said");
    client.echo("a reload closes nothing that the operator let stay").await;
    proxy.reload(&with("drain", "")).await;
    assert_eq!(states(&operator).await[0], state("drain", "configuration"));
    proxy.reload(&with("up", "")).await;
    assert_eq!(states(&operator).await[0], state("up", "configuration"), "the order is forgotten");
}

#[tokio::test]
async fn the_spread_is_the_upstreams_or_the_process() {
    let server = echo().await;
    let process = "[process]\nshutdown_grace = \"1h\"\ndrain_spread = \"0s\"\n";
    let (proxy, operator) = start(&format!("{process}{}\n{}", route(""), upstream(&[server], ""))).await;
    let mut client = proxy.open("/").await;
    let drained = operator.post(&format!("/api/upstreams/up/endpoints/{server}/drain"), "").await;
    assert_eq!(drained.value()["closing"], json!(1));
    assert_eq!(client.close().await.code.0, 1012, "at once, as [process] says");
}

/// A proxy that reloads by order: the text that it would load, and its operator.
async fn attended(text: &str) -> (Arc<Mutex<String>>, SocketAddr, Operator) {
    let parse = |text: &str| Config::parse(text, "proxy.toml");
    let startup = Startup::prepare(parse(text).unwrap(), Default::default()).await.unwrap();
    let running = startup.run(None).await;
    let (address, admin) = (running.local_addrs()[0].unwrap(), running.admin_addr().unwrap());
    let file = Arc::new(Mutex::new(text.to_owned()));
    let read = Arc::clone(&file);
    let load = move || parse(&read.lock().unwrap());
    tokio::spawn(async move { Signals::new().unwrap().run_until_signal(running, load).await });
    (file, address, Operator::at(admin))
}

#[tokio::test]
async fn a_reload_is_ordered_and_its_mistakes_are_told() {
    let answer =
        |body: &str| format!("[[route]]\npath = \"/\"\nrespond = {{ status = 200, body = \"{body}\" }}\n");
    let text = |rest: &str| with_listen(&format!("{ADMIN}{rest}"));
    let (file, address, operator) = attended(&text(&answer("old"))).await;
    let now = async || {
        let mut raw = Raw::new(TcpStream::connect(address).await.unwrap());
        raw.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        String::from_utf8(raw.rest().await).unwrap()
    };
    *file.lock().unwrap() = text("[[route]]\npath = 7\nrespond = { status = 2000 }\n");
    let failed = operator.post("/api/reload", "{}").await;
    let errors = failed.value()["errors"].as_array().unwrap().clone();
    assert_eq!((failed.status, errors.len()), (422, 2), "{}", failed.body);
    assert!(errors[0].as_str().unwrap().starts_with("proxy.toml:8: route[0].path: found 7"), "{errors:?}");
    failed.error();
    assert!(now().await.ends_with("old"), "the running configuration stays");
    let reloads = operator.value("/api/status").await["reloads"].clone();
    assert_eq!((&reloads["failed"], &reloads["succeeded"]), (&json!(1), &json!(0)));
    assert!(reloads["last_error"].as_str().unwrap().contains("route[0].path"), "{reloads}");

    *file.lock().unwrap() =
        text(&format!("{}[upstream.unused]\nservers = [\"127.0.0.1:1\"]\n", answer("new")));
    let done = operator.post("/api/reload", "").await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert!(done.value()["warnings"][0].as_str().unwrap().contains("no route leads to it"), "{}", done.body);
    assert!(now().await.ends_with("new"));
    let reloads = operator.value("/api/status").await["reloads"].clone();
    assert_eq!((&reloads["failed"], &reloads["succeeded"]), (&json!(1), &json!(1)));
    assert!(reloads["last_success"].is_string() && reloads["last_error"].is_null(), "{reloads}");
}

#[tokio::test]
async fn reloads_at_the_same_time_follow_each_other() {
    let rest = "[[route]]\npath = \"/\"\nrespond = { status = 204 }\n";
    let (_file, _, operator) = attended(&with_listen(&format!("{ADMIN}{rest}"))).await;
    let orders: Vec<_> = (0..8)
        .map(|_| {
            let operator = operator.clone();
            tokio::spawn(async move { operator.post("/api/reload", "{}").await.status })
        })
        .collect();
    for order in orders {
        assert_eq!(order.await.unwrap(), 200);
    }
    assert_eq!(operator.value("/api/status").await["reloads"]["succeeded"], json!(8));
}

#[tokio::test]
async fn the_endpoint_moves_comes_and_goes_with_reloads() {
    let rest = "[[route]]\npath = \"/\"\nrespond = { status = 204 }\n";
    let mut proxy = Proxy::start(rest).await;
    assert_eq!(proxy.running.admin_addr(), None, "without the table there is none");
    proxy.reload(&format!("{ADMIN}{rest}")).await;
    let operator = Operator::at(proxy.running.admin_addr().unwrap());
    assert_eq!(operator.get("/healthz").await.status, 200);
    let mut events = operator.events("/api/events").await;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let unix = format!("[admin]\naddress = \"unix:{}\"\n{rest}", path.display());
    proxy.reload(&unix).await;
    let local = Operator::on(&path);
    assert_eq!(local.get("/api/status").await.status, 200);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(events.next().await.is_some(), "who asked at the old address still hears");
    let support::operator::Place::Tcp(address) = operator.place else { panic!("on TCP") };
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("[admin]\naddress = \"{}\"\n{rest}", taken.local_addr().unwrap());
    let error = proxy.running.reload(Config::parse(&with_listen(&taken), "test").unwrap()).await.unwrap_err();
    assert!(error.to_string().starts_with("admin: 127.0.0.1:"), "{error}");
    let none = unix.replace("[[route]]", "token_file = \"/no/such/file\"\n[[route]]");
    let error = proxy.running.reload(Config::parse(&with_listen(&none), "test").unwrap()).await.unwrap_err();
    assert!(error.to_string().starts_with("admin.token_file: /no/such/file: "), "{error}");
    assert_eq!(local.get("/healthz").await.status, 200, "what was there is still there");

    proxy.reload(rest).await;
    while path.exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn viewers_are_told_what_changes() {
    let (proxy, operator) = before(&[echo().await]).await;
    let mut events = operator.events("/api/events").await;
    let tick = events.named("tick").await;
    assert_eq!((&tick["state"], tick.get("listeners")), (&json!("serving"), None));
    let mut other = operator.events("/api/events").await;
    let mut client = proxy.open("/a?token=b").await;
    client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
    client.close().await;
    drop(client);
    for events in [&mut events, &mut other] {
        let ends = events.named("ends").await;
        assert_eq!((&ends["left_out"], &ends["ends"][0]["cause"]), (&json!(0), &json!("close")));
        assert_eq!(ends["ends"][0]["path"], json!("/a?token=***"));
    }
    let tick = events.named("tick").await;
    assert_eq!(tick["routes"][0]["ended"], json!(1));
}

#[tokio::test]
async fn streams_leave_room_for_questions() {
    let (_proxy, operator) = before(&[echo().await]).await;
    let mut streams = Vec::new();
    for _ in 0..48 {
        streams.push(operator.events("/api/events").await);
    }
    let refused = operator.get("/api/events").await;
    assert_eq!(refused.status, 503);
    refused.error();
    assert_eq!(operator.get("/healthz").await.status, 200);
    drop(streams);
    while operator.ask("HEAD", "/api/events", "", "").await.status != 200 {
        tokio::task::yield_now().await;
    }
}

/// The id of the one live connection.
async fn only(operator: &Operator) -> String {
    let list = operator.value("/api/connections").await;
    assert_eq!(list["total"], json!(1));
    list["connections"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_connection_is_closed_with_a_code_and_a_reason() {
    let puppet = Puppet::new().await;
    let (mut proxy, operator) = before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write(opening("/", "")).await;
    let (mut server, _) = puppet.open().await;
    client.head().await;
    let path = format!("/api/connections/{}/close", only(&operator).await);
    for code in [0, 999, 1005, 1006, 1015, 2000, 5000] {
        let refused = operator.post(&path, &format!("{{\"code\":{code}}}")).await;
        assert_eq!(refused.status, 422, "{}", refused.error());
    }
    let long = operator.post(&path, &json!({ "reason": "x".repeat(124) }).to_string()).await;
    assert_eq!(long.status, 422, "{}", long.error());
    assert_eq!(operator.post(&path, "{\"code\":70000}").await.status, 400);
    let closed = operator.post(&path, "{\"code\":4001,\"reason\":\"moved \u{e4} bit\"}").await;
    assert_eq!(closed.status, 202, "{}", closed.body);
    for close in [client.close().await, server.close().await] {
        assert_eq!((close.code.0, &*close.text), (4001, "moved \u{e4} bit"));
    }
    drop((client, server));
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
        (EndedBy::Proxy, Cause::Operator)
    );
    assert_eq!(ended.outcome.ending.code.map(|code| code.0), Some(4001));
    assert_eq!(operator.post(&path, "{}").await.status, 404);
}

#[tokio::test]
async fn the_default_is_to_come_again() {
    let (proxy, operator) = before(&[echo().await]).await;
    let mut client = proxy.open("/").await;
    assert_eq!(
        operator.post(&format!("/api/connections/{}/close", only(&operator).await), "").await.status,
        202
    );
    assert_eq!(client.close().await.code.0, 1012);
}

#[tokio::test]
async fn a_tail_shows_headers_and_the_end() {
    let settings = "ping = { client = \"50ms\", upstream = \"off\", timeout = \"20s\" }";
    let server = echo().await;
    let (proxy, operator) = start(&format!("{}\n{}", route(settings), upstream(&[server], ""))).await;
    let mut client = proxy.open("/").await;
    let id = only(&operator).await;
    let mut tail = operator.events(&format!("/api/connections/{id}/frames")).await;
    let (opcode, ping) = client.frame().await;
    assert_eq!(opcode, OpCode::Ping);
    client.send(OpCode::Pong, &ping).await;
    client.send(OpCode::Text, b"secret").await;
    let mut seen = Vec::new();
    // The echo's answer is the last of them; the Ping may have gone before the tail was there.
    loop {
        let frame = tail.named("frame").await;
        let is_answer = frame["side"] == "upstream" && frame["opcode"] == "text";
        assert!(frame["time"].as_str().unwrap().ends_with('Z') && frame["fin"] == true, "{frame}");
        seen.push(frame);
        if is_answer {
            break;
        }
    }
    let find = |side: &str, opcode: &str| {
        let found = seen.iter().find(|one| one["side"] == side && one["opcode"] == opcode);
        found.map(|one| {
            (
                one["origin"].as_str().unwrap(),
                one["course"].as_str().unwrap(),
                one["length"].as_u64().unwrap(),
            )
        })
    };
    assert_eq!(find("client", "text"), Some(("peer", "passes", 6)));
    assert_eq!(find("upstream", "text"), Some(("peer", "passes", 6)));
    let pong = find("client", "pong").unwrap();
    assert_eq!((pong.0, pong.1), ("peer", "ends"), "the proxy keeps the answer to its own Ping");
    assert!(!seen.iter().any(|one| one.to_string().contains("secret")));
    client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
    while client.frame().await.0 != OpCode::Close {}
    drop(client);
    let end = tail.named("end").await;
    assert_eq!((&end["id"], &end["ended_by"], &end["code"]), (&json!(id), &json!("client"), &json!(1000)));
    assert!(tail.next().await.is_none(), "the stream ends with it");
}

#[tokio::test]
async fn a_flood_is_shown_in_part_and_the_rest_is_counted() {
    const N: u64 = 2000;
    let (proxy, operator) = before(&[echo().await]).await;
    let mut client = proxy.open("/").await;
    let mut tail = operator.events(&format!("/api/connections/{}/frames", only(&operator).await)).await;
    for _ in 0..N {
        client.echo("x").await;
    }
    client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
    client.close().await;
    drop(client);
    let (mut shown, mut left_out) = (0, 0);
    while let Some((name, data)) = tail.next().await {
        match &*name {
            "frame" => shown += 1,
            "left_out" => left_out += data["count"].as_u64().unwrap(),
            _ => assert_eq!(name, "end"),
        }
    }
    // Two of each echo, and those of the end.
    assert!(shown + left_out >= 2 * N && left_out > 0 && shown >= 200, "{shown} and {left_out}");
}

#[tokio::test]
async fn whoever_asks_slowly_or_nothing_is_cut() {
    let (_proxy, operator) = before(&[echo().await]).await;
    let support::operator::Place::Tcp(address) = operator.place else { panic!("on TCP") };
    let mut slow = Raw::new(TcpStream::connect(address).await.unwrap());
    slow.write("GET /healthz HTTP/1.1\r\nHost: loc").await;
    let mut idle = Raw::new(TcpStream::connect(address).await.unwrap());
    let head = idle.ask("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(idle.bytes(3).await, b"ok\n");
    let mut silent = Raw::new(TcpStream::connect(address).await.unwrap());
    // Whoever is answered after them has found them accepted.
    assert_eq!(operator.get("/healthz").await.status, 200);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    for raw in [&mut slow, &mut idle, &mut silent] {
        let rest = String::from_utf8(raw.rest().await).unwrap();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    }
}

#[tokio::test]
async fn what_was_counted_is_told() {
    let (mut proxy, operator) = before(&[echo().await]).await;
    for _ in 0..3 {
        let mut client = proxy.open("/").await;
        client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
        client.close().await;
        drop(client);
        proxy.ended().await;
    }
    let left = proxy.open("/left").await;
    drop(left);
    proxy.ended().await;
    let status = operator.value("/api/status").await;
    let cause = |cause: &str, code: Value, count: u64| json!({ "ended_by": "client", "cause": cause, "code": code, "count": count });
    let ends = status["ends"].as_array().unwrap();
    assert_eq!(ends[0], cause("close", json!(1000), 3));
    assert_eq!((&ends[1]["cause"], &ends[1]["count"], ends.len()), (&json!("eof"), &json!(1), 2));
    let lately = status["ends_lately"].as_array().unwrap();
    assert!(lately.contains(&cause("close", json!(1000), 3)) && lately.len() == 2, "{lately:?}");
    let silence = &status["silence"];
    assert_eq!(silence["edges"].as_array().unwrap().len() + 1, silence["client"].as_array().unwrap().len());
    assert_eq!((&silence["client"][0], &silence["upstream"][0]), (&json!(1), &json!(1)));
    assert!(status["limits"].as_array().unwrap().iter().any(|limit| limit["seconds"] == 60));

    let recent = operator.value("/api/ends?limit=2").await;
    let recent = recent["ends"].as_array().unwrap();
    let whys: Vec<_> =
        recent.iter().map(|end| (end["cause"].as_str().unwrap(), end["path"].as_str().unwrap())).collect();
    assert_eq!(whys, [("eof", "/left"), ("close", "/")], "newest first");
    assert_eq!(operator.get("/api/ends?limit=0").await.status, 400);
    assert_eq!(operator.get("/api/ends?limits=3").await.status, 400);

    let history = operator.value("/api/history").await;
    assert_eq!(history["step"], json!(10));
    for column in ["tunnels", "opened", "ended", "abnormal"] {
        let column = history[column].as_array().unwrap();
        assert_eq!((column.len(), &column[0]), (360, &Value::Null), "an hour, from before the start");
    }

    let counted = operator.value("/api/ends?by=end&cause=close").await;
    assert_eq!(counted["groups"][0]["keys"], json!(["client/close"]));
    assert_eq!(
        (&counted["groups"][0]["count"], &counted["matched"], &counted["kept"]),
        (&json!(3), &json!(3), &json!(4))
    );
    let minutes = operator.value("/api/ends?by=minute,ended_by").await;
    let (time, started) = (&recent[0]["time"], &recent[0]["started"]);
    assert!(time.as_str() >= started.as_str(), "{recent:?}");
    assert_eq!(minutes["groups"][0]["last"], *time);
    let unknown = operator.get("/api/ends?route=nope").await;
    assert_eq!((unknown.status, unknown.body.contains("no route \\\"nope\\\"; there is all")), (400, true));

    let metrics = operator.get("/metrics").await;
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert!(metrics.body.contains("websocket_connections_total{route=\"all\"} 4"), "{}", metrics.body);
    let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let open = operator.ask("GET", "/metrics", accept, "").await;
    assert!(open.head.contains("content-type: application/openmetrics-text"), "{}", open.head);
    assert!(open.body.ends_with("# EOF\n"));
}
