//! What a scrape tells, of a proxy to which a bit of everything has happened.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::app::Running;
use holdline::testing::telemetry::metrics::{Code, Format};
use holdline::testing::ws::frame::OpCode;
use socket2::SockRef;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::{Proxy, Raw, echo, nobody, ws_request};

/// The samples of a scrape in Prometheus' own form, by name and labels as they are written.
fn scrape(running: &Running) -> BTreeMap<String, f64> {
    let text = running.proxy.metrics_text(Format::Prometheus);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    samples.map(pair).collect()
}

/// A proxy with two tunnels that are open, tunnels that ended in three ways, and handshakes that failed in three.
async fn eventful() -> (Proxy, [Raw; 2]) {
    let (server, nobody) = (echo().await, nobody().await);
    let mut proxy = Proxy::start(&format!(
        "[[route]]\nname = \"chat\"\npath = \"/chat\"\nupstream = \"up\"\n\
         [[route]]\nname = \"dead\"\npath = \"/dead\"\nupstream = \"dead\"\n\
         [[route]]\nname = \"full\"\npath = \"/full\"\nupstream = \"up\"\nlimits = {{ connections = 1 }}\n\
         [[route]]\nname = \"quiet\"\npath = \"/quiet\"\nupstream = \"up\"\n\
         [[route]]\nname = \"plain\"\npath = \"/plain\"\nrespond = {{ status = 204 }}\n\
         [upstream.up]\nservers = [\"{server}\"]\n[upstream.dead]\nservers = [\"{nobody}\"]\n"
    ))
    .await;
    for code in [1000_u16, 4242] {
        let mut client = proxy.open("/chat").await;
        client.echo("hello").await;
        client.send(OpCode::Close, &code.to_be_bytes()).await;
        client.close().await;
        drop(client);
        proxy.ended().await;
    }
    let client = proxy.open("/chat").await;
    SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    proxy.ended().await;
    let only = proxy.open("/full").await;
    for (target, status) in [("/dead", "502"), ("/full", "503"), ("/nowhere", "404")] {
        let answer = proxy.connect().await.ask(&ws_request(target, "")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        proxy.ended().await;
    }
    let answer = proxy.connect().await.ask("GET /plain HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    proxy.ended().await;
    let mut open = proxy.open("/chat").await;
    open.echo("still here").await;
    (proxy, [open, only])
}

#[tokio::test]
async fn a_scrape_tells_what_happened() {
    let (proxy, _open) = eventful().await;
    let got = scrape(&proxy.running);
    let expected = [
        (r#"websocket_connections_active{route="chat"}"#, 1.0),
        (r#"websocket_connections_active{route="quiet"}"#, 0.0),
        (r#"websocket_connections_total{route="chat"}"#, 4.0),
        (r#"websocket_messages_received_total{route="chat"}"#, 3.0),
        (r#"websocket_messages_sent_total{route="chat"}"#, 3.0),
        (r#"websocket_bytes_received_total{route="chat"}"#, (2 * (11 + 8) + 16) as f64),
        (r#"websocket_connection_duration_seconds_count{route="chat"}"#, 3.0),
        (r#"websocket_connection_duration_seconds_bucket{le="60.0",route="chat"}"#, 3.0),
        (r#"websocket_connection_duration_seconds_bucket{le="+Inf",route="chat"}"#, 3.0),
        (r#"websocket_ends_total{cause="close",code="1000",ended_by="client",route="chat"}"#, 1.0),
        (r#"websocket_ends_total{cause="close",code="4xxx",ended_by="client",route="chat"}"#, 1.0),
        (r#"websocket_ends_total{cause="reset",code="1001",ended_by="client",route="chat"}"#, 1.0),
        (r#"websocket_silence_before_end_seconds_count{side="client"}"#, 1.0),
        (r#"websocket_silence_before_end_seconds_bucket{le="30.0",side="upstream"}"#, 1.0),
        (r#"websocket_openings_total{route="chat",status="101"}"#, 4.0),
        (r#"websocket_openings_total{route="dead",status="502"}"#, 1.0),
        (r#"websocket_openings_total{route="full",status="503"}"#, 1.0),
        (r#"websocket_openings_total{route="",status="404"}"#, 1.0),
        (r#"websocket_opening_tries_sum{route="chat"}"#, 4.0),
        (r#"websocket_opening_tries_sum{route="full"}"#, 1.0),
        (r#"holdline_refusals_total{limit="connections",route="full"}"#, 1.0),
        (r#"holdline_http_requests_total{route="plain",status="204"}"#, 1.0),
        (r#"holdline_upstream_connect_duration_seconds_count{upstream="up"}"#, 5.0),
        (r#"holdline_reloads_total{result="succeeded"}"#, 0.0),
        ("holdline_last_reload_successful", 1.0),
        ("holdline_draining", 0.0),
        (r#"holdline_access_log_lost_lines_total{reason="sampled"}"#, 0.0),
        (r#"holdline_access_log_lost_lines_total{reason="queue"}"#, 0.0),
        (r#"holdline_access_log_lost_lines_total{reason="target"}"#, 0.0),
    ];
    for (name, value) in expected {
        assert_eq!(got.get(name), Some(&value), "{name} in {got:#?}");
    }
    assert!(!got.contains_key(r#"websocket_connections_total{route="plain"}"#), "it has no tunnels");
    let of = |name: &str| got.iter().filter(|(key, _)| key.starts_with(name)).collect::<Vec<_>>();
    assert!(
        of("holdline_endpoint_active{")
            .iter()
            .any(|(key, value)| { key.contains("upstream=\"up\"") && **value == 2.0 })
    );
    assert!(
        of("holdline_endpoint_failures_total{")
            .iter()
            .any(|(key, value)| { key.contains("upstream=\"dead\"") && **value == 1.0 })
    );
    assert_eq!(of("holdline_build_info{").len(), 1);
    assert!(got["process_open_fds"] > 10.0 && got["process_max_fds"] >= got["process_open_fds"]);
    assert!(got["holdline_connection_capacity"] > 0.0);
}

/// Whatever happens first is a rise: Prometheus takes a series that begins with its first event for one that
/// always had this value.
#[tokio::test]
async fn what_a_route_may_meet_is_counted_from_0_on() {
    let server = echo().await;
    let file = |names: &[&str]| {
        let route = |name: &&str| {
            format!(
                "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\n\
                 [upstream.{name}]\nservers = [\"{server}\"]\n"
            )
        };
        names.iter().map(route).collect::<String>()
    };
    let mut proxy = Proxy::start(&file(&["old"])).await;
    let born = |scrape: &BTreeMap<String, f64>, name: &str| {
        for series in [
            format!(r#"websocket_connections_total{{route="{name}"}}"#),
            format!(r#"websocket_ends_total{{cause="eof",code="1014",ended_by="upstream",route="{name}"}}"#),
            format!(r#"websocket_ends_total{{cause="reset",code="none",ended_by="client",route="{name}"}}"#),
            format!(
                r#"websocket_ends_total{{cause="close",code="4xxx",ended_by="upstream",route="{name}"}}"#
            ),
            format!(r#"websocket_connection_duration_seconds_count{{route="{name}"}}"#),
            format!(r#"websocket_openings_total{{route="{name}",status="502"}}"#),
            format!(r#"websocket_openings_by_class_total{{class="5xx",route="{name}"}}"#),
            format!(r#"holdline_refusals_total{{limit="connections_per_ip",route="{name}"}}"#),
            format!(r#"holdline_http_requests_by_class_total{{class="2xx",route="{name}"}}"#),
            format!(r#"holdline_upstream_connect_duration_seconds_count{{upstream="{name}"}}"#),
            format!(
                r#"holdline_endpoint_ends_total{{cause="eof",ended_by="upstream",endpoint="{server}",upstream="{name}"}}"#
            ),
        ] {
            assert_eq!(scrape.get(&series), Some(&0.0), "{series} in {scrape:#?}");
        }
    };
    let first = scrape(&proxy.running);
    born(&first, "old");
    assert!(!first.keys().any(|series| series.contains("\"new\"")));
    proxy.reload(&file(&["old", "new"])).await;
    born(&scrape(&proxy.running), "new");
    proxy.reload(&file(&["new"])).await;
    let last = scrape(&proxy.running);
    assert!(!last.keys().any(|series| series.contains("\"old\"")), "what is gone is forgotten");
    let series = last.keys().filter(|series| series.contains("\"new\"")).count();
    assert!(series < 250, "{series} series of a route, its upstream and its endpoint");
}

#[tokio::test]
async fn no_count_goes_down() {
    let (mut proxy, open) = eventful().await;
    let before = scrape(&proxy.running);
    drop(open);
    proxy.ended().await;
    proxy.ended().await;
    let after = scrape(&proxy.running);
    for (name, value) in before.iter().filter(|(name, _)| name.contains("_total") || name.contains("_count"))
    {
        assert!(after.get(name).is_some_and(|now| now >= value), "{name}: {value} and then less");
    }
    assert_eq!(after[r#"websocket_connections_active{route="chat"}"#], 0.0);
}

#[tokio::test]
async fn tallies_tell_the_same() {
    let (proxy, _open) = eventful().await;
    let metrics = &proxy.running.proxy.metrics;
    let ends = metrics.ends();
    let codes: BTreeSet<_> = ends.iter().map(|(cause, _)| cause.code).collect();
    assert_eq!(codes, BTreeSet::from([Code::Registered(1000), Code::Registered(1001), Code::Application]));
    assert_eq!(ends.iter().map(|(_, count)| count).sum::<u64>(), 3);
    assert_eq!(metrics.ended_by_route()["chat"], 3);
    let (recent, count) = metrics.recent(2);
    assert_eq!((recent.len(), count), (2, 6), "three tunnels and three handshakes, no plain request");
    assert_eq!(recent[0].report.route(), None, "the newest first");
    assert_eq!(metrics.silence().client.counts().iter().sum::<u64>(), 1);
    metrics.reloaded(Err("line 7".to_owned()));
    assert_eq!(metrics.reloads().last_error.as_deref(), Some("line 7"));
    assert_eq!(scrape(&proxy.running)["holdline_last_reload_successful"], 0.0);
    metrics.reloaded(Ok(()));
    assert_eq!(metrics.reloads().last_error, None);
}

/// For promtool, which `.ci/prometheus` runs: with METRICS_TEXT set, both forms are written there.
#[tokio::test]
async fn both_forms_are_well_made() {
    let (proxy, _open) = eventful().await;
    let form = |format| proxy.running.proxy.metrics_text(format);
    let (openmetrics, prometheus) = (form(Format::OpenMetrics), form(Format::Prometheus));
    assert!(openmetrics.ends_with("# EOF\n") && !prometheus.contains("EOF"));
    let mut described = "";
    for line in prometheus.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            described = rest.split(' ').next().unwrap();
        } else if !line.starts_with('#') {
            assert!(line.starts_with(described), "{line} under {described}");
        }
    }
    assert!(!prometheus.contains("token") && !prometheus.contains("/chat"), "nothing of paths is told");
    if let Ok(folder) = std::env::var("METRICS_TEXT") {
        let folder = std::path::Path::new(&folder);
        std::fs::write(folder.join("openmetrics"), openmetrics).unwrap();
        std::fs::write(folder.join("prometheus"), prometheus).unwrap();
    }
}

#[test]
fn the_accept_header_decides() {
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    assert_eq!(Format::wanted(prometheus), Format::OpenMetrics);
    assert_eq!(Format::wanted("*/*"), Format::Prometheus);
    assert_eq!(Format::wanted(""), Format::Prometheus);
}
