//! The README's tables against the program, in both directions: what it names is there, and what is there it
//! names.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::config::Config;
use holdline::outcome::{Who, Why};
use holdline::telemetry::metrics::Format;
use std::collections::{BTreeMap, BTreeSet};
use support::Proxy;

const README: &str = include_str!("../README.md");

/// Every table that there is, and in each a mark where a key may be written.
const EVERYTHING: &str = r#"
[process]
#process
[log]
#log
[admin]
#admin
[real_ip]
#real_ip
[defaults]
#defaults
[[listen]]
address = "127.0.0.1:1"
#listen[]
[[listen]]
address = "127.0.0.1:2"
[listen.tls]
certificates = [{ cert = "cert.pem", key = "key.pem" }]
#listen[].tls
[[route]]
path = "/"
upstream = "u"
#route[]
[[route]]
path = "/v"
upstream = "v"
[upstream.u]
servers = [{ address = "a:1" }]
#upstream.NAME
[upstream.v.tls]
#upstream.NAME.tls
[upstream.v]
servers = [
  { address = "b:1" },
#upstream.NAME.servers[]
]
"#;

/// The README's headings of settings, and the table of each.
const SETTINGS: [(&str, &str); 11] = [
    ("### `[process]`", "process"),
    ("### `[log]`", "log"),
    ("### `[admin]`", "admin"),
    ("### `[[listen]]`", "listen[]"),
    ("### `[listen.tls]`", "listen[].tls"),
    ("### `[real_ip]`", "real_ip"),
    ("### `[defaults]` and `[[route]]`", "defaults"),
    ("### `[[route]]` only", "route[]"),
    ("### `[upstream.NAME]`", "upstream.NAME"),
    ("### `[upstream.NAME.tls]`", "upstream.NAME.tls"),
    ("### A server as a table", "upstream.NAME.servers[]"),
];

/// Settings whose default is no value that could be written.
const WITHOUT_VALUE: [&str; 19] = [
    "listen[].address",
    "listen[].tls.certificates",
    "listen[].tls.client_ca",
    "defaults.limits",
    "route[].name",
    "route[].path",
    "route[].path_exact",
    "route[].path_regex",
    "route[].upstream",
    "route[].respond",
    "route[].rewrite",
    "upstream.NAME.servers",
    "upstream.NAME.tls.server_name",
    "upstream.NAME.tls.ca",
    "upstream.NAME.tls.client_cert",
    "upstream.NAME.tls.client_key",
    "upstream.NAME.servers[].address",
    "upstream.NAME.servers[].max_fails",
    "upstream.NAME.servers[].fail_timeout",
];

/// The cells of the first table below a heading, without its head.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let below =
        README.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("README has no {heading}")).1;
    let rows =
        below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| row.trim_matches('|').split(" |").map(str::trim).collect();
    rows.skip(2).map(cells).collect()
}

/// The texts between backticks of a cell.
fn quoted(cell: &'static str) -> Vec<&'static str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The keys of each table as the README has them, with the cell of their default.
fn described() -> BTreeMap<String, &'static str> {
    let rows =
        SETTINGS.iter().flat_map(|(heading, shape)| table(heading).into_iter().map(move |row| (shape, row)));
    let keys = rows.flat_map(|(shape, row)| {
        quoted(row[0]).into_iter().map(move |key| (format!("{shape}.{key}"), row[1]))
    });
    keys.collect()
}

/// The keys of each table as the program reads them: those that are written, and those that are not.
fn read() -> BTreeSet<String> {
    let written = ["address", "tls"].map(|key| format!("listen[].{key}"));
    let written = written.into_iter().chain(
        [
            "listen[].tls.certificates",
            "route[].path",
            "route[].upstream",
            "upstream.NAME.servers",
            "upstream.NAME.servers[].address",
            "upstream.NAME.tls",
        ]
        .map(str::to_owned),
    );
    let absent = Config::absent_keys(EVERYTHING).into_iter().filter(|key| {
        let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
        let of_defaults = Config::absent_keys(EVERYTHING).contains(&format!("defaults.{key}"));
        SETTINGS.iter().any(|(_, shape)| *shape == table) && !(table == "route[]" && of_defaults)
    });
    written.chain(absent).collect()
}

