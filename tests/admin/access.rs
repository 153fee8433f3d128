//! Who may ask, what a wrong request is answered, and what every answer carries.

use crate::support::operator::{Operator, Place};
use crate::support::{Proxy, Raw, echo, route, upstream};
use crate::{ADMIN, before};
use std::time::Duration;
use tokio::net::TcpStream;

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
async fn whoever_asks_slowly_or_nothing_is_cut() {
    let (_proxy, operator) = before(&[echo().await]).await;
    let Place::Tcp(address) = operator.place else { panic!("on TCP") };
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
