//! Owns the settings of `[[route]]` and `[defaults]`. Of upstreams it must know only their names.

use super::headers::{self, Fields, Headers};
use super::tunnel;
use crate::config::document::{InlineTable, Item, Section};
use crate::config::error::nearest;
use crate::config::raw::{Table, Value};
use crate::config::value::{self, duration, integer, list, off_or, parsed, size, word, word_for, write_rate};
use crate::config::{defaults, foreign, hint, words};
use crate::http::{Forwarded, Via};
use crate::limit::Limits;
use crate::limit::rate::Rate;
use crate::proxy::snapshot::{RejectWith, Route, Target};
use crate::route::{HostPattern, PathPattern, PathRegex, Rewrite, Rule};
use crate::telemetry::report::RouteNames;
use crate::ws::origin::AllowedOrigin;
use http::StatusCode;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// The settings that a route and `[defaults]` share.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    connect_timeout: Duration,
    response_timeout: Option<Duration>,
    tunnel: crate::tunnel::Settings,
    limits: Limits,
    allowed_origins: Option<Vec<AllowedOrigin>>,
    max_body_size: Option<u64>,
    reject_with: RejectWith,
    access_log: bool,
    headers: Headers,
    response_headers: Fields,
    forwarded: Forwarded,
    via: Via,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: defaults::CONNECT_TIMEOUT,
            response_timeout: defaults::RESPONSE_TIMEOUT,
            tunnel: defaults::TUNNEL,
            limits: defaults::LIMITS,
            allowed_origins: defaults::ALLOWED_ORIGINS,
            max_body_size: defaults::MAX_BODY_SIZE,
            reject_with: defaults::REJECT_WITH,
            access_log: defaults::ACCESS_LOG,
            headers: Headers::default(),
            response_headers: Fields::default(),
            forwarded: defaults::FORWARDED,
            via: defaults::VIA,
        }
    }
}

/// Reads the settings of a table. Those of `base` are its defaults.
pub(super) fn settings(table: &Table<'_>, base: &Settings) -> Settings {
    Settings {
        connect_timeout: table.get_or("connect_timeout", duration, base.connect_timeout),
        response_timeout: table.get_or("response_timeout", off_or(duration), base.response_timeout),
        tunnel: tunnel::read(table, &base.tunnel),
        limits: table.section("limits", |table| limits(table, &base.limits)),
        allowed_origins: table.get_or(
            "allowed_origins",
            off_or(list("expected a list of origins", parsed)),
            base.allowed_origins.clone(),
        ),
        max_body_size: table.get_or("max_body_size", off_or(size), base.max_body_size),
        reject_with: table.get_or("reject_with", word(words::REJECT_WITH), base.reject_with),
        access_log: table.get_or("access_log", Value::boolean, base.access_log),
        headers: table.section("headers", |table| headers::request(table, &base.headers)),
        response_headers: base.response_headers.with(&table.get_or(
            "response_headers",
            headers::response,
            Fields::default(),
        )),
        forwarded: table.get_or("forwarded", word(words::FORWARDED), base.forwarded),
        via: table.get_or("via", word(words::VIA), base.via),
    }
}

