//! Owns what a connection does before HTTP: the PROXY protocol header and the TLS handshake. It must not know
//! requests.

use super::handshakes::Handshakes;
use super::{Accepted, Settings};
use crate::addr::ClientAddr;
use crate::capacity::{Evicted, Slot};
use crate::clock::timeout;
use crate::io::Stream;
use crate::proxy_protocol::{Header, MAX_LENGTH, Malformed, decode};
use crate::real_ip;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::report::ConnectionId;
use crate::tls::server::{self, HandshakeError, NotTls};
use crate::tls::session::{ClientCertificate, Session};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// A connection that is ready for requests.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    /// Its id, which its first request shares.
    pub id: ConnectionId,
    /// Whether it has had a request.
    had_request: AtomicBool,
    /// The client: the peer that connected, or the one that a trusted peer names by the PROXY protocol.
    pub peer: ClientAddr,
    /// Whether a PROXY header came without an address. Then `peer` is the proxy in front itself, and headers that name a
    /// client cannot be trusted.
    pub peer_is_unknown: bool,
    /// The address that the client connected to. `None` means a unix socket.
    pub local: Option<SocketAddr>,
    /// The result of the TLS handshake. `None` means a plain connection. Boxed, because plain tunnels keep this too.
    pub tls: Option<Box<TlsInfo>>,
    /// The connection's slot. A tunnel keeps the slot, and nothing else of this.
    pub slot: Arc<Slot>,
}

impl ClientConnection {
    /// A plain connection that has just been accepted.
    #[must_use]
    pub(crate) fn new(id: ConnectionId, peer: ClientAddr, local: Option<SocketAddr>, slot: Slot) -> Self {
        let (had_request, slot) = (AtomicBool::new(false), Arc::new(slot));
        Self { id, had_request, peer, peer_is_unknown: false, local, tls: None, slot }
    }

    /// Returns the id of the next request. The first one has the connection's own, so that one id leads from the accept
    /// to the report of a WebSocket. Later ones have new ids.
    pub(crate) fn next_request_id(&self, new: impl FnOnce() -> ConnectionId) -> ConnectionId {
        if self.had_request.swap(true, Ordering::Relaxed) { new() } else { self.id }
    }
}

/// The result of a TLS handshake.
#[derive(Debug)]
pub(crate) struct TlsInfo {
    /// What was negotiated.
    pub session: Session,
    /// The client's verified certificate. `None` means that it sent none.
    pub client: Option<ClientCertificate>,
}

