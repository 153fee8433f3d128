//! Owns connecting to an endpoint.

use super::ports::{Port, or_any};
use super::resources::ConnectionResources;
use super::{Endpoint, Lease, Settings, Upstream};
use crate::addr::EndpointAddr;
use crate::capacity::Slots;
use crate::clock::timeout;
use crate::io::Stream;
use crate::tls::{ServerName, client};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::Errno;
use std::io::{self, ErrorKind::AddrNotAvailable};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

/// Why Holdline could not connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system call failed.
    #[error("connect: {0}")]
    Io(#[from] io::Error),
    /// Holdline cannot use a source address.
    #[error("connect from {0}: {1}")]
    Source(IpAddr, #[source] io::Error),
    /// No descriptor became free in time.
    #[error(
        "connect: no room for another connection within {0:?}, the limit of open files is reached; raise LimitNOFILE"
    )]
    NoRoom(Duration),
    /// All ports of all source addresses are in use.
    #[error(
        "connect: no local port is left to it, {0} are taken; name more addresses in the upstream's source, \
         or widen net.ipv4.ip_local_port_range"
    )]
    NoPort(u32),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(#[from] client::ConnectError),
    /// The connection was not ready within `connect_timeout`.
    #[error("connect: no answer within {0:?}")]
    TimedOut(Duration),
}

impl ConnectError {
    /// Whether this machine is at fault, not an endpoint.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Source(..) | Self::NoPort(_)) || self.is_exhausted()
    }

    /// Whether a later try may succeed, because the missing resource comes back.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::NoPort(_)) || self.is_exhausted()
    }

    /// Whether this machine or process lacks what any connection needs.
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

/// How Holdline connects to the endpoints of an upstream.
struct ConnectOptions<'a> {
    settings: &'a Settings,
    ports_per_source: u32,
    /// The name that the endpoint's certificate must match. `None` means no TLS.
    tls: Option<(&'a client::Config, &'a ServerName<'static>)>,
}

impl Upstream {
    /// Connects to the endpoint of a lease. It waits up to `limit` for a descriptor of `slots`, then up to
    /// `limit` again for the connection, the PROXY header and TLS together (nginx, `proxy_connect_timeout`). The
    /// caller must hold the returned resources while the connection is open.
    ///
    /// # Errors
    /// Returns why the endpoint could not be connected to. No connection stays open.
    pub async fn connect(
        &self,
        lease: &Lease,
        limit: Duration,
        proxy_header: Option<&[u8]>,
        slots: Option<&Slots>,
    ) -> Result<(Stream, ConnectionResources), ConnectError> {
        let tls = self.tls.get().map(|config| &**config).zip(lease.server_name());
        let options =
            ConnectOptions { settings: &self.settings, ports_per_source: self.ports_per_source, tls };
        lease.endpoint().connect(&options, limit, proxy_header, slots).await
    }
}

impl Endpoint {
    /// Opens the connection for [`Upstream::connect`]. It needs no lease, so it counts nothing and uses up no trial.
    async fn connect(
        &self,
        options: &ConnectOptions<'_>,
        limit: Duration,
        proxy_header: Option<&[u8]>,
        slots: Option<&Slots>,
    ) -> Result<(Stream, ConnectionResources), ConnectError> {
        let descriptor = match slots {
            Some(slots) => match timeout(limit, slots.descriptor()).await {
                Ok(descriptor) => Some(Arc::new(descriptor)),
                Err(_) => return Err(ConnectError::NoRoom(limit)),
            },
            None => None,
        };
        let attempt = async {
            let (mut stream, port) = match self.address() {
                EndpointAddr::Tcp(address) => {
                    let (stream, port) = self.connect_tcp(options, *address).await?;
                    options.settings.tcp.apply(&stream)?;
                    (Stream::Tcp(stream), Some(port))
                }
                EndpointAddr::Unix(path) => (Stream::Unix(UnixStream::connect(path).await?), None),
            };
            if let Some(header) = proxy_header {
                stream.write_all(header).await?;
            }
            let stream = match options.tls {
                None => stream,
                Some((config, name)) => {
                    // Boxed: otherwise every plain connection would reserve its size.
                    Stream::Layered(Box::new(Box::pin(client::connect(stream, name, config)).await?))
                }
            };
            Ok((stream, ConnectionResources { port, descriptor }))
        };
        timeout(limit, attempt).await.unwrap_or(Err(ConnectError::TimedOut(limit)))
    }

    /// Connects from the source address with the most free ports, or from the next ones if the first fail.
    async fn connect_tcp(
        &self,
        options: &ConnectOptions<'_>,
        address: SocketAddr,
    ) -> Result<(TcpStream, Port), ConnectError> {
        let &ConnectOptions { settings, ports_per_source, .. } = options;
        let ports = &self.ports;
        let sources = or_any(settings.sources_to(address).map(Some).collect());
        let mut tried = Vec::new();
        let mut failure = None;
        while let Some(port) = ports.take(&sources, &tried) {
            if let Some(usage) = ports.running_out(&sources, ports_per_source) {
                let (upstream, endpoint) = (&settings.name, self.address());
                tracing::warn!(%upstream, %endpoint, taken = usage.taken, all = usage.all, "local ports run out: name more addresses in the upstream's source, or widen net.ipv4.ip_local_port_range");
            }
            let source = port.source();
            failure = Some(match connect_from(source, address).await {
                Ok(stream) => return Ok((stream, port)),
                // The kernel returns the same error for an address that it has no route to.
                Err(ConnectError::Io(error)) if error.kind() == AddrNotAvailable => {
                    match port.beside() > ports_per_source / 2 {
                        true => ConnectError::NoPort(ports.usage(&sources, ports_per_source).taken - 1),
                        false => ConnectError::Io(error),
                    }
                }
                Err(error @ ConnectError::Source(..)) => error,
                Err(error) => return Err(error),
            });
            tried.push(source);
        }
        // There is at least one source.
        Err(failure.unwrap_or(ConnectError::NoPort(0)))
    }
}

async fn connect_from(source: Option<IpAddr>, address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let Some(source) = source else { return Ok(TcpStream::connect(address).await?) };
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // The kernel chooses the port once it knows the remote address, so that one port can serve several
        // endpoints.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
        Ok(socket)
    };
    let socket = bound().map_err(|error| ConnectError::Source(source, error))?;
    Ok(socket.connect(address).await?)
}
