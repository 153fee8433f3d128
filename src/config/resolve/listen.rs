//! Owns the settings of `[[listen]]`, and the TCP options that it shares with upstreams. It must not know
//! routes.

use crate::addr::ListenAddr;
use crate::config::document::{InlineTable, Item, Section};
use crate::config::raw::{Table, Value};
use crate::config::value::{
    self, duration, duration_within, integer, list, off_or, size, word, word_for, write_size,
};
use crate::config::words::{self, ClientAuthMode, Protocol};
use crate::config::{Listen, defaults, hint};
use crate::http::Protocols;
use crate::io::{Keepalive, TcpOptions};
use crate::listener::Tls;
use crate::tls::Alpn;
use crate::tls::certs::Pair;
use crate::tls::server::{self, ClientAuth, ClientCa};
use crate::{http, listener, real_ip};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Reads each `[[listen]]`.
pub(super) fn all(table: &Table<'_>, real_ip: &real_ip::Settings) -> Vec<Listen> {
    let mut taken: Vec<ListenAddr> = Vec::new();
    table.each("listen", |table| {
        let listen = listen(table)?;
        let address = &listen.socket.address;
        // The kernel chooses another port for each 0.
        let is_any_port = matches!(address, ListenAddr::Tcp(address) if address.port() == 0);
        if !is_any_port && taken.contains(address) {
            let found = format!("found \"{address}\" a second time");
            table.error(table.place_of("address"), found, "expected each address once");
        }
        taken.push(address.clone());
        if listen.socket.proxy_protocol && real_ip.trusted.is_empty() {
            let found = "found \"accept\" without trusted proxies";
            let remedy = "expected the proxies in front as `trusted` of [real_ip]";
            table.error(table.place_of("proxy_protocol"), found, remedy);
        }
        Some(listen)
    })
}

fn listen(table: &Table<'_>) -> Option<Listen> {
    let address = table.require(
        "address",
        "expected an address like \"0.0.0.0:8080\"",
        value::parsed_or_hint(hint::listen),
    );
    let backlog = table.get_or("backlog", integer(1..=MOST_BACKLOG), defaults::BACKLOG);
    let reuse_port = table.get_or("reuse_port", Value::boolean, defaults::REUSE_PORT);
    let protocols = table.get("protocols", protocols);
    let tls = table.get_or("tls", off_or(|value| value.table(|table| tls(table, protocols))), None);
    let default = if tls.is_some() { defaults::PROTOCOLS_OVER_TLS } else { defaults::PROTOCOLS };
    let http = http::Settings {
        protocols: table.or_default("protocols", protocols, default),
        header_timeout: table.get_or("header_timeout", duration, defaults::HEADER_TIMEOUT),
        keepalive_timeout: table.get_or("keepalive_timeout", duration, defaults::KEEPALIVE_TIMEOUT),
        body_timeout: table.get_or("body_timeout", off_or(duration), defaults::BODY_TIMEOUT),
        max_header_size: table.get_or("max_header_size", header_size, defaults::MAX_HEADER_SIZE),
        underscores_in_headers: table.get_or(
            "underscores_in_headers",
            Value::boolean,
            defaults::UNDERSCORES_IN_HEADERS,
        ),
    };
    let proxy_protocol =
        table.get_or("proxy_protocol", word(words::PROXY_PROTOCOL), defaults::ACCEPT_PROXY_PROTOCOL);
    let tcp = tcp(table);
    // A table with mistakes does not make this a plain listener: the mistakes are noted.
    let tls = tls.flatten();
    let socket = listener::Settings { address: address?, backlog, reuse_port, proxy_protocol, tls, tcp };
    Some(Listen { socket, http })
}

