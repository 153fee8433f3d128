//! `/healthz` and `/readyz`, up to the end of the process.

use crate::before;
use crate::support::operator::Place;
use crate::support::{Puppet, ws_request};
use holdline::testing::app::Ended;
use serde_json::json;
use std::future::pending;
use tokio::net::TcpStream;

#[tokio::test]
async fn it_is_ready_until_the_end_begins_and_answers_until_the_end() {
    let puppet = Puppet::new().await;
    let (proxy, operator) = before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
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
    let Place::Tcp(address) = operator.place else { panic!("on TCP") };
    assert!(TcpStream::connect(address).await.is_err(), "nothing remains");
}
