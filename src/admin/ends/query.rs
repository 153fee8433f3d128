//! Owns what is asked of the latest ends: which ones, how many, and by what they are counted together.

use crate::admin::answer::Problem;
use crate::admin::filter::{Names, SPAN, Scope, client_name, span, unknown, words, wrong};
use crate::outcome::{Outcome, Who, Why};
use crate::telemetry::recent::{End, Recent};
use crate::telemetry::report::Report;
use std::time::{Duration, SystemTime};

/// A question.
#[derive(Debug)]
pub(super) struct Query {
    who: Option<Who>,
    why: Option<Why>,
    code: Option<Codes>,
    scope: Scope,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    /// Empty: they are listed one by one.
    pub(super) by: Vec<(&'static str, By)>,
    pub(super) limit: usize,
}

/// Which close codes are meant.
#[derive(Debug)]
enum Codes {
    /// There was none.
    None,
    One(u16),
    /// 3000 to 3999, or 4000 to 4999: the first digit.
    Thousand(u16),
}

/// By what ends are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Who,
    Why,
    Cause,
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

const BY: &[(&str, By)] = &[
    ("who", By::Who),
    ("why", By::Why),
    ("cause", By::Cause),
    ("code", By::Code),
    ("status", By::Status),
    ("route", By::Route),
    ("upstream", By::Upstream),
    ("endpoint", By::Endpoint),
    ("client", By::Client),
    ("host", By::Host),
    ("path", By::Path),
    ("minute", By::Minute),
];

const KNOWN: [&str; 7] = ["who", "why", "code", "since", "until", "by", "limit"];

/// Ends, or groups of them, unless it is said otherwise.
const DEFAULT: usize = 100;

/// Ends, or groups of them, of one answer: about a megabyte.
const MOST: usize = 1000;

impl Query {
    pub(super) fn read(pairs: &[(String, String)], now: SystemTime) -> Result<Self, Problem> {
        let mut query = Self {
            who: None,
            why: None,
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
            "who" => self.who = Some(word(&Who::ALL, Who::as_str, value).map_err(|all| expected(&all))?),
            "why" => self.why = Some(word(&Why::ALL, Why::as_str, value).map_err(|all| expected(&all))?),
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

    /// Whether the names it asks for are known: in use, or of an end that is kept.
    pub(super) fn check_names(&self, names: Names, kept: &[End]) -> Result<(), Problem> {
        let unknown = self.scope.unknown(names, kept.iter().map(|end| &end.0));
        unknown.map_or(Ok(()), |what| Err(Problem::malformed(what)))
    }

    pub(super) fn matches(&self, (report, outcome): &(Report, Outcome)) -> bool {
        let ending = &outcome.ending;
        let code = ending.code.map(|code| code.0);
        self.who.is_none_or(|who| ending.who == who)
            && self.why.is_none_or(|why| ending.why == why)
            && self.code.as_ref().is_none_or(|codes| match codes {
                Codes::None => code.is_none(),
                Codes::One(one) => code == Some(*one),
                Codes::Thousand(first) => code.is_some_and(|code| code / 1000 == *first),
            })
            && self.scope.matches(report)
            && self.since.is_none_or(|since| outcome.ended.is_some_and(|ended| ended >= since))
            && self.until.is_none_or(|until| outcome.ended.is_some_and(|ended| ended <= until))
    }

    /// What an end is counted by.
    pub(super) fn key(&self, (report, outcome): &(Report, Outcome)) -> Vec<Option<String>> {
        let ending = &outcome.ending;
        let key = |by: By| match by {
            By::Who => Some(ending.who.to_string()),
            By::Why => Some(ending.why.to_string()),
            By::Cause => Some(format!("{}/{}", ending.who, ending.why)),
            By::Code => ending.code.map(|code| code.to_string()),
            By::Status => Some(report.status.to_string()),
            By::Route => report.route().map(ToString::to_string),
            By::Upstream => report.upstream().map(ToString::to_string),
            By::Endpoint => report.endpoint.as_ref().map(ToString::to_string),
            By::Client => Some(client_name(report.client())),
            By::Host => Some(report.host_text().into_owned()),
            By::Path => Some(report.path_text().into_owned()),
            By::Minute => outcome.ended.map(minute),
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

/// So long ago, or a moment.
fn moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    match span(text) {
        Some(span) => now.checked_sub(span),
        None => humantime::parse_rfc3339_weak(text).ok(),
    }
}

const TIME: &str = "or a time like 2026-11-28T02:13:00Z";

/// The minute that a moment is in.
fn minute(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % 60);
    humantime::format_rfc3339_seconds(start).to_string()
}

/// What cannot be asked for at a time is not kept either.
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
            ("who", "nobody"),
            ("why", ""),
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
