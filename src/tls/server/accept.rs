//! Owns the server's side of a handshake, and why it fails. It must not know timeouts.

use super::Config;
use crate::tls::alert::Alert;
use crate::tls::stream::TlsStream;
use rustls::pki_types::UnixTime;
use rustls::server::Acceptor;
use rustls::{CommonState, HandshakeKind, PeerIncompatible};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{io, mem};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::LazyConfigAcceptor;

/// Why a client's handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client closed or reset the connection without sending a byte, as a port check does.
    #[error("closed before the handshake")]
    Silent,
    /// The client closed or reset the connection during the handshake.
    #[error("closed in the handshake")]
    Closed,
    /// The client does not speak TLS.
    #[error("not TLS: {0}")]
    NotTls(NotTls),
    /// The client has no version in common with the listener (nginx, `ssl_protocols`).
    #[error("no shared version of TLS: {0:?}")]
    NoSharedVersion(PeerIncompatible),
    /// The client has no cipher suite, group or signature scheme in common with the listener.
    #[error("no shared cipher suite, group or signature scheme: {0:?}")]
    NoSharedCipher(PeerIncompatible),
    /// The client offers only protocols that the listener does not have (RFC 7301 section 3.2).
    #[error("no shared application protocol")]
    NoSharedProtocol,
    /// The client sent an alert. `unknown_ca` and `certificate_expired` are about the listener's certificate.
    #[error("alert of the client: {0}")]
    Alert(Alert),
    /// The client showed no certificate, and must show one.
    #[error("the client showed no certificate")]
    ClientCertificateMissing,
    /// Holdline refuses the client's certificate.
    #[error("the client's certificate is refused: {0}")]
    ClientCertificateRefused(#[source] rustls::Error),
    /// The client broke the protocol.
    #[error("broken handshake: {0}")]
    Protocol(#[source] rustls::Error),
    /// The connection failed.
    #[error("{0}")]
    Io(#[source] io::Error),
}

/// What a client sent instead of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTls {
    /// An HTTP request (nginx, error 497).
    Http,
    /// A PROXY protocol header, which was not expected.
    ProxyHeader,
    /// Something that begins with this byte.
    Other(u8),
}

/// Runs the handshake with a client. There is no timeout; the caller sets one.
///
/// # Errors
/// The client closes, does not speak TLS, refuses or is refused. The stream is returned with the error.
/// Nothing has been written to a client that does not speak TLS, so the caller can answer it in its own
/// protocol.
pub async fn accept<S>(mut stream: S, config: &Config) -> Result<TlsStream<S>, (HandshakeError, S)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut seen = Vec::new();
    let first = FirstBytes { stream: &mut stream, seen: &mut seen };
    // Only the ClientHello is read through `FirstBytes`.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), first).await;
    let named = hello.map(|hello| hello.client_hello().server_name().map(Box::from));
    let server_name = match named {
        Ok(server_name) => server_name,
        Err(error) if seen.is_empty() && is_closed(&error) => return Err((HandshakeError::Silent, stream)),
        Err(error) => return Err((HandshakeError::from(error), stream)),
    };
    let mut stream = TlsStream::new(stream, Arc::clone(&config.rustls), server_name)
        .map_err(|(error, stream)| (error.into(), stream))?;
    let handshake = poll_fn(|cx| {
        if !seen.is_empty() {
            stream.begin(mem::take(&mut seen), cx)?;
        }
        stream.poll_handshake(cx)
    });
    if let Err(error) = handshake.await {
        return Err((error.into(), stream.into_io()));
    }
    match verify_resumed(stream.session(), config) {
        Ok(()) => Ok(stream),
        Err(error) => Err((HandshakeError::ClientCertificateRefused(error), stream.into_io())),
    }
}

/// Verifies the certificate of a resumed session again. Rustls does not, and gives new tickets each time, so
/// a client could resume for ever after its certificate has expired.
fn verify_resumed(session: &CommonState, config: &Config) -> Result<(), rustls::Error> {
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    match session.peer_certificates() {
        Some([own, chain @ ..]) if resumed => {
            config.verifier.verify_client_cert(own, chain, UnixTime::now()).map(drop)
        }
        _ => Ok(()),
    }
}

// === impl HandshakeError ===

