//! Owns listening sockets, the accept loop, and what a connection does before HTTP: PROXY header and TLS. It must not
//! know routes or upstreams, and of HTTP only the answer to plain HTTP on a TLS port.

pub(crate) mod accept;
pub(crate) mod establish;
pub(crate) mod handshakes;
pub(crate) mod socket;

use crate::addr::{ClientAddr, ListenAddr};
use crate::capacity::Slot;
use crate::io::{Stream, TcpOptions};
use crate::tls;
use std::time::Duration;

/// One listening socket (nginx, `listen`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where to listen.
    pub address: ListenAddr,
    /// How many connections may wait in the kernel to be accepted. `net.core.somaxconn` is the upper limit.
    pub backlog: u32,
    /// SO_REUSEPORT: other processes may listen on the same address.
    pub reuse_port: bool,
    /// Each connection must come from a trusted peer and begin with a PROXY protocol header (nginx,
    /// `listen ... proxy_protocol`; HAProxy, `accept-proxy`).
    pub proxy_protocol: bool,
    /// TLS (nginx, `listen ... ssl`). `None` means plain connections.
    pub tls: Option<Tls>,
    /// The options of accepted connections.
    pub tcp: TcpOptions,
}

/// TLS to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The server's certificates, and whether clients need one.
    pub server: tls::server::Settings,
    /// How long a handshake may take, counted from accept or from the end of the PROXY header.
    pub handshake_timeout: Duration,
    /// Concurrent handshakes, counted from the client's complete first message. More of them wait for a slot.
    pub max_handshakes: u32,
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The stream.
    pub stream: Stream,
    /// The address of the peer.
    pub client: ClientAddr,
    /// The connection's slot.
    pub slot: Slot,
}
