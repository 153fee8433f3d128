//! Owns accepting: a bound socket, a loop that neither dies nor spins, and what a connection begins
//! with before HTTP. It must not know HTTP,
//! routes or upstreams.

pub mod accept;
pub mod connection;
pub mod handshakes;
pub mod socket;

use crate::addr::{ClientAddr, ListenAddr};
use crate::capacity::Slot;
use crate::io::{Stream, TcpOptions};
use crate::tls;
use std::time::Duration;

/// One listening socket (nginx, `listen`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub address: ListenAddr,
    /// Connections that may wait to be accepted; the kernel's `net.core.somaxconn` caps it.
    pub backlog: u32,
    /// SO_REUSEPORT: other processes may listen on the same address.
    pub reuse_port: bool,
    /// Each connection begins with a header of the PROXY protocol, from peers that are trusted
    /// (nginx, `listen ... proxy_protocol`; HAProxy, `accept-proxy`).
    pub proxy_protocol: bool,
    /// Connections are TLS (nginx, `listen ... ssl`).
    pub tls: Option<Tls>,
    /// Options of its connections.
    pub tcp: TcpOptions,
}

/// TLS to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificates, and what is asked of clients.
    pub server: tls::server::Settings,
    /// From the connection's opening, or its PROXY header, to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at once, from the client's whole first message to the end; more wait for their turn.
    pub max_handshakes: u32,
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The stream.
    pub stream: Stream,
    /// Who connected.
    pub client: ClientAddr,
    /// Its place among all.
    pub slot: Slot,
}