impl HandshakeError {
    /// The name in reports and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Closed => "closed",
            Self::NotTls(NotTls::Http) => "plain_http",
            Self::NotTls(NotTls::ProxyHeader) => "proxy_header",
            Self::NotTls(NotTls::Other(_)) => "not_tls",
            Self::NoSharedVersion(_) => "no_shared_version",
            Self::NoSharedCipher(_) => "no_shared_cipher",
            Self::NoSharedProtocol => "no_shared_protocol",
            Self::Alert(_) => "alert",
            Self::ClientCertificateMissing => "client_certificate_missing",
            Self::ClientCertificateRefused(_) => "client_certificate_refused",
            Self::Protocol(_) => "protocol",
            Self::Io(_) => "io",
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if is_closed(&error) {
            return Self::Closed;
        }
        let inner = error.get_ref();
        if let Some(NotTlsError(what)) = inner.and_then(|inner| inner.downcast_ref()) {
            return Self::NotTls(*what);
        }
        match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::from(inner.clone()),
            None => Self::Io(error),
        }
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        use PeerIncompatible as Lacks;
        match error {
            rustls::Error::AlertReceived(description) => Self::Alert(description.into()),
            rustls::Error::NoCertificatesPresented => Self::ClientCertificateMissing,
            rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_) => {
                Self::ClientCertificateRefused(error)
            }
            rustls::Error::NoApplicationProtocol => Self::NoSharedProtocol,
            rustls::Error::PeerIncompatible(
                lacks @ (Lacks::Tls12NotOffered
                | Lacks::Tls12NotOfferedOrEnabled
                | Lacks::SupportedVersionsExtensionRequired),
            ) => Self::NoSharedVersion(lacks),
            rustls::Error::PeerIncompatible(lacks) => Self::NoSharedCipher(lacks),
            other => Self::Protocol(other),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

// === impl NotTls ===

impl NotTls {
    /// What these first bytes are. `None` means that they may be a TLS record of a handshake or an alert (RFC
    /// 8446 section 5.1), or are too few to tell.
    fn of(bytes: &[u8]) -> Option<Self> {
        const METHODS: [&[u8]; 10] =
            [b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI "];
        match bytes {
            [] | [0x15 | 0x16, ..] => None,
            _ if bytes.len() < RECORD_HEADER => None,
            _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Some(Self::Http),
            [b'P', b'R', b'O', b'X', b'Y'] | [b'\r', b'\n', b'\r', b'\n', 0] => Some(Self::ProxyHeader),
            [first, ..] => Some(Self::Other(*first)),
        }
    }
}

impl std::fmt::Display for NotTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http => f.write_str("a plain HTTP request"),
            Self::ProxyHeader => f.write_str("a PROXY protocol header"),
            Self::Other(byte) => write!(f, "it begins with 0x{byte:02x}"),
        }
    }
}

/// The length of a TLS record's header. Rustls answers nothing before it has that many bytes.
const RECORD_HEADER: usize = 5;

/// A stream whose first bytes are checked and kept.
struct FirstBytes<'a, S> {
    stream: &'a mut S,
    seen: &'a mut Vec<u8>,
}

/// The error of a stream that does not begin like TLS.
#[derive(Debug, thiserror::Error)]
#[error("not TLS")]
struct NotTlsError(NotTls);

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<'_, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut *this.stream).poll_read(cx, into))?;
        this.seen.extend_from_slice(&into.filled()[before..]);
        // An error here keeps rustls from answering with an alert.
        let not_tls = NotTls::of(&this.seen[..this.seen.len().min(RECORD_HEADER)]);
        not_tls.map_or(Poll::Ready(Ok(())), |what| {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, NotTlsError(what))))
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<'_, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tls_is_named() {
        assert_eq!(NotTls::of(b"\x16\x03\x01\x02\x00"), None);
        assert_eq!(NotTls::of(b"GET"), None);
        assert_eq!(NotTls::of(b"GET /"), Some(NotTls::Http));
        assert_eq!(NotTls::of(b"PRI *"), Some(NotTls::Http));
        assert_eq!(NotTls::of(b"PROXY"), Some(NotTls::ProxyHeader));
        assert_eq!(NotTls::of(b"\r\n\r\n\0"), Some(NotTls::ProxyHeader));
        assert_eq!(NotTls::of(b"SSH-2"), Some(NotTls::Other(b'S')));
    }
}
