//! Words of the log, the metrics, the admin endpoint and the command line.

use crate::page::{Page, manual, quoted};
use crate::shell;
use crate::support::{self, Proxy};
use holdline::testing::admin::{OPENAPI, routes};
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::telemetry::metrics::Format;
use std::collections::{BTreeMap, BTreeSet};

/// The texts between backticks of the first cells of a table.
fn first_cells(page: &str, heading: &str) -> Vec<String> {
    Page::read(page).table(heading).iter().flat_map(|row| quoted(&row[0])).collect()
}

async fn metrics() -> String {
    let mut proxy = Proxy::before(&[support::nobody().await]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.head().await;
    proxy.ended().await;
    proxy.running.proxy.metrics_text(Format::Prometheus)
}

/// The labels of a line of the metrics, but for those of a histogram's buckets.
fn labels(line: &str) -> BTreeSet<String> {
    let inner =
        line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inner, _)| inner);
    let names = inner.split("\",").filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.to_owned());
    names.filter(|name| name != "le").collect()
}

#[tokio::test]
async fn every_cause_is_described_and_every_description_is_of_one() {
    let mut described = BTreeSet::new();
    for pair in first_cells("docs/diagnosis.md", "## At three in the morning") {
        let (ended_by, cause) = pair.split_once('/').unwrap_or_else(|| panic!("{pair} is no cause"));
        assert!(EndedBy::ALL.iter().any(|known| known.as_str() == ended_by), "{pair}: nobody is called so");
        assert!(Cause::ALL.iter().any(|known| known.as_str() == cause), "{pair}: there is no such reason");
        described.insert(pair);
    }
    for cause in Cause::ALL.map(Cause::as_str) {
        assert!(described.iter().any(|pair| pair.ends_with(&format!("/{cause}"))), "the table lacks {cause}");
    }
    let metrics = metrics().await;
    let series: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("websocket_ends_total{")).collect();
    assert!(!series.is_empty());
    for line in series {
        let label = |name: &str| line.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap();
        let pair = format!("{}/{}", label("ended_by"), label("cause"));
        assert!(described.contains(&pair), "the table lacks {pair}, which tunnels may end with");
    }
}

#[test]
fn the_table_for_three_in_the_morning_comes_first() {
    let page = Page::read("docs/diagnosis.md");
    assert_eq!(page.anchors()[1], "at-three-in-the-morning");
}

#[tokio::test]
async fn every_metric_is_described_and_every_description_is_of_one() {
    let metrics = metrics().await;
    let told = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let told: BTreeSet<String> = told.map(str::to_owned).collect();
    let described = first_cells("docs/metrics.md", "# Metrics").into_iter().collect();
    assert_eq!(told, described);
}

#[tokio::test]
async fn every_label_is_described() {
    let metrics = metrics().await;
    let mut told: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut family = "";
    for line in metrics.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => family = rest.split(' ').next().unwrap(),
            None if line.starts_with('#') => {}
            None => told.entry(family).or_default().extend(labels(line)),
        }
    }
    for row in Page::read("docs/metrics.md").table("# Metrics") {
        let described: BTreeSet<String> = row[1]
            .split(',')
            .map(|label| label.trim().to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        for name in quoted(&row[0]) {
            // Some have no series before the first event.
            if let Some(labels) = told.get(name.as_str()) {
                assert_eq!(labels, &described, "labels of {name}");
            }
        }
    }
    assert!(told.len() > 30);
}

#[tokio::test]
async fn every_field_of_the_log_is_described_and_every_description_is_of_one() {
    let mut proxy = Proxy::before(&[support::nobody().await]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.head().await;
    let ended = proxy.ended().await;
    let line: serde_json::Value = serde_json::from_str(&ended.json(1)).unwrap();
    let told: BTreeSet<String> = line.as_object().unwrap().keys().cloned().collect();
    let described = first_cells("docs/logging.md", "## The access log").into_iter().collect();
    assert_eq!(told, described);
}

/// The first words of the lines of one part of the help.
fn of_help(from: &str, to: &str) -> BTreeSet<String> {
    let help = holdline::cli::command().render_help().to_string();
    let part = help.split(from).nth(1).unwrap().split(to).next().unwrap();
    let heads = part.lines().filter_map(|line| line.trim().split("  ").next());
    let words = heads.flat_map(|head| head.split(", ")).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

#[test]
fn every_exit_code_is_described_as_the_help_has_it() {
    let rows = Page::read("docs/operations.md").table("## Exit codes");
    let described: BTreeSet<String> = rows.into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(of_help("Exit codes:", "Signals:"), described);
}

#[test]
fn every_signal_is_described_as_the_help_has_it() {
    let rows = Page::read("docs/operations.md").table("## Signals");
    let cells = rows.iter().flat_map(|row| row[0].split(", "));
    assert_eq!(of_help("Signals:", "\0"), cells.map(str::to_owned).collect());
}

#[test]
fn every_path_of_the_admin_endpoint_is_described_and_nothing_else() {
    let there: BTreeSet<String> = routes().map(|(method, path)| format!("{method} {path}")).collect();
    let described = first_cells("docs/admin-api.md", "## Paths").into_iter().collect();
    assert_eq!(there, described);
}

#[test]
fn every_state_of_an_endpoint_is_described_and_nothing_else() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    let states = &document["components"]["schemas"]["Endpoint"]["properties"]["standing"]["enum"];
    let states: BTreeSet<String> =
        states.as_array().unwrap().iter().map(|state| state.as_str().unwrap().to_owned()).collect();
    let page = "docs/load-balancing.md";
    assert_eq!(states, first_cells(page, "## When an endpoint is taken out").into_iter().collect());
}

#[test]
fn every_command_is_shown() {
    let pages = manual();
    let shown: Vec<Vec<String>> = pages.iter().flat_map(shell::runs).map(|(_, words)| words).collect();
    let is_shown = |words: &[&str]| {
        shown.iter().any(|shown| shown.iter().zip(words).filter(|(a, b)| a == b).count() == words.len())
    };
    let mut count = 0;
    for command in holdline::cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        assert!(is_shown(&["holdline", command.get_name()]), "no page shows holdline {}", command.get_name());
        for below in command.get_subcommands() {
            let words = ["holdline", command.get_name(), below.get_name()];
            assert!(is_shown(&words), "no page shows {}", words.join(" "));
            count += 1;
        }
    }
    assert!(count > 5);
}
