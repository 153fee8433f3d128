//! Changing an endpoint: drain, down and up.

use crate::support::operator::Operator;
use crate::support::{Puppet, accepted, echo, route, upstream, ws_request};
use crate::{ADMIN, before, start};
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::ws::frame::OpCode;
use serde_json::{Value, json};
use std::time::Duration;

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
    client.write(ws_request("/", "")).await;
    let mut server = puppet.accept().await;
    server.head().await;
    let drained = operator
        .post(&format!("/api/upstreams/up/endpoints/{}/down", puppet.address()), "{\"spread\":\"0s\"}")
        .await;
    assert_eq!(drained.value(), json!({ "state": "down", "closing": 0 }));
    server.write(accepted("")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(client.close().await.code.0, 1012);
    let refused = proxy.connect().await.ask(&ws_request("/", "")).await;
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
