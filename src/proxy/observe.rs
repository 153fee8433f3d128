//! Owns the look at what is live: for metrics, and for whoever shows the state of the proxy.

use super::Proxy;
use super::snapshot::{Snapshot, Target};
use crate::health::Availability;
use crate::telemetry::metrics::{EndpointState, Format, Live};
use crate::upstream::Endpoint;
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
        let endpoints = endpoints.map(|endpoint| state(&endpoint)).collect();
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
    }
}

fn state(endpoint: &Endpoint) -> EndpointState {
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
    }
}
