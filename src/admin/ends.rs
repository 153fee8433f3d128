//! Owns the responses about the latest ends.

mod query;

use super::filter::{Groups, Names};
use super::request::AdminRequest;
use super::response::{AdminResponse, Problem, Time, json, of};
use crate::telemetry::report::Ended;
use http::StatusCode;
use query::{GroupBy, Query};
use serde::Serialize;
use std::sync::Arc;
use std::time::SystemTime;

/// A group of ends.
#[derive(Serialize)]
struct Group {
    /// In the order of `by`.
    keys: Vec<Option<String>>,
    count: usize,
    first: Option<Time>,
    last: Option<Time>,
}

#[derive(Serialize)]
struct Grouped {
    by: Vec<&'static str>,
    groups: Vec<Group>,
    /// Ends of groups that are left out.
    others: usize,
    matched: usize,
    kept: usize,
}

/// The size of a group, and when its first and last member ended.
#[derive(Default)]
struct Count {
    count: usize,
    first: Option<SystemTime>,
    last: Option<SystemTime>,
}

/// `GET /api/ends`.
pub(super) fn answer(request: &AdminRequest) -> Result<AdminResponse, Problem> {
    let query = Query::read(&request.query, SystemTime::now())?;
    let (mut ends, _) = request.admin.proxy.metrics.recent(usize::MAX);
    query.check_names(Names::in_use(&request.admin), &ends)?;
    let kept = ends.len();
    ends.retain(|end| query.matches(end));
    let matched = ends.len();
    if !query.by.is_empty() {
        return Ok(json(&grouped(&query, &ends, kept)));
    }
    ends.truncate(query.limit);
    let json = format!("{{\"ends\":[{}],\"matched\":{matched},\"kept\":{kept}}}", lines(&ends));
    Ok(of(StatusCode::OK, "application/json", json.into()))
}

fn grouped(query: &Query, ends: &[Arc<Ended>], kept: usize) -> Grouped {
    let add = |sum: &mut Count, end: &&Arc<Ended>| {
        let ended = end.outcome.ended;
        sum.count += 1;
        sum.first = sum.first.into_iter().chain(ended).min();
        sum.last = sum.last.max(ended);
    };
    let groups = Groups::of(ends.iter(), |end| query.key(end), add);
    // List minutes in order, the newest first as everywhere.
    let by_time = query.by.first().is_some_and(|(_, by)| *by == GroupBy::Minute);
    let mut groups = groups.sorted(|sum: &Count| (sum.last.filter(|_| by_time), sum.count));
    let shown: Vec<_> = groups.drain(..groups.len().min(query.limit)).collect();
    let group = |(keys, Count { count, first, last }): (Vec<_>, Count)| Group {
        keys,
        count,
        first: first.map(Time),
        last: last.map(Time),
    };
    Grouped {
        by: query.by.iter().map(|(word, _)| *word).collect(),
        groups: shown.into_iter().map(group).collect(),
        others: groups.iter().map(|(_, sum)| sum.count).sum(),
        matched: ends.len(),
        kept,
    }
}

/// Returns ends as JSON lines of the access log, separated by commas.
pub(super) fn lines<'a>(ends: impl IntoIterator<Item = &'a Arc<Ended>>) -> String {
    let lines: Vec<String> = ends.into_iter().map(|end| end.json(0)).collect();
    lines.join(",")
}
