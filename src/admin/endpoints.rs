//! Owns the paths that change the state of an endpoint: drain, down, up.

use super::request::AdminRequest;
use super::response::{AdminResponse, Problem, json};
use crate::upstream::State;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    spread: Option<String>,
    reason: Option<String>,
}

/// `POST /api/upstreams/{name}/endpoints/{address}/{drain|up|down}`.
pub(super) fn set_state(request: &AdminRequest, state: State) -> Result<AdminResponse, Problem> {
    let [name, address] = &request.captures[..] else {
        return Err(Problem::not_found("an upstream and an endpoint are expected"));
    };
    let admin = &request.admin;
    let body: Body = request.parse_body()?;
    let spread = match body.spread.as_deref() {
        Some("off") => None,
        Some(text) => Some(duration(text).ok_or_else(|| {
            Problem::refused("spread is no duration; give one with a unit, like \"30s\", or \"off\"")
        })?),
        None => {
            let snapshot = admin.proxy.snapshot.load();
            let of_upstream = snapshot.upstream(name).and_then(|upstream| upstream.settings().drain_timeout);
            Some(of_upstream.unwrap_or(admin.runtime_info.load().drain_spread))
        }
    };
    let changed = admin.proxy.set_endpoint_state(name, address, state, spread);
    let changed = changed.map_err(|error| Problem::not_found(error.to_string()))?;
    tracing::info!(
        upstream = %name, endpoint = %address, state = changed.state.as_str(), closing = changed.closing,
        by = &*request.by, reason = body.reason,
        "the operator changed the state of an endpoint; `closing` of its connections will be closed"
    );
    Ok(json(&json!({ "state": changed.state.as_str(), "closing": changed.closing })))
}

/// Parses a span with a unit, at most a year. A later moment may not be representable.
fn duration(text: &str) -> Option<Duration> {
    let has_unit = text.contains(|c: char| c.is_ascii_alphabetic());
    let found = humantime::parse_duration(text).ok().filter(|_| has_unit)?;
    (found <= Duration::from_secs(365 * 24 * 60 * 60)).then_some(found)
}
