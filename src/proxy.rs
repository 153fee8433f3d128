//! Owns the request path. Holdline reads a request, finds its route and an endpoint, and returns an answer or
//! opens a tunnel.

pub(crate) mod connection;
pub(crate) mod endpoint_state;
mod exchange;
mod failure;
mod forward;
mod no_request;
pub(crate) mod registry;
mod reject;
mod reporting;
mod request;
mod retry;
pub(crate) mod snapshot;
mod status;
mod upgrade;

use crate::limit::Limiter;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::tunnel::engine::Engine;
use arc_swap::ArcSwap;
use registry::Registry;
use reporting::ReportSink;
use snapshot::Snapshot;
use std::sync::Arc;
use tokio::time::Instant;

/// Serves requests.
#[derive(Debug)]
pub struct Proxy {
    /// The configuration that requests see. A reload swaps it.
    pub snapshot: ArcSwap<Snapshot>,
    /// The live tunnels.
    pub tunnels: Arc<Registry>,
    /// The access log, for those who follow, reopen or close it. Reports go through `sink`.
    pub log: Arc<AccessLog>,
    /// Counts what happened.
    pub metrics: Arc<Metrics>,
    /// Writes each report to `log` and `metrics`.
    sink: Arc<ReportSink>,
    /// Relays tunnels. `None` means that tasks of the runtime do it.
    engine: Option<Arc<Engine>>,
    /// Counts what all routes together have admitted.
    limiter: Limiter,
    started: Instant,
}

impl Proxy {
    /// A proxy without tunnels.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, log: Arc<AccessLog>, engine: Option<Arc<Engine>>) -> Self {
        let (tunnels, metrics, limiter) = (Arc::default(), Arc::default(), Limiter::default());
        let sink = Arc::new(ReportSink::new(Arc::clone(&log), Arc::clone(&metrics)));
        status::expect(&metrics, &snapshot);
        let (snapshot, started) = (ArcSwap::new(snapshot), Instant::now());
        Self { snapshot, tunnels, log, metrics, sink, engine, limiter, started }
    }

    /// Stops the engine, which ends the tunnels that are still open.
    pub fn stop_relaying(&self) {
        if let Some(engine) = &self.engine {
            engine.stop();
        }
    }
}
