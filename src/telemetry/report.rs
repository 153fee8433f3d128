//! Owns the report of a connection, which is written once, at its end.

mod packed_text;

pub use super::secrets::{redact, redact_bytes};
pub use packed_text::RequestInfo;

use super::secrets;
use super::tally::RouteCounters;
use super::unix_micros::UnixMicros;
use crate::addr::{ClientAddr, EndpointAddr};
use crate::escape::{self, HostAndTarget, Quoted, Token};
use crate::outcome::{EndedBy, Outcome, Side};
use packed_text::PackedText;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// Identifies a request and its tunnel, also across restarts. A connection shares the id of its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain HTTP request.
    Http,
    /// Bytes, or a whole connection, that never became a request.
    NoRequest,
    /// An upgrade request that opened no tunnel.
    Opening,
    /// A tunnel.
    Tunnel,
}

/// A connection, request or tunnel that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it was.
    pub report: Report,
    /// How it ended.
    pub outcome: Outcome,
}

impl Ended {
    /// Returns its line of the access log as one JSON object. `left_out` is the number of such lines that are
    /// missing before it.
    #[must_use]
    pub fn json(&self, left_out: u64) -> String {
        self.report.json(&self.outcome, left_out)
    }
}

/// What Holdline knows of a connection. It is filled in along the request path, and every tunnel keeps one.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its id.
    pub id: ConnectionId,
    /// When its request arrived.
    pub time: UnixMicros,
    packed_text: PackedText,
    /// The names of its route and upstream. `None` means that no route serves it.
    pub names: Option<Arc<RouteNames>>,
    /// The endpoint tried last.
    pub endpoint: Option<Arc<EndpointAddr>>,
    /// Number of endpoints tried.
    pub tries: u32,
    /// The status of the response. 0 means none.
    pub status: u16,
    /// The version of HTTP.
    pub version: http::Version,
    /// Whether the access log omits it.
    pub unlogged: bool,
}

/// The names shared by all requests of a route, and where these are counted.
#[derive(Debug)]
pub struct RouteNames {
    /// The route.
    pub route: Arc<str>,
    /// The upstream that the route names, if it names one.
    pub upstream: Option<Arc<str>>,
    /// Looked up once, so that nobody who counts has to.
    counters: OnceLock<RouteCounters>,
}

impl RouteNames {
    /// Names that nothing was counted for.
    #[must_use]
    pub fn new(route: Arc<str>, upstream: Option<Arc<str>>) -> Self {
        Self { route, upstream, counters: OnceLock::new() }
    }

    /// Returns the counters. `find` looks them up the first time.
    pub(super) fn counters(&self, find: impl FnOnce() -> RouteCounters) -> &RouteCounters {
        self.counters.get_or_init(find)
    }
}

impl PartialEq for RouteNames {
    fn eq(&self, other: &Self) -> bool {
        (&self.route, &self.upstream) == (&other.route, &other.upstream)
    }
}

/// One line of the access log. `docs/` documents the field names.
#[derive(Serialize)]
struct AccessLogEntry<'a> {
    time: String,
    started: String,
    id: String,
    client: String,
    peer: Option<String>,
    method: &'a str,
    host: Cow<'a, str>,
    path: Cow<'a, str>,
    route: Option<&'a str>,
    upstream: Option<&'a str>,
    endpoint: Option<String>,
    protocol: &'static str,
    tls: bool,
    tls_version: Option<&'a str>,
    subprotocol: Option<&'a str>,
    extensions: Option<&'a str>,
    status: u16,
    ended_by: &'static str,
    cause: &'static str,
    code: Option<u16>,
    code_from: Option<&'static str>,
    reason: &'a str,
    blind: Option<&'static str>,
    duration: Seconds,
    idle_client: Seconds,
    idle_upstream: Seconds,
    bytes_client: u64,
    bytes_upstream: u64,
    messages_client: u64,
    messages_upstream: u64,
    pings_client: u32,
    pongs_client: u32,
    pings_upstream: u32,
    pongs_upstream: u32,
    rtt_client: Option<Seconds>,
    rtt_worst_client: Option<Seconds>,
    rtt_upstream: Option<Seconds>,
    rtt_worst_upstream: Option<Seconds>,
    tries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<NonZeroU64>,
}

