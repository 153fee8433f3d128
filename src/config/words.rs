//! Owns the words that settings choose from, each with its meaning. It must not know which one is the
//! default.

use crate::balance::Method;
use crate::http::{Forwarded, Via};
use crate::proxy::snapshot::RejectWith;
use crate::proxy_protocol::Version;
use crate::telemetry::{AccessTarget, Facility, Format};
use crate::tls::MinVersion;
use crate::tunnel::{CloseCodes, Driver, OnViolation, Pong};
use crate::upstream::State;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

pub(super) const LEVEL: &[(&str, LevelFilter)] = &[
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
    ("off", LevelFilter::OFF),
];

pub(super) const FORMAT: &[(&str, Format)] = &[("text", Format::Text), ("json", Format::Json)];

/// Targets of syslog have a syntax of their own; any other text is a path.
pub(super) const ACCESS: &[(&str, AccessTarget)] = &[
    ("stdout", AccessTarget::Stdout),
    ("stderr", AccessTarget::Stderr),
    ("off", AccessTarget::Off),
    ("journald", AccessTarget::Journald),
];

/// As in `syslog.conf`.
pub(super) const FACILITY: &[(&str, Facility)] = &[
    ("kern", Facility(0)),
    ("user", Facility(1)),
    ("mail", Facility(2)),
    ("daemon", Facility(3)),
    ("auth", Facility(4)),
    ("syslog", Facility(5)),
    ("lpr", Facility(6)),
    ("news", Facility(7)),
    ("uucp", Facility(8)),
    ("cron", Facility(9)),
    ("authpriv", Facility(10)),
    ("ftp", Facility(11)),
    ("local0", Facility(16)),
    ("local1", Facility(17)),
    ("local2", Facility(18)),
    ("local3", Facility(19)),
    ("local4", Facility(20)),
    ("local5", Facility(21)),
    ("local6", Facility(22)),
    ("local7", Facility(23)),
];

pub(super) const PONG: &[(&str, Pong)] = &[("required", Pong::Required), ("optional", Pong::Optional)];

pub(super) const ON_VIOLATION: &[(&str, OnViolation)] =
    &[("blind", OnViolation::Blind), ("close", OnViolation::Close)];

pub(super) const CLOSE_CODES: &[(&str, CloseCodes)] =
    &[("registered", CloseCodes::Registered), ("rfc6455", CloseCodes::Rfc6455)];

pub(super) const REJECT_WITH: &[(&str, RejectWith)] =
    &[("http", RejectWith::Http), ("close", RejectWith::Close)];

pub(super) const FORWARDED: &[(&str, Forwarded)] = &[
    ("x", Forwarded::X),
    ("rfc7239", Forwarded::Rfc7239),
    ("both", Forwarded::Both),
    ("off", Forwarded::Off),
];

pub(super) const VIA: &[(&str, Via)] =
    &[("on", Via::On), ("request", Via::Request), ("response", Via::Response), ("off", Via::Off)];

/// The hash has no word; it is a table `{ hash = ... }`.
pub(super) const BALANCE: &[(&str, Method)] = &[
    ("least_conn", Method::LeastConn),
    ("ip_hash", Method::IpHash),
    ("round_robin", Method::RoundRobin),
    ("random_two", Method::RandomTwo),
];

pub(super) const STATE: &[(&str, State)] =
    &[("up", State::Up), ("drain", State::Drain), ("down", State::Down)];

/// Whether a listener takes the PROXY protocol.
pub(super) const PROXY_PROTOCOL: &[(&str, bool)] = &[("off", false), ("accept", true)];

pub(super) const ENGINE: &[(&str, Driver)] = &[("epoll", Driver::Epoll), ("tokio", Driver::Tokio)];

/// Which version of the PROXY protocol Holdline sends to an upstream.
pub(super) const SEND_PROXY_PROTOCOL: &[(&str, Version)] = &[("v1", Version::V1), ("v2", Version::V2)];

/// The units of time of a rate.
pub(super) const PER: &[(&str, Duration)] =
    &[("s", Duration::from_secs(1)), ("m", Duration::from_secs(60)), ("h", Duration::from_secs(3600))];

pub(super) const MIN_VERSION: &[(&str, MinVersion)] =
    &[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];

/// Whether Holdline asks clients for a certificate.
pub(super) const CLIENT_AUTH: &[(&str, ClientAuthMode)] = &[
    ("off", ClientAuthMode::Off),
    ("optional", ClientAuthMode::Optional),
    ("required", ClientAuthMode::Required),
];

/// Whether a listener asks clients for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAuthMode {
    /// It does not ask.
    Off,
    /// It asks, and accepts clients without one.
    Optional,
    /// It asks, and refuses clients without one.
    Required,
}

/// What `protocols` may name.
pub(super) const PROTOCOL: &[(&str, Protocol)] = &[("h1", Protocol::Http1), ("h2", Protocol::Http2)];

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, and 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What `retry.on` may name.
pub(super) const RETRY_ON: &[(&str, RetryOn)] = &[
    ("connect", RetryOn::Connect),
    ("timeout", RetryOn::Timeout),
    ("502", RetryOn::Status(http::StatusCode::BAD_GATEWAY)),
    ("503", RetryOn::Status(http::StatusCode::SERVICE_UNAVAILABLE)),
    ("504", RetryOn::Status(http::StatusCode::GATEWAY_TIMEOUT)),
];

/// A reason to retry at another endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryOn {
    /// The connection failed, or broke before a response.
    Connect,
    /// No response came in time.
    Timeout,
    /// The response has this status.
    Status(http::StatusCode),
}
