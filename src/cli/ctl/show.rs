//! Owns how answers of the admin endpoint are shown to people.

use crate::escape;
use serde_json::Value;
use std::fmt::Write as _;

/// The form of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Show {
    Status,
    Connections,
    Connection,
    Ends,
    Groups,
    Closed,
    Ordered,
    Reloaded,
}

impl Show {
    pub(super) fn text(self, answer: &Value) -> String {
        match self {
            Self::Status => status(answer),
            Self::Connections => connections(answer),
            Self::Connection => connection(answer),
            Self::Ends => ends(answer),
            Self::Groups => groups(answer),
            Self::Closed => format!("{} is being closed\n", cell(&answer["id"])),
            Self::Ordered => {
                let closing = answer["closing"].as_u64().unwrap_or_default();
                let what = if closing == 1 { "connection" } else { "connections" };
                format!("{}, {closing} {what} will be closed\n", cell(&answer["state"]))
            }
            Self::Reloaded => {
                let warnings = list(answer, "warnings").map(|text| format!("warning: {}\n", cell(text)));
                warnings.chain(["reloaded\n".to_owned()]).collect()
            }
        }
    }
}

fn status(answer: &Value) -> String {
    let (connections, reloads) = (&answer["connections"], &answer["reloads"]);
    let mut text = format!(
        "holdline {}, {}, up {}\n{} tunnels, {} of {} connections of clients, {} reloads and {} that failed\n",
        cell(&answer["version"]),
        cell(&answer["state"]),
        span(&answer["uptime"]),
        cell(&connections["tunnels"]),
        cell(&connections["clients"]),
        cell(&connections["capacity"]),
        cell(&reloads["succeeded"]),
        cell(&reloads["failed"]),
    );
    if let Some(error) = reloads["last_error"].as_str() {
        for line in error.lines() {
            let _ = writeln!(text, "the last reload failed: {}", clean(line));
        }
    }
    text.push('\n');
    text += &table(
        &["LISTENER", "LOCAL", "PROTOCOLS", "TLS", "CERTIFICATES"],
        list(answer, "listeners"),
        |one| {
            let protocols: Vec<_> = list(one, "protocols").map(cell).collect();
            let names = |certificate: &Value| {
                let names: Vec<_> = list(certificate, "names").map(cell).collect();
                format!("{} until {}", names.join(" "), cell(&certificate["not_after"]))
            };
            let certificates: Vec<_> = list(one, "certificates").map(names).collect();
            vec![
                cell(&one["address"]),
                cell(&one["local"]),
                protocols.join(" "),
                cell(&one["tls"]),
                certificates.join(", "),
            ]
        },
    );
    text.push('\n');
    let header = ["UPSTREAM", "ENDPOINT", "STATE", "BY", "STANDING", "ACTIVE", "WEIGHT", "FAILURES"];
    let endpoints = list(answer, "upstreams")
        .flat_map(|upstream| list(upstream, "endpoints").map(move |endpoint| (upstream, endpoint)));
    text += &table(&header, endpoints, |(upstream, one)| {
        let of = |key: &str| cell(&one[key]);
        vec![
            cell(&upstream["name"]),
            of("address"),
            of("state"),
            of("by"),
            of("standing"),
            of("active"),
            of("weight"),
            of("failures"),
        ]
    });
    text.push('\n');
    text + &table(&["ROUTE", "UPSTREAM", "TUNNELS", "OPENED", "ENDED"], list(answer, "routes"), |one| {
        ["name", "upstream", "tunnels", "opened", "ended"].map(|key| cell(&one[key])).into()
    })
}

