//! Owns what is told of the latest ends.

use super::answer::{Answer, Problem, of};
use super::router::Asked;
use crate::telemetry::recent::{End, Recent};
use http::StatusCode;

/// `GET /api/ends`.
pub(super) fn answer(asked: &Asked) -> Result<Answer, Problem> {
    let mut limit = DEFAULT;
    for (key, value) in &asked.query {
        let wanted = value.parse().ok().filter(|limit| (1..=Recent::MOST).contains(limit));
        let known = wanted.filter(|_| key == "limit");
        limit =
            known.ok_or_else(|| Problem::malformed(format!("{key}={value}; expected limit, 1 to 1000")))?;
    }
    let (ends, _) = asked.admin.proxy.metrics.recent(limit);
    let json = format!("{{\"ends\":[{}]}}", lines(&ends));
    Ok(of(StatusCode::OK, "application/json", json.into()))
}

/// Ends as the access log has them in JSON, with commas between them.
pub(super) fn lines<'a>(ends: impl IntoIterator<Item = &'a End>) -> String {
    let lines: Vec<String> = ends.into_iter().map(|end| end.0.json(&end.1, 0)).collect();
    lines.join(",")
}

const DEFAULT: usize = 100;
