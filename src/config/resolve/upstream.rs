//! Owns the settings of `[upstream.NAME]`. It must not know routes.

use super::listen::{tcp, write_tcp};
use super::server;
use crate::addr::ServerAddr;
use crate::balance::{Method, Source};
use crate::config::document::{InlineTable, Item, Section};
use crate::config::error::Place;
use crate::config::raw::{Table, Value};
use crate::config::value::{
    self, duration, duration_or_zero, integer, list, off_or, off_or_zero, word, word_for,
};
use crate::config::words::RetryOn;
use crate::config::{defaults, words};
use crate::health::EarlyEnd;
use crate::tls::certs::Pair;
use crate::tls::{Alpn, ServerName, client};
use crate::upstream::pool::Limits;
use crate::upstream::{RetryPolicy, Server, Settings, Tls};
use std::net::IpAddr;
use std::time::Duration;

/// More idle connections than one endpoint ever needs.
const MOST_IDLE: usize = 10_000;

/// An `[upstream.NAME]` that was written.
pub(super) struct NamedUpstream<'a> {
    pub(super) name: &'a str,
    pub(super) place: Place,
    /// `None` means that it has mistakes.
    pub(super) settings: Option<Settings>,
}

/// Reads each `[upstream.NAME]`. `None` means that `upstream` is something else than such tables.
pub(super) fn all<'a>(table: &Table<'a>) -> Option<Vec<NamedUpstream<'a>>> {
    let Some(value) = table.take("upstream") else { return Some(Vec::new()) };
    if value.is_list() {
        return value
            .refuse("found [[upstream]]", "expected [upstream.NAME], in single brackets and with its name");
    }
    let named = value.named()?;
    if let Some((_, first)) = named.first()
        && named.iter().all(|(_, value)| !value.is_table())
    {
        return first
            .refuse("found in [upstream]", "expected [upstream.NAME] above it: each upstream has a name");
    }
    let read = |(name, value): (&'a str, Value<'a>)| {
        if !value::is_name(name) {
            value.refuse::<()>("found a name that is empty or not of one line", "expected another name");
        }
        let settings = value.table(|table| upstream(name, table)).flatten();
        NamedUpstream { name, place: value.place, settings }
    };
    Some(named.into_iter().map(read).collect())
}

fn upstream(name: &str, table: &Table<'_>) -> Option<Settings> {
    let balance = table.get_or("balance", balance, defaults::BALANCE);
    let max_fails = table.get_or("max_fails", integer(0..=u32::MAX), defaults::MAX_FAILS);
    let fail_timeout = table.get_or("fail_timeout", duration, defaults::FAIL_TIMEOUT);
    let servers = server::all(table, max_fails, fail_timeout);
    let settings = Settings {
        name: name.into(),
        balance,
        servers: Vec::new(),
        slow_start: table.get_or("slow_start", off_or_zero(duration_or_zero), defaults::SLOW_START),
        max_ejected: table.get_or("max_ejected", value::percent, defaults::MAX_EJECTED),
        early_end: table.section_or_off("early_end", early_end),
        retry: retry(table),
        resolve_interval: table.section("resolve", resolve_interval),
        keepalive: Limits {
            connections: table.get_or("keepalive", off_or_zero(integer(0..=MOST_IDLE)), defaults::KEEPALIVE),
            timeout: table.get_or("keepalive_timeout", duration, defaults::UPSTREAM_KEEPALIVE_TIMEOUT),
        },
        drain_timeout: table.get_or("drain_timeout", off_or(duration_or_zero), defaults::DRAIN_TIMEOUT),
        tcp: tcp(table),
        proxy_protocol: table.get_or(
            "proxy_protocol",
            off_or(word(words::SEND_PROXY_PROTOCOL)),
            defaults::SEND_PROXY_PROTOCOL,
        ),
        source: source(table),
        tls: table.get_or("tls", off_or(|value| value.table(tls).flatten()), None),
    };
    let settings = Settings { servers: servers?, ..settings };
    warn_about_combinations(table, &settings);
    Some(settings)
}

