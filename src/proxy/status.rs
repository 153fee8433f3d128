//! Owns what the metrics and the status are told: what is live, which series to expect, and what a new snapshot makes
//! obsolete.

use super::Proxy;
use super::failure::CLIENT_LEFT;
use super::snapshot::{Route, Snapshot, Target};
use crate::health::Availability;
use crate::limit::Limit;
use crate::outcome::{Cause, EndedBy};
use crate::telemetry::metrics::{EndKey, EndpointState, Expected, Format, Live, Metrics};
use crate::tunnel::{CloseCodes, possible_ends};
use crate::upstream::Endpoint;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Proxy {
    /// Returns what is live now.
    #[must_use]
    pub fn live(&self) -> Live {
        let snapshot = self.snapshot.load();
        let mut routes = self.tunnels.totals();
        for route in snapshot.routes().filter(|route| matches!(route.target, Target::Upstream(_))) {
            // Include routes without traffic: Prometheus computes no rate of a missing series.
            routes.entry(Arc::clone(route.name())).or_default();
        }
        let endpoints = snapshot.upstreams().flat_map(|upstream| upstream.endpoints());
        let kinds = kinds();
        let endpoints = endpoints.map(|endpoint| state(&endpoint, &kinds)).collect();
        Live { routes, endpoints, missing_lines: self.log.missing() }
    }

    /// Returns all metrics as text.
    #[must_use]
    pub fn metrics_text(&self, format: Format) -> String {
        self.metrics.encode(&self.live(), format)
    }

    /// Applies a new snapshot to all open tunnels, and forgets the counts of routes and upstreams that are
    /// gone.
    pub fn apply_snapshot(&self, next: &Snapshot, previous: &Snapshot) {
        let remaining = self.tunnels.apply_snapshot(next, previous);
        let is_known = |route: &str| remaining.contains_key(route) || next.route_named(route).is_some();
        self.metrics.retain(is_known, |upstream| next.upstream(upstream).is_some());
        expect(&self.metrics, next);
    }
}

/// Starts every series that a snapshot's routes and upstreams may need at 0.
pub(super) fn expect(metrics: &Metrics, snapshot: &Snapshot) {
    for route in snapshot.routes() {
        metrics.expect_route(Some(&route.names), &expected(route));
    }
    let no_route = Expected {
        handshakes: NO_ROUTE.to_vec(),
        requests: NO_ROUTE.iter().chain(&NO_REQUEST).copied().collect(),
        ..Expected::default()
    };
    metrics.expect_route(None, &no_route);
    for upstream in snapshot.upstreams() {
        metrics.expect_upstream(&upstream.settings().name);
    }
}

fn expected(route: &Route) -> Expected {
    match &route.target {
        Target::Upstream(_) => {
            let ends = possible_ends(route.tunnel.close_codes).into_iter();
            let ends = ends.map(|(ended_by, cause, code)| EndKey { ended_by, cause, code: code.into() });
            Expected {
                ends: ends.collect(),
                handshakes: [101].iter().chain(&REFUSED).chain(&FAILED).copied().collect(),
                refusals: Limit::ALL.map(Limit::as_str).to_vec(),
                requests: [200].iter().chain(&REFUSED).chain(&FAILED).copied().collect(),
            }
        }
        Target::Respond { status, .. } => Expected { requests: vec![status.as_u16()], ..Expected::default() },
    }
}

/// Statuses of requests that Holdline refuses itself, and the logged status of a client that left.
const REFUSED: [u16; 8] = [400, 403, 405, 408, 413, 426, 429, CLIENT_LEFT.as_u16()];
/// Statuses of requests that no endpoint answered.
const FAILED: [u16; 3] = [502, 503, 504];
/// Statuses of requests that no route serves.
const NO_ROUTE: [u16; 2] = [400, 404];
/// Statuses of bytes that never became a request.
const NO_REQUEST: [u16; 3] = [403, 408, 431];

/// Returns the kinds of tunnel ends, whatever close codes a route sends.
fn kinds() -> BTreeSet<(EndedBy, Cause)> {
    possible_ends(CloseCodes::Registered).into_iter().map(|(ended_by, cause, _)| (ended_by, cause)).collect()
}

fn state(endpoint: &Endpoint, kinds: &BTreeSet<(EndedBy, Cause)>) -> EndpointState {
    EndpointState {
        upstream: Arc::clone(endpoint.upstream()),
        endpoint: endpoint.address().to_string(),
        standing: match endpoint.availability() {
            Availability::Up => "available",
            Availability::Trial => "trial",
            Availability::Out => "failed",
        },
        active: endpoint.active(),
        failures: endpoint.failures(),
        ends: kinds
            .iter()
            .map(|&(ended_by, cause)| (ended_by, cause, endpoint.ends().of(ended_by, cause)))
            .collect(),
    }
}
