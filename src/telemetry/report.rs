//! Owns the report of a request or tunnel, which is written once, at its end.

mod line;
mod packed_text;

pub use super::secrets::redact;
pub(crate) use super::secrets::redact_bytes;
pub(crate) use line::Seconds;
pub use packed_text::RequestInfo;

use super::secrets;
use super::tally::RouteCounters;
use super::unix_micros::UnixMicros;
use crate::addr::{ClientAddr, EndpointAddr};
use crate::escape;
use crate::outcome::Outcome;
use packed_text::PackedText;
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

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
    Upgrade,
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
    pub started: UnixMicros,
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
    /// Looked up once, when something is counted first.
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

impl Report {
    /// Starts the report of a request that arrived at `started`.
    #[must_use]
    pub fn new(id: ConnectionId, started: SystemTime, info: &RequestInfo<'_>) -> Self {
        Self::of(id, started, PackedText::new(info, None, None))
    }

    /// Starts a report from the bytes of [`Report::packed_text`].
    pub(super) fn of_texts(id: ConnectionId, started: SystemTime, packed_text: &[u8]) -> Self {
        Self::of(id, started, packed_text.into())
    }

    fn of(id: ConnectionId, started: SystemTime, packed_text: PackedText) -> Self {
        Self {
            id,
            started: started.into(),
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

    /// Returns the requested path and query as text, secrets removed.
    #[must_use]
    pub fn target_text(&self) -> Cow<'_, str> {
        escape::text(self.target())
    }

    /// Returns the requested path as text, without the query.
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

    /// Returns its texts, packed.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Cause, EndedBy, Ending, PerSide, Traffic};
    use crate::ws::close::CloseCode;
    use proptest::prelude::*;
    use std::time::Duration;

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
