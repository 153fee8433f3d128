//! Owns what a list of connections is asked for: which ones, in which order, which page of them.

use super::Live;
use crate::admin::answer::Problem;
use crate::admin::filter::{Names, SPAN, Scope, client_name, span, unknown, words, wrong};
use crate::outcome::Side;
use std::cmp::Ordering;
use std::time::Duration;

/// A question.
#[derive(Debug, Default)]
pub(super) struct Query {
    scope: Scope,
    /// In small letters.
    text: Option<String>,
    min_age: Option<Duration>,
    max_age: Option<Duration>,
    /// Empty: they are listed one by one.
    pub(super) by: Vec<(&'static str, By)>,
    sort: Sort,
    ascending: bool,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Sort {
    #[default]
    Age,
    /// Of the side that spoke last.
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

    /// What it asks for that is neither in use nor of a connection that is open, and what there is. A page that shows
    /// such a list goes on when a reload takes a name away: it is no mistake.
    pub(super) fn unknown(&self, names: Names, open: &[Live<'_>]) -> Option<String> {
        self.scope.unknown(names, open.iter().map(|live| &live.session.report))
    }

    /// What a connection is counted by.
    pub(super) fn key(&self, live: &Live<'_>) -> Vec<Option<String>> {
        let (session, report) = (live.session, &live.session.report);
        let key = |by: By| match by {
            By::Route => Some(session.route().to_owned()),
            By::Upstream => report.upstream().map(ToString::to_string),
            By::Endpoint => Some(session.endpoint.address().to_string()),
            By::Client => Some(client_name(report.client())),
            By::Host => Some(report.host_text().into_owned()),
            By::Path => Some(report.path_text().into_owned()),
            By::Protocol => Some(report.protocol().to_owned()),
        };
        self.by.iter().map(|(_, by)| key(*by)).collect()
    }

    pub(super) fn matches(&self, live: &Live<'_>) -> bool {
        self.scope.matches(&live.session.report)
            && self.min_age.is_none_or(|least| live.age >= least)
            && self.max_age.is_none_or(|most| live.age <= most)
            && self.text.as_ref().is_none_or(|text| holds(live, text))
    }

    /// The size by which groups are sorted: of bytes or messages if that was asked for, else how many there are.
    pub(super) fn size(&self, count: u64, bytes: u64, messages: u64) -> u64 {
        match self.sort {
            Sort::Bytes => bytes,
            Sort::Messages => messages,
            Sort::Age | Sort::Idle | Sort::Rtt => count,
        }
    }

    /// Sorts by what was asked for; among equals the older one is first, so that pages do not overlap.
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
            by.then_with(|| a.session.report.id.cmp(&b.session.report.id))
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

/// Whether a text, in small letters, is in what people search by.
fn holds(live: &Live<'_>, text: &str) -> bool {
    let report = &live.session.report;
    let has = |found: &str| found.to_lowercase().contains(text);
    has(&report.host_text())
        || has(&report.target_text())
        || has(live.session.route())
        || has(&report.id.to_string())
        || has(&report.client().to_string())
        || has(&live.session.endpoint.address().to_string())
}

const SORTS: &[(&str, Sort)] = &[
    ("age", Sort::Age),
    ("idle", Sort::Idle),
    ("bytes", Sort::Bytes),
    ("messages", Sort::Messages),
    ("rtt", Sort::Rtt),
];

const KNOWN: [&str; 8] = ["q", "min_age", "max_age", "by", "sort", "order", "offset", "limit"];

/// By what connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Route,
    Upstream,
    Endpoint,
    Client,
    Host,
    Path,
    Protocol,
}

const BY: &[(&str, By)] = &[
    ("route", By::Route),
    ("upstream", By::Upstream),
    ("endpoint", By::Endpoint),
    ("client", By::Client),
    ("host", By::Host),
    ("path", By::Path),
    ("protocol", By::Protocol),
];

/// Connections of a page, unless it is said otherwise.
const PAGE: usize = 50;

/// Connections of a page at most: some 250 KB.
const MOST: usize = 500;
