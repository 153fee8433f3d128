//! Owns the proxy's end: accepting stops, requests finish, tunnels close, spread over the grace.

use super::Running;
use super::pid_file::PidFile;
use crate::proxy::Proxy;
use crate::telemetry::access_log::AccessLog;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// What is cut gets this long to be reported.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything ended by itself.
    InTime,
    /// The grace ran out, and the rest was cut.
    Cut,
    /// The operator would not wait, and the rest was cut.
    AtOnce,
}

impl Running {
    /// The longest that [`Self::shut_down`] takes.
    pub(super) fn longest_end(&self) -> Duration {
        self.config.process.shutdown_grace + LAST_WORDS + AccessLog::CLOSES_WITHIN
    }

    /// Ends everything, within `process.shutdown_grace`, or at once when `hurry` is ready. How it
    /// went.
    pub async fn shut_down(self, hurry: impl Future<Output = ()>) -> Ended {
        let Self { proxy, config, listeners, trigger, watch, pid_file, mut window, .. } = self;
        // First of all: who asks whether to send more hears no before anybody is refused.
        window.drain();
        let (grace, spread) = (config.process.shutdown_grace, config.process.drain_spread);
        let (began, before) = (Instant::now(), ended_tunnels(&proxy));
        tracing::info!(tunnels = proxy.sessions.count(), ?grace, "shutting down");
        let mut cut = 0;
        proxy.metrics.set_draining();
        drop(watch);
        trigger.drain(grace);
        drop(listeners);
        proxy.sessions.shut_down(spread.min(grace));
        let ended = tokio::select! {
            () = trigger.finished() => Ended::InTime,
            () = sleep(grace) => Ended::Cut,
            () = hurry => Ended::AtOnce,
        };
        if ended != Ended::InTime {
            cut = proxy.sessions.count() as u64;
            tracing::warn!(tunnels = cut, tasks = trigger.remaining(), "cutting what is left");
            proxy.sessions.cut();
            trigger.expire();
            // Whatever does not end now would not end at all.
            let _ = timeout(LAST_WORDS, trigger.finished()).await;
        }
        proxy.stop_relaying();
        // It may wait for a target that takes nothing.
        let log = Arc::clone(&proxy.log);
        let _ = spawn_blocking(move || log.close()).await;
        window.close().await;
        pid_file.iter().for_each(PidFile::remove);
        let closed = (ended_tunnels(&proxy) - before).saturating_sub(cut);
        tracing::info!(closed, cut, took = ?began.elapsed(), "stopped; tunnels were closed, and cut at the end of the grace");
        ended
    }
}

/// How many tunnels ever ended.
fn ended_tunnels(proxy: &Proxy) -> u64 {
    proxy.sessions.totals().values().map(|totals| totals.opened - totals.live).sum()
}
