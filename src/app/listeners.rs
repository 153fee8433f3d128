//! Owns the listeners that accept connections for clients, and their change with a new configuration.

use super::Running;
use super::prepare::PreparedListener;
use crate::addr::ListenAddr;
use crate::capacity::Slots;
use crate::drain::Watch;
use crate::listener::Accepted;
use crate::listener::accept::AcceptLoop;
use crate::listener::socket::Bound as Socket;
use crate::proxy::Proxy;
use crate::proxy::connection::{ListenerConfig, serve_connection};
use crate::tls::sources::Sources;
use arc_swap::ArcSwap;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

/// A listener that accepts.
#[derive(Debug)]
pub(super) struct ActiveListener {
    accepting: AcceptLoop,
    /// The configuration of its new connections.
    pub(super) config: Arc<ArcSwap<ListenerConfig>>,
    /// The state of its certificate files when Holdline could not use them.
    pub(super) refused: Option<Sources>,
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
        let address = config.socket.address.clone();
        config.log_certificates();
        let config = Arc::new(ArcSwap::from_pointee(config));
        let current = Arc::clone(&config);
        let options = move || current.load().socket.tcp;
        let (proxy, ending, current) = (Arc::clone(proxy), watch.clone(), Arc::clone(&config));
        let serve = move |accepted: Accepted| {
            tokio::spawn(serve_connection(accepted, current.load_full(), Arc::clone(&proxy), ending.clone()));
        };
        let accepting = AcceptLoop::start(socket, address, slots.clone(), options, watch, serve);
        let address = &accepting.address;
        match accepting.local {
            Some(local) => tracing::info!(%address, %local, "listening"),
            None => tracing::info!(%address, "listening"),
        }
        Self { accepting, config, refused: None }
    }

    /// Returns the address in the file.
    pub(super) fn address(&self) -> &ListenAddr {
        &self.accepting.address
    }

    /// Returns the bound address. `None` means a unix socket.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.accepting.local
    }

    /// Applies a new configuration to connections accepted from now on.
    fn set_config(&mut self, config: ListenerConfig) {
        config.log_certificates();
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
            } else if let Some(index) =
                before.iter().position(|active| *active.address() == config.socket.address)
            {
                let mut active = before.remove(index);
                active.set_config(config);
                self.listeners.push(active);
            }
        }
    }
}
