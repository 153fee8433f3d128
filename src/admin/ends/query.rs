//! Owns the query for the latest ends: filters, limit and grouping.

use crate::admin::filter::{Names, SPAN, Scope, client_name, span, unknown, words, wrong};
use crate::admin::response::Problem;
use crate::outcome::{Cause, EndedBy};
use crate::telemetry::recent::Recent;
use crate::telemetry::report::Ended;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A parsed query.
#[derive(Debug)]
pub(super) struct Query {
    ended_by: Option<EndedBy>,
    cause: Option<Cause>,
    code: Option<Codes>,
    scope: Scope,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    /// Empty means that they are listed one by one.
    pub(super) by: Vec<(&'static str, GroupBy)>,
    pub(super) limit: usize,
}

/// A filter for close codes.
#[derive(Debug)]
enum Codes {
    /// No close code.
    None,
    One(u16),
    /// 3000 to 3999 or 4000 to 4999, by the first digit.
    Thousand(u16),
}

/// What ends are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupBy {
    EndedBy,
    Cause,
    End,
    Code,
    Status,
    Route,
    Upstream,
    Endpoint,
    Client,
    Host,
    Path,
    Minute,
}

const BY: &[(&str, GroupBy)] = &[
    ("ended_by", GroupBy::EndedBy),
    ("cause", GroupBy::Cause),
    ("end", GroupBy::End),
    ("code", GroupBy::Code),
    ("status", GroupBy::Status),
    ("route", GroupBy::Route),
    ("upstream", GroupBy::Upstream),
    ("endpoint", GroupBy::Endpoint),
    ("client", GroupBy::Client),
    ("host", GroupBy::Host),
    ("path", GroupBy::Path),
    ("minute", GroupBy::Minute),
];

const KNOWN: [&str; 7] = ["ended_by", "cause", "code", "since", "until", "by", "limit"];

/// Default number of ends or groups.
const DEFAULT: usize = 100;

/// Maximum number of ends or groups: about a megabyte.
const MOST: usize = 1000;

impl Query {
    pub(super) fn read(pairs: &[(String, String)], now: SystemTime) -> Result<Self, Problem> {
        let mut query = Self {
            ended_by: None,
            cause: None,
            code: None,
            scope: Scope::default(),
            since: None,
            until: None,
            by: Vec::new(),
            limit: DEFAULT,
        };
        for (key, value) in pairs {
            query.set(key, value, now)?;
        }
        Ok(query)
    }