fn parsed(text: &str) -> Config {
    Config::parse(text, "docs.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn every_setting_is_described_and_every_description_is_of_one() {
    let described: BTreeSet<String> = described().into_keys().collect();
    let missing: Vec<_> = read().difference(&described).cloned().collect();
    let stale: Vec<_> = described.difference(&read()).cloned().collect();
    assert_eq!((missing, stale), (vec![], vec![]), "settings that README lacks, and such as are none");
}

#[test]
fn every_default_is_as_it_is_described() {
    let plain = parsed(EVERYTHING);
    let mut without = Vec::new();
    for (key, cell) in described() {
        let (table, name) = key.rsplit_once('.').unwrap();
        let Some(value) = cell.starts_with('`').then(|| quoted(cell)[0]) else {
            without.push(key);
            continue;
        };
        let line = match table.strip_suffix("servers[]") {
            Some(_) => format!("  {{ address = \"c:1\", {name} = {value} }},"),
            None => format!("{name} = {value}"),
        };
        let text = EVERYTHING.replace(&format!("#{table}\n"), &format!("{line}\n"));
        assert_ne!(text, EVERYTHING, "there is a mark for {table}");
        let short = EVERYTHING.replace("#upstream.NAME.servers[]\n", "  { address = \"c:1\" },\n");
        let expected = if table.ends_with("servers[]") { parsed(&short) } else { plain.clone() };
        assert!(parsed(&text) == expected, "the default of {key} is not {value}");
    }
    without.sort();
    let mut expected = WITHOUT_VALUE.map(str::to_owned);
    expected.sort();
    assert_eq!(without, expected);
}

#[tokio::test]
async fn every_cause_is_described_and_every_description_is_of_one() {
    let mut described = BTreeSet::new();
    for pair in table("### Causes").iter().flat_map(|row| quoted(row[0])) {
        let (who, why) = pair.split_once('/').unwrap_or_else(|| panic!("{pair} is no cause"));
        assert!(Who::ALL.iter().any(|known| known.as_str() == who), "{pair}: nobody is called so");
        assert!(Why::ALL.iter().any(|known| known.as_str() == why), "{pair}: there is no such reason");
        described.insert(pair.to_owned());
    }
    for why in Why::ALL.map(Why::as_str) {
        assert!(described.iter().any(|pair| pair.ends_with(&format!("/{why}"))), "README lacks {why}");
    }
    let proxy = Proxy::before(&[support::nobody().await]).await;
    let metrics = proxy.running.proxy.metrics_text(Format::Prometheus);
    let series: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("websocket_ends_total{")).collect();
    assert!(!series.is_empty());
    for line in series {
        let label = |name: &str| line.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap();
        let pair = format!("{}/{}", label("side"), label("why"));
        assert!(described.contains(&pair), "README lacks {pair}, which tunnels may end with");
    }
}

#[tokio::test]
async fn every_metric_that_is_described_is_told() {
    let proxy = Proxy::before(&[support::nobody().await]).await;
    let metrics = proxy.running.proxy.metrics_text(Format::Prometheus);
    let names: Vec<&str> = table("## Metrics").iter().flat_map(|row| quoted(row[0])).collect();
    assert!(names.len() > 30);
    for name in names {
        assert!(metrics.contains(&format!("# TYPE {name} ")), "README names {name}, which is not told");
    }
}

#[tokio::test]
async fn every_field_of_the_log_is_described_and_every_description_is_of_one() {
    let mut proxy = Proxy::before(&[support::nobody().await]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.head().await;
    let report = proxy.report().await;
    let line: serde_json::Value = serde_json::from_str(&report.0.json(&report.1, 1)).unwrap();
    let told: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let described: BTreeSet<&str> =
        table("## The access log").iter().flat_map(|row| quoted(row[0])).collect();
    assert_eq!(told, described);
}

#[test]
fn every_exit_code_is_described_as_the_help_has_it() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_holdline")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let codes = help.split("Exit codes:").nth(1).unwrap().split("Signals:").next().unwrap();
    let codes: BTreeSet<&str> = codes.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let rows = README.split_once("| exit code | meaning |").unwrap().1.lines().skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let described: BTreeSet<&str> =
        rows.filter_map(|row| row.trim_matches('|').split('|').next()).map(str::trim).collect();
    assert_eq!(codes, described);
}
