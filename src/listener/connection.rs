//! Owns what comes before HTTP on a connection: the header of the PROXY protocol. It must not know
//! requests.

use super::slots::Slot;
use super::{Accepted, Settings};
use crate::addr::ClientAddr;
use crate::io::Stream;
use crate::proxy_protocol::{Header, MAX_LENGTH, Malformed, decode};
use crate::real_ip;
use crate::stall::timeout;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

/// A connection that is ready for requests: whom it joins.
#[derive(Debug)]
pub struct Connection {
    /// Who sends the requests: whoever connected, or whom a trusted one speaks for by the PROXY
    /// protocol.
    pub peer: ClientAddr,
    /// Where it was connected to; `None`: a unix socket.
    pub local: Option<SocketAddr>,
    /// Its place; a tunnel that it becomes keeps it.
    pub slot: Slot,
}

/// Why a connection is closed before its first request.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It was closed without a byte: a port scan, or a check that the port is open.
    #[error("closed without a byte")]
    Silent,
    /// It may not speak for others.
    #[error("no PROXY header is taken from it: real_ip.trusted does not name it")]
    Untrusted,
    /// What came is no header of the PROXY protocol.
    #[error("{0}")]
    ProxyHeader(#[from] Malformed),
    /// Not all of it came in time.
    #[error("PROXY header not complete within header_timeout")]
    TooSlow,
    /// The socket broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Makes a connection ready, within `limit`.
///
/// # Errors
/// It is to be closed.
pub async fn ready(
    accepted: Accepted,
    settings: &Settings,
    real_ip: &real_ip::Settings,
    limit: Duration,
) -> Result<(Stream, Connection), NotReady> {
    let Accepted { mut stream, client, slot } = accepted;
    if let Stream::Tcp(stream) = &stream {
        // It fails only when the peer is gone already, which reading will tell.
        let _ = settings.tcp.apply(stream);
    }
    let mut connection = Connection { peer: client, local: stream.local_addr(), slot };
    if settings.proxy_protocol {
        if !real_ip.trusts(client) {
            return Err(NotReady::Untrusted);
        }
        let header = timeout(limit, proxy_header(&mut stream)).await.map_err(|_| NotReady::TooSlow)??;
        if let Header::Proxied { source, destination } = header {
            connection.peer = real_ip.peer(client, Some(source));
            connection.local = Some(destination);
        }
    }
    Ok((stream, connection))
}

/// Takes the header, and no byte behind it.
async fn proxy_header(stream: &mut Stream) -> Result<Header, NotReady> {
    let read = |seen: &[u8]| match decode(seen) {
        Ok(None) if seen.is_empty() => Some(Err(NotReady::Silent)),
        Ok(None) => None,
        Ok(Some(found)) => Some(Ok(found)),
        Err(malformed) => Some(Err(malformed.into())),
    };
    let (header, length) = stream.look(MAX_LENGTH, read).await??;
    let mut taken = vec![0; length];
    stream.read_exact(&mut taken).await?;
    Ok(header)
}
