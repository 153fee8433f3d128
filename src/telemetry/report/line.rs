//! Owns the line of the access log that a report makes, as JSON and as text.

use super::Report;
use crate::escape::{self, HostAndTarget, Quoted, Token};
use crate::outcome::{EndedBy, Outcome, Side};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

/// One line of the access log. `docs/logging.md` documents the fields.
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds(pub Duration);

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
            time: moment(outcome.ended.unwrap_or(SystemTime::from(self.started) + outcome.duration)),
            started: moment(self.started.into()),
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