/// Reads `[listen.tls]`. `None` means that it has mistakes.
fn tls(table: &Table<'_>, protocols: Option<Protocols>) -> Option<Tls> {
    let remedy = "expected a list like [{ cert = \"cert.pem\", key = \"key.pem\" }]";
    let pairs = table.require("certificates", remedy, |value| {
        if value.list(remedy)?.is_empty() {
            return value.refuse("found an empty list", remedy);
        }
        list(remedy, |value| value.table(pair).flatten())(value)
    });
    let client_auth = client_auth(table);
    let min_version = table.get_or("min_version", word(words::MIN_VERSION), defaults::MIN_VERSION);
    let handshake_timeout = table.get_or("handshake_timeout", duration, defaults::HANDSHAKE_TIMEOUT);
    let max_handshakes =
        table.get_or("max_handshakes", integer(1..=MOST_HANDSHAKES), defaults::MAX_HANDSHAKES);
    let mut pairs = pairs?.into_iter();
    let default = pairs.next()?;
    let Protocols { http1, http2 } = protocols.unwrap_or(defaults::PROTOCOLS_OVER_TLS);
    let alpn = [http2.then_some(Alpn::H2), http1.then_some(Alpn::Http1)].into_iter().flatten().collect();
    let others = pairs.collect();
    let server = server::Settings { default, others, client_auth: client_auth?, min_version, alpn };
    Some(Tls { server, handshake_timeout, max_handshakes })
}

fn pair(table: &Table<'_>) -> Option<Pair> {
    let cert = table.require("cert", "expected the path of a certificate in PEM", value::path);
    let key = table.require("key", "expected the path of its key in PEM", value::path);
    Some(Pair { cert: cert?, key: key? })
}

fn client_auth(table: &Table<'_>) -> Option<ClientAuth> {
    let mode = table.get_or("client_auth", word(words::CLIENT_AUTH), defaults::CLIENT_AUTH);
    let ca = table.get("client_ca", value::path);
    let crls = table.get_or("client_crls", list("expected a list of paths", value::path), Vec::new());
    if mode == ClientAuthMode::Off {
        return Some(ClientAuth::Off);
    }
    let Some(ca) = ca else {
        table.error(
            table.place_of("client_ca"),
            "missing",
            "expected the path of the certificate authorities of clients",
        );
        return None;
    };
    let ca = ClientCa { ca, crls };
    Some(if mode == ClientAuthMode::Required { ClientAuth::Required(ca) } else { ClientAuth::Optional(ca) })
}

fn protocols(value: &Value<'_>) -> Option<Protocols> {
    let remedy = "expected a list like [\"h1\", \"h2\"]";
    if value.list(remedy)?.is_empty() {
        return value.refuse("found an empty list", remedy);
    }
    let named = list(remedy, word(words::PROTOCOL))(value)?;
    let speaks = |protocol| named.contains(&protocol);
    Some(Protocols { http1: speaks(Protocol::Http1), http2: speaks(Protocol::Http2) })
}

fn header_size(value: &Value<'_>) -> Option<usize> {
    let found = usize::try_from(size(value)?).ok();
    found.filter(|size| HEADER_SIZES.contains(size)).or_else(|| {
        let [low, high] = [HEADER_SIZES.start(), HEADER_SIZES.end()].map(|&size| write_size(size as u64));
        value.wrong(format!("expected \"{low}\" to \"{high}\""))
    })
}

/// Reads the TCP options of a table.
pub(super) fn tcp(table: &Table<'_>) -> TcpOptions {
    let user_timeout = off_or(duration_within(Duration::from_millis(1)..=LONGEST_USER_TIMEOUT, MILLI));
    TcpOptions {
        keepalive: table.section_or_off("tcp_keepalive", keepalive),
        user_timeout: table.get_or("tcp_user_timeout", user_timeout, defaults::TCP_USER_TIMEOUT),
    }
}