fn limits(table: &Table<'_>, base: &Limits) -> Limits {
    let most = |key, base| table.get_or(key, off_or(integer(1..=u32::MAX)), base);
    let (connections, connections_per_ip) =
        (most("connections", base.connections), most("connections_per_ip", base.connections_per_ip));
    // A rate and its burst belong together: neither is taken from `base` alone.
    let rate = off_or(|value: &Value<'_>| value.table(|table| rate(table, value)).flatten());
    let openings_per_ip = table.get_or("openings_per_ip", rate, base.openings_per_ip);
    Limits { connections, connections_per_ip, openings_per_ip }
}

fn rate(table: &Table<'_>, place: &Value<'_>) -> Option<Rate> {
    let rate = table.require("rate", value::A_RATE, value::rate);
    let burst = table.get("burst", integer(1..=u32::MAX)).and_then(NonZeroU32::new);
    let (events, per) = rate?;
    let rate = Rate::new(events, per, table.or_default("burst", burst, defaults::burst(events)));
    rate.or_else(|| place.refuse("found a burst that takes centuries to regain", "expected a smaller one"))
}

/// Reads each `[[route]]`. `upstreams` are the names that exist; `None` means that they could not be read.
pub(super) fn all(table: &Table<'_>, base: &Settings, upstreams: Option<&[&str]>) -> Vec<Route> {
    let mut seen: Vec<(String, Rule, Arc<str>)> = Vec::new();
    table.each("route", |table| {
        let route = route(table, base, upstreams)?;
        let place = table.place();
        if let Some((path, ..)) = seen.iter().find(|(_, rule, _)| is_hidden(&route.rule, rule)) {
            let found = format!("found a host and a path that {path} has too");
            table.error(place.clone(), found, "expected one to differ: the first is always chosen");
        } else if let Some((path, ..)) = seen.iter().find(|(.., name)| name == route.name()) {
            let found = format!("found the name {:?}, which {path} has too", route.name());
            table.error(
                place.clone(),
                found,
                "expected a name of its own: open tunnels find their route by it",
            );
        }
        seen.push((place.path, route.rule.clone(), Arc::clone(route.name())));
        Some(route)
    })
}

/// Whether an earlier rule takes all requests of a later one, for one of its hosts.
fn is_hidden(later: &Rule, earlier: &Rule) -> bool {
    let hosts = |rule: &Rule| rule.hosts.iter().cloned().flat_map(HostPattern::expand).collect::<Vec<_>>();
    let same_kind = std::mem::discriminant(&later.path) == std::mem::discriminant(&earlier.path);
    let same_path = same_kind && later.path.as_str() == earlier.path.as_str();
    let (later, earlier) = (hosts(later), hosts(earlier));
    let any_host = later.is_empty() && earlier.is_empty();
    same_path && (any_host || later.iter().any(|host| earlier.contains(host)))
}

fn route(table: &Table<'_>, base: &Settings, upstreams: Option<&[&str]>) -> Option<Route> {
    let name = table.get("name", value::name);
    let hosts = table.get_or("hosts", list("expected a list of hosts", host), Vec::new());
    let path = path(table);
    let target = target(table, upstreams);
    let rewrite = rewrite(table, path.as_ref(), target.as_ref());
    let settings = settings(table, base);
    if let Some(Target::Respond { status, .. }) = &target
        && REDIRECTS.contains(&status.as_u16())
        && settings.response_headers.0.iter().all(|(name, _)| name != http::header::LOCATION)
        && !table.take("response_headers").is_some_and(|headers| headers.names("location"))
    {
        let found = format!("found {} without a Location", status.as_u16());
        let remedy = "expected `response_headers = { Location = \"https://...\" }` beside it";
        table.error(table.place_of("respond"), found, remedy);
    }
    let (path, target) = (path?, target?);
    let name = table.or_default("name", name, default_name(&hosts, &path));
    Some(Route {
        names: Arc::new(RouteNames::new(name.into(), target.upstream().cloned())),
        rule: Rule { hosts, path },
        target,
        rewrite,
        connect_timeout: settings.connect_timeout,
        response_timeout: settings.response_timeout,
        tunnel: Arc::new(settings.tunnel),
        limits: settings.limits,
        allowed_origins: settings.allowed_origins,
        max_body_size: settings.max_body_size,
        reject_with: settings.reject_with,
        access_log: settings.access_log,
        set_headers: settings.headers.set.0,
        remove_headers: settings.headers.remove,
        response_headers: settings.response_headers.0,
        forwarded: settings.forwarded,
        via: settings.via,
    })
}

/// Redirects (RFC 9110 15.4) are useless without a Location.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

fn host(value: &Value<'_>) -> Option<HostPattern> {
    match hint::host(value.as_str().unwrap_or_default()) {
        // A host that could be read and matches no request is a mistake too.
        Some(hint) if value.as_str().is_some() => value.wrong(hint),
        _ => parsed(value),
    }
}

/// The first host and the path. Two routes that differ in one of them have different names.
fn default_name(hosts: &[HostPattern], path: &PathPattern) -> String {
    let host = hosts.first().map(HostPattern::to_string).unwrap_or_default();
    let sign = match path {
        PathPattern::Prefix { .. } => "",
        PathPattern::Exact(_) => "=",
        PathPattern::Regex(_) => "~",
    };
    format!("{host}{sign}{}", path.as_str())
}

fn path(table: &Table<'_>) -> Option<PathPattern> {
    let written = table.one_of(&["path", "path_exact", "path_regex"]);
    let priority = table.get_or("priority", Value::boolean, defaults::PRIORITY);
    let (kind, value) = written?;
    if priority && kind != 0 {
        table.error(table.place_of("priority"), "found without path", "expected it beside path only");
    }
    // A route without a name is named by it in logs.
    let text = value::name(&value)?;
    let pattern = match kind {
        0 => PathPattern::prefix(&text, priority),
        1 => PathPattern::exact(&text),
        _ => PathPattern::regex(&text),
    };
    pattern.map_err(|error| value.wrong::<()>(error)).ok()
}

fn target(table: &Table<'_>, upstreams: Option<&[&str]>) -> Option<Target> {
    let (kind, value) = table.one_of(&["upstream", "respond"])?;
    if kind == 1 {
        return value.table(respond).flatten();
    }
    let name = value.text("expected the name of an upstream")?;
    let Some(upstreams) = upstreams.filter(|upstreams| !upstreams.contains(&name)) else {
        return Some(Target::Upstream(name.into()));
    };
    match nearest(name, upstreams) {
        Some(near) => value.wrong(format!("did you mean \"{near}\"?")),
        None => value.wrong("expected the name of an [upstream.NAME]"),
    }
}

fn respond(table: &Table<'_>) -> Option<Target> {
    let status = table.require("status", "expected a status, like 200", integer(200..=599));
    let body =
        table.get_or("body", |value| value::literal(value, "expected a text", |_| None), String::new());
    Some(Target::Respond { status: StatusCode::from_u16(status?).ok()?, body })
}

fn rewrite(table: &Table<'_>, path: Option<&PathPattern>, target: Option<&Target>) -> Option<Rewrite> {
    let strip = table.get_or("strip_prefix", Value::boolean, defaults::STRIP_PREFIX);
    let rewrite = table.take("rewrite");
    let key = if strip { "strip_prefix" } else { "rewrite" };
    if strip && rewrite.is_some() {
        table.error(table.place_of("rewrite"), "found beside strip_prefix", "expected only one of them");
    }
    if strip && path.is_some_and(|path| !matches!(path, PathPattern::Prefix { .. })) {
        table.error(table.place_of(key), "found without path", "expected it beside path only");
    }
    if (strip || rewrite.is_some()) && matches!(target, Some(Target::Respond { .. })) {
        table.error(table.place_of(key), "found beside respond", "expected it beside upstream only");
    }
    let text = rewrite.and_then(|value| {
        let remedy = "expected a path that begins with \"/\"";
        let text = value.as_str().filter(|text| text.starts_with('/')).or_else(|| value.wrong(remedy))?;
        match path {
            Some(PathPattern::Regex(regex)) => groups(text, regex, &value),
            _ => value::literal(&value, remedy, foreign::instead_of),
        }
    });
    text.or(strip.then(|| "/".to_owned())).map(Rewrite)
}

/// A replacement in which each group is one of the regex.
fn groups(text: &str, regex: &PathRegex, value: &Value<'_>) -> Option<String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        rest = after.strip_prefix('$').unwrap_or(after);
        let Some(name) = foreign::variable(after).filter(|_| rest.len() == after.len()) else { continue };
        let name = name.trim_matches(['{', '}']);
        if !regex.has_group(name) {
            let digits = name.len() - name.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let remedy = match name.split_at(digits) {
                ("", _) | (_, "") => {
                    "expected a group of path_regex, like $1, or $$ for a dollar sign".to_owned()
                }
                (number, behind) => {
                    format!("expected ${{{number}}}{behind}: without braces, {behind} belongs to the name")
                }
            };
            return value.refuse(&format!("found ${name}, which is not a group of path_regex"), remedy);
        }
    }
    Some(text.to_owned())
}

