//! Owns the meaning of `[[route]]` and `[defaults]`. It must not know upstreams but for their names.

use super::headers::{self, Fields, Headers};
use crate::config::error::nearest;
use crate::config::raw::{Table, Value};
use crate::config::value::{self, duration, integer, list, off_or, parsed, size, word, write_duration};
use crate::config::{defaults, foreign, hint, words};
use crate::http::{Forwarded, Via};
use crate::limit::Limits;
use crate::limit::rate::Rate;
use crate::outcome::PerSide;
use crate::proxy::snapshot::{RejectWith, Route, Target};
use crate::route::{HostPattern, PathPattern, PathRegex, Rewrite, Rule};
use crate::telemetry::report::RouteNames;
use crate::tunnel::{self, OnViolation, Pong};
use crate::ws::origin::AllowedOrigin;
use http::StatusCode;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// What a route and `[defaults]` share.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    connect_timeout: Duration,
    response_timeout: Option<Duration>,
    tunnel: tunnel::Settings,
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

/// The settings of a table, over those of `base`.
pub(super) fn settings(table: &Table<'_>, base: &Settings) -> Settings {
    Settings {
        connect_timeout: table.get("connect_timeout", duration).unwrap_or(base.connect_timeout),
        response_timeout: table.get("response_timeout", off_or(duration)).unwrap_or(base.response_timeout),
        tunnel: tunnel(table, &base.tunnel),
        limits: table.section("limits", |table| limits(table, &base.limits)),
        allowed_origins: table
            .get("allowed_origins", off_or(list("expected a list of origins", parsed)))
            .unwrap_or_else(|| base.allowed_origins.clone()),
        max_body_size: table.get("max_body_size", off_or(size)).unwrap_or(base.max_body_size),
        reject_with: table.get("reject_with", word(words::REJECT_WITH)).unwrap_or(base.reject_with),
        access_log: table.get("access_log", Value::boolean).unwrap_or(base.access_log),
        headers: table.section("headers", |table| headers::request(table, &base.headers)),
        response_headers: table
            .get("response_headers", headers::response)
            .map_or_else(|| base.response_headers.clone(), |more| base.response_headers.with(&more)),
        forwarded: table.get("forwarded", word(words::FORWARDED)).unwrap_or(base.forwarded),
        via: table.get("via", word(words::VIA)).unwrap_or(base.via),
    }
}

fn tunnel(table: &Table<'_>, base: &tunnel::Settings) -> tunnel::Settings {
    let limit = |key, base| table.get(key, off_or(duration)).unwrap_or(base);
    let (read_timeout, send_timeout) =
        (limit("read_timeout", base.read_timeout), limit("send_timeout", base.send_timeout));
    let close_timeout = table.get("close_timeout", duration).unwrap_or(base.close_timeout);
    let max_lifetime = limit("max_lifetime", base.max_lifetime);
    let off = (PerSide { client: None, upstream: None }, base.ping_timeout, base.pong);
    let ping = table.section_or_off("ping", |table| ping(table, base));
    let (ping, ping_timeout, pong) = ping.unwrap_or(off);
    let on_violation = table.get("on_violation", word(words::ON_VIOLATION));
    let settings = tunnel::Settings {
        ping,
        ping_timeout,
        pong,
        read_timeout,
        send_timeout,
        close_timeout,
        max_lifetime,
        on_violation: on_violation.unwrap_or(base.on_violation),
        max_message_size: table.get("max_message_size", off_or(size)).unwrap_or(base.max_message_size),
        close_codes: table.get("close_codes", word(words::CLOSE_CODES)).unwrap_or(base.close_codes),
    };
    if (settings.ping, settings.read_timeout) != (base.ping, base.read_timeout) {
        doubt(table, &settings);
    }
    if settings.max_message_size.is_some() && on_violation == Some(OnViolation::Blind) {
        let text =
            "max_message_size holds only where frames are read: with it a breach of framing closes with 1002";
        table.warn(table.place_of("on_violation"), text);
    }
    settings
}

fn ping(table: &Table<'_>, base: &tunnel::Settings) -> (PerSide<Option<Duration>>, Duration, Pong) {
    let interval = |key, base| table.get(key, off_or(duration)).unwrap_or(base);
    let (client, upstream) = (interval("client", base.ping.client), interval("upstream", base.ping.upstream));
    let timeout = table.get("timeout", duration).unwrap_or(base.ping_timeout);
    let pong = table.get("pong", word(words::PONG)).unwrap_or(base.pong);
    (PerSide { client, upstream }, timeout, pong)
}