fn connections(answer: &Value) -> String {
    let header =
        ["ID", "CLIENT", "ROUTE", "ENDPOINT", "AGE", "IDLE", "BYTES", "MESSAGES", "RTT", "HOST AND PATH"];
    let rows = table(&header, list(answer, "connections"), |one| {
        let pair = |key: &str| {
            format!("{}/{}", cell(&one[format!("{key}_client")]), cell(&one[format!("{key}_upstream")]))
        };
        let spans = |key: &str| {
            format!("{}/{}", span(&one[format!("{key}_client")]), span(&one[format!("{key}_upstream")]))
        };
        vec![
            cell(&one["id"]),
            cell(&one["client"]),
            cell(&one["route"]),
            cell(&one["endpoint"]),
            span(&one["age"]),
            spans("idle"),
            format!("{}/{}", bytes(&one["bytes_client"]), bytes(&one["bytes_upstream"])),
            pair("messages"),
            spans("rtt"),
            format!("{}{}", cell(&one["host"]), cell(&one["path"])),
        ]
    });
    let shown = list(answer, "connections").count();
    format!(
        "{rows}{shown} of {} that match, of {} in all\n",
        cell(&answer["matched"]),
        cell(&answer["total"])
    )
}

/// Each fact with its unit, and the settings of its route below.
fn connection(answer: &Value) -> String {
    let facts = answer.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object());
    let facts: Vec<_> = facts.map(|(key, value)| (key.clone(), fact(key, value))).collect();
    let settings = answer["settings"].as_object().into_iter().flatten();
    let settings: Vec<_> =
        settings.map(|(key, value)| (format!("settings.{key}"), setting(key, value))).collect();
    let widest = facts.iter().chain(&settings).map(|(key, _)| key.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (key, value) in facts.iter().chain(&settings) {
        let _ = writeln!(text, "{key:widest$}  {value}");
    }
    text
}

fn fact(key: &str, value: &Value) -> String {
    match key {
        "age" => span(value),
        _ if ["idle_", "rtt_"].iter().any(|start| key.starts_with(start)) => span(value),
        _ if key.starts_with("bytes_") => bytes(value),
        _ => cell(value),
    }
}

fn setting(key: &str, value: &Value) -> String {
    match (key, value) {
        (_, Value::Null) => "off".to_owned(),
        ("max_message_size", _) => bytes(value),
        (_, Value::Number(_)) => span(value),
        _ => cell(value),
    }
}

fn ends(answer: &Value) -> String {
    let header = ["ENDED", "ID", "CLIENT", "ROUTE", "ENDPOINT", "STATUS", "END", "CODE", "LASTED", "REASON"];
    let rows = table(&header, list(answer, "ends"), |one| {
        let code = match one["code_from"].as_str() {
            Some(from) => format!("{} by {from}", cell(&one["code"])),
            None => cell(&one["code"]),
        };
        vec![
            cell(&one["time"]),
            cell(&one["id"]),
            cell(&one["client"]),
            cell(&one["route"]),
            cell(&one["endpoint"]),
            cell(&one["status"]),
            format!("{}/{}", cell(&one["ended_by"]), cell(&one["cause"])),
            code,
            span(&one["duration"]),
            cell(&one["reason"]),
        ]
    });
    let shown = list(answer, "ends").count();
    format!(
        "{rows}{shown} of {} that match, of the last {}\n",
        cell(&answer["matched"]),
        cell(&answer["kept"])
    )
}

/// How many there are of each kind, of ends or of live connections.
fn groups(answer: &Value) -> String {
    let is_of_ends = answer.get("kept").is_some();
    let by: Vec<String> = list(answer, "by").map(|key| cell(key).to_uppercase()).collect();
    let more: &[&str] = if is_of_ends { &["FIRST", "LAST"] } else { &["BYTES", "MESSAGES"] };
    let header: Vec<&str> =
        ["COUNT"].into_iter().chain(by.iter().map(String::as_str)).chain(more.iter().copied()).collect();
    let rows = table(&header, list(answer, "groups"), |one| {
        let mut row = vec![cell(&one["count"])];
        row.extend(list(one, "keys").map(cell));
        if is_of_ends {
            row.extend([cell(&one["first"]), cell(&one["last"])]);
        } else {
            let pair = |key: &str, show: fn(&Value) -> String| {
                format!("{}/{}", show(&one[format!("{key}_client")]), show(&one[format!("{key}_upstream")]))
            };
            row.extend([pair("bytes", bytes), pair("messages", cell)]);
        }
        row
    });
    let others = answer["others"].as_u64().filter(|others| *others > 0);
    let others =
        others.map_or_else(String::new, |others| format!("{others} more in smaller groups (--limit)\n"));
    let of = match is_of_ends {
        true => format!("of the last {}", cell(&answer["kept"])),
        false => format!("of {} in all", cell(&answer["total"])),
    };
    format!("{rows}{others}{} that match, {of}\n", cell(&answer["matched"]))
}

