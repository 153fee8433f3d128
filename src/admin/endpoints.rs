//! Owns orders about endpoints: drain, down, up.

use super::answer::{Answer, Problem, json};
use super::router::Asked;
use crate::upstream::State;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// What is ordered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) state: State,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    spread: Option<String>,
    reason: Option<String>,
}

/// `POST /api/upstreams/{name}/endpoints/{address}/{drain|up|down}`.
pub(super) fn order(asked: &Asked, order: Order) -> Result<Answer, Problem> {
    let [name, address] = &asked.captures[..] else {
        return Err(Problem::not_found("an upstream and an endpoint are expected"));
    };
    let admin = &asked.admin;
    let body: Body = super::body_of(asked)?;
    let spread = match body.spread.as_deref() {
        Some("off") => None,
        Some(text) => Some(duration(text).ok_or_else(|| {
            Problem::refused("spread is no duration; give one with a unit, like \"30s\", or \"off\"")
        })?),
        None => {
            let snapshot = admin.proxy.snapshot.load();
            let of_upstream = snapshot.upstream(name).and_then(|upstream| upstream.settings().drain_timeout);
            Some(of_upstream.unwrap_or(admin.facts.load().drain_spread))
        }
    };
    let ordered = admin.proxy.order(name, address, order.state, spread);
    let ordered = ordered.map_err(|unknown| Problem::not_found(unknown.to_string()))?;
    tracing::info!(
        upstream = %name, endpoint = %address, state = word(ordered.state), closing = ordered.closing,
        by = &*asked.by, reason = body.reason,
        "the operator changed the state of an endpoint; `closing` of its connections will be closed"
    );
    Ok(json(&json!({ "state": word(ordered.state), "closing": ordered.closing })))
}

/// The word for a state, as the file has it.
pub(super) fn word(state: State) -> &'static str {
    match state {
        State::Up => "up",
        State::Drain => "drain",
        State::Down => "down",
    }
}

/// A span with its unit, a year at most: a moment further away may not exist.
fn duration(text: &str) -> Option<Duration> {
    let has_unit = text.contains(|c: char| c.is_ascii_alphabetic());
    let found = humantime::parse_duration(text).ok().filter(|_| has_unit)?;
    (found <= Duration::from_secs(365 * 24 * 60 * 60)).then_some(found)
}
