//! Owns connecting to an endpoint.

use super::ports::{Port, or_any};
use super::{Lease, Upstream};
use crate::addr::EndpointAddr;
use crate::io::Stream;
use crate::slots::{File, Files};
use crate::stall::timeout;
use crate::tls::client;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::Errno;
use std::io::{self, ErrorKind::AddrNotAvailable};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kernel says why.
    #[error("connect: {0}")]
    Io(#[from] io::Error),
    /// A source address cannot be used.
    #[error("connect from {0}: {1}")]
    Source(IpAddr, #[source] io::Error),
    /// No descriptor became free in time.
    #[error(
        "connect: no room for another connection within {0:?}, the limit of open files is reached; raise LimitNOFILE"
    )]
    NoRoom(Duration),
    /// All ports of all source addresses are taken.
    #[error(
        "connect: no local port is left to it, {0} are taken; name more addresses in the upstream's source, \
         or widen net.ipv4.ip_local_port_range"
    )]
    NoPort(u32),
    /// The handshake failed.
    #[error("{0}")]
    Tls(#[from] client::ConnectError),
    /// Not within `connect_timeout`.
    #[error("connect: no answer within {0:?}")]
    TimedOut(Duration),
}

impl ConnectError {
    /// Whether this machine is at fault, and no endpoint.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Source(..) | Self::NoPort(_)) || self.is_exhausted()
    }

    /// Whether another time may be better, for what is missing comes back.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::NoPort(_)) || self.is_exhausted()
    }

    /// Whether this machine, or this process, has nothing left to connect to any endpoint with.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        match self {
            Self::NoRoom(_) => true,
            Self::Io(error) | Self::Source(_, error) => {
                [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
            }
            _ => false,
        }
    }
}

/// What a connection takes of what there is so much of, as long as it is open.
#[derive(Debug, Default)]
pub struct Taken {
    /// `None`: it is a unix socket.
    pub port: Option<Port>,
    /// Two hold it: who uses the connection, and the task that closes it. `None`: nobody counts.
    pub(super) file: Option<Arc<File>>,
}

impl Upstream {
    /// Connects to the endpoint of a lease, within `limit` (nginx, `proxy_connect_timeout`), sends what the
    /// connection is to begin with, and shakes hands. With the stream comes what it takes, to be held as long as
    /// it is open; a descriptor is one of `files`, which is waited for.
    ///
    /// # Errors
    /// The endpoint refuses, cannot be reached, or does not answer in time.
    pub async fn connect(
        &self,
        lease: &Lease,
        limit: Duration,
        first: Option<&[u8]>,
        files: Option<&Files>,
    ) -> Result<(Stream, Taken), ConnectError> {
        let file = match files {
            Some(files) => match timeout(limit, files.take()).await {
                Ok(file) => Some(Arc::new(file)),
                Err(_) => return Err(ConnectError::NoRoom(limit)),
            },
            None => None,
        };
        let attempt = async {
            let (mut stream, port) = match lease.endpoint().address() {
                EndpointAddr::Tcp(address) => {
                    let (stream, port) = self.connect_tcp(lease, *address).await?;
                    self.settings.tcp.apply(&stream)?;
                    (Stream::Tcp(stream), Some(port))
                }
                EndpointAddr::Unix(path) => (Stream::Unix(UnixStream::connect(path).await?), None),
            };
            if let Some(first) = first {
                stream.write_all(first).await?;
            }
            let stream = match self.tls.get().zip(lease.server_name()) {
                None => stream,
                Some((config, name)) => {
                    // In a box: what it takes, every plain connection would have room for too.
                    Stream::Layered(Box::new(Box::pin(client::connect(stream, name, config)).await?))
                }
            };
            Ok((stream, Taken { port, file }))
        };
        timeout(limit, attempt).await.unwrap_or(Err(ConnectError::TimedOut(limit)))
    }

    /// Connects from the source address that has most ports left, from the next ones where the first
    /// fail.
    async fn connect_tcp(
        &self,
        lease: &Lease,
        address: SocketAddr,
    ) -> Result<(TcpStream, Port), ConnectError> {
        let ports = &lease.endpoint().ports;
        let sources = or_any(self.settings.sources_to(address).map(Some).collect());
        let mut tried = Vec::new();
        let mut failure = None;
        while let Some(port) = ports.take(&sources, &tried) {
            if let Some(usage) = ports.running_out(&sources, self.ports_a_source) {
                let (upstream, endpoint) = (&self.settings.name, lease.endpoint().address());
                tracing::warn!(%upstream, %endpoint, taken = usage.taken, all = usage.all, "local ports run out: name more addresses in the upstream's source, or widen net.ipv4.ip_local_port_range");
            }
            let source = port.source();
            failure = Some(match connect_from(source, address).await {
                Ok(stream) => return Ok((stream, port)),
                // So the kernel says it of an address that it has no way to, too.
                Err(ConnectError::Io(error)) if error.kind() == AddrNotAvailable => {
                    match port.beside() > self.ports_a_source / 2 {
                        true => ConnectError::NoPort(ports.usage(&sources, self.ports_a_source).taken - 1),
                        false => ConnectError::Io(error),
                    }
                }
                Err(error @ ConnectError::Source(..)) => error,
                Err(error) => return Err(error),
            });
            tried.push(source);
        }
        // There is one source at least.
        Err(failure.unwrap_or(ConnectError::NoPort(0)))
    }
}

async fn connect_from(source: Option<IpAddr>, address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let Some(source) = source else { return Ok(TcpStream::connect(address).await?) };
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // The port is chosen when the other end is known: the same one serves for each endpoint.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
        Ok(socket)
    };
    let socket = bound().map_err(|error| ConnectError::Source(source, error))?;
    Ok(socket.connect(address).await?)
}
