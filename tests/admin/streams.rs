//! Event streams: `/api/events`, and the frames of one connection.

use crate::support::{echo, route, upstream};
use crate::{before, only, start};
use holdline::testing::ws::frame::OpCode;
use serde_json::json;

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
