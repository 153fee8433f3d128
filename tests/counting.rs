//! What is counted of live tunnels, and what stays of it when they have ended.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::outcome::Side;
use holdline::testing::telemetry::tally::Totals;
use holdline::testing::ws::frame::OpCode;
use support::{Proxy, echo, route, upstream};

fn totals(proxy: &Proxy) -> Totals {
    proxy.running.proxy.tunnels.totals().get("all").copied().unwrap_or_default()
}

#[tokio::test]
async fn a_live_tunnel_is_counted_and_its_end_takes_nothing_back() {
    let mut proxy = Proxy::before(&[echo().await]).await;
    let mut client = proxy.open("/room?token=secret").await;
    client.echo("hello").await;
    let session = proxy.running.proxy.tunnels.all().pop().unwrap();
    assert_eq!((session.report.target(), session.report.tries), (&b"/room?token=***"[..], 1));
    assert_eq!(session.report.status, 101);
    let traffic = Side::BOTH.map(|side| session.control.counters().traffic(side));
    assert_eq!(traffic.map(|side| (side.bytes, side.messages)), [(2 + 4 + 5, 1), (2 + 5, 1)]);
    let before = totals(&proxy);
    assert_eq!((before.live, before.opened), (1, 1));
    assert_eq!(before.traffic[Side::Client].bytes, traffic[0].bytes);

    client.send(OpCode::Close, &1000_u16.to_be_bytes()).await;
    client.close().await;
    drop(client);
    let ended = proxy.ended().await;
    let after = totals(&proxy);
    assert_eq!((after.live, after.opened), (0, 1));
    for side in Side::BOTH {
        assert_eq!(after.traffic[side].bytes, ended.outcome.traffic[side].bytes, "the whole of it");
        assert!(after.traffic[side].bytes > before.traffic[side].bytes);
    }
    assert!(proxy.running.proxy.tunnels.find(session.report.id).is_none());
}

#[tokio::test]
async fn a_route_that_is_gone_is_counted_until_its_last_tunnel_ends() {
    let server = echo().await;
    let mut proxy = Proxy::before(&[server]).await;
    let mut client = proxy.open("/").await;
    let other = route("").replace("\"all\"", "\"other\"");
    proxy.reload(&format!("{other}\n{}", upstream(&[server], ""))).await;
    client.echo("still counted").await;
    assert_eq!(totals(&proxy).traffic[Side::Client].messages, 1);
    drop(client);
    proxy.ended().await;
    proxy.reload(&format!("{other}\n{}", upstream(&[server], ""))).await;
    assert_eq!(totals(&proxy), Totals::default(), "its name is forgotten");
}
