//! Owns the shutdown: accepting stops, requests finish, tunnels close, spread over the grace period.

use super::Running;
use crate::proxy::Proxy;
use crate::telemetry::access_log::AccessLog;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// How long cut connections have to write their reports.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything ended within the grace period.
    InTime,
    /// The grace period expired, and Holdline cut the rest.
    Cut,
    /// The operator sent a second signal, and Holdline cut the rest.
    AtOnce,
}

impl Running {
    /// Returns the maximum duration of [`Self::shut_down`].
    pub(super) fn longest_end(&self) -> Duration {
        self.config.process.shutdown_grace + REPORT_TIMEOUT + AccessLog::CLOSES_WITHIN
    }

    /// Ends everything within `process.shutdown_grace`, or at once when `hurry` is ready. Returns how it
    /// went.
    pub async fn shut_down(self, hurry: impl Future<Output = ()>) -> Ended {
        let Self { proxy, config, listeners, trigger, watch, pid_file, mut admin_endpoint, .. } = self;
        // First of all, readiness checks must fail before Holdline refuses connections.
        admin_endpoint.drain();
        let (grace, spread) = (config.process.shutdown_grace, config.process.drain_spread);
        let (began, before) = (Instant::now(), ended_tunnels(&proxy));
        tracing::info!(tunnels = proxy.tunnels.count(), ?grace, "shutting down");
        let mut cut = 0;
        proxy.metrics.set_draining();
        drop(watch);
        trigger.drain(grace);
        drop(listeners);
        proxy.tunnels.shut_down(spread.min(grace));
        let ended = tokio::select! {
            () = trigger.finished() => Ended::InTime,
            () = sleep(grace) => Ended::Cut,
            () = hurry => Ended::AtOnce,
        };
        if ended != Ended::InTime {
            cut = proxy.tunnels.count() as u64;
            tracing::warn!(tunnels = cut, tasks = trigger.remaining(), "cutting the remaining connections");
            proxy.tunnels.cut();
            trigger.expire();
            // A task that does not end now never would.
            let _ = timeout(REPORT_TIMEOUT, trigger.finished()).await;
        }
        proxy.stop_relaying();
        // It may block on a stuck target.
        let log = Arc::clone(&proxy.log);
        let _ = spawn_blocking(move || log.close()).await;
        admin_endpoint.close().await;
        drop(pid_file);
        let closed = (ended_tunnels(&proxy) - before).saturating_sub(cut);
        tracing::info!(closed, cut, took = ?began.elapsed(), "stopped");
        ended
    }
}

/// Returns how many tunnels ever ended.
fn ended_tunnels(proxy: &Proxy) -> u64 {
    proxy.tunnels.totals().values().map(|totals| totals.opened - totals.live).sum()
}