/// The section for a `[[route]]`.
pub(super) fn section(route: &Route) -> Section {
    let mut section = Section::element("route");
    section.set("name", &**route.name());
    section.set("hosts", Item::texts(&route.rule.hosts));
    let pattern = &route.rule.path;
    match pattern {
        PathPattern::Exact(_) => _ = section.set("path_exact", pattern.as_str()),
        PathPattern::Regex(_) => _ = section.set("path_regex", pattern.as_str()),
        PathPattern::Prefix { priority, .. } => {
            section.set("path", pattern.as_str());
            section.set("priority", *priority);
        }
    }
    match &route.target {
        Target::Upstream(name) => _ = section.set("upstream", &**name),
        Target::Respond { status, body } => {
            let status = u32::from(status.as_u16());
            let respond =
                InlineTable::default().with("status", status).with("body", Item::Literal(body.clone()));
            section.set("respond", respond);
        }
    }
    if let Some(Rewrite(text)) = &route.rewrite {
        // `strip_prefix` has become a rewrite to "/". With a regex, `$` names a group.
        let is_regex = matches!(pattern, PathPattern::Regex(_));
        section.set("rewrite", if is_regex { Item::text(text) } else { Item::Literal(text.clone()) });
    }
    write_settings(&mut section, route);
    section
}

/// Sets what a route and `[defaults]` share.
fn write_settings(section: &mut Section, route: &Route) {
    section.set("connect_timeout", route.connect_timeout);
    section.set("response_timeout", Item::or_off(route.response_timeout));
    tunnel::write(section, &route.tunnel);
    section.set("limits", write_limits(&route.limits));
    section.set("allowed_origins", Item::or_off(route.allowed_origins.as_ref().map(Item::texts)));
    section.set("max_body_size", Item::or_off(route.max_body_size.map(Item::Size)));
    section.set("reject_with", word_for(words::REJECT_WITH, &route.reject_with));
    section.set("access_log", route.access_log);
    section.set("headers", headers::write(&route.set_headers, &route.remove_headers));
    section.set("response_headers", headers::write_fields(&route.response_headers));
    section.set("forwarded", word_for(words::FORWARDED, &route.forwarded));
    section.set("via", word_for(words::VIA, &route.via));
}

fn write_limits(limits: &Limits) -> InlineTable {
    let rate = limits.openings_per_ip.map(|rate| {
        let text = write_rate(rate);
        InlineTable::default().with("rate", Item::text(text)).with("burst", rate.burst().get())
    });
    InlineTable::default()
        .with("connections", Item::or_off(limits.connections))
        .with("connections_per_ip", Item::or_off(limits.connections_per_ip))
        .with("openings_per_ip", Item::or_off(rate))
}