    fn set(&mut self, key: &str, value: &str, now: SystemTime) -> Result<(), Problem> {
        let expected = |what: &str| wrong(key, value, what);
        match key {
            "ended_by" => {
                self.ended_by =
                    Some(word(&EndedBy::ALL, EndedBy::as_str, value).map_err(|all| expected(&all))?)
            }
            "cause" => {
                self.cause = Some(word(&Cause::ALL, Cause::as_str, value).map_err(|all| expected(&all))?)
            }
            "code" => self.code = Some(codes(value).ok_or_else(|| expected(CODES))?),
            "since" => {
                self.since = Some(moment(value, now).ok_or_else(|| expected(&format!("{SPAN}, {TIME}")))?)
            }
            "until" => {
                self.until = Some(moment(value, now).ok_or_else(|| expected(&format!("{SPAN}, {TIME}")))?)
            }
            "by" => self.by = words(key, value, BY)?,
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                self.limit = limit.ok_or_else(|| expected("limit, 1 to 1000"))?;
            }
            _ if self.scope.set(key, value)? => {}
            _ => return Err(unknown(key, &[&Scope::KNOWN[..], &KNOWN].concat())),
        }
        Ok(())
    }

    /// Checks that the requested names are configured, or used by a kept end. The empty name stands for
    /// requests that no route served.
    pub(super) fn check_names(&self, names: Names, kept: &[Arc<Ended>]) -> Result<(), Problem> {
        let unknown = self.scope.unknown(names, kept.iter().map(|end| &end.report));
        unknown.map_or(Ok(()), |what| Err(Problem::malformed(what)))
    }

    pub(super) fn matches(&self, Ended { report, outcome }: &Ended) -> bool {
        let ending = &outcome.ending;
        let code = ending.code.map(|code| code.0);
        self.ended_by.is_none_or(|ended_by| ending.ended_by == ended_by)
            && self.cause.is_none_or(|cause| ending.cause == cause)
            && self.code.as_ref().is_none_or(|codes| match codes {
                Codes::None => code.is_none(),
                Codes::One(one) => code == Some(*one),
                Codes::Thousand(first) => code.is_some_and(|code| code / 1000 == *first),
            })
            && self.scope.matches(report)
            && self.since.is_none_or(|since| outcome.ended.is_some_and(|ended| ended >= since))
            && self.until.is_none_or(|until| outcome.ended.is_some_and(|ended| ended <= until))
    }

    /// Returns the group key of an end.
    pub(super) fn key(&self, Ended { report, outcome }: &Ended) -> Vec<Option<String>> {
        let ending = &outcome.ending;
        let key = |by: GroupBy| match by {
            GroupBy::EndedBy => Some(ending.ended_by.to_string()),
            GroupBy::Cause => Some(ending.cause.to_string()),
            GroupBy::End => Some(format!("{}/{}", ending.ended_by, ending.cause)),
            GroupBy::Code => ending.code.map(|code| code.to_string()),
            GroupBy::Status => Some(report.status.to_string()),
            GroupBy::Route => report.route().map(ToString::to_string),
            GroupBy::Upstream => report.upstream().map(ToString::to_string),
            GroupBy::Endpoint => report.endpoint.as_ref().map(ToString::to_string),
            GroupBy::Client => Some(client_name(report.client())),
            GroupBy::Host => Some(report.host_text().into_owned()),
            GroupBy::Path => Some(report.path_text().into_owned()),
            GroupBy::Minute => outcome.ended.map(minute),
        };
        self.by.iter().map(|(_, by)| key(*by)).collect()
    }
}

fn word<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, String> {
    all.iter().copied().find(|one| name(*one) == text).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
        format!("one of {}", names.join(", "))
    })
}

fn codes(text: &str) -> Option<Codes> {
    match text {
        "none" => Some(Codes::None),
        "3xxx" => Some(Codes::Thousand(3)),
        "4xxx" => Some(Codes::Thousand(4)),
        number => number.parse().ok().map(Codes::One),
    }
}

const CODES: &str = "a close code, 3xxx, 4xxx, or none";

/// Parses a time, or a span before now.
fn moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    match span(text) {
        Some(span) => now.checked_sub(span),
        None => humantime::parse_rfc3339_weak(text).ok(),
    }
}

const TIME: &str = "or a time like 2026-11-28T02:13:00Z";

/// Returns the minute of a time.
fn minute(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % 60);
    humantime::format_rfc3339_seconds(start).to_string()
}

/// No more than the kept ends can be requested.
const _: () = assert!(MOST <= Recent::MOST);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &[(&str, &str)]) -> Result<Query, Problem> {
        let pairs: Vec<_> = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Query::read(&pairs, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000))
    }

    #[test]
    fn moments_are_spans_back_or_times() {
        let since = |text| read(&[("since", text)]).unwrap().since.unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(since("60"), at(999_940));
        assert_eq!(since("5m"), at(999_700));
        assert_eq!(since("1970-01-01T00:01:00Z"), at(60));
        assert_eq!(minute(at(119)), "1970-01-01T00:01:00Z");
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (key, value) in [
            ("ended_by", "nobody"),
            ("cause", ""),
            ("code", "70000"),
            ("code", "1001x"),
            ("client", "10.0.0.0/99"),
            ("since", "yesterday"),
            ("since", "-5"),
            ("by", "colour"),
            ("by", "who,who"),
            ("by", ""),
            ("limit", "0"),
            ("limit", "1001"),
            ("colour", "red"),
        ] {
            assert!(read(&[(key, value)]).is_err(), "{key}={value}");
        }
    }
}
