//! The rank table: dependencies run down only, rooms have no circles, seams hold, and pure files stay pure.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "layering/graph.rs"]
mod graph;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What may import what: a module imports lower ranks and its own children only.
const RANKS: [(u32, &[&str]); 9] = [
    (1, &["addr", "escape", "ws", "proxy_protocol"]),
    (2, &["route", "real_ip", "limit", "balance", "health", "outcome"]),
    (3, &["capacity", "clock", "drain", "telemetry", "io", "tls"]),
    (4, &["listener", "http", "upstream", "tunnel"]),
    (5, &["proxy"]),
    (6, &["admin"]),
    (7, &["config"]),
    (8, &["app"]),
    (9, &["cli", "main", "testing"]),
];

/// Within a rank: the first lies on the second.
const LIES_ON: [(&str, &str); 4] =
    [("ws", "addr"), ("tls", "io"), ("capacity", "clock"), ("telemetry", "clock")];

/// Files of higher ranks that are pure all the same.
const PURE: [&str; 4] = ["tunnel/relay", "tunnel/timer", "tunnel/counters", "tunnel/blind"];
const IMPURE: [&str; 3] = ["tokio", "tracing", "Instant::now"];
/// Files whose every run can be repeated: what is random is handed to them.
const REPEATABLE: &str = "tunnel/relay";
const RANDOM: [&str; 2] = ["rand::", "::random"];

/// Rooms that handle bytes of strangers. A function of text loses or changes what is no text: there it
/// is a decision, with its reason here.
const OF_STRANGERS: [&str; 9] =
    ["http", "proxy", "real_ip", "route", "ws", "upstream", "listener", "tunnel", "proxy_protocol"];
const TEXT_FUNCTIONS: [&str; 2] = [".to_str()", "_lossy("];
const DECISIONS: [(&str, usize, &str); 4] = [
    ("http/conn/http1/heads/explain", 1, "what a reason quotes is for people; the target stays bytes"),
    ("proxy/upgrade", 1, "for the record; the header itself passes as it came"),
    ("ws/close", 1, "for the record; the frame itself passes as it came"),
    ("ws/handshake", 3, "what is no text is no subprotocol, and an extension that nobody knows"),
];

/// Where a foreign name may stand: the libraries that only few rooms know.
const SEAMS: [(&[&str], &[&str]); 4] = [
    // Those that speak HTTP themselves; the request path sees requests, responses and streams.
    (&["hyper::", "hyper_util::", "h2::"], &["http", "upstream", "admin", "cli"]),
    (&["rustls::", "tokio_rustls::"], &["tls"]),
    (&["epoll::", "eventfd("], &["tunnel/engine", "tunnel/wake", "io"]),
    (&["toml::"], &["config"]),
];

fn rank(module: &str) -> u32 {
    let found = RANKS.iter().find(|(_, modules)| modules.contains(&module));
    found.unwrap_or_else(|| panic!("{module} has no rank: give it one here and in lib.rs")).0
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file but `lib.rs`: its path below `src`, without `.rs`, and its product code.
fn files() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let named = found.into_iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap().with_extension("").display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        (name, product.to_owned())
    });
    named.filter(|(name, _)| name != "lib" && !name.ends_with("/tests")).collect()
}

/// Code without comments, which may speak of anything.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

#[test]
fn dependencies_run_down() {
    let mut faults = Vec::new();
    for (name, text) in files() {
        let module = name.split('/').next().unwrap();
        for (number, line) in code(&text) {
            assert!(!line.ends_with("crate::{"), "src/{name}.rs:{number}: one `use crate::` a line, please");
            // `use crate::{a, b::c};` names several.
            let imports = line.split("crate::").skip(1).flat_map(|rest| {
                let group = rest.strip_prefix('{').map(|group| group.split('}').next().unwrap_or_default());
                let paths: Vec<&str> = group.map_or_else(|| vec![rest], |group| group.split(',').collect());
                let first = |path: &str| -> String {
                    path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
                };
                paths.into_iter().map(first).collect::<Vec<_>>()
            });
            for import in imports.filter(|import| import != module) {
                if rank(&import) >= rank(module) && !LIES_ON.contains(&(module, import.as_str())) {
                    faults.push(format!("src/{name}.rs:{number}: {module} may not import {import}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// At each level, what is below one module (collapsed) must not lead back to it. The parent itself does not
/// count: it gives its children their common types.
#[test]
fn no_modules_depend_on_each_other() {
    let circles = graph::circles(&files());
    assert!(circles.is_empty(), "move what both need below them:\n{}", circles.join("\n"));
}

#[test]
fn seams_hold() {
    let mut faults = Vec::new();
    for (name, text) in files() {
        let is_in = |room: &str| name == room || name.starts_with(&format!("{room}/"));
        for (number, line) in code(&text) {
            let names = |word: &str| {
                let before = line.split(word).next().filter(|_| line.contains(word));
                before.is_some_and(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            };
            for (words, rooms) in SEAMS {
                if words.iter().any(|word| names(word)) && !rooms.iter().any(|room| is_in(room)) {
                    faults.push(format!("src/{name}.rs:{number}: {line}\n  only in {}", rooms.join(", ")));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn pure_files_know_no_runtime_and_no_clock() {
    let mut faults = Vec::new();
    for (name, text) in files() {
        let pure =
            rank(name.split('/').next().unwrap()) <= 2 || PURE.iter().any(|pure| name.starts_with(pure));
        for (number, line) in code(&text).filter(|_| pure) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                faults.push(format!("src/{name}.rs:{number}: {word} in a pure file"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn repeatable_files_draw_nothing_at_random() {
    let mut faults = Vec::new();
    for (name, text) in files().into_iter().filter(|(name, _)| name.starts_with(REPEATABLE)) {
        for (number, line) in code(&text) {
            if RANDOM.iter().any(|word| line.contains(word)) {
                faults.push(format!("src/{name}.rs:{number}: {line}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn bytes_of_strangers_stay_bytes() {
    let mut faults = Vec::new();
    for (name, text) in files() {
        if !OF_STRANGERS.contains(&name.split('/').next().unwrap()) {
            continue;
        }
        let is_text = |line: &str| TEXT_FUNCTIONS.iter().any(|function| line.contains(function));
        let found: Vec<_> = code(&text).filter(|(_, line)| is_text(line)).collect();
        let decided = DECISIONS.iter().find(|(file, ..)| *file == name).map_or(0, |(_, count, _)| *count);
        if found.len() > decided {
            let lines: Vec<_> = found.iter().map(|(number, line)| format!("{number}: {line}")).collect();
            faults.push(format!("src/{name}.rs: {decided} decided, found\n  {}", lines.join("\n  ")));
        }
    }
    assert!(faults.is_empty(), "take bytes as bytes, refuse, or give a reason:\n{}", faults.join("\n"));
}

#[test]
fn every_module_says_first_what_it_owns() {
    let silent: Vec<_> = files().into_iter().filter(|(_, text)| !text.starts_with("//! Owns ")).collect();
    assert!(silent.is_empty(), "{:?}", silent.iter().map(|(name, _)| name).collect::<Vec<_>>());
}
