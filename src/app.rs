//! Owns the running proxy: its start, reloads and shutdown. It is the only place that sees every layer.

mod admin_endpoint;
pub(crate) mod certificates;
pub(crate) mod descriptors;
mod listeners;
mod notifier;
mod pid_file;
mod prepare;
mod reload;
mod shutdown;
pub(crate) mod signal;
mod start;

pub use prepare::PrepareError;
pub use shutdown::Ended;
pub use start::Startup;

use crate::capacity::Slots;
use crate::config::Config;
use crate::drain::{Trigger, Watch};
use crate::listener::socket::Inherited;
use crate::proxy::Proxy;
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::log::LogControl;
use crate::upstream::discovery::dns;
use admin_endpoint::AdminEndpoint;
use listeners::ActiveListener;
use pid_file::PidFile;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinSet;

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    /// Serves requests.
    pub proxy: Arc<Proxy>,
    config: Config,
    /// In the order of the file.
    listeners: Vec<ActiveListener>,
    admin_endpoint: AdminEndpoint,
    inherited: Inherited,
    log_control: Option<LogControl>,
    trigger: Trigger,
    watch: Watch,
    /// Slots of client connections.
    slots: Slots,
    /// The pid file written at the start.
    pid_file: Option<PidFile>,
}

impl Running {
    /// Returns the addresses of the listeners, in the order of the file, with the real port where the file
    /// says 0.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<Option<SocketAddr>> {
        self.listeners.iter().map(|active| active.local()).collect()
    }

    /// Returns the address of the admin endpoint. `None` means that there is none, or a unix socket.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_endpoint.serving.as_ref().and_then(|serving| serving.local)
    }

    /// Returns how many tasks a shutdown waits for.
    #[must_use]
    pub fn permits(&self) -> usize {
        // The permit of `self` is no task.
        self.trigger.remaining() - 1
    }

    fn keep_names_fresh(&self) {
        for upstream in self.proxy.snapshot.load().upstreams().filter(|upstream| dns::has_names(upstream)) {
            tokio::spawn(dns::keep_fresh(Arc::downgrade(upstream), self.watch.clone()));
        }
    }
}

/// Looks up, concurrently, the names that have never resolved, and logs those that fail. Others are refreshed
/// in the background, so that a reload does not wait for a slow resolver.
async fn look_up_names(snapshot: &Snapshot) {
    let mut lookups = JoinSet::new();
    for upstream in snapshot.upstreams().filter(|upstream| dns::is_missing_names(upstream)) {
        let upstream = Arc::clone(upstream);
        lookups.spawn(async move { (dns::refresh(&upstream).await, upstream) });
    }
    while let Some(Ok((failed, upstream))) = lookups.join_next().await {
        for (server, error) in failed {
            let upstream = &upstream.settings().name;
            tracing::warn!(%upstream, %server, error, "look-up failed, it will be tried again");
        }
    }
}
