//! Owns the meaning of `[upstream.NAME]`. It must not know routes.

use super::listen::tcp;
use crate::addr::ServerAddr;
use crate::balance::{Method, Source};
use crate::config::error::Place;
use crate::config::raw::{Table, Value};
use crate::config::value::{self, duration, duration_or_zero, integer, list, off_or, parsed_or_hint, word};
use crate::config::words::RetryOn;
use crate::config::{defaults, hint, words};
use crate::health::EarlyEnd;
use crate::tls::certs::Pair;
use crate::tls::{Alpn, ServerName, client};
use crate::upstream::pool::Limits;
use crate::upstream::{RetryPolicy, Server, Settings, Tls};
use std::net::IpAddr;
use std::time::Duration;

/// More idle connections than anybody needs of one endpoint.
const MOST_IDLE: usize = 10_000;

/// An upstream as it stands in the file.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) place: Place,
    /// `None` if it holds mistakes.
    pub(super) settings: Option<Settings>,
}

/// Every `[upstream.NAME]`; `None` if they are written as something else.
pub(super) fn all<'a>(table: &Table<'a>) -> Option<Vec<Named<'a>>> {
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
        Named { name, place: value.place, settings }
    };
    Some(named.into_iter().map(read).collect())
}

fn upstream(name: &str, table: &Table<'_>) -> Option<Settings> {
    let balance = table.get("balance", balance).unwrap_or(defaults::BALANCE);
    let max_fails = table.get("max_fails", integer(0..=u32::MAX)).unwrap_or(defaults::MAX_FAILS);
    let fail_timeout = table.get("fail_timeout", duration).unwrap_or(defaults::FAIL_TIMEOUT);
    let servers = servers(table, max_fails, fail_timeout);
    let slow_start = table.get("slow_start", off_or(duration_or_zero));
    let settings = Settings {
        name: name.into(),
        balance,
        servers: Vec::new(),
        slow_start: slow_start.map_or(defaults::SLOW_START, Option::unwrap_or_default),
        max_ejected: table.get("max_ejected", value::percent).unwrap_or(defaults::MAX_EJECTED),
        early_end: table.section_or_off("early_end", early_end),
        retry: retry(table),
        resolve_interval: table.section("resolve", resolve_interval),
        keepalive: Limits {
            connections: table
                .get("keepalive", off_or(integer(0..=MOST_IDLE)))
                .map_or(defaults::KEEPALIVE, Option::unwrap_or_default),
            timeout: table.get("keepalive_timeout", duration).unwrap_or(defaults::UPSTREAM_KEEPALIVE_TIMEOUT),
        },
        drain_timeout: table
            .get("drain_timeout", off_or(duration_or_zero))
            .unwrap_or(defaults::DRAIN_TIMEOUT),
        tcp: tcp(table),
        proxy_protocol: table
            .get("proxy_protocol", off_or(word(words::SEND_PROXY_PROTOCOL)))
            .unwrap_or(defaults::SEND_PROXY_PROTOCOL),
        source: source(table),
        tls: table.get("tls", off_or(|value| value.table(tls).flatten())).flatten(),
    };
    let settings = Settings { servers: servers?, ..settings };
    doubt(table, &settings);
    Some(settings)
}

/// `source`.
fn source(table: &Table<'_>) -> Vec<IpAddr> {
    let read = |value: &Value<'_>| {
        let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        let address = address.filter(|address| !address.is_unspecified() && !address.is_multicast());
        let address =
            address.or_else(|| value.wrong("expected an address of this machine, like \"10.0.0.1\""))?;
        Some((value.place.clone(), address))
    };
    let found = table.get("source", list("expected a list of addresses, like [\"10.0.0.1\"]", read));
    let mut source = Vec::new();
    for (place, address) in found.unwrap_or_default() {
        if source.contains(&address) {
            table.error(place, format!("found \"{address}\" a second time"), "expected each address once");
        }
        source.push(address);
    }
    source
}

/// `[upstream.NAME.tls]`.
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
    let insecure = table.get("insecure_skip_verify", Value::boolean);
    let client = client::Settings {
        ca: table.get("ca", value::path),
        identity: cert.zip(key).map(|(cert, key)| Pair { cert, key }),
        min_version: table.get("min_version", word(words::MIN_VERSION)).unwrap_or(defaults::MIN_VERSION),
        alpn: vec![Alpn::Http1],
        insecure_skip_verify: insecure.unwrap_or(defaults::INSECURE_SKIP_VERIFY),
    };
    if client.insecure_skip_verify {
        let text = "the upstream may be anybody: whoever gets in between reads and alters all there is";
        table.warn(table.place_of("insecure_skip_verify"), text);
    }
    Some(Tls { client, server_name })
}

