//! Owns the operator's window: what is asked of the running proxy over HTTP, and what it is told. It must not
//! know the configuration's text, nor who carries out a reload.

mod access;
mod answer;
mod connections;
mod endpoints;
mod ends;
mod events;
mod filter;
mod frames;
mod page;
mod reload;
mod router;
pub mod server;
mod status;
mod stream;
mod tallies;
mod token;

pub use reload::{Done, Ordered, Refused, ReloadOrder};
pub use router::{OPENAPI, routes};
pub use token::{Secret, Token, TokenError};

use crate::addr::ListenAddr;
use crate::http::Protocols;
use crate::proxy::Proxy;
use crate::slots::Slots;
use crate::tls::server::Config as TlsConfig;
use answer::{Answer, Problem};
use arc_swap::{ArcSwap, ArcSwapOption};
use events::Ticker;
use http::HeaderMap;
use router::Asked;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// The admin endpoint, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub address: ListenAddr,
    /// What a request must know; `None`: nothing.
    pub token: Option<Secret>,
}

/// Whether only this host's own processes can reach an address.
#[must_use]
pub fn is_local(address: &ListenAddr) -> bool {
    match address {
        ListenAddr::Tcp(address) => is_loopback(address.ip()),
        ListenAddr::Unix(_) => true,
        // What systemd listens on is not known here.
        ListenAddr::Systemd(_) => false,
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// What is told of the process beyond what [`Proxy`] knows.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What listens for clients, in the order of the file.
    pub listeners: Vec<Listener>,
    /// Over how long tunnels are closed where nothing else is said.
    pub drain_spread: Duration,
}

/// A listener for clients.
#[derive(Clone, Debug)]
pub struct Listener {
    /// As the file has it.
    pub address: ListenAddr,
    /// Where it really listens; `None`: a unix socket.
    pub local: Option<SocketAddr>,
    /// What is spoken there.
    pub protocols: Protocols,
    /// Connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Its certificates; `None`: it is plain.
    pub tls: Option<Arc<TlsConfig>>,
}

/// What answers the operator. It lives as long as the process, whether anybody can ask or not.
#[derive(Debug)]
pub struct Admin {
    proxy: Arc<Proxy>,
    /// Room for connections of clients.
    slots: Slots,
    facts: ArcSwap<Facts>,
    token: ArcSwapOption<Token>,
    draining: AtomicBool,
    orders: mpsc::Sender<ReloadOrder>,
    ticker: Ticker,
    /// Room for streams, which would else take the places of requests.
    streams: Arc<Semaphore>,
}

impl Admin {
    /// For a proxy that begins to serve; and where orders to reload come out.
    #[must_use]
    pub fn new(proxy: Arc<Proxy>, slots: Slots) -> (Arc<Self>, mpsc::Receiver<ReloadOrder>) {
        // One is carried out at a time; the others wait where they were asked.
        let (orders, ordered) = mpsc::channel(1);
        let admin = Self {
            ticker: Ticker::new(),
            proxy,
            slots,
            facts: ArcSwap::default(),
            token: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            orders,
            streams: Arc::new(Semaphore::new(STREAMS)),
        };
        (Arc::new(admin), ordered)
    }

    /// What is told from now on.
    pub fn set_facts(&self, facts: Facts) {
        self.facts.store(Arc::new(facts));
    }

    /// What requests must know from now on.
    pub fn set_token(&self, token: Option<Token>) {
        self.token.store(token.map(Arc::new));
    }

    /// The end has begun: whoever asks whether the proxy is ready hears no.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether who sends this may ask for all there is.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        self.token.load().as_deref().is_none_or(|token| access::known(headers, token).is_ok())
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

impl Admin {
    /// Has the configuration loaded anew, and tells what became of it.
    async fn reload(&self, asked: &Asked) -> Result<Answer, Problem> {
        let Reason { reason } = body_of(asked)?;
        let gone =
            || Problem::unavailable("the proxy is stopping, nothing is reloaded any more; start it anew");
        let (order, answered) = ReloadOrder::new(Ordered { by: Arc::clone(&asked.by), reason });
        self.orders.send(order).await.map_err(|_| gone())?;
        match answered.await.map_err(|_| gone())? {
            Ok(warnings) => Ok(answer::json(&json!({ "warnings": warnings }))),
            Err(Refused(errors)) => {
                let error = "the running configuration stays; mend what errors tell and reload again";
                Err(Problem::refused(error).with_errors(errors))
            }
        }
    }
}

/// Why something is ordered, for the log.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: Option<String>,
}

/// The body of a request as JSON; none at all is an empty object.
fn body_of<T: DeserializeOwned + Default>(asked: &Asked) -> Result<T, Problem> {
    if asked.body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    let read = serde_json::from_slice(&asked.body);
    read.map_err(|error| {
        Problem::malformed(format!("the body: {error}; /api/openapi.json tells what it holds"))
    })
}

/// Streams at once: of the 64 connections, the others are left for questions, health checks above all.
const STREAMS: usize = 48;