/// Why Holdline closes a connection before its first request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EstablishError {
    /// The client sent no byte: a port scan, or a check that the port is open.
    #[error("closed without a byte")]
    Silent,
    /// The peer may not send a PROXY header.
    #[error("no PROXY header is taken from it: real_ip.trusted does not name it")]
    Untrusted,
    /// The first bytes are no PROXY header.
    #[error("{0}")]
    ProxyHeader(#[from] Malformed),
    /// The PROXY header was not complete in time.
    #[error("PROXY header not complete within header_timeout")]
    TooSlow,
    /// The TLS handshake failed.
    #[error("TLS handshake: {0}")]
    Handshake(HandshakeError),
    /// The TLS handshake did not finish in time.
    #[error("TLS handshake not complete within handshake_timeout")]
    HandshakeTooSlow,
    /// The client kept Holdline waiting while others needed its slot.
    #[error("idle while another connection needed its slot")]
    Evicted,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Evicted> for EstablishError {
    fn from(_: Evicted) -> Self {
        Self::Evicted
    }
}

/// Reads the PROXY header and runs the TLS handshake, as `settings` require. Then it waits for the first byte of a
/// plain connection. The PROXY header and that byte may each take `header_timeout`, and TLS its `handshake_timeout`.
///
/// # Errors
/// Why the connection must be closed. Nothing has been sent, except TLS alerts, and the 400 for plain HTTP.
pub(crate) async fn establish(
    id: ConnectionId,
    accepted: Accepted,
    settings: &Settings,
    tls: Option<(&server::Config, &Handshakes)>,
    real_ip: &real_ip::Settings,
    metrics: &Metrics,
    header_timeout: Duration,
) -> Result<(Stream, ClientConnection), EstablishError> {
    let Accepted { mut stream, client, slot } = accepted;
    let mut connection = ClientConnection::new(id, client, stream.local_addr(), slot);
    let mut waited = Duration::ZERO;
    if settings.proxy_protocol {
        if !real_ip.trusts(client) {
            return Err(EstablishError::Untrusted);
        }
        let header = connection.slot.wait_evictable(&mut waited, proxy_header(&mut stream));
        let header = timeout(header_timeout, header).await.map_err(|_| EstablishError::TooSlow)???;
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
        // Boxed. Otherwise the task of each plain connection would be as large as a handshake.
        let handshake = Box::pin(shake_hands(stream, config, handshakes, &connection.slot, waited));
        let secured = timeout(tls.handshake_timeout, handshake).await;
        let secured = secured.unwrap_or(Err(EstablishError::HandshakeTooSlow));
        match &secured {
            Ok(_) => metrics.tls_handshake(began.elapsed()),
            Err(EstablishError::Silent) => {}
            Err(_) => metrics.tls_failed(),
        }
        let (stream, secured) = secured?;
        tracing::debug!(version = secured.session.version, took = ?began.elapsed(), "TLS handshake finished");
        connection.tls = Some(Box::new(secured));
        return Ok((stream, connection));
    }
    let first = connection.slot.wait_evictable(&mut waited, stream.peek(1, |seen| Some(seen.is_empty())));
    match timeout(header_timeout, first).await.map_err(|_| EstablishError::Silent)?? {
        Ok(false) => Ok((stream, connection)),
        Ok(true) | Err(_) => Err(EstablishError::Silent),
    }
}

/// Runs a TLS handshake. Before the client's first message is complete, it reads nothing and takes no handshake slot,
/// so half a message costs only its socket.
async fn shake_hands(
    mut stream: Stream,
    config: &server::Config,
    handshakes: &Handshakes,
    slot: &Slot,
    mut waited: Duration,
) -> Result<(Stream, TlsInfo), EstablishError> {
    // The handshake reports what is wrong with an incomplete message.
    let _ = slot.wait_evictable(&mut waited, stream.peek(MAX_HELLO, is_whole)).await?;
    match handshakes.run(slot, &mut waited, server::accept(stream, config)).await? {
        Ok(stream) => {
            let (session, client) = (Session::of_client(&stream), ClientCertificate::of(&stream));
            Ok((Stream::Layered(Box::new(stream)), TlsInfo { session, client }))
        }
        Err((HandshakeError::Silent, _)) => Err(EstablishError::Silent),
        Err((error, stream)) => Err(reject_plain_http(error, stream).await),
    }
}

/// The most of a ClientHello that may wait in the socket unread. Browsers send 600 bytes, or 1,800 with a post-quantum
/// key share.
const MAX_HELLO: usize = 4 * 1024;

/// Returns a value once the first TLS record is complete (RFC 8446 5.1), or once the bytes are no TLS. A ClientHello
/// fits into one record.
fn is_whole(seen: &[u8]) -> Option<()> {
    match *seen {
        [0x16, _, _, high, low, ref rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            (rest.len() >= length || seen.len() >= MAX_HELLO).then_some(())
        }
        [0x16, ..] => None,
        _ => Some(()),
    }
}

/// Answers plain HTTP on a TLS port with 400 (nginx, error 497).
async fn reject_plain_http(error: HandshakeError, mut stream: Stream) -> EstablishError {
    if matches!(error, HandshakeError::NotTls(NotTls::Http)) {
        // Errors do not matter, because the connection ends anyway.
        let _ = stream.write_all(PLAIN_HTTP).await;
        let _ = stream.shutdown().await;
    }
    EstablishError::Handshake(error)
}

const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 62\r\nConnection: close\r\n\r\n400 Bad Request\nPlain HTTP was sent to a port that speaks TLS\n";

/// Reads the header, and no byte after it.
async fn proxy_header(stream: &mut Stream) -> Result<Header, EstablishError> {
    let read = |seen: &[u8]| match decode(seen) {
        Ok(None) if seen.is_empty() => Some(Err(EstablishError::Silent)),
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
        let large = [&[0x16, 3, 1, 0xff, 0xff][..], &[0; MAX_HELLO - 5]].concat();
        assert_eq!((is_whole(&large[1..]), is_whole(&large[..MAX_HELLO - 1])), (Some(()), None));
        assert_eq!([&large[..], b"", b"G", b"\x15"].map(is_whole), [Some(()); 4]);
    }

    #[test]
    fn a_plain_connection_is_small() {
        // Each tunnel keeps one to its end.
        assert!(size_of::<ClientConnection>() <= 96, "{}", size_of::<ClientConnection>());
    }
}
