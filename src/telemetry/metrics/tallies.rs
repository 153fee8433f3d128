//! Owns the counts as plain data, copied for a reader. It must not know what a reader does with them.

use super::{Certificate, EndKey, Metrics, Reloads, Routes, lock};
use crate::outcome::PerSide;
use crate::telemetry::tally::{Histogram, RouteMetrics};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard};

/// All counts but those of live tunnels, as plain data.
#[derive(Debug)]
pub(super) struct Tallies {
    /// Requests that no route serves have an empty name.
    pub(super) routes: Vec<(Arc<str>, Route)>,
    pub(super) connects: Vec<(Arc<str>, Histogram)>,
    pub(super) silence: PerSide<Histogram>,
    pub(super) at_limits: PerSide<Vec<(u32, u64)>>,
    pub(super) tls_handshakes: Histogram,
    pub(super) tls_failures: u64,
    pub(super) reloads: Reloads,
    pub(super) certificates: Vec<Certificate>,
}

/// The counts of one route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) ends: Vec<(EndKey, u64)>,
    pub(super) durations: Histogram,
    pub(super) handshakes: Vec<(u16, u64)>,
    pub(super) handshake_times: Histogram,
    pub(super) tries: Histogram,
    pub(super) refusals: Vec<(&'static str, u64)>,
    pub(super) requests: Vec<(u16, u64)>,
}

impl Route {
    fn of(route: &RouteMetrics) -> Self {
        Self {
            ends: route.ends.read(),
            durations: route.durations.read(),
            handshakes: route.handshakes.read(),
            handshake_times: route.handshake_times.read(),
            tries: route.tries.read(),
            refusals: route.refusals.read(),
            requests: route.requests.read(),
        }
    }
}

impl Metrics {
    /// Returns all counts.
    pub(super) fn tallies(&self) -> Tallies {
        let routes = self.each_route().into_iter().map(|(name, route)| (name, Route::of(&route))).collect();
        let connects: Vec<_> = self
            .routes()
            .connects
            .iter()
            .map(|(name, times)| (Arc::clone(name), Arc::clone(times)))
            .collect();
        let at_limits = &self.at_limits;
        Tallies {
            routes,
            connects: connects.into_iter().map(|(name, times)| (name, times.read())).collect(),
            silence: self.silence(),
            at_limits: PerSide { client: at_limits.client.read(), upstream: at_limits.upstream.read() },
            tls_handshakes: self.tls_handshakes.read(),
            tls_failures: self.tls_failures.load(Ordering::Relaxed),
            reloads: self.reloads(),
            certificates: lock(&self.certificates).clone(),
        }
    }

    /// Returns the counters of all routes, and of requests that none serves.
    pub(super) fn each_route(&self) -> Vec<(Arc<str>, Arc<RouteMetrics>)> {
        let nowhere = (Arc::default(), Arc::clone(&self.nowhere.route));
        let routes = self.routes();
        let known = routes.known.iter().map(|(name, route)| (Arc::clone(name), Arc::clone(route)));
        known.chain([nowhere]).collect()
    }

    pub(super) fn routes(&self) -> RwLockReadGuard<'_, Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner)
    }
}
