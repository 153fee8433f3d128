//! Owns what is told of what was counted: ends by cause, silence, round-trip times, the last hour, metrics.

use super::answer::{Answer, Time, json, of};
use super::router::Asked;
use crate::outcome::Side;
use crate::telemetry::history::{History, Step};
use crate::telemetry::metrics::{Code, Format, Metrics};
use crate::telemetry::tally::{Histogram, LIMITS};
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

/// Ends of tunnels by cause, since the start.
#[derive(Serialize)]
pub(super) struct Ends {
    who: &'static str,
    why: &'static str,
    /// A number; where there are too many of them, their kind; `null`: there was none.
    code: Value,
    count: u64,
}

/// A histogram of both sides: counts up to each edge, and above the last.
#[derive(Serialize)]
pub(super) struct BothSides {
    edges: &'static [f64],
    client: Vec<u64>,
    upstream: Vec<u64>,
}

/// An idle limit of what stands between clients and servers.
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
}

/// The most frequent first.
pub(super) fn ends(metrics: &Metrics) -> Vec<Ends> {
    let mut ends = metrics.ends();
    ends.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    let row = |(cause, count): (crate::telemetry::metrics::Cause, u64)| Ends {
        who: cause.who.as_str(),
        why: cause.why.as_str(),
        code: match cause.code {
            Code::None => Value::Null,
            Code::Registered(code) => code.into(),
            kind => kind.label().into(),
        },
        count,
    };
    ends.into_iter().map(row).collect()
}

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
pub(super) fn history(asked: &Asked) -> Answer {
    let (steps, until) = asked.admin.proxy.metrics.history();
    let column = |of: fn(&Step) -> u64| {
        let before = std::iter::repeat_n(None, History::STEPS.saturating_sub(steps.len()));
        before.chain(steps.iter().map(|step| Some(of(step)))).collect()
    };
    json(&LastHour {
        step: History::STEP.as_secs(),
        until: Time(until),
        tunnels: column(|step| step.tunnels),
        opened: column(|step| step.opened),
        ended: column(|step| step.ended),
        abnormal: column(|step| step.abnormal),
    })
}

/// `GET /metrics`.
pub(super) fn metrics(asked: &Asked) -> Answer {
    let format = Format::wanted(&asked.accept);
    of(StatusCode::OK, format.content_type(), asked.admin.proxy.metrics_text(format).into())
}
