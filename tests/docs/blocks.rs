//! Blocks of TOML and JSON: the program reads them.

use crate::page::all;
use holdline::testing::config::Config;

/// A block as a whole configuration: what it lacks of listeners, routes and upstreams stands below it.
fn whole(block: &str) -> String {
    let table: toml::Table = block.parse().unwrap_or_else(|error| panic!("{error}\n{block}"));
    let mut text = block.to_owned();
    if !table.contains_key("listen") {
        text += "\n[[listen]]\naddress = \"127.0.0.1:0\"\n";
    }
    let upstreams = table.get("upstream").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let routes = table.get("route").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    if routes.is_empty() && upstreams.is_empty() {
        text += "\n[[route]]\npath = \"/\"\nrespond = { status = 200 }\n";
    }
    for name in upstreams.keys().filter(|_| routes.is_empty()) {
        text += &format!("\n[[route]]\npath = \"/{name}\"\nupstream = \"{name}\"\n");
    }
    for name in routes.iter().filter_map(|route| route.get("upstream")?.as_str()) {
        if !upstreams.contains_key(name) {
            text += &format!("\n[upstream.{name}]\nservers = [\"127.0.0.1:1\"]\n");
        }
    }
    text
}

#[test]
fn every_block_of_toml_is_a_configuration() {
    let mut count = 0;
    for page in all() {
        for block in page.blocks().into_iter().filter(|block| block.language == "toml") {
            let at = format!("{}:{}", page.path, block.line);
            let config = Config::parse(&whole(&block.text), &at).unwrap_or_else(|errors| panic!("{errors}"));
            assert!(config.warnings.is_empty(), "{at}: {:?}", config.warnings);
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}

#[test]
fn every_block_of_json_is_some() {
    let mut count = 0;
    for page in all() {
        for block in page.blocks().into_iter().filter(|block| block.language == "json") {
            let read = serde_json::from_str::<serde_json::Value>(&block.text);
            read.unwrap_or_else(|error| panic!("{}:{}: {error}", page.path, block.line));
            count += 1;
        }
    }
    assert!(count > 0);
}

#[test]
fn every_block_says_what_it_is() {
    const KNOWN: [&str; 9] = ["console", "ini", "js", "json", "nginx", "sh", "text", "toml", "yaml"];
    for page in all() {
        for block in page.blocks() {
            let (path, line) = (&page.path, block.line);
            assert!(KNOWN.contains(&block.language.as_str()), "{path}:{line}: {:?}", block.language);
        }
    }
}
