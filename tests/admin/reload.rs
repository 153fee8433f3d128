//! `/api/reload`, and what a reload does to the admin endpoint itself.

use crate::ADMIN;
use crate::support::operator::{Operator, Place};
use crate::support::{Proxy, Raw, with_listen};
use holdline::testing::app::Startup;
use holdline::testing::app::signal::Signals;
use holdline::testing::config::Config;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;

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
    let Place::Tcp(address) = operator.place else { panic!("on TCP") };
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
