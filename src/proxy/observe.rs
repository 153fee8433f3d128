//! Owns the look at what is live: for metrics, and for whoever shows the state of the proxy.

use super::Proxy;
use super::failure::CLIENT_LEFT;
use super::snapshot::{Route, Snapshot, Target};
use crate::health::Availability;
use crate::limit::Limit;
use crate::outcome::{Who, Why};
use crate::telemetry::metrics::{Cause, EndpointState, Expected, Format, Live, Metrics};
use crate::tunnel::{CloseCodes, possible_ends};
use crate::upstream::Endpoint;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Proxy {
    /// What is live now.
    #[must_use]
    pub fn live(&self) -> Live {
        let snapshot = self.snapshot.load();
        let mut routes = self.sessions.totals();
        for route in snapshot.routes().filter(|route| matches!(route.target, Target::Upstream(_))) {
            // What has not been used yet is told as well: from nothing no rate can be computed.
            routes.entry(Arc::clone(route.name())).or_default();
        }
        let endpoints = snapshot.upstreams().flat_map(|upstream| upstream.endpoints());
        let kinds = kinds();
        let endpoints = endpoints.map(|endpoint| state(&endpoint, &kinds)).collect();
        Live { routes, endpoints, missing_lines: self.log.missing() }
    }

    /// All metrics as text.
    #[must_use]
    pub fn metrics_text(&self, format: Format) -> String {
        self.metrics.encode(&self.live(), format)
    }

    /// Takes all that is open over into a new snapshot, and forgets what was counted by names that are
    /// gone.
    pub fn follow(&self, next: &Snapshot, previous: &Snapshot) {
        self.sessions.follow(next, previous);
        let live = self.sessions.totals();
        let is_known = |route: &str| live.contains_key(route) || next.route_named(route).is_some();
        self.metrics.retain(is_known, |upstream| next.upstream(upstream).is_some());
        expect(&self.metrics, next);
    }
}

/// Has everything that a snapshot's routes and upstreams may meet counted from 0 on.
pub(super) fn expect(metrics: &Metrics, snapshot: &Snapshot) {
    for route in snapshot.routes() {
        metrics.expect_route(route.name(), &expected(route));
    }
    let nowhere = Expected {
        openings: NOWHERE.to_vec(),
        requests: NOWHERE.iter().chain(&UNASKED).copied().collect(),
        ..Expected::default()
    };
    metrics.expect_route(&Arc::default(), &nowhere);
    for upstream in snapshot.upstreams() {
        metrics.expect_upstream(&upstream.settings().name);
    }
}

fn expected(route: &Route) -> Expected {
    match &route.target {
        Target::Upstream(_) => {
            let ends = possible_ends(route.tunnel.close_codes).into_iter();
            let ends = ends.map(|(who, why, code)| Cause { who, why, code: code.into() });
            Expected {
                ends: ends.collect(),
                openings: [101].iter().chain(&REFUSED).chain(&FAILED).copied().collect(),
                refusals: Limit::ALL.map(Limit::as_str).to_vec(),
                requests: [200].iter().chain(&REFUSED).chain(&FAILED).copied().collect(),
            }
        }
        Target::Respond { status, .. } => Expected { requests: vec![status.as_u16()], ..Expected::default() },
    }
}

/// What refuses a request before anybody is asked, and what is logged of a client that left.
const REFUSED: [u16; 8] = [400, 403, 405, 408, 413, 426, 429, CLIENT_LEFT.as_u16()];
/// What answers a request that nobody could answer.
const FAILED: [u16; 3] = [502, 503, 504];
/// What answers a request that no route serves.
const NOWHERE: [u16; 2] = [400, 404];
/// What answers bytes that are no request.
const UNASKED: [u16; 3] = [403, 408, 431];

/// The kinds of ends that tunnels have, whatever close codes their routes send.
fn kinds() -> BTreeSet<(Who, Why)> {
    possible_ends(CloseCodes::Registered).into_iter().map(|(who, why, _)| (who, why)).collect()
}

fn state(endpoint: &Endpoint, kinds: &BTreeSet<(Who, Why)>) -> EndpointState {
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
        ends: kinds.iter().map(|&(who, why)| (who, why, endpoint.ends().of(who, why))).collect(),
    }
}
