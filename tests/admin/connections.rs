//! `/api/connections`: the list, its filters and pages, one connection, and its close.

use crate::support::{Puppet, accepted, echo, ws_request};
use crate::{before, only};
use holdline::testing::outcome::{Cause, EndedBy};
use serde_json::{Value, json};
use std::collections::HashSet;

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
        client.write(ws_request("/ws", &offers)).await;
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
async fn one_connection_is_closed_with_a_code_and_a_reason() {
    let puppet = Puppet::new().await;
    let (mut proxy, operator) = before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write(ws_request("/", "")).await;
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
