//! Owns the query values that several paths share: clients, time spans, names, and grouping by a key.

use super::Admin;
use super::response::Problem;
use crate::addr::ClientAddr;
use crate::telemetry::report::Report;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A filter for clients.
#[derive(Debug)]
enum Clients {
    /// Clients of a network or of one address.
    Net(IpNet),
    /// Clients of unix sockets, which have no address.
    Unix,
}

impl Clients {
    const EXPECTED: &str = "an address, a network like 10.0.0.0/8, or unix:";

    /// Parses a filter. `None` means that the text is not one.
    fn parse(text: &str) -> Option<Self> {
        if text == "unix:" {
            return Some(Self::Unix);
        }
        let net = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
        Some(Self::Net(net))
    }

    fn have(&self, client: ClientAddr) -> bool {
        match self {
            Self::Unix => client.ip().is_none(),
            Self::Net(net) => client.ip().is_some_and(|ip| net.contains(&ip)),
        }
    }
}

/// The connections or ends that a query asks for.
#[derive(Debug, Default)]
pub(super) struct Scope {
    route: Option<String>,
    upstream: Option<String>,
    endpoint: Option<String>,
    client: Option<Clients>,
}

impl Scope {
    pub(super) const KNOWN: [&str; 4] = ["route", "upstream", "endpoint", "client"];

    /// Sets the value of a parameter. Returns false if the parameter is not one of these.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<bool, Problem> {
        match key {
            "route" => self.route = Some(value.to_owned()),
            "upstream" => self.upstream = Some(value.to_owned()),
            "endpoint" => self.endpoint = Some(value.to_owned()),
            "client" => {
                let clients = Clients::parse(value).ok_or_else(|| wrong(key, value, Clients::EXPECTED))?;
                self.client = Some(clients);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Returns which requested name is neither in use nor in `reports`, and the names that exist. An empty name
    /// stands for requests that no route served.
    pub(super) fn unknown<'a>(
        &self,
        mut names: Names,
        reports: impl Iterator<Item = &'a Report>,
    ) -> Option<String> {
        if self.route.is_some() || self.upstream.is_some() || self.endpoint.is_some() {
            reports.for_each(|report| names.add(report));
        }
        let route = self.route.as_ref().filter(|name| !name.is_empty());
        names.unknown(route, self.upstream.as_ref(), self.endpoint.as_ref())
    }

    pub(super) fn matches(&self, report: &Report) -> bool {
        let is = |wanted: &Option<String>, found: Option<&Arc<str>>| {
            wanted.as_ref().is_none_or(|wanted| wanted == found.map_or("", |name| name))
        };
        let endpoint = || report.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
        is(&self.route, report.route())
            && is(&self.upstream, report.upstream())
            && self.endpoint.as_ref().is_none_or(|wanted| *wanted == endpoint())
            && self.client.as_ref().is_none_or(|clients| clients.have(report.client()))
    }
}

/// Returns the client without its port, which does not identify it.
pub(super) fn client_name(client: ClientAddr) -> String {
    client.ip().map_or_else(|| "unix:".to_owned(), |ip| ip.to_string())
}

/// Parses seconds, or a span with a unit. `None` means that it is neither, or longer than a clock goes back.
pub(super) fn span(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.or_else(|| humantime::parse_duration(text).ok())
}

pub(super) const SPAN: &str = "seconds, or a span with its unit like 5m";

/// Builds the error for a wrong value.
pub(super) fn wrong(key: &str, value: &str, expected: &str) -> Problem {
    Problem::malformed(format!("{key}={value}; expected {expected}"))
}

/// Builds the error for an unknown parameter.
pub(super) fn unknown(key: &str, known: &[&str]) -> Problem {
    Problem::malformed(format!("there is no parameter {key:?}; there are {}", known.join(", ")))
}

/// Names that a query may filter by.
#[derive(Debug, Default)]
pub(super) struct Names {
    routes: BTreeSet<String>,
    upstreams: BTreeSet<String>,
    endpoints: BTreeSet<String>,
}

impl Names {
    /// Returns the names in the current configuration.
    pub(super) fn in_use(admin: &Admin) -> Self {
        let snapshot = admin.proxy.snapshot.load();
        let mut names = Self::default();
        names.routes.extend(snapshot.routes().map(|route| route.name().to_string()));
        for upstream in snapshot.upstreams() {
            names.upstreams.insert(upstream.settings().name.to_string());
            names
                .endpoints
                .extend(upstream.endpoints().iter().map(|endpoint| endpoint.address().to_string()));
        }
        names
    }

    /// Adds the names of a request, which a reload may have removed since.
    fn add(&mut self, report: &Report) {
        let insert = |names: &mut BTreeSet<String>, name: Option<&str>| {
            if let Some(name) = name.filter(|name| !names.contains(*name)) {
                names.insert(name.to_owned());
            }
        };
        insert(&mut self.routes, report.route().map(|name| &**name));
        insert(&mut self.upstreams, report.upstream().map(|name| &**name));
        insert(&mut self.endpoints, report.endpoint.as_ref().map(ToString::to_string).as_deref());
    }

    /// Returns which requested name is unknown, and the names that exist. `None` means that all are known.
    fn unknown(
        &self,
        route: Option<&String>,
        upstream: Option<&String>,
        endpoint: Option<&String>,
    ) -> Option<String> {
        let filters = [
            ("route", route, &self.routes),
            ("upstream", upstream, &self.upstreams),
            ("endpoint", endpoint, &self.endpoints),
        ];
        filters.into_iter().find_map(|(what, name, known)| {
            let name = name.filter(|name| !known.contains(*name))?;
            Some(format!("no {what} {name:?}; there {}", listed(known)))
        })
    }
}

fn listed(known: &BTreeSet<String>) -> String {
    match known.len() {
        0 => "is none".to_owned(),
        1 => format!("is {}", known.iter().map(String::as_str).collect::<String>()),
        _ => format!("are {}", known.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
    }
}

/// Parses a comma-separated list of known words, none of them twice.
pub(super) fn words<T: Copy + PartialEq>(
    key: &str,
    text: &str,
    known: &[(&'static str, T)],
) -> Result<Vec<(&'static str, T)>, Problem> {
    let expected = || {
        let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
        wrong(key, text, &format!("one or several of {}, with commas between them", words.join(", ")))
    };
    let mut found: Vec<(&'static str, T)> = Vec::new();
    for word in text.split(',') {
        let one = *known.iter().find(|(name, _)| *name == word).ok_or_else(expected)?;
        if found.contains(&one) {
            return Err(expected());
        }
        found.push(one);
    }
    Ok(found)
}

/// Sums by key. `None` in a key means that there is no such value, for example no endpoint of a refused
/// request.
pub(super) struct Groups<T>(HashMap<Vec<Option<String>>, T>);

impl<T: Default> Groups<T> {
    pub(super) fn of<I>(
        items: impl Iterator<Item = I>,
        key: impl Fn(&I) -> Vec<Option<String>>,
        add: impl Fn(&mut T, &I),
    ) -> Self {
        let mut groups = HashMap::new();
        for item in items {
            add(groups.entry(key(&item)).or_default(), &item);
        }
        Self(groups)
    }

    /// Returns the groups, the largest first, equal ones by their keys.
    pub(super) fn sorted<O: Ord>(self, size: impl Fn(&T) -> O) -> Vec<(Vec<Option<String>>, T)> {
        let mut groups: Vec<_> = self.0.into_iter().collect();
        groups.sort_by(|(a_key, a), (b_key, b)| size(b).cmp(&size(a)).then_with(|| a_key.cmp(b_key)));
        groups
    }
}