/// What is printed before the first line of a tail.
pub(super) fn frames_header(id: &str) -> String {
    format!(
        "following {}, up to its end; Ctrl-C leaves it\n{:24} {:8} {:12} {:>9}\n",
        clean(id),
        "TIME",
        "SIDE",
        "FRAME",
        "LENGTH"
    )
}

/// One line of a tail.
pub(super) fn frame(name: &str, data: &Value) -> String {
    let of = |key: &str| cell(&data[key]);
    match name {
        "frame" => {
            let more = if data["fin"] == false { " more follows" } else { "" };
            let by = if data["origin"] == "proxy" { " by the proxy" } else { "" };
            format!(
                "{} {:8} {:12} {:>9} bytes{by}{more}\n",
                of("time"),
                of("side"),
                of("opcode"),
                of("length")
            )
        }
        "left_out" => format!("... {} frames were left out\n", of("count")),
        _ => format!("{} {}/{} code {} {}\n", name, of("ended_by"), of("cause"), of("code"), of("reason")),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

/// Columns that stand below one another.
fn table<T>(header: &[&str], rows: impl Iterator<Item = T>, row: impl Fn(T) -> Vec<String>) -> String {
    let mut lines: Vec<Vec<String>> = vec![header.iter().map(|&name| name.to_owned()).collect()];
    lines.extend(rows.map(row));
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut shown = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(shown, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", shown.trim_end());
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(is) => if *is { "yes" } else { "no" }.to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => clean(text),
        other => other.to_string(),
    }
}

/// A terminal obeys what peers have written: not here.
fn clean(text: &str) -> String {
    escape::terminal(text).into_owned()
}

/// Bytes as a person says them.
fn bytes(value: &Value) -> String {
    let Some(number) = value.as_u64() else { return "-".to_owned() };
    match number {
        0..1024 => format!("{number}B"),
        1024..1_048_576 => format!("{:.1}KiB", number as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1}MiB", number as f64 / 1_048_576.0),
        _ => format!("{:.1}GiB", number as f64 / 1_073_741_824.0),
    }
}

/// Seconds as a person says them, in the two largest units, below a minute with a fraction.
fn span(value: &Value) -> String {
    let Some(seconds) = value.as_f64() else { return "-".to_owned() };
    let whole = seconds as u64;
    match whole {
        _ if seconds < 1.0 => format!("{:.1}ms", seconds * 1000.0),
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spans_are_short() {
        let spans = [0.000_251, 9.96, 61.0, 7260.0, 90_000.0].map(|seconds| span(&json!(seconds)));
        assert_eq!(spans, ["0.3ms", "10.0s", "1m1s", "2h1m", "1d1h"]);
        assert_eq!(span(&Value::Null), "-");
    }

    #[test]
    fn what_peers_wrote_commands_no_terminal() {
        let answer = json!({ "ends": [{ "reason": "\u{1b}[2Jbye\n", "client": "a" }] });
        let text = Show::Ends.text(&answer);
        assert!(text.contains("\\x1B[2Jbye\\x0A\n") && !text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn columns_stand_below_one_another() {
        let rows = [("a", "1"), ("longer", "22")].into_iter();
        let text = table(&["X", "Y"], rows, |(x, y)| vec![x.to_owned(), y.to_owned()]);
        assert_eq!(text, "X       Y\na       1\nlonger  22\n");
    }
}