fn keepalive(table: &Table<'_>) -> Keepalive {
    let seconds = || duration_within(SECOND..=LONGEST_KEEPALIVE, SECOND);
    let default = defaults::TCP_KEEPALIVE;
    Keepalive {
        time: table.get_or("time", seconds(), default.time),
        interval: table.get_or("interval", seconds(), default.interval),
        probes: table.get_or("probes", integer(1..=MOST_PROBES), default.probes),
    }
}

/// The section for a `[[listen]]`.
pub(super) fn section(listen: &Listen) -> Section {
    let mut section = Section::element("listen");
    let Listen { socket, http } = listen;
    section.set("address", Item::text(&socket.address));
    section.set("backlog", socket.backlog);
    section.set("reuse_port", socket.reuse_port);
    section.set("proxy_protocol", word_for(words::PROXY_PROTOCOL, &socket.proxy_protocol));
    let protocols = [(http.protocols.http1, Protocol::Http1), (http.protocols.http2, Protocol::Http2)];
    let protocols = protocols.into_iter().filter(|&(speaks, _)| speaks);
    section.set("protocols", Item::list(protocols.map(|(_, protocol)| word_for(words::PROTOCOL, &protocol))));
    section.set("header_timeout", http.header_timeout);
    section.set("keepalive_timeout", http.keepalive_timeout);
    section.set("body_timeout", Item::or_off(http.body_timeout));
    section.set("max_header_size", Item::Size(http.max_header_size as u64));
    section.set("underscores_in_headers", http.underscores_in_headers);
    write_tcp(&mut section, &socket.tcp);
    match &socket.tls {
        Some(tls) => section.sections.push(tls_section(tls)),
        None => _ = section.set("tls", "off"),
    }
    section
}

fn tls_section(tls: &Tls) -> Section {
    let mut section = Section::table("tls");
    let server = &tls.server;
    let pair = |pair: &Pair| InlineTable::default().with("cert", &*pair.cert).with("key", &*pair.key);
    let pairs = std::iter::once(&server.default).chain(&server.others).map(pair);
    let (mode, ca) = match &server.client_auth {
        ClientAuth::Off => (ClientAuthMode::Off, None),
        ClientAuth::Optional(ca) => (ClientAuthMode::Optional, Some(ca)),
        ClientAuth::Required(ca) => (ClientAuthMode::Required, Some(ca)),
    };
    section.set("certificates", Item::list(pairs));
    section.set("client_auth", word_for(words::CLIENT_AUTH, &mode));
    if let Some(ClientCa { ca, crls }) = ca {
        section.set("client_ca", &**ca);
        section.set("client_crls", Item::list(crls.iter().map(|crl| &**crl)));
    }
    section.set("min_version", word_for(words::MIN_VERSION, &server.min_version));
    section.set("handshake_timeout", tls.handshake_timeout);
    section.set("max_handshakes", tls.max_handshakes);
    section
}

/// Sets the TCP options.
pub(super) fn write_tcp(section: &mut Section, tcp: &TcpOptions) {
    let keepalive = tcp.keepalive.map(|Keepalive { time, interval, probes }| {
        InlineTable::default().with("time", time).with("interval", interval).with("probes", probes)
    });
    section.set("tcp_keepalive", Item::or_off(keepalive));
    section.set("tcp_user_timeout", Item::or_off(tcp.user_timeout));
}

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Linux caps the backlog at `net.core.somaxconn`, which had 16 bits for a long time.
const MOST_BACKLOG: u32 = 65_535;

/// The HTTP parser needs 8 KiB. Above 1 MiB, a few thousand slow clients fill the memory.
const HEADER_SIZES: RangeInclusive<usize> = 8 * 1024..=1024 * 1024;

/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of Linux, which counts in seconds.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// On most systems a process may open fewer files.
const MOST_HANDSHAKES: u32 = 1_048_576;

/// `MAX_TCP_KEEPCNT` of Linux.
const MOST_PROBES: u32 = 127;

/// Linux keeps milliseconds in 31 bits, which are 24 days and some hours.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 60 * 60);