/// A duration as a number of seconds, to the microsecond.
struct Seconds(Duration);

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_micros() as f64 / 1e6)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0.as_secs_f64())
    }
}

impl Report {
    /// Starts the report of a request that arrived at `time`.
    #[must_use]
    pub fn new(id: ConnectionId, time: SystemTime, info: &RequestInfo<'_>) -> Self {
        Self::of(id, time, PackedText::new(info, None, None))
    }

    /// Of texts that [`Report::packed_text`] gave.
    pub(super) fn of_texts(id: ConnectionId, time: SystemTime, packed_text: &[u8]) -> Self {
        Self::of(id, time, packed_text.into())
    }

    fn of(id: ConnectionId, time: SystemTime, packed_text: PackedText) -> Self {
        Self {
            id,
            time: time.into(),
            packed_text,
            names: None,
            endpoint: None,
            tries: 0,
            status: 0,
            version: http::Version::HTTP_11,
            unlogged: false,
        }
    }

    /// Records what both sides have negotiated. The client had `offered` these subprotocols. Secrets are
    /// removed.
    pub fn agree<'a>(
        &mut self,
        subprotocol: Option<&'a str>,
        offered: impl IntoIterator<Item = &'a str>,
        extensions: Option<&str>,
    ) {
        let subprotocol = subprotocol.map(|chosen| secrets::subprotocol(chosen.trim(), offered));
        let extensions = extensions.map(secrets::extensions);
        if subprotocol.or(extensions).is_some() {
            self.packed_text = self.packed_text.with(subprotocol, extensions);
        }
    }

    /// Returns the client.
    #[must_use]
    pub fn client(&self) -> ClientAddr {
        self.packed_text.client()
    }

    /// Returns the request's method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.packed_text.method()
    }

    /// Returns the requested host, without a name and password before it.
    #[must_use]
    pub fn host(&self) -> &[u8] {
        self.packed_text.host()
    }

    /// Returns the requested host as text.
    #[must_use]
    pub fn host_text(&self) -> Cow<'_, str> {
        escape::text(self.host())
    }

    /// Returns the requested path and query, secrets removed.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        self.packed_text.target()
    }

    /// The path and query asked for, as a text.
    #[must_use]
    pub fn target_text(&self) -> Cow<'_, str> {
        escape::text(self.target())
    }

    /// The path asked for, as a text.
    #[must_use]
    pub fn path_text(&self) -> Cow<'_, str> {
        escape::text(self.target().split(|&byte| byte == b'?').next().unwrap_or_default())
    }

    /// Returns the TLS version. `None` means no TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&str> {
        self.packed_text.tls()
    }

    /// Returns the negotiated subprotocol.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.packed_text.subprotocol()
    }

    /// Returns the negotiated extensions.
    #[must_use]
    pub fn extensions(&self) -> Option<&str> {
        self.packed_text.extensions()
    }

    /// Returns the route that serves it.
    #[must_use]
    pub fn route(&self) -> Option<&Arc<str>> {
        self.names.as_ref().map(|names| &names.route)
    }

    /// Returns the upstream that the route names.
    #[must_use]
    pub fn upstream(&self) -> Option<&Arc<str>> {
        self.names.as_ref().and_then(|names| names.upstream.as_ref())
    }

    /// Its texts as they are kept.
    pub(super) fn packed_text(&self) -> &[u8] {
        self.packed_text.as_bytes()
    }

    /// Returns the name of the HTTP version.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        if self.version == http::Version::HTTP_2 { "h2" } else { "h1" }
    }

    /// Returns the peer that sent the request, perhaps for the client.
    #[must_use]
    pub fn peer(&self) -> ClientAddr {
        self.packed_text.proxied_by().unwrap_or_else(|| self.client())
    }

    /// Returns the line as one JSON object. `left_out` is the number of such lines that are missing before
    /// it.
    #[must_use]
    pub fn json(&self, outcome: &Outcome, left_out: u64) -> String {
        // Strings and numbers always serialise.
        let line = serde_json::to_string(&self.line(outcome, left_out)).unwrap_or_default();
        escape::json(&line).into_owned()
    }

    /// Returns the line as text: time of the end, client, request, status; how it ended, after what silence;
    /// then the numbers. `left_out` is the number of such lines that are missing before it.
    #[must_use]
    pub fn text(&self, outcome: &Outcome, left_out: u64) -> String {
        use fmt::Write as _;
        let line = self.line(outcome, left_out);
        let url = HostAndTarget { host: self.host(), target: self.target() };
        let method = Token(line.method.as_bytes());
        let mut text = format!("{} {} {} {method} {url} {}", line.time, line.id, line.client, line.status);
        let mut pair = |key: &str, value: &dyn fmt::Display| {
            let _ = write!(text, " {key}={value}");
        };
        for (key, value) in
            [("peer", line.peer.as_deref()), ("route", line.route), ("upstream", line.upstream)]
        {
            value.inspect(|value| pair(key, &Token(value.as_bytes())));
        }
        line.endpoint.as_ref().inspect(|endpoint| pair("endpoint", &Token(endpoint.as_bytes())));
        pair("end", &format_args!("{}/{}", line.ended_by, line.cause));
        line.code.inspect(|code| pair("code", code));
        line.code_from.inspect(|from| pair("code_from", from));
        if !line.reason.is_empty() {
            pair("reason", &Quoted(line.reason.as_bytes()));
        }
        line.blind.inspect(|blind| pair("blind", &Quoted(blind.as_bytes())));
        pair("started", &line.started);
        pair("duration", &line.duration);
        pair("idle", &format_args!("{}/{}", line.idle_client, line.idle_upstream));
        pair("bytes", &format_args!("{}/{}", line.bytes_client, line.bytes_upstream));
        pair("messages", &format_args!("{}/{}", line.messages_client, line.messages_upstream));
        pair("pings", &format_args!("{}/{}", line.pings_client, line.pings_upstream));
        pair("pongs", &format_args!("{}/{}", line.pongs_client, line.pongs_upstream));
        if line.rtt_client.is_some() || line.rtt_upstream.is_some() {
            let or_dash = |rtt: &Option<Seconds>| {
                // On a local network, microseconds matter.
                rtt.as_ref().map_or("-".into(), |Seconds(rtt)| format!("{:.6}", rtt.as_secs_f64()))
            };
            pair("rtt", &format_args!("{}/{}", or_dash(&line.rtt_client), or_dash(&line.rtt_upstream)));
        }
        pair("tries", &line.tries);
        line.left_out.inspect(|lines| pair("left_out", lines));
        text
    }

    fn line<'a>(&'a self, outcome: &'a Outcome, left_out: u64) -> AccessLogEntry<'a> {
        let client = &outcome.traffic[Side::Client];
        let upstream = &outcome.traffic[Side::Upstream];
        AccessLogEntry {
            time: moment(outcome.ended.unwrap_or(SystemTime::from(self.time) + outcome.duration)),
            started: moment(self.time.into()),
            id: self.id.to_string(),
            client: self.client().to_string(),
            peer: self.packed_text.proxied_by().map(|peer| peer.to_string()),
            method: self.method(),
            host: self.host_text(),
            path: self.target_text(),
            route: self.route().map(|name| &**name),
            upstream: self.upstream().map(|name| &**name),
            endpoint: self.endpoint.as_ref().map(ToString::to_string),
            protocol: self.protocol(),
            tls: self.tls().is_some(),
            tls_version: self.tls(),
            subprotocol: self.subprotocol(),
            extensions: self.extensions(),
            status: self.status,
            ended_by: outcome.ending.ended_by.as_str(),
            cause: outcome.ending.cause.as_str(),
            code: outcome.ending.code.map(|code| code.0),
            code_from: outcome.ending.code_from().map(EndedBy::as_str),
            reason: &outcome.ending.reason,
            blind: outcome.blind,
            duration: Seconds(outcome.duration),
            idle_client: Seconds(outcome.idle[Side::Client]),
            idle_upstream: Seconds(outcome.idle[Side::Upstream]),
            bytes_client: client.bytes,
            bytes_upstream: upstream.bytes,
            messages_client: client.messages,
            messages_upstream: upstream.messages,
            pings_client: client.pings,
            pongs_client: client.pongs,
            pings_upstream: upstream.pings,
            pongs_upstream: upstream.pongs,
            rtt_client: client.last_rtt.map(Seconds),
            rtt_worst_client: client.worst_rtt.map(Seconds),
            rtt_upstream: upstream.last_rtt.map(Seconds),
            rtt_worst_upstream: upstream.worst_rtt.map(Seconds),
            tries: self.tries,
            left_out: NonZeroU64::new(left_out),
        }
    }
}

