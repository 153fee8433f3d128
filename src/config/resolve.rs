//! Owns the settings of each table. One function reads the table, with a default for what was not written;
//! one beside it makes a section of the settings. It must not know how values are spelled.

mod admin;
mod headers;
mod listen;
mod route;
mod server;
mod tunnel;
mod upstream;

use super::document::{Document, Item, Section};
use super::error::{any_of, nearest};
use super::raw::{Table, Value};
use super::value::{self, duration_or_zero, integer, list, off_or, parsed, word, word_for, write_rate};
use super::{Config, Process, defaults, words};
use crate::limit::rate::Rate;
use crate::proxy::snapshot::{Plan, Target};
use crate::real_ip;
use crate::telemetry::{self, AccessTarget, Facility};
use std::path::Path;

/// Reads the whole file. Leaves out what has mistakes; the file has noted them.
pub(super) fn config(table: &Table<'_>) -> Config {
    let (process, max_connections) =
        table.section("process", |table| (process(table), max_connections(table)));
    let log = table.section("log", log);
    let real_ip = table.section("real_ip", real_ip);
    let listeners = listen::all(table, &real_ip);
    let admin = table.get("admin", |value| value.table(|table| admin::admin(table, &listeners))).flatten();
    let upstreams = upstream::all(table);
    // If [upstream] is not a table, that is one mistake: its routes do not lack their upstreams as well.
    let names: Option<Vec<&str>> =
        upstreams.as_ref().map(|upstreams| upstreams.iter().map(|upstream| upstream.name).collect());
    let upstreams = upstreams.unwrap_or_default();
    let base = table.section("defaults", |table| route::settings(table, &route::Settings::default()));
    let routes = route::all(table, &base, names.as_deref());
    let is_used = |name: &str| {
        routes.iter().any(|route| matches!(&route.target, Target::Upstream(target) if **target == *name))
    };
    let (used, unused): (Vec<_>, Vec<_>) = upstreams.into_iter().partition(|upstream| is_used(upstream.name));
    for upstream in unused {
        table.warn(upstream.place, "no route leads to it");
    }
    let upstreams = used.into_iter().filter_map(|upstream| upstream.settings).collect();
    Config {
        process,
        log,
        admin,
        listeners,
        plan: Plan { routes, upstreams, real_ip, max_connections },
        warnings: Vec::new(),
        files: Vec::new(),
    }
}

/// Reads `[admin]` alone. `None` means that it is missing or has mistakes.
pub(super) fn admin_alone(table: &Table<'_>) -> Option<crate::admin::Settings> {
    table.get("admin", |value| value.table(|table| admin::admin(table, &[]))).flatten()
}

fn process(table: &Table<'_>) -> Process {
    let shutdown_grace = table.get_or("shutdown_grace", duration_or_zero, defaults::SHUTDOWN_GRACE);
    let usual_spread = defaults::DRAIN_SPREAD.min(shutdown_grace * 2 / 3);
    let process = Process {
        workers: table.get_or("workers", integer(0..=MOST_WORKERS), defaults::WORKERS),
        engine: table.get_or("engine", word(words::ENGINE), defaults::ENGINE),
        shutdown_grace,
        drain_spread: table.get_or("drain_spread", duration_or_zero, usual_spread),
        pid_file: table.get_or("pid_file", off_or(value::path), defaults::PID_FILE),
    };
    if process.drain_spread > process.shutdown_grace {
        let [spread, grace] = [process.drain_spread, process.shutdown_grace].map(value::write_duration);
        let text = format!(
            "drain_spread is {spread}, but after shutdown_grace, {grace}, Holdline cuts what is open"
        );
        table.warn(table.place(), text);
    }
    process
}

fn real_ip(table: &Table<'_>) -> real_ip::Settings {
    real_ip::Settings {
        trusted: table.get_or("trusted", list("expected a list of networks", parsed), Vec::new()),
        source: table.get_or("header", parsed, real_ip::Source::default()),
        recursive: table.get_or("recursive", Value::boolean, defaults::REAL_IP_RECURSIVE),
    }
}

fn max_connections(table: &Table<'_>) -> Option<u32> {
    table.get_or("max_connections", off_or(integer(1..=u32::MAX)), defaults::MAX_CONNECTIONS)
}

fn log(table: &Table<'_>) -> telemetry::Settings {
    telemetry::Settings {
        level: table.get_or("level", word(words::LEVEL), defaults::LOG_LEVEL),
        format: table.get_or("format", word(words::FORMAT), defaults::LOG_FORMAT),
        access: table.get_or("access", access, defaults::LOG_ACCESS),
        facility: table.get_or("facility", facility, defaults::FACILITY),
        sample_above: table.get_or("sample_above", off_or(sample_above), defaults::sample_above()),
    }
}

/// A word, a target of syslog, or any other text as a path.
fn access(value: &Value<'_>) -> Option<AccessTarget> {
    let words: Vec<&str> = words::ACCESS.iter().map(|&(word, _)| word).chain(["syslog"]).collect();
    let Some(text) = value.as_str().filter(|text| value::is_name(text)) else {
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let all = any_of(quoted.iter().map(String::as_str).chain(["a path"]));
        return value.wrong(format!("expected {all}"));
    };
    if let Some((_, target)) = words::ACCESS.iter().find(|(word, _)| *word == text) {
        return Some(target.clone());
    }
    if text == "syslog" || text.starts_with("syslog:") {
        return parsed(value).map(AccessTarget::Syslog);
    }
    match nearest(text, &words).filter(|_| !text.contains('/')) {
        Some(word) => value.wrong(format!("did you mean \"{word}\"? A file of that name is \"./{text}\"")),
        None => {
            value.is_file(Path::new(text));
            Some(AccessTarget::File(text.into()))
        }
    }
}

