//! Owns what comes before HTTP on a connection: the header of the PROXY protocol, the handshake of TLS. It must not know
//! requests.

use super::handshakes::Handshakes;
use super::{Accepted, Settings};
use crate::addr::ClientAddr;
use crate::capacity::{Evicted, Slot};
use crate::clock::timeout;
use crate::io::{Readiness, Stream, StreamLayer};
use crate::proxy_protocol::{Header, MAX_LENGTH, Malformed, decode};
use crate::real_ip;
use crate::telemetry::metrics::Metrics;
use crate::tls::server::{self, HandshakeError, NotTls};
use crate::tls::session::{ClientCertificate, Session};
use crate::tls::stream::TlsStream;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// A connection that is ready for requests: whom it joins.
#[derive(Debug)]
pub struct Connection {
    /// Who sends the requests: whoever connected, or whom a trusted one speaks for by the PROXY
    /// protocol.
    pub peer: ClientAddr,
    /// A proxy in front sent no address by the PROXY protocol: then `peer` is that proxy, which writes no
    /// HTTP headers, and nobody vouches for those that come.
    pub peer_is_unknown: bool,
    /// Where it was connected to; `None`: a unix socket.
    pub local: Option<SocketAddr>,
    /// What its handshake settled; `None`: it is not TLS. In a box, for a plain tunnel keeps this too.
    pub tls: Option<Box<Secured>>,
    /// Its place; a tunnel that it becomes keeps it, and nothing else of this.
    pub slot: Arc<Slot>,
}

/// A connection over TLS.
#[derive(Debug)]
pub struct Secured {
    /// What was negotiated.
    pub session: Session,
    /// Who the client has proved to be.
    pub client: Option<ClientCertificate>,
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
    /// The handshake failed.
    #[error("TLS handshake: {0}")]
    Handshake(HandshakeError),
    /// The handshake did not come to its end.
    #[error("TLS handshake not complete within handshake_timeout")]
    HandshakeTooSlow,
    /// It kept the proxy waiting while others wanted its place.
    #[error("nothing came of it, and others wanted its place")]
    GaveWay,
    /// The socket broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Evicted> for NotReady {
    fn from(_: Evicted) -> Self {
        Self::GaveWay
    }
}

/// Makes a connection ready: each step within `limit`, the handshake within its own.
///
/// # Errors
/// It is to be closed.
pub async fn ready(
    accepted: Accepted,
    settings: &Settings,
    tls: Option<(&server::Config, &Handshakes)>,
    real_ip: &real_ip::Settings,
    metrics: &Metrics,
    limit: Duration,
) -> Result<(Stream, Connection), NotReady> {
    let Accepted { mut stream, client, slot } = accepted;
    let mut connection = Connection {
        peer: client,
        peer_is_unknown: false,
        local: stream.local_addr(),
        tls: None,
        slot: Arc::new(slot),
    };
    let mut waited = Duration::ZERO;
    if settings.proxy_protocol {
        if !real_ip.trusts(client) {
            return Err(NotReady::Untrusted);
        }
        let header = connection.slot.wait_evictable(&mut waited, proxy_header(&mut stream));
        let header = timeout(limit, header).await.map_err(|_| NotReady::TooSlow)???;
        match header {
            Header::Proxied { source, destination } => {
                connection.peer = real_ip.peer(client, Some(source));
                connection.local = Some(destination);
            }
            Header::Local => connection.peer_is_unknown = true,
        }
    }
    if let (Some((config, handshakes)), Some(tls)) = (tls, &settings.tls) {
        let began = Instant::now();
        // In a box: what it takes, every plain connection's task would have room for too.
        let handshake = Box::pin(secure(stream, config, handshakes, &connection.slot, waited));
        let secured = timeout(tls.handshake_timeout, handshake).await;
        let secured = secured.unwrap_or(Err(NotReady::HandshakeTooSlow));
        match &secured {
            Ok(_) => metrics.tls_handshake(began.elapsed()),
            Err(NotReady::Silent) => {}
            Err(_) => metrics.tls_failed(),
        }
        let (stream, secured) = secured?;
        connection.tls = Some(Box::new(secured));
        return Ok((stream, connection));
    }
    let first = connection.slot.wait_evictable(&mut waited, stream.peek(1, |seen| Some(seen.is_empty())));
    match timeout(limit, first).await.map_err(|_| NotReady::Silent)?? {
        Ok(false) => Ok((stream, connection)),
        Ok(true) | Err(_) => Err(NotReady::Silent),
    }
}

