//! The keys of the configuration and their defaults.

use crate::page::{Page, quoted};
use holdline::testing::config::Config;
use std::collections::{BTreeMap, BTreeSet};

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

/// The page's headings of settings, and the table of each.
const SETTINGS: [(&str, &str); 11] = [
    ("## `[process]`", "process"),
    ("## `[log]`", "log"),
    ("## `[admin]`", "admin"),
    ("## `[[listen]]`", "listen[]"),
    ("## `[listen.tls]`", "listen[].tls"),
    ("## `[real_ip]`", "real_ip"),
    ("## `[defaults]` and `[[route]]`", "defaults"),
    ("## `[[route]]` only", "route[]"),
    ("## `[upstream.NAME]`", "upstream.NAME"),
    ("## `[upstream.NAME.tls]`", "upstream.NAME.tls"),
    ("## A server as a table", "upstream.NAME.servers[]"),
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

/// The rows of all settings, each with its table.
fn rows() -> Vec<(&'static str, Vec<String>)> {
    let page = Page::read("docs/configuration.md");
    let of =
        |(heading, shape)| page.table(heading).into_iter().map(move |row| (shape, row)).collect::<Vec<_>>();
    SETTINGS.into_iter().flat_map(of).collect()
}

/// The keys of each table as the page has them, with the cell of their default.
fn described() -> BTreeMap<String, String> {
    let keys = rows().into_iter().flat_map(|(shape, row)| {
        let default = row[1].clone();
        quoted(&row[0]).into_iter().map(move |key| (format!("{shape}.{key}"), default.clone()))
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
    assert_eq!((missing, stale), (vec![], vec![]), "settings that the page lacks, and such as are none");
}

#[test]
fn every_default_is_as_it_is_described() {
    let plain = parsed(EVERYTHING);
    let mut without = Vec::new();
    for (key, cell) in described() {
        let (table, name) = key.rsplit_once('.').unwrap();
        let Some(value) = cell.starts_with('`').then(|| quoted(&cell)[0].clone()) else {
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

/// The words that a setting may be, as the message about a wrong one has them.
fn words_of(table: &str, name: &str) -> Vec<String> {
    let line = match table.strip_suffix("servers[]") {
        Some(_) => format!("  {{ address = \"c:1\", {name} = \"?\" }},"),
        None => format!("{name} = \"?\""),
    };
    let text = EVERYTHING.replace(&format!("#{table}\n"), &format!("{line}\n"));
    let message =
        Config::parse(&text, "docs.toml").err().map(|errors| errors.to_string()).unwrap_or_default();
    let expected = message.split_once("found \"?\", expected ").map_or("", |(_, expected)| expected);
    let list = expected.split(" or a table").next().unwrap();
    if !list.starts_with('"') || list.contains("like") || list.contains(':') {
        return Vec::new();
    }
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_word_of_a_setting_is_described() {
    let mut count = 0;
    for (table, row) in rows() {
        for name in quoted(&row[0]) {
            let words = words_of(table, &name);
            count += words.len();
            let missing: Vec<_> =
                words.iter().filter(|word| !row[1..].concat().contains(&format!("\"{word}\""))).collect();
            assert!(missing.is_empty(), "{table}.{name} may be {missing:?} as well");
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn every_method_of_balancing_is_one() {
    let methods = Page::read("docs/load-balancing.md").table("## Methods");
    let mut seen = BTreeSet::new();
    for written in methods.iter().flat_map(|row| quoted(&row[0])) {
        let value = match written.trim_matches('"') {
            table if table.starts_with('{') => table.to_owned(),
            source if written.starts_with('"') => format!("{{ hash = \"{source}\" }}"),
            word => format!("\"{word}\""),
        };
        parsed(&EVERYTHING.replace("#upstream.NAME\n", &format!("balance = {value}\n")));
        seen.insert(written);
    }
    let missing: Vec<_> =
        words_of("upstream.NAME", "balance").into_iter().filter(|word| !seen.contains(word)).collect();
    assert!(missing.is_empty(), "load-balancing.md lacks {missing:?}");
}

/// Where the page of timeouts says whose a timeout is, by words in its cell.
fn key_of(cell: &str) -> String {
    let name = quoted(cell)[0].clone();
    let table = match (name.as_str(), cell.contains("of an upstream")) {
        ("handshake_timeout", _) => "listen[].tls",
        ("header_timeout" | "body_timeout" | "tcp_user_timeout", _) | ("keepalive_timeout", false) => {
            "listen[]"
        }
        ("keepalive_timeout", true) => "upstream.NAME",
        _ => "defaults",
    };
    format!("{table}.{}", name.split('.').next().unwrap())
}

#[test]
fn every_timeout_has_its_row_with_the_same_default() {
    let described = described();
    let mut seen = BTreeSet::new();
    for row in Page::read("docs/timeouts.md").table("# Timeouts") {
        let key = key_of(&row[0]);
        let default = described.get(&key).unwrap_or_else(|| panic!("{key} is no setting"));
        let part =
            quoted(&row[0])[0].split_once('.').map(|(_, part)| format!("{part} = ")).unwrap_or_default();
        let value = format!("{part}\"{}\"", row[3].replace(' ', ""));
        assert!(default.contains(&value), "timeouts.md says {value} for {key}, configuration.md {default}");
        seen.insert(key);
    }
    let linked = rows().into_iter().filter(|(_, row)| row[2].contains("(timeouts.md)"));
    let linked = linked.map(|(shape, row)| format!("{shape}.{}", quoted(&row[0])[0]));
    let missing: Vec<_> = linked.filter(|key| !seen.contains(key)).collect();
    assert!(missing.is_empty(), "timeouts.md lacks {missing:?}");
}
