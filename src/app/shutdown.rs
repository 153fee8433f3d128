//! Owns the proxy's end: accepting stops, requests finish, tunnels close, spread over the grace.

use super::Running;
use std::time::Duration;
use tokio::time::timeout;

/// What is cut gets this long to be reported.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Running {
    /// Ends everything, within `process.shutdown_grace`. Whether nothing had to be cut.
    pub async fn shut_down(self) -> bool {
        let Self { proxy, config, listeners, trigger, watch, .. } = self;
        let (grace, spread) = (config.process.shutdown_grace, config.process.drain_spread);
        tracing::info!(tunnels = proxy.sessions.count(), ?grace, "shutting down");
        drop(watch);
        trigger.drain(grace);
        drop(listeners);
        proxy.sessions.shut_down(spread.min(grace));
        let in_time = timeout(grace, trigger.finished()).await.is_ok();
        if !in_time {
            tracing::warn!(remaining = trigger.remaining(), "the grace is over, cutting what is left");
            proxy.sessions.cut();
            trigger.expire();
            // Whatever does not end now would not end at all.
            let _ = timeout(LAST_WORDS, trigger.finished()).await;
        }
        proxy.log.close();
        if let Some(path) = &config.process.pid_file {
            // It may have been removed by hand.
            let _ = std::fs::remove_file(path);
        }
        in_time
    }
}
