//! Owns accepting: a bound socket, a loop that neither dies nor spins, and what a connection begins
//! with before HTTP. It must not know HTTP,
//! routes or upstreams.

pub mod accept;
pub mod connection;
pub mod slots;
pub mod socket;

use crate::addr::{ClientAddr, ListenAddr};
use crate::io::{Stream, TcpOptions};
use slots::Slot;

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
    /// Options of its connections.
    pub tcp: TcpOptions,
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
