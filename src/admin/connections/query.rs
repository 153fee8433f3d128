//! Owns the query for a list of connections: filters, order and page.

use super::Live;
use crate::admin::filter::{Names, SPAN, Scope, client_name, span, unknown, words, wrong};
use crate::admin::response::Problem;
use crate::outcome::Side;
use std::cmp::Ordering;
use std::time::Duration;

/// A parsed query.
#[derive(Debug, Default)]
pub(super) struct Query {
    scope: Scope,
    /// In lower case.
    text: Option<String>,
    min_age: Option<Duration>,
    max_age: Option<Duration>,
    /// Empty means that they are listed one by one.
    pub(super) by: Vec<(&'static str, GroupBy)>,
    sort: Sort,
    ascending: bool,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Sort {
    #[default]
    Age,
    /// The silence of the side that sent last.
    Idle,
    Bytes,
    Messages,
    /// The longer one of the two.
    Rtt,
}

impl Query {
    pub(super) fn read(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut query = Self { limit: PAGE, ..Self::default() };
        for (key, value) in pairs {
            query.set(key, value)?;
        }
        Ok(query)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        let wrong = |expected: &str| wrong(key, value, expected);
        match key {
            "q" => self.text = Some(value.to_lowercase()),
            "min_age" => self.min_age = Some(span(value).ok_or_else(|| wrong(SPAN))?),
            "max_age" => self.max_age = Some(span(value).ok_or_else(|| wrong(SPAN))?),
            "sort" => {
                let known = SORTS.iter().find(|(word, _)| *word == value);
                self.sort = known.ok_or_else(|| wrong("age, idle, bytes, messages or rtt"))?.1;
            }
            "order" => {
                self.ascending = match value {
                    "asc" => true,
                    "desc" => false,
                    _ => return Err(wrong("asc or desc")),
                }
            }
            "offset" => self.offset = value.parse().map_err(|_| wrong("a whole number"))?,
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                self.limit = limit.ok_or_else(|| wrong("a whole number, 1 to 500"))?;
            }
            "by" => self.by = words(key, value, BY)?,
            _ if self.scope.set(key, value)? => {}
            _ => return Err(unknown(key, &[&Scope::KNOWN[..], &KNOWN].concat())),
        }
        Ok(())
    }

    /// Returns which requested name is neither configured nor used by an open connection, and the names that
    /// exist. It is no error: a page that shows such a list goes on when a reload removes a name.
    pub(super) fn unknown(&self, names: Names, open: &[Live<'_>]) -> Option<String> {
        self.scope.unknown(names, open.iter().map(|live| &live.tunnel.report))
    }

    /// Returns the group key of a connection.
    pub(super) fn key(&self, live: &Live<'_>) -> Vec<Option<String>> {
        let (tunnel, report) = (live.tunnel, &live.tunnel.report);
        let key = |by: GroupBy| match by {
            GroupBy::Route => Some(tunnel.route().to_owned()),
            GroupBy::Upstream => report.upstream().map(ToString::to_string),
            GroupBy::Endpoint => Some(tunnel.endpoint.address().to_string()),
            GroupBy::Client => Some(client_name(report.client())),
            GroupBy::Host => Some(report.host_text().into_owned()),
            GroupBy::Path => Some(report.path_text().into_owned()),
            GroupBy::Protocol => Some(report.protocol().to_owned()),
        };
        self.by.iter().map(|(_, by)| key(*by)).collect()
    }

    pub(super) fn matches(&self, live: &Live<'_>) -> bool {
        self.scope.matches(&live.tunnel.report)
            && self.min_age.is_none_or(|least| live.age >= least)
            && self.max_age.is_none_or(|most| live.age <= most)
            && self.text.as_ref().is_none_or(|text| holds(live, text))
    }

    /// Returns the size that groups are sorted by: bytes or messages if requested, else their count.
    pub(super) fn size(&self, count: u64, bytes: u64, messages: u64) -> u64 {
        match self.sort {
            Sort::Bytes => bytes,
            Sort::Messages => messages,
            Sort::Age | Sort::Idle | Sort::Rtt => count,
        }
    }

    /// Sorts as requested. Of equal ones the older comes first, so that pages do not overlap.
    pub(super) fn sort(&self, found: &mut [Live<'_>]) {
        let order = |a: &Live<'_>, b: &Live<'_>| -> Ordering {
            let by = match self.sort {
                Sort::Age => a.age.cmp(&b.age),
                Sort::Idle => idle(a).cmp(&idle(b)),
                Sort::Bytes => sum(a, |live, side| live.traffic[side].bytes)
                    .cmp(&sum(b, |live, side| live.traffic[side].bytes)),
                Sort::Messages => sum(a, |live, side| live.traffic[side].messages)
                    .cmp(&sum(b, |live, side| live.traffic[side].messages)),
                Sort::Rtt => rtt(a).cmp(&rtt(b)),
            };
            let by = if self.ascending { by } else { by.reverse() };
            by.then_with(|| a.tunnel.report.id.cmp(&b.tunnel.report.id))
        };
        found.sort_unstable_by(order);
    }
}

fn idle(live: &Live<'_>) -> Duration {
    live.idle.client.min(live.idle.upstream)
}

fn rtt(live: &Live<'_>) -> Option<Duration> {
    live.traffic.client.last_rtt.max(live.traffic.upstream.last_rtt)
}

fn sum(live: &Live<'_>, of: impl Fn(&Live<'_>, Side) -> u64) -> u64 {
    Side::BOTH.iter().map(|side| of(live, *side)).sum()
}

/// Whether a lower-case text occurs in a searchable field.
fn holds(live: &Live<'_>, text: &str) -> bool {
    let report = &live.tunnel.report;
    let has = |found: &str| found.to_lowercase().contains(text);
    has(&report.host_text())
        || has(&report.target_text())
        || has(live.tunnel.route())
        || has(&report.id.to_string())
        || has(&report.client().to_string())
        || has(&live.tunnel.endpoint.address().to_string())
}

const SORTS: &[(&str, Sort)] = &[
    ("age", Sort::Age),
    ("idle", Sort::Idle),
    ("bytes", Sort::Bytes),
    ("messages", Sort::Messages),
    ("rtt", Sort::Rtt),
];

const KNOWN: [&str; 8] = ["q", "min_age", "max_age", "by", "sort", "order", "offset", "limit"];

/// What connections are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupBy {
    Route,
    Upstream,
    Endpoint,
    Client,
    Host,
    Path,
    Protocol,
}

const BY: &[(&str, GroupBy)] = &[
    ("route", GroupBy::Route),
    ("upstream", GroupBy::Upstream),
    ("endpoint", GroupBy::Endpoint),
    ("client", GroupBy::Client),
    ("host", GroupBy::Host),
    ("path", GroupBy::Path),
    ("protocol", GroupBy::Protocol),
];

/// Default number of connections per page.
const PAGE: usize = 50;

/// Maximum number of connections per page: some 250 KB.
const MOST: usize = 500;
