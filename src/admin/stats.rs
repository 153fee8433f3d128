//! Owns the responses about counts: ends by cause, silence, round-trip times, the last hour, metrics.

use super::request::AdminRequest;
use super::response::{AdminResponse, Time, json, of};
use crate::outcome::Side;
use crate::telemetry::history::{History, Step};
use crate::telemetry::idle_limits::LIMITS;
use crate::telemetry::metrics::{Code, EndKey, Format, Metrics};
use crate::telemetry::tally::Histogram;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// Ends of tunnels by cause, since the start.
#[derive(Serialize)]
pub(super) struct Ends {
    ended_by: &'static str,
    cause: &'static str,
    /// A number, or the kind of a grouped code. `null` means no code.
    code: Value,
    count: u64,
}

/// A histogram for both sides: counts up to each edge, and above the last.
#[derive(Serialize)]
pub(super) struct BothSides {
    edges: &'static [f64],
    client: Vec<u64>,
    upstream: Vec<u64>,
}

/// A known idle limit of hops between clients and servers.
#[derive(Serialize)]
pub(super) struct Limit {
    seconds: u32,
    name: &'static str,
}

#[derive(Serialize)]
struct LastHour {
    step: u64,
    until: Time,
    tunnels: Vec<Option<u64>>,
    opened: Vec<Option<u64>>,
    ended: Vec<Option<u64>>,
    abnormal: Vec<Option<u64>>,
    causes: Vec<CauseByTime>,
}

/// The ends of one cause, step by step.
#[derive(Serialize)]
struct CauseByTime {
    ended_by: &'static str,
    cause: &'static str,
    code: Value,
    ended: Vec<Option<u64>>,
}

/// Returns the ends by cause, the most frequent first.
pub(super) fn ends(metrics: &Metrics) -> Vec<Ends> {
    metrics.ends().into_iter().map(Ends::of).collect()
}

/// Returns the ends of the last five minutes by cause.
pub(super) fn ends_lately(metrics: &Metrics) -> Vec<Ends> {
    metrics.ends_lately(LATELY).into_iter().map(Ends::of).collect()
}

impl Ends {
    fn of((key, count): (EndKey, u64)) -> Self {
        Self { ended_by: key.ended_by.as_str(), cause: key.cause.as_str(), code: code(key), count }
    }
}

fn code(key: EndKey) -> Value {
    match key.code {
        Code::None => Value::Null,
        Code::Registered(code) => code.into(),
        kind => kind.label().into(),
    }
}

/// The span of `ends_lately`.
const LATELY: Duration = Duration::from_secs(5 * 60);

pub(super) fn silence(metrics: &Metrics) -> BothSides {
    let silence = metrics.silence();
    BothSides::of(&silence.client, &silence.upstream)
}

pub(super) fn round_trip(metrics: &Metrics) -> BothSides {
    let times = metrics.round_trips();
    BothSides::of(&times.of(Side::Client), &times.of(Side::Upstream))
}

pub(super) fn limits() -> Vec<Limit> {
    LIMITS.iter().map(|&(seconds, name)| Limit { seconds, name }).collect()
}

impl BothSides {
    fn of(client: &Histogram, upstream: &Histogram) -> Self {
        let counts = |histogram: &Histogram| histogram.counts().to_vec();
        Self { edges: client.edges(), client: counts(client), upstream: counts(upstream) }
    }
}

/// `GET /api/history`.
pub(super) fn history(request: &AdminRequest) -> AdminResponse {
    let (steps, until) = request.admin.proxy.metrics.history();
    let each = |of: &dyn Fn(&Step) -> u64| -> Vec<Option<u64>> {
        let before = std::iter::repeat_n(None, History::STEPS.saturating_sub(steps.len()));
        before.chain(steps.iter().map(|step| Some(of(step)))).collect()
    };
    let column = |of: fn(&Step) -> u64| each(&of);
    let causes: BTreeSet<EndKey> = steps.iter().flat_map(|step| &step.causes).map(|(key, _)| *key).collect();
    let by_time = |key: EndKey| CauseByTime {
        ended_by: key.ended_by.as_str(),
        cause: key.cause.as_str(),
        code: code(key),
        ended: each(&|step| step.causes.iter().filter(|(of, _)| *of == key).map(|(_, count)| count).sum()),
    };
    json(&LastHour {
        step: History::STEP.as_secs(),
        until: Time(until),
        tunnels: column(|step| step.tunnels),
        opened: column(|step| step.opened),
        ended: column(|step| step.ended),
        abnormal: column(|step| step.abnormal),
        causes: causes.into_iter().map(by_time).collect(),
    })
}

/// `GET /metrics`.
pub(super) fn metrics(request: &AdminRequest) -> AdminResponse {
    let format = Format::wanted(&request.accept);
    of(StatusCode::OK, format.content_type(), request.admin.proxy.metrics_text(format).into())
}