/// Notes settings that do nothing, or harm, beside one another.
fn doubt(table: &Table<'_>, settings: &Settings) {
    let is_hash = matches!(settings.balance, Method::IpHash | Method::Hash(_));
    if is_hash && !settings.slow_start.is_zero() {
        let text = "with a hash, clients move to an endpoint as its weight grows, away from where they were";
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
        table.warn(table.place_of("balance"), "there is one server to choose from");
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

/// The servers; `None` after a mistake. The numbers are those of the upstream.
fn servers(table: &Table<'_>, max_fails: u32, fail_timeout: Duration) -> Option<Vec<Server>> {
    let remedy = "expected a list of servers, like [\"10.0.0.1:8080\"]";
    let read = |value: &Value<'_>| {
        let server = server(value, max_fails, fail_timeout);
        Some((value.place.clone(), server))
    };
    let found = table.require("servers", remedy, list(remedy, read))?;
    if found.is_empty() {
        table.error(table.place_of("servers"), "found an empty list", "expected one server at least");
    }
    let mut servers: Vec<Server> = Vec::new();
    for (place, server) in found {
        let Some(server) = server else { continue };
        if servers.iter().any(|known| known.address == server.address) {
            let found = format!("found \"{}\" a second time", server.address);
            table.error(place, found, "expected each server once; a larger share is a weight");
        }
        servers.push(server);
    }
    Some(servers)
}

fn server(value: &Value<'_>, max_fails: u32, fail_timeout: Duration) -> Option<Server> {
    let read = |table: &Table<'_>| {
        let address = table.require("address", "expected an address like \"10.0.0.1:8080\"", address);
        let most = off_or(integer(1..=u32::MAX));
        let server = Server {
            weight: table.get("weight", integer(1..=MOST_WEIGHT)).unwrap_or(defaults::WEIGHT),
            max_conns: table.get("max_conns", most).unwrap_or(defaults::MAX_CONNS),
            max_fails: table.get("max_fails", integer(0..=u32::MAX)).unwrap_or(max_fails),
            fail_timeout: table.get("fail_timeout", duration).unwrap_or(fail_timeout),
            backup: table.get("backup", Value::boolean).unwrap_or(defaults::BACKUP),
            state: table.get("state", word(words::STATE)).unwrap_or(defaults::STATE),
            ..plain(ServerAddr::Name(String::new(), 0), max_fails, fail_timeout)
        };
        Some(Server { address: address?, ..server })
    };
    if value.is_table() {
        return value.table(read).flatten();
    }
    if value.as_str().is_none() {
        return value.wrong("expected \"host:port\" or a table with an address");
    }
    Some(plain(address(value)?, max_fails, fail_timeout))
}

fn address(value: &Value<'_>) -> Option<ServerAddr> {
    parsed_or_hint(hint::server)(value)
}

/// A server of which only the address is written.
fn plain(address: ServerAddr, max_fails: u32, fail_timeout: Duration) -> Server {
    Server {
        address,
        weight: defaults::WEIGHT,
        max_conns: defaults::MAX_CONNS,
        max_fails,
        fail_timeout,
        backup: defaults::BACKUP,
        state: defaults::STATE,
    }
}

fn early_end(table: &Table<'_>) -> EarlyEnd {
    let default = defaults::EARLY_END;
    EarlyEnd {
        within: table.get("within", duration).unwrap_or(default.within),
        max: table.get("max", integer(1..=u32::MAX)).unwrap_or(default.max),
    }
}

fn resolve_interval(table: &Table<'_>) -> Option<Duration> {
    table.get("interval", off_or(duration)).unwrap_or(defaults::RESOLVE_INTERVAL)
}

/// `retry`; "off" is a first try alone.
fn retry(table: &Table<'_>) -> RetryPolicy {
    let retry = table.section_or_off("retry", |table| {
        let tries = table.get("tries", integer(0..=u32::MAX)).unwrap_or(defaults::RETRY_TRIES);
        let timeout = table.get("timeout", off_or(duration)).unwrap_or(defaults::RETRY_TIMEOUT);
        let on = table.get("on", list("expected a list", word(words::RETRY_ON)));
        retry_on(tries, timeout, on.as_deref().unwrap_or(defaults::RETRY_ON))
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

/// What a hash may go by, as a message names it.
const HASHED: &str = "\"header:NAME\", \"cookie:NAME\", \"query:NAME\" or \"path\"";

/// As nginx, whose weights are 16 bits wide.
const MOST_WEIGHT: u32 = 65_535;
