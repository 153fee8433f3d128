//! Owns the admin endpoint: HTTP requests of the operator and their responses. It must not know the
//! configuration file, nor how a reload works.

mod access;
mod connections;
mod endpoints;
mod ends;
mod events;
mod filter;
mod frames;
mod page;
mod reload;
mod request;
mod response;
mod router;
pub(crate) mod server;
mod stats;
mod status;
mod stream;
mod token;

pub(crate) use reload::{ReloadOrigin, ReloadRejected, ReloadRequest, ReloadWarnings};
pub use router::{OPENAPI, routes};
pub(crate) use token::{Secret, Token, TokenError};

use crate::addr::ListenAddr;
use crate::capacity::Slots;
use crate::http::Protocols;
use crate::proxy::Proxy;
use crate::tls::server::Config as TlsConfig;
use arc_swap::{ArcSwap, ArcSwapOption};
use events::Ticker;
use http::HeaderMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// The admin endpoint, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where it listens.
    pub address: ListenAddr,
    /// The token that a request must show. `None` means none.
    pub token: Option<Secret>,
}

/// Whether only processes on this host can reach an address.
#[must_use]
pub(crate) fn is_local(address: &ListenAddr) -> bool {
    match address {
        ListenAddr::Tcp(address) => is_loopback(address.ip()),
        ListenAddr::Unix(_) => true,
        // The address of a systemd socket is unknown here.
        ListenAddr::Systemd(_) => false,
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// What the status shows about the process, beyond what [`Proxy`] knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuntimeInfo {
    /// The listeners for clients, in the order of the file.
    pub listeners: Vec<Listener>,
    /// Default time over which Holdline closes tunnels.
    pub drain_spread: Duration,
}

/// A listener for clients.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// Its address in the file.
    pub address: ListenAddr,
    /// The address it is bound to. `None` means a unix socket.
    pub local: Option<SocketAddr>,
    /// Its HTTP versions.
    pub protocols: Protocols,
    /// Whether connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Its certificates. `None` means no TLS.
    pub tls: Option<Arc<TlsConfig>>,
}

/// Answers the operator. It lives as long as the process, even without a listener.
#[derive(Debug)]
pub(crate) struct Admin {
    proxy: Arc<Proxy>,
    /// Slots of client connections.
    slots: Slots,
    runtime_info: ArcSwap<RuntimeInfo>,
    token: ArcSwapOption<Token>,
    draining: AtomicBool,
    reloads: mpsc::Sender<ReloadRequest>,
    ticker: Ticker,
    /// Limits streams, so that they leave connections for requests.
    streams: Arc<Semaphore>,
}

impl Admin {
    /// Creates it for a proxy that begins to serve. Returns the queue of reload requests too.
    #[must_use]
    pub(crate) fn new(proxy: Arc<Proxy>, slots: Slots) -> (Arc<Self>, mpsc::Receiver<ReloadRequest>) {
        // Reloads run one at a time. Further requests wait.
        let (reloads, requests) = mpsc::channel(1);
        let admin = Self {
            ticker: Ticker::new(),
            proxy,
            slots,
            runtime_info: ArcSwap::default(),
            token: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            reloads,
            streams: Arc::new(Semaphore::new(STREAMS)),
        };
        (Arc::new(admin), requests)
    }

    /// Sets the process information.
    pub(crate) fn set_runtime_info(&self, runtime_info: RuntimeInfo) {
        self.runtime_info.store(Arc::new(runtime_info));
    }

    /// Sets the token.
    pub(crate) fn set_token(&self, token: Option<Token>) {
        self.token.store(token.map(Arc::new));
    }

    /// Records that shutdown has begun: the proxy is no longer ready.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the sender of these headers has full access.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        self.token.load().as_deref().is_none_or(|token| access::check_token(headers, token).is_ok())
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Maximum number of streams. The remaining ones of the 64 connections are for requests, above all health
/// checks.
const STREAMS: usize = 48;
