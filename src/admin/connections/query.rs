//! Owns what a list of connections is asked for: which ones, in which order, which page of them.

use super::Live;
use crate::admin::answer::Problem;
use crate::outcome::Side;
use ipnet::IpNet;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::time::Duration;

/// A question.
#[derive(Debug, Default)]
pub(super) struct Query {
    route: Option<String>,
    upstream: Option<String>,
    endpoint: Option<String>,
    client: Option<Client>,
    /// In small letters.
    text: Option<String>,
    min_age: Option<Duration>,
    max_age: Option<Duration>,
    sort: Sort,
    ascending: bool,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

#[derive(Debug)]
enum Client {
    Net(IpNet),
    /// Clients of unix sockets, which have no address.
    Unix,
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
        let wrong = |expected: &str| Problem::malformed(format!("{key}={value}; expected {expected}"));
        match key {
            "route" => self.route = Some(value.to_owned()),
            "upstream" => self.upstream = Some(value.to_owned()),
            "endpoint" => self.endpoint = Some(value.to_owned()),
            "q" => self.text = Some(value.to_lowercase()),
            "client" => {
                let client =
                    client(value).ok_or_else(|| wrong("an address, a network like 10.0.0.0/8, or unix:"))?;
                self.client = Some(client);
            }
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
            _ => {
                let error = format!("there is no parameter {key:?}; there are {}", KNOWN.join(", "));
                return Err(Problem::malformed(error));
            }
        }
        Ok(())
    }

    pub(super) fn matches(&self, live: &Live<'_>) -> bool {
        let (session, report) = (live.session, &live.session.report);
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let by_client = match &self.client {
            None => true,
            Some(Client::Unix) => report.client().ip().is_none(),
            Some(Client::Net(net)) => report.client().ip().is_some_and(|ip| net.contains(&ip)),
        };
        by_client
            && is(&self.route, session.route())
            && is(&self.upstream, report.upstream().map_or("", |name| name))
            && self.endpoint.as_ref().is_none_or(|wanted| session.endpoint.address().to_string() == *wanted)
            && self.min_age.is_none_or(|least| live.age >= least)
            && self.max_age.is_none_or(|most| live.age <= most)
            && self.text.as_ref().is_none_or(|text| holds(live, text))
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
        || has(report.target())
        || has(live.session.route())
        || has(&report.id.to_string())
        || has(&report.client().to_string())
        || has(&live.session.endpoint.address().to_string())
}

fn client(text: &str) -> Option<Client> {
    if text == "unix:" {
        return Some(Client::Unix);
    }
    let net = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some(Client::Net(net))
}

/// Seconds, or a span with its unit.
fn span(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.or_else(|| humantime::parse_duration(text).ok())
}

const SPAN: &str = "seconds, or a span with its unit like 5m";

const SORTS: &[(&str, Sort)] = &[
    ("age", Sort::Age),
    ("idle", Sort::Idle),
    ("bytes", Sort::Bytes),
    ("messages", Sort::Messages),
    ("rtt", Sort::Rtt),
];

const KNOWN: [&str; 11] = [
    "route", "upstream", "endpoint", "client", "q", "min_age", "max_age", "sort", "order", "offset", "limit",
];

/// Connections of a page, unless it is said otherwise.
const PAGE: usize = 50;

/// Connections of a page at most: some 250 KB.
const MOST: usize = 500;