/// Reads `source`.
fn source(table: &Table<'_>) -> Vec<IpAddr> {
    let read = |value: &Value<'_>| {
        let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        let address = address.filter(|address| !address.is_unspecified() && !address.is_multicast());
        let address =
            address.or_else(|| value.wrong("expected an address of this machine, like \"10.0.0.1\""))?;
        Some((value.place.clone(), address))
    };
    let remedy = "expected a list of addresses, like [\"10.0.0.1\"]";
    let found = table.get_or("source", list(remedy, read), Vec::new());
    let mut source = Vec::new();
    for (place, address) in found {
        if source.contains(&address) {
            table.error(place, format!("found \"{address}\" a second time"), "expected each address once");
        }
        source.push(address);
    }
    source
}

/// Reads `[upstream.NAME.tls]`.
fn tls(table: &Table<'_>) -> Option<Tls> {
    let name = |value: &Value<'_>| {
        let text = value.as_str().filter(|text| ServerName::try_from(*text).is_ok());
        text.map(str::to_owned).or_else(|| value.wrong("expected a host name or an address"))
    };
    let server_name = table.get("server_name", name);
    let [cert, key] = ["client_cert", "client_key"].map(|key| table.get(key, value::path));
    let (has_cert, has_key) = (cert.is_some(), key.is_some());
    if has_cert != has_key {
        let [written, missing] =
            if has_cert { ["client_cert", "client_key"] } else { ["client_key", "client_cert"] };
        table.error(table.place_of(missing), "missing", format!("expected it beside {written}"));
    }
    let insecure_skip_verify =
        table.get_or("insecure_skip_verify", Value::boolean, defaults::INSECURE_SKIP_VERIFY);
    let client = client::Settings {
        ca: table.get("ca", value::path),
        identity: cert.zip(key).map(|(cert, key)| Pair { cert, key }),
        min_version: table.get_or("min_version", word(words::MIN_VERSION), defaults::MIN_VERSION),
        alpn: vec![Alpn::Http1],
        insecure_skip_verify,
    };
    if client.insecure_skip_verify {
        let text = "Holdline accepts any certificate: anybody between it and the upstream can read and change \
                    everything";
        table.warn(table.place_of("insecure_skip_verify"), text);
    }
    Some(Tls { client, server_name })
}

/// Notes settings that have no effect beside others, or do harm.
fn warn_about_combinations(table: &Table<'_>, settings: &Settings) {
    let is_hash = matches!(settings.balance, Method::IpHash | Method::Hash(_));
    if is_hash && !settings.slow_start.is_zero() {
        let text = "with a hash, clients leave their endpoints for this one while its weight grows";
        table.warn(table.place_of("slow_start"), text);
    }
    if let Some(tls) = &settings.tls
        && let Some(server) = settings.servers.iter().find(|server| tls.name_of(server).is_none())
    {
        let found = format!("found no server_name, and {} has no name of its own", server.address);
        table.error(table.place_of("tls"), found, "expected the name its certificate is for");
    }
    if let (Method::IpHash, [Server { address: ServerAddr::Ip(_) | ServerAddr::Unix(_), .. }]) =
        (&settings.balance, &settings.servers[..])
    {
        table.warn(table.place_of("balance"), "ip_hash has only one server to choose from");
    }
}

fn balance(value: &Value<'_>) -> Option<Method> {
    if value.is_table() {
        let remedy = format!("expected {HASHED}");
        return value.table(|table| table.require("hash", &remedy, hash)).flatten().map(Method::Hash);
    }
    let known = words::BALANCE.iter().find(|(word, _)| value.as_str() == Some(word));
    known
        .map(|(_, method)| method.clone())
        .or_else(|| value.wrong(value::one_of(words::BALANCE, Some("a table like { hash = \"path\" }"))))
}

fn hash(value: &Value<'_>) -> Option<Source> {
    let remedy = format!("expected {HASHED}");
    let text = value.text(&remedy)?;
    let source = match text.split_once(':') {
        None if text == "path" => Some(Source::Path),
        Some(("header", name)) => name.parse().ok().map(Source::Header),
        Some(("cookie", name)) if value::is_name(name) => Some(Source::Cookie(name.to_owned())),
        Some(("query", name)) if value::is_name(name) => Some(Source::Query(name.to_owned())),
        _ => None,
    };
    source.or_else(|| value.wrong(remedy))
}

fn early_end(table: &Table<'_>) -> EarlyEnd {
    let default = defaults::EARLY_END;
    EarlyEnd {
        within: table.get_or("within", duration, default.within),
        max: table.get_or("max", integer(1..=u32::MAX), default.max),
    }
}

fn resolve_interval(table: &Table<'_>) -> Option<Duration> {
    table.get_or("interval", off_or(duration), defaults::RESOLVE_INTERVAL)
}

