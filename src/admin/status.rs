//! Owns what is told of the proxy as a whole.

use super::answer::{Answer, Seconds, Time, json};
use super::endpoints::word;
use super::router::Asked;
use super::{Admin, Listener, tallies};
use crate::balance::Method;
use crate::health::Availability;
use crate::proxy::snapshot::{Route, Target};
use crate::upstream::{By, Upstream, View};
use serde::Serialize;
use std::time::SystemTime;

#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    started: Time,
    now: Time,
    uptime: Seconds,
    state: &'static str,
    reloads: Reloads,
    connections: Connections,
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<Vec<ListenerStatus>>,
    upstreams: Vec<UpstreamStatus>,
    routes: Vec<RouteStatus>,
    ends: Vec<tallies::Ends>,
    ends_lately: Vec<tallies::Ends>,
    silence: tallies::BothSides,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Vec<tallies::Limit>>,
    round_trip: tallies::BothSides,
}

#[derive(Serialize)]
struct Reloads {
    succeeded: u64,
    failed: u64,
    last_success: Option<Time>,
    last_error: Option<String>,
}

#[derive(Serialize)]
struct Connections {
    tunnels: usize,
    clients: usize,
    room: usize,
}

#[derive(Serialize)]
struct ListenerStatus {
    address: String,
    local: Option<String>,
    protocols: Vec<&'static str>,
    tls: bool,
    proxy_protocol: bool,
    certificates: Vec<Certificate>,
}

#[derive(Serialize)]
struct Certificate {
    subject: String,
    names: Vec<String>,
    not_after: Time,
}

#[derive(Serialize)]
struct UpstreamStatus {
    name: String,
    balance: String,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize)]
struct Endpoint {
    address: String,
    server: String,
    state: &'static str,
    by: &'static str,
    standing: &'static str,
    active: u32,
    weight: u32,
    share: f64,
    backup: bool,
    failures: u32,
    max_conns: Option<u32>,
}

#[derive(Serialize)]
struct RouteStatus {
    name: String,
    upstream: Option<String>,
    tunnels: u64,
    opened: u64,
    ended: u64,
}

/// `GET /api/status`.
pub(super) fn answer(asked: &Asked) -> Answer {
    let admin = &asked.admin;
    let listeners = admin.facts.load().listeners.iter().map(ListenerStatus::of).collect();
    json(&Status { listeners: Some(listeners), limits: Some(tallies::limits()), ..changing(admin) })
}

/// The part of it that changes all the time.
pub(super) fn changing(admin: &Admin) -> Status {
    let metrics = &*admin.proxy.metrics;
    let snapshot = admin.proxy.snapshot.load();
    let tally = metrics.reloads();
    let totals = admin.proxy.sessions.totals();
    let route = |route: &Route| {
        let totals = totals.get(route.name()).copied().unwrap_or_default();
        RouteStatus {
            name: route.name().to_string(),
            upstream: match &route.target {
                Target::Upstream(name) => Some(name.to_string()),
                Target::Respond { .. } => None,
            },
            tunnels: totals.live,
            opened: totals.opened,
            ended: totals.opened - totals.live,
        }
    };
    let mut upstreams: Vec<_> = snapshot.upstreams().map(|upstream| UpstreamStatus::of(upstream)).collect();
    upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    // A listener holds the place of whoever comes next.
    let held = if admin.is_draining() { 0 } else { admin.facts.load().listeners.len() };
    Status {
        version: env!("CARGO_PKG_VERSION"),
        started: Time(metrics.started()),
        now: Time(SystemTime::now()),
        uptime: Seconds(metrics.uptime()),
        state: if admin.is_draining() { "draining" } else { "serving" },
        reloads: Reloads {
            succeeded: tally.succeeded,
            failed: tally.failed,
            last_success: tally.last_success.map(Time),
            last_error: tally.last_error,
        },
        connections: Connections {
            tunnels: admin.proxy.sessions.count(),
            clients: admin.slots.taken().saturating_sub(held),
            room: admin.slots.all(),
        },
        listeners: None,
        upstreams,
        routes: snapshot.routes().map(|one| route(one)).collect(),
        ends: tallies::ends(metrics),
        ends_lately: tallies::ends_lately(metrics),
        silence: tallies::silence(metrics),
        limits: None,
        round_trip: tallies::round_trip(metrics),
    }
}

impl ListenerStatus {
    fn of(listener: &Listener) -> Self {
        let Listener { address, local, protocols, proxy_protocol, tls } = listener;
        let spoken = [(protocols.http1, "h1"), (protocols.http2, "h2")];
        let certificates = tls.iter().flat_map(|tls| tls.certificates());
        Self {
            address: address.to_string(),
            local: local.map(|local| local.to_string()),
            protocols: spoken.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect(),
            tls: tls.is_some(),
            proxy_protocol: *proxy_protocol,
            certificates: certificates
                .map(|certificate| Certificate {
                    subject: certificate.subject.clone(),
                    names: certificate.names.clone(),
                    not_after: Time(certificate.not_after),
                })
                .collect(),
        }
    }
}

impl UpstreamStatus {
    fn of(upstream: &Upstream) -> Self {
        let settings = upstream.settings();
        Self {
            name: settings.name.to_string(),
            balance: balance(&settings.balance),
            endpoints: upstream.view().iter().map(Endpoint::of).collect(),
        }
    }
}

impl Endpoint {
    fn of(view: &View) -> Self {
        Self {
            address: view.endpoint.address().to_string(),
            server: view.server.address.to_string(),
            state: word(view.state),
            by: match view.by {
                By::Configuration => "configuration",
                By::Operator => "operator",
            },
            standing: match view.availability {
                Availability::Out => "failed",
                Availability::Trial => "trial",
                Availability::Up if view.share < 1000 => "slow_start",
                Availability::Up => "available",
            },
            active: view.endpoint.active(),
            weight: view.server.weight,
            share: f64::from(view.share) / 1000.0,
            backup: view.server.backup,
            failures: view.failures,
            max_conns: view.server.max_conns,
        }
    }
}

/// A method as the file has it.
fn balance(method: &Method) -> String {
    match method {
        Method::LeastConn => "least_conn".to_owned(),
        Method::IpHash => "ip_hash".to_owned(),
        Method::RoundRobin => "round_robin".to_owned(),
        Method::RandomTwo => "random_two".to_owned(),
        Method::Hash(source) => format!("hash {source}"),
    }
}
