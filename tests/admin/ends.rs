//! What has ended: `/api/ends`, `/api/history`, and the counts in `/api/status` and `/metrics`.

use crate::before;
use crate::support::echo;
use holdline::testing::ws::frame::OpCode;
use serde_json::{Value, json};

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
