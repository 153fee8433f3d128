//! Owns the listeners that accept connections for clients, and their change with a new configuration.

use super::Running;
use super::prepare::PreparedListener;
use crate::addr::ListenAddr;
use crate::capacity::Slots;
use crate::drain::Watch;
use crate::listener::socket::Bound as Socket;
use crate::listener::{Accepted, accept};
use crate::proxy::Proxy;
use crate::proxy::connection::{ListenerConfig, serve_connection};
use crate::tls::sources::Sources;
use arc_swap::ArcSwap;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A listener that accepts.
#[derive(Debug)]
pub(super) struct ActiveListener {
    /// The address in the file.
    pub(super) address: ListenAddr,
    /// The address it is bound to. `None` means a unix socket.
    pub(super) local: Option<SocketAddr>,
    /// The configuration of its new connections.
    pub(super) config: Arc<ArcSwap<ListenerConfig>>,
    /// The state of its certificate files when Holdline could not use them.
    pub(super) refused: Option<Sources>,
    /// Dropping it ends the accept loop.
    _stop: oneshot::Sender<()>,
}

impl ActiveListener {
    /// Starts to accept.
    fn start(
        config: ListenerConfig,
        socket: Socket,
        proxy: &Arc<Proxy>,
        slots: &Slots,
        watch: &Watch,
    ) -> Self {
        let (address, local) = (config.socket.address.clone(), socket.local_addr());
        config.announce();
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (stop, stopped) = oneshot::channel::<()>();
        let mut draining = watch.clone();
        let until = async move {
            tokio::select! {
                _ = stopped => {}
                () = draining.draining() => {}
            }
        };
        let current = Arc::clone(&config);
        let options = move || current.load().socket.tcp;
        let (proxy, watch, current) = (Arc::clone(proxy), watch.clone(), Arc::clone(&config));
        let serve = move |accepted: Accepted| {
            tokio::spawn(serve_connection(accepted, current.load_full(), Arc::clone(&proxy), watch.clone()));
        };
        tokio::spawn(accept::run(socket, address.clone(), slots.clone(), options, until, serve));
        match local {
            Some(local) => tracing::info!(%address, %local, "listening"),
            None => tracing::info!(%address, "listening"),
        }
        Self { address, local, config, refused: None, _stop: stop }
    }

    /// Applies a new configuration to connections accepted from now on.
    fn set_config(&mut self, config: ListenerConfig) {
        config.announce();
        self.refused = None;
        self.config.store(Arc::new(config));
    }
}

impl Running {
    /// Applies the configuration of listeners that stay, starts new ones and ends the others.
    pub(super) fn adopt_listeners(&mut self, prepared: Vec<PreparedListener>) {
        let mut before = mem::take(&mut self.listeners);
        for PreparedListener { config, socket } in prepared {
            if let Some(socket) = socket {
                let (proxy, slots, watch) = (&self.proxy, &self.slots, &self.watch);
                self.listeners.push(ActiveListener::start(config, socket, proxy, slots, watch));
            } else if let Some(index) = before.iter().position(|l| l.address == config.socket.address) {
                let mut active = before.remove(index);
                active.set_config(config);
                self.listeners.push(active);
            }
        }
    }
}