/// Formats a time by RFC 3339, in UTC.
fn moment(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Cause, Ending, PerSide, Traffic};
    use crate::ws::close::CloseCode;
    use proptest::prelude::*;

    fn report() -> Report {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let client = ClientAddr::Tcp("192.0.2.1:5000".parse().unwrap());
        let target = redact("/ws?token=abc&room=1");
        let (method, host, proxied_by, tls) = ("GET", &b"example.com"[..], None, None);
        let info = RequestInfo { client, proxied_by, method, host, target: target.as_bytes(), tls };
        let names = RouteNames::new("chat".into(), Some("chat".into()));
        Report {
            names: Some(Arc::new(names)),
            endpoint: Some(Arc::new(EndpointAddr::Tcp("10.0.0.1:80".parse().unwrap()))),
            tries: 1,
            status: 101,
            ..Report::new(ConnectionId(0xabc), time, &info)
        }
    }

    fn outcome() -> Outcome {
        let ending = Ending {
            ended_by: EndedBy::Client,
            cause: Cause::Close,
            code: Some(CloseCode(1000)),
            reason: "bye\n\"now\"".into(),
        };
        let traffic = PerSide {
            client: Traffic { bytes: 9, messages: 1, ..Traffic::default() },
            upstream: Traffic {
                pings: 1,
                pongs: 1,
                last_rtt: Some(Duration::from_millis(2)),
                ..Traffic::default()
            },
        };
        let idle = PerSide { client: Duration::ZERO, upstream: Duration::from_millis(1200) };
        let ended = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(62_755));
        Outcome { ending, traffic, duration: Duration::from_millis(61_250), idle, blind: None, ended }
    }

    #[test]
    fn text_is_one_line_that_reads_from_left_to_right() {
        assert_eq!(
            report().text(&outcome(), 0),
            "1970-01-01T00:01:02.755Z 0000000000000abc 192.0.2.1:5000 GET example.com/ws?token=***&room=1 101 \
             route=chat upstream=chat endpoint=10.0.0.1:80 end=client/close code=1000 code_from=client \
             reason=\"bye\\x0A\\x22now\\x22\" started=1970-01-01T00:00:01.500Z duration=61.250 idle=0.000/1.200 bytes=9/0 messages=1/0 \
             pings=0/1 pongs=0/1 rtt=-/0.002000 tries=1"
        );
    }

    /// The fields of a line, as blanks part them; blanks between quotes part nothing.
    fn fields(line: &str) -> Vec<&str> {
        let mut quoted = false;
        let parts = line.split(|c| {
            quoted ^= c == '"';
            c == ' ' && !quoted
        });
        parts.collect()
    }

    proptest! {
        #[test]
        fn a_line_has_the_same_fields_whatever_peers_write(
            method in "[!-~]{1,9}",
            host in prop::collection::vec(any::<u8>().prop_filter("a line", |byte| *byte != b'\n'), 0..30),
            target in "/[^\n]{0,30}",
            reason: String,
            name in "[^\n]{1,9}",
        ) {
            let (client, proxied_by, tls) = (ClientAddr::Unix, None, None);
            let target_bytes = target.as_bytes();
            let info = RequestInfo { client, proxied_by, method: &method, host: &host, target: target_bytes, tls };
            let names = RouteNames::new(name.as_str().into(), Some(name.as_str().into()));
            let names = Some(Arc::new(names));
            let report = Report { names, ..Report::new(ConnectionId(1), SystemTime::UNIX_EPOCH, &info) };
            let mut outcome = outcome();
            outcome.ending.reason = format!("-{reason}").into();
            let line = report.text(&outcome, 0);
            prop_assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{}", line);
            let (found, usual) = (fields(&line), self::report().text(&self::outcome(), 0));
            let key = |field: &&str| field.split('=').next().map(str::to_owned);
            let keys = |fields: &[&str]| -> Vec<_> { fields[6..].iter().filter_map(key).collect() };
            // This one has no endpoint.
            let usual: Vec<_> = fields(&usual).into_iter().filter(|f| !f.starts_with("endpoint=")).collect();
            prop_assert_eq!(keys(&found), keys(&usual));
            // A reader that knows no quotes finds each key once.
            prop_assert_eq!(line.split(' ').filter(|word| word.starts_with("end=")).count(), 1);
            prop_assert_eq!(found[5], "0");
            let read: serde_json::Value = serde_json::from_str(&report.json(&outcome, 0)).unwrap();
            prop_assert_eq!(read["path"].as_str(), Some(&*target));
            prop_assert_eq!(read["reason"].as_str(), Some(&*outcome.ending.reason));
        }
    }

    #[test]
    fn json_holds_the_same() {
        let line: serde_json::Value = serde_json::from_str(&report().json(&outcome(), 0)).unwrap();
        assert_eq!(line["time"], "1970-01-01T00:01:02.755Z");
        assert_eq!(line["started"], "1970-01-01T00:00:01.500Z");
        assert_eq!(line["ended_by"], "client");
        assert_eq!(line["cause"], "close");
        assert_eq!(line["code"], 1000);
        assert_eq!(line["code_from"], "client");
        assert_eq!(line["reason"], "bye\n\"now\"");
        assert_eq!(line["duration"], 61.25);
        assert_eq!(line["idle_upstream"], 1.2);
        assert_eq!(line["rtt_upstream"], 0.002);
        assert_eq!(line["path"], "/ws?token=***&room=1");
        assert_eq!(line.get("left_out"), None);
    }

    #[test]
    fn what_is_missing_before_a_line_stands_at_its_end() {
        assert!(report().text(&outcome(), 99).ends_with(" tries=1 left_out=99"));
        assert!(report().json(&outcome(), 99).ends_with(",\"tries\":1,\"left_out\":99}"));
    }

    #[test]
    fn a_code_that_the_proxy_wrote_says_so() {
        let ended = |ended_by, cause, code: Option<u16>| {
            let ending = Ending { ended_by, cause, code: code.map(CloseCode), reason: "".into() };
            let text = report().text(&Outcome { ending, ..outcome() }, 0);
            text.split(" end=").nth(1).unwrap().split(" started=").next().unwrap().to_owned()
        };
        assert_eq!(ended(EndedBy::Client, Cause::Eof, Some(1001)), "client/eof code=1001 code_from=proxy");
        assert_eq!(
            ended(EndedBy::Upstream, Cause::Close, Some(1001)),
            "upstream/close code=1001 code_from=upstream"
        );
        assert_eq!(ended(EndedBy::Proxy, Cause::Drain, Some(1012)), "proxy/drain code=1012 code_from=proxy");
        assert_eq!(ended(EndedBy::Client, Cause::Eof, None), "client/eof");
    }

    #[test]
    fn a_report_is_small() {
        // Each idle tunnel keeps one.
        assert!(size_of::<Report>() <= 56, "{}", size_of::<Report>());
    }
}
