//! Owns the status of the whole proxy.

use super::request::AdminRequest;
use super::response::{AdminResponse, Seconds, Time, json};
use super::{Admin, Listener, stats};
use crate::balance::Method;
use crate::health::Availability;
use crate::proxy::snapshot::{Route, Target};
use crate::upstream::{EndpointStatus, Upstream};
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
    ends: Vec<stats::Ends>,
    ends_lately: Vec<stats::Ends>,
    silence: stats::BothSides,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Vec<stats::Limit>>,
    round_trip: stats::BothSides,
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
    capacity: usize,
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
pub(super) fn answer(request: &AdminRequest) -> AdminResponse {
    let admin = &request.admin;
    let listeners = admin.runtime_info.load().listeners.iter().map(ListenerStatus::of).collect();
    json(&Status { listeners: Some(listeners), limits: Some(stats::limits()), ..changing(admin) })
}

/// Returns the part that changes all the time.
pub(super) fn changing(admin: &Admin) -> Status {
    let metrics = &*admin.proxy.metrics;
    let snapshot = admin.proxy.snapshot.load();
    let tally = metrics.reloads();
    let totals = admin.proxy.tunnels.totals();
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
    // Each listener holds a slot for its next connection.
    let held = if admin.is_draining() { 0 } else { admin.runtime_info.load().listeners.len() };
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
            tunnels: admin.proxy.tunnels.count(),
            clients: admin.slots.taken().saturating_sub(held),
            capacity: admin.slots.total(),
        },
        listeners: None,
        upstreams,
        routes: snapshot.routes().map(|one| route(one)).collect(),
        ends: stats::ends(metrics),
        ends_lately: stats::ends_lately(metrics),
        silence: stats::silence(metrics),
        limits: None,
        round_trip: stats::round_trip(metrics),
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
            endpoints: upstream.endpoint_statuses().iter().map(Endpoint::of).collect(),
        }
    }
}

impl Endpoint {
    fn of(status: &EndpointStatus) -> Self {
        Self {
            address: status.endpoint.address().to_string(),
            server: status.server.address.to_string(),
            state: status.state.as_str(),
            by: status.state_source.as_str(),
            standing: match status.availability {
                Availability::Out => "failed",
                Availability::Trial => "trial",
                Availability::Up if status.share < 1000 => "slow_start",
                Availability::Up => "available",
            },
            active: status.endpoint.active(),
            weight: status.weight,
            share: f64::from(status.share) / 1000.0,
            backup: status.server.backup,
            failures: status.failures,
            max_conns: status.server.max_conns,
        }
    }
}

/// Returns a balance method as in the file.
fn balance(method: &Method) -> String {
    match method {
        Method::LeastConn => "least_conn".to_owned(),
        Method::IpHash => "ip_hash".to_owned(),
        Method::RoundRobin => "round_robin".to_owned(),
        Method::RandomTwo => "random_two".to_owned(),
        Method::Hash(source) => format!("hash {source}"),
    }
}
