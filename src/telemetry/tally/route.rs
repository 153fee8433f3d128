//! Owns the counts of one route. A route is looked up by its name once for each snapshot. After that the names
//! of the route hold its counters.

use super::{Counts, DURATION_EDGES, HANDSHAKE_EDGES, SharedHistogram, TRIES_EDGES};
use crate::outcome::Outcome;
use crate::telemetry::end_key::EndKey;
use std::sync::Arc;
use std::time::Duration;

/// The counters of one route.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    /// Tunnels that ended.
    pub ends: Counts<EndKey>,
    /// How long they lasted.
    pub durations: SharedHistogram,
    /// WebSocket handshakes by status.
    pub handshakes: Counts<u16>,
    /// Time from their request to the answer.
    pub handshake_times: SharedHistogram,
    /// Endpoints tried for them.
    pub tries: SharedHistogram,
    /// Handshakes that a limit refused.
    pub refusals: Counts<&'static str>,
    /// Plain requests by status.
    pub requests: Counts<u16>,
}

impl Default for RouteMetrics {
    fn default() -> Self {
        Self {
            ends: Counts::default(),
            durations: SharedHistogram::new(&DURATION_EDGES),
            handshakes: Counts::default(),
            handshake_times: SharedHistogram::new(&HANDSHAKE_EDGES),
            tries: SharedHistogram::new(&TRIES_EDGES),
            refusals: Counts::default(),
            requests: Counts::default(),
        }
    }
}

impl RouteMetrics {
    /// Counts a WebSocket handshake that was answered.
    pub(crate) fn count_handshake(&self, status: u16, tries: u32, took: Duration) {
        self.handshakes.add(status);
        self.handshake_times.add(took.as_secs_f64());
        self.tries.add(f64::from(tries));
    }

    /// Counts a tunnel that ended.
    pub(crate) fn count_end(&self, outcome: &Outcome) {
        self.ends.add(EndKey::from(&outcome.ending));
        self.durations.add(outcome.duration.as_secs_f64());
    }
}

/// Where the requests of a route are counted.
#[derive(Clone, Debug)]
pub(crate) struct RouteCounters {
    /// The route's counters.
    pub route: Arc<RouteMetrics>,
    /// Durations of connects to its upstream, including TLS handshakes.
    pub connects: Option<Arc<SharedHistogram>>,
}