fn facility(value: &Value<'_>) -> Option<Facility> {
    let words: Vec<&str> = words::FACILITY.iter().map(|&(word, _)| word).collect();
    let text = value.as_str().unwrap_or_default();
    match nearest(text, &words).filter(|word| *word != text) {
        Some(word) => value.wrong(format!("did you mean \"{word}\"?")),
        None => word(words::FACILITY)(value),
    }
}

fn sample_above(value: &Value<'_>) -> Option<Rate> {
    let (lines, per) = value::rate(value)?;
    let rate = Rate::new(lines, per, defaults::sampling_burst(lines, per));
    rate.or_else(|| value.wrong("expected fewer lines"))
}

/// The document of a configuration, with an entry for each setting.
pub(super) fn document(config: &Config) -> Document {
    let plan = &config.plan;
    let mut sections = vec![process_section(&config.process, plan.max_connections), log_section(&config.log)];
    sections.extend(config.admin.as_ref().map(admin::section));
    sections.push(real_ip_section(&plan.real_ip));
    sections.extend(config.listeners.iter().map(listen::section));
    sections.extend(plan.routes.iter().map(route::section));
    sections.extend(plan.upstreams.iter().map(upstream::section));
    Document { comment: None, sections }
}

fn process_section(process: &Process, max_connections: Option<u32>) -> Section {
    let mut section = Section::table("process");
    section.set("workers", process.workers);
    section.set("engine", word_for(words::ENGINE, &process.engine));
    section.set("shutdown_grace", process.shutdown_grace);
    section.set("drain_spread", process.drain_spread);
    section.set("max_connections", Item::or_off(max_connections));
    section.set("pid_file", Item::or_off(process.pid_file.as_deref()));
    section
}

fn log_section(log: &telemetry::Settings) -> Section {
    let mut section = Section::table("log");
    section.set("level", word_for(words::LEVEL, &log.level));
    section.set("format", word_for(words::FORMAT, &log.format));
    section.set("access", Item::text(&log.access));
    section.set("facility", word_for(words::FACILITY, &log.facility));
    let above = log.sample_above.map(|above| Item::text(write_rate(above)));
    section.set("sample_above", Item::or_off(above));
    section
}

fn real_ip_section(real_ip: &real_ip::Settings) -> Section {
    let mut section = Section::table("real_ip");
    section.set("trusted", Item::texts(&real_ip.trusted));
    section.set("header", Item::text(&real_ip.source));
    section.set("recursive", real_ip.recursive);
    section
}

/// More threads than any machine has CPUs are a typing mistake.
const MOST_WORKERS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::snapshot::Route;
    use std::time::Duration;

    /// The routes of a text, to which a listener and an upstream are added.
    fn routes(text: &str) -> Vec<Route> {
        let text = format!(
            "listen = [{{ address = \"127.0.0.1:0\" }}]\n{text}\n[upstream.u]\nservers = [\"a:1\"]\n"
        );
        Config::parse(&text, "f").unwrap_or_else(|errors| panic!("{errors}")).plan.routes
    }

    #[test]
    fn a_route_overrides_single_settings_of_a_ping() {
        let routes = routes(
            r#"
            [defaults]
            ping = { client = "10s", timeout = "3s" }
            [[route]]
            path = "/a/"
            upstream = "u"
            ping = { upstream = "off" }
            [[route]]
            path = "/b/"
            upstream = "u"
            ping = "off"
            "#,
        );
        let [a, b] = [&routes[0].tunnel, &routes[1].tunnel];
        assert_eq!((a.ping.client, a.ping.upstream), (Some(Duration::from_secs(10)), None));
        assert_eq!((b.ping.client, b.ping.upstream), (None, None));
        assert_eq!([a.ping_timeout, b.ping_timeout], [Duration::from_secs(3); 2]);
    }

    #[test]
    fn headers_of_a_route_add_to_those_of_all() {
        let routes = routes(
            r#"
            [defaults]
            headers = { set = { A = "1", B = "1" }, remove = ["C", "D"] }
            response_headers = { X = "1", Y = "1" }
            [[route]]
            path = "/"
            upstream = "u"
            headers = { set = { b = "2", C = "2" }, remove = ["A"] }
            response_headers = { Y = "2" }
            "#,
        );
        let shown = |fields: &[(http::HeaderName, http::HeaderValue)]| -> Vec<String> {
            fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
        };
        assert_eq!(shown(&routes[0].set_headers), ["b: 2", "c: 2"]);
        assert_eq!(routes[0].remove_headers, ["a", "d"]);
        assert_eq!(shown(&routes[0].response_headers), ["x: 1", "y: 2"]);
    }

    #[test]
    fn an_upstream_without_a_route_is_left_out() {
        let text = "listen = [{ address = \"127.0.0.1:0\" }]\nroute = [{ path = \"/\", respond = { status = 200 } }]\n[upstream.u]\nservers = [\"a:1\"]\n";
        let config = Config::parse(text, "f").unwrap();
        assert_eq!(config.plan.upstreams, []);
        assert_eq!(config.warnings[0].to_string(), "f:3: upstream.u: no route leads to it");
    }

    #[test]
    fn retry_off_is_one_try() {
        let text = "listen = [{ address = \"127.0.0.1:0\" }]\nroute = [{ path = \"/\", upstream = \"u\" }]\n[upstream.u]\nservers = [\"a:1\"]\nretry = \"off\"\n";
        assert_eq!(Config::parse(text, "f").unwrap().plan.upstreams[0].retry.tries, 1);
    }
}