/// Shakes hands. Half of a first message costs no more than its socket: nothing is read before all of
/// it is there, and it takes no place.
async fn secure(
    mut stream: Stream,
    config: &server::Config,
    handshakes: &Handshakes,
    slot: &Slot,
    mut waited: Duration,
) -> Result<(Stream, Secured), NotReady> {
    // What is wrong with a message that breaks off is found by whoever reads it.
    let _ = slot.wait_evictable(&mut waited, stream.peek(HELLO, is_whole)).await?;
    match handshakes.lead(slot, &mut waited, server::accept(stream, config)).await? {
        Ok(stream) => {
            let (session, client) = (Session::of_client(&stream), ClientCertificate::of(&stream));
            Ok((Stream::Layered(Box::new(stream)), Secured { session, client }))
        }
        Err((HandshakeError::Silent, _)) => Err(NotReady::Silent),
        Err((error, stream)) => Err(turn_away(error, stream).await),
    }
}

/// The most of a first message of TLS that is waited for without reading it: those of browsers take 600
/// bytes, with a key share for after quantum computers 1,800.
const HELLO: usize = 4 * 1024;

/// Whether the first record of TLS is there (RFC 8446 5.1), which a ClientHello fits into, or something
/// that is none.
fn is_whole(seen: &[u8]) -> Option<()> {
    match *seen {
        [0x16, _, _, high, low, ref rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            (rest.len() >= length || seen.len() >= HELLO).then_some(())
        }
        [0x16, ..] => None,
        _ => Some(()),
    }
}

/// Tells a client that speaks plain HTTP to a port of TLS (nginx, error 497).
async fn turn_away(error: HandshakeError, mut stream: Stream) -> NotReady {
    if matches!(error, HandshakeError::NotTls(NotTls::Http)) {
        // It may be gone, and then it need not know.
        let _ = stream.write_all(PLAIN_HTTP).await;
        let _ = stream.shutdown().await;
    }
    NotReady::Handshake(error)
}

const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 62\r\nConnection: close\r\n\r\n400 Bad Request\nPlain HTTP was sent to a port that speaks TLS\n";

/// A record of TLS is a sign of life, whatever is in it.
impl StreamLayer for TlsStream<Stream> {
    fn inner_mut(&mut self) -> Option<&mut Stream> {
        Some(self.io_mut())
    }
}

impl<S: Readiness> Readiness for TlsStream<S> {
    fn has_pending(&self) -> Option<bool> {
        if self.has_unread() { Some(true) } else { self.io().has_pending() }
    }
}

/// Takes the header, and no byte behind it.
async fn proxy_header(stream: &mut Stream) -> Result<Header, NotReady> {
    let read = |seen: &[u8]| match decode(seen) {
        Ok(None) if seen.is_empty() => Some(Err(NotReady::Silent)),
        Ok(None) => None,
        Ok(Some(found)) => Some(Ok(found)),
        Err(malformed) => Some(Err(malformed.into())),
    };
    let (header, length) = stream.peek(MAX_LENGTH, read).await??;
    let mut taken = vec![0; length];
    stream.read_exact(&mut taken).await?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_record_is_waited_for() {
        let record = [&[0x16, 3, 1, 0, 3][..], b"abc"].concat();
        for end in 1..record.len() {
            assert_eq!(is_whole(&record[..end]), None, "{end}");
        }
        assert_eq!(is_whole(&record), Some(()));
        let large = [&[0x16, 3, 1, 0xff, 0xff][..], &[0; HELLO - 5]].concat();
        assert_eq!((is_whole(&large[1..]), is_whole(&large[..HELLO - 1])), (Some(()), None));
        assert_eq!([&large[..], b"", b"G", b"\x15"].map(is_whole), [Some(()); 4]);
    }

    #[test]
    fn a_plain_connection_is_small() {
        // Each tunnel keeps one to its end.
        assert!(size_of::<Connection>() <= 96, "{}", size_of::<Connection>());
    }
}