fn limits(table: &Table<'_>, base: &Limits) -> Limits {
    let most = |key, base| table.get(key, off_or(integer(1..=u32::MAX))).unwrap_or(base);
    let (connections, connections_per_ip) =
        (most("connections", base.connections), most("connections_per_ip", base.connections_per_ip));
    // A rate is one thing: the burst of a route says nothing of the rate of another.
    let rate = off_or(|value: &Value<'_>| value.table(|table| rate(table, value)).flatten());
    let openings_per_ip = table.get("openings_per_ip", rate).unwrap_or(base.openings_per_ip);
    Limits { connections, connections_per_ip, openings_per_ip }
}

fn rate(table: &Table<'_>, place: &Value<'_>) -> Option<Rate> {
    let rate = table.require("rate", value::A_RATE, value::rate);
    let burst = table.get("burst", integer(1..=u32::MAX)).and_then(NonZeroU32::new);
    let (openings, per) = rate?;
    let rate = Rate::new(openings, per, burst.unwrap_or(defaults::burst(openings)));
    rate.or_else(|| place.refuse("found a burst that takes centuries to regain", "expected a smaller one"))
}

/// Notes pings that come too seldom for what they are for.
fn doubt(table: &Table<'_>, settings: &tunnel::Settings) {
    let intervals = [settings.ping.client, settings.ping.upstream].into_iter().flatten();
    let place = table.place_of("ping");
    if let (Some(first), Some(limit)) = (intervals.clone().min(), settings.read_timeout)
        && first >= limit
    {
        let [first, limit] = [first, limit].map(write_duration);
        let text =
            format!("read_timeout ends an idle tunnel after {limit}, before the first ping at {first}");
        table.warn(place.clone(), text);
    }
    if let Some(longest) = intervals.max().filter(|&longest| longest > HALF_OF_USUAL_LIMIT) {
        let text = "above half of 60s, the default idle limit of nginx and AWS ALB: one lost ping is enough";
        table.warn(place, format!("{} is {text}", write_duration(longest)));
    }
}

/// Every `[[route]]`.
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

/// Whether an earlier rule leaves a later one nothing for one of its hosts.
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
    let hosts = table.get("hosts", list("expected a list of hosts", host)).unwrap_or_default();
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
    let name = name.unwrap_or_else(|| default_name(&hosts, &path));
    Some(Route {
        names: Arc::new(RouteNames { route: name.into(), upstream: target.upstream().cloned() }),
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

/// They lead somewhere else (RFC 9110 15.4): without a Location nobody knows where.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

fn host(value: &Value<'_>) -> Option<HostPattern> {
    match hint::host(value.as_str().unwrap_or_default()) {
        // What can be read, and is the host of no request, is a mistake too.
        Some(hint) if value.as_str().is_some() => value.wrong(hint),
        _ => parsed(value),
    }
}

/// The first host and the path, written so that no two routes that differ in them are alike.
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
    let priority = table.get("priority", Value::boolean).unwrap_or(defaults::PRIORITY);
    let (kind, value) = written?;
    if priority && kind != 0 {
        table.error(table.place_of("priority"), "found without path", "expected it beside path only");
    }
    // It names the route in logs where nothing else does.
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
        table.get("body", |value| value::literal(value, "expected a text", |_| None)).unwrap_or_default();
    Some(Target::Respond { status: StatusCode::from_u16(status?).ok()?, body })
}

fn rewrite(table: &Table<'_>, path: Option<&PathPattern>, target: Option<&Target>) -> Option<Rewrite> {
    let strip = table.get("strip_prefix", Value::boolean).unwrap_or(defaults::STRIP_PREFIX);
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

/// What replaces a match: each group that it names is one of the regex.
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
                (number, behind) => format!("expected ${{{number}}}{behind}: the name goes on otherwise"),
            };
            return value.refuse(&format!("found ${name}, which is no group of path_regex"), remedy);
        }
    }
    Some(text.to_owned())
}

/// A ping at half of a limit may be lost once without harm.
const HALF_OF_USUAL_LIMIT: Duration = Duration::from_secs(30);
