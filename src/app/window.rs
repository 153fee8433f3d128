//! Owns the admin endpoint in a running proxy: its listener, which lives until the very end, what it is told of
//! the process, and the orders that come out of it.

use super::Running;
use crate::admin::server::{Bound, Serving};
use crate::admin::{Admin, Facts, Listener, ReloadOrder, Settings, Token, TokenError};
use crate::drain::{self, Trigger, Watch};
use crate::proxy::Proxy;
use crate::slots::Slots;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// The admin endpoint, whether anybody can reach it or not.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) admin: Arc<Admin>,
    /// `None`: nobody can.
    pub(super) serving: Option<Serving>,
    orders: mpsc::Receiver<ReloadOrder>,
    /// Its end is later than that of all others, who are waited for while it tells of them.
    trigger: Trigger,
    watch: Watch,
}

impl Window {
    pub(super) fn new(proxy: &Arc<Proxy>, slots: &Slots) -> Self {
        let (admin, orders) = Admin::new(Arc::clone(proxy), slots.clone());
        let (trigger, watch) = drain::channel();
        Self { admin, serving: None, orders, trigger, watch }
    }

    /// Answers from now on, and no more where it did before.
    pub(super) fn open(&mut self, socket: Bound, token: Option<Token>) {
        self.admin.set_token(token);
        self.serving = Some(socket.serve(&self.admin, &self.watch));
    }

    /// The next order to load the configuration anew.
    pub(super) async fn ordered(&mut self) -> ReloadOrder {
        match self.orders.recv().await {
            Some(order) => order,
            // Not while `admin`, which sends them, is here.
            None => std::future::pending().await,
        }
    }

    /// From now on the proxy is not ready, and nothing is reloaded any more.
    pub(super) fn drain(&mut self) {
        self.admin.drain();
        self.orders.close();
        while self.orders.try_recv().is_ok() {}
    }

    /// Ends it. Answers under way are sent.
    pub(super) async fn close(self) {
        let Self { trigger, watch, serving, .. } = self;
        drop((watch, serving));
        trigger.drain(LAST_ANSWERS);
        // What takes longer has no reader.
        let _ = timeout(LAST_ANSWERS, trigger.finished()).await;
        trigger.expire();
    }
}

impl Running {
    /// Tells the admin endpoint what it cannot see by itself.
    pub(super) fn tell_facts(&self) {
        let listeners = self.listeners.iter().map(|active| {
            let ready = active.settings.load();
            Listener {
                address: active.address.clone(),
                local: active.local,
                protocols: ready.listen.http.protocols,
                proxy_protocol: ready.listen.socket.proxy_protocol,
                tls: ready.tls.clone(),
            }
        });
        let drain_spread = self.config.process.drain_spread;
        self.window.admin.set_facts(Facts { listeners: listeners.collect(), drain_spread });
    }
}

/// The token of the endpoint, if it has one, read on a thread that may block.
pub(super) async fn read_token(settings: &Settings) -> Result<Option<Token>, TokenError> {
    let Some(secret) = settings.token.clone() else { return Ok(None) };
    let read = spawn_blocking(move || secret.token()).await;
    read.expect("reading a file does not panic").map(Some)
}

/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