/// Reads `retry`. "off" means one try.
fn retry(table: &Table<'_>) -> RetryPolicy {
    let retry = table.section_or_off("retry", |table| {
        let tries = table.get_or("tries", integer(0..=u32::MAX), defaults::RETRY_TRIES);
        let timeout = table.get_or("timeout", off_or(duration), defaults::RETRY_TIMEOUT);
        let reasons = list("expected a list", word(words::RETRY_ON));
        let on = table.get_or("on", reasons, defaults::RETRY_ON.to_vec());
        retry_on(tries, timeout, &on)
    });
    retry.unwrap_or_else(|| retry_on(1, defaults::RETRY_TIMEOUT, defaults::RETRY_ON))
}

fn retry_on(tries: u32, timeout: Option<Duration>, on: &[RetryOn]) -> RetryPolicy {
    let mut on_status = Vec::new();
    for reason in on {
        match reason {
            RetryOn::Status(status) if !on_status.contains(status) => on_status.push(*status),
            _ => {}
        }
    }
    on_status.sort_unstable();
    let (on_connect, on_timeout) = (on.contains(&RetryOn::Connect), on.contains(&RetryOn::Timeout));
    RetryPolicy { tries, timeout, on_connect, on_timeout, on_status }
}

/// What a hash may use, for a message.
const HASHED: &str = "\"header:NAME\", \"cookie:NAME\", \"query:NAME\" or \"path\"";

/// The section for an `[upstream.NAME]`.
pub(super) fn section(upstream: &Settings) -> Section {
    let mut section = Section::named("upstream", &upstream.name);
    section.set("balance", write_balance(&upstream.balance));
    section.set("servers", Item::Lines(upstream.servers.iter().map(server::write).collect()));
    section.set("slow_start", upstream.slow_start);
    section.set("max_ejected", Item::text(format!("{}%", upstream.max_ejected.0)));
    let early_end = upstream
        .early_end
        .map(|EarlyEnd { within, max }| InlineTable::default().with("within", within).with("max", max));
    section.set("early_end", Item::or_off(early_end));
    section.set("retry", write_retry(&upstream.retry));
    let interval = Item::or_off(upstream.resolve_interval);
    section.set("resolve", InlineTable::default().with("interval", interval));
    section.set("keepalive", upstream.keepalive.connections);
    section.set("keepalive_timeout", upstream.keepalive.timeout);
    section.set("drain_timeout", Item::or_off(upstream.drain_timeout));
    write_tcp(&mut section, &upstream.tcp);
    let version = upstream.proxy_protocol.map(|version| word_for(words::SEND_PROXY_PROTOCOL, &version));
    section.set("proxy_protocol", Item::or_off(version));
    section.set("source", Item::texts(&upstream.source));
    match &upstream.tls {
        Some(tls) => section.sections.push(tls_section(tls)),
        None => _ = section.set("tls", "off"),
    }
    section
}

fn tls_section(tls: &Tls) -> Section {
    let mut section = Section::table("tls");
    let client = &tls.client;
    if let Some(name) = &tls.server_name {
        section.set("server_name", &**name);
    }
    if let Some(ca) = &client.ca {
        section.set("ca", &**ca);
    }
    if let Some(Pair { cert, key }) = &client.identity {
        section.set("client_cert", &**cert);
        section.set("client_key", &**key);
    }
    section.set("min_version", word_for(words::MIN_VERSION, &client.min_version));
    section.set("insecure_skip_verify", client.insecure_skip_verify);
    section
}

fn write_balance(method: &Method) -> Item {
    match method {
        Method::Hash(source) => InlineTable::default().with("hash", Item::text(source)).into(),
        _ => word_for(words::BALANCE, method).into(),
    }
}

fn write_retry(retry: &RetryPolicy) -> InlineTable {
    let fixed = [(retry.on_connect, RetryOn::Connect), (retry.on_timeout, RetryOn::Timeout)];
    let fixed = fixed.into_iter().filter(|&(on, _)| on).map(|(_, reason)| reason);
    let reasons = fixed.chain(retry.on_status.iter().map(|&status| RetryOn::Status(status)));
    InlineTable::default()
        .with("tries", retry.tries)
        .with("timeout", Item::or_off(retry.timeout))
        .with("on", Item::list(reasons.map(|reason| word_for(words::RETRY_ON, &reason))))
}
