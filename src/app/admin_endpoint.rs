//! Owns the admin endpoint in a running proxy: its listener, which lives to the very end, its information
//! about the process, and its reload requests.

use super::Running;
use crate::admin::server::Bound;
use crate::admin::{Admin, Listener, ReloadRequest, RuntimeInfo, Token};
use crate::capacity::Slots;
use crate::drain::{self, Trigger, Watch};
use crate::listener::accept::AcceptLoop;
use crate::proxy::Proxy;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The admin endpoint, with or without a listener.
#[derive(Debug)]
pub(super) struct AdminEndpoint {
    pub(super) admin: Arc<Admin>,
    /// `None` means no listener.
    pub(super) serving: Option<AcceptLoop>,
    reloads: mpsc::Receiver<ReloadRequest>,
    /// It ends after all others, because it shows their shutdown.
    trigger: Trigger,
    watch: Watch,
}

impl AdminEndpoint {
    pub(super) fn new(proxy: &Arc<Proxy>, slots: &Slots) -> Self {
        let (admin, reloads) = Admin::new(Arc::clone(proxy), slots.clone());
        let (trigger, watch) = drain::channel();
        Self { admin, serving: None, reloads, trigger, watch }
    }

    /// Starts to serve a socket, and stops serving an earlier one.
    pub(super) fn open(&mut self, socket: Bound, token: Option<Token>) {
        self.admin.set_token(token);
        self.serving = Some(socket.serve(&self.admin, &self.watch));
    }

    /// Waits for the next reload request.
    pub(super) async fn next_reload(&mut self) -> ReloadRequest {
        match self.reloads.recv().await {
            Some(reload) => reload,
            // This cannot happen while `admin` holds the sender.
            None => std::future::pending().await,
        }
    }

    /// Records that the proxy is no longer ready, and rejects further reloads.
    pub(super) fn drain(&mut self) {
        self.admin.drain();
        self.reloads.close();
        while self.reloads.try_recv().is_ok() {}
    }

    /// Ends it after the active responses.
    pub(super) async fn close(self) {
        let Self { trigger, watch, serving, .. } = self;
        drop((watch, serving));
        trigger.drain(LAST_RESPONSES_TIMEOUT);
        // A response that takes longer has no reader.
        let _ = timeout(LAST_RESPONSES_TIMEOUT, trigger.finished()).await;
        trigger.expire();
    }
}

impl Running {
    /// Updates the information that the admin endpoint shows about the process.
    pub(super) fn update_runtime_info(&self) {
        let listeners = self.listeners.iter().map(|active| {
            let config = active.config.load();
            Listener {
                address: active.address().clone(),
                local: active.local(),
                protocols: config.http.protocols,
                proxy_protocol: config.socket.proxy_protocol,
                tls: config.tls.clone(),
            }
        });
        let drain_spread = self.config.process.drain_spread;
        self.admin_endpoint
            .admin
            .set_runtime_info(RuntimeInfo { listeners: listeners.collect(), drain_spread });
    }
}

/// Time limit for the last responses.
const LAST_RESPONSES_TIMEOUT: Duration = Duration::from_millis(500);
