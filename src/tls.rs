//! Owns rustls configurations, which it reads from certificate files and swaps whole on reload, and the
//! handshakes made with them. It must not know HTTP, routes, upstreams or the configuration file.
//!
//! What a read returns at the end of a TLS stream (RFC 8446 section 6.1):
//!
//! - The peer sent `close_notify`: 0 bytes, as at the end of a plain stream.
//! - The peer only closed the connection: [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof),
//!   [`Cause::Truncated`]. An attacker may have cut the stream, but what came before is authentic. After a
//!   Close frame it means the same as an end, and many peers never send `close_notify`.
//! - The peer sent an alert: [`InvalidData`](std::io::ErrorKind::InvalidData), [`Cause::Alert`]. With TLS 1.3
//!   a server checks the client's certificate after the client has finished its handshake. So the first read
//!   returns `certificate_required` and `bad_certificate`, not the handshake.
//! - Bytes were altered or are not TLS: `InvalidData`, [`Cause::Protocol`].
//!
//! [`cause`] tells them apart. A shutdown of the stream sends `close_notify`.

pub(crate) mod alert;
pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod problem;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod sources;
pub(crate) mod stream;
mod layers;
mod pem;
mod x509;

use alert::Alert;
use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::io;
use std::sync::{Arc, LazyLock};

pub use rustls::pki_types::ServerName;

/// The lowest version that Holdline speaks (nginx, `ssl_protocols`). RFC 8996 forbids those below 1.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// An application protocol (RFC 7301), negotiated in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 (RFC 9113 section 3.2).
    H2,
}

/// Why a TLS stream failed, if TLS is the reason.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// The stream ended without `close_notify`.
    Truncated,
    /// The peer sent a fatal alert.
    Alert(Alert),
    /// The peer broke the protocol, or bytes were altered on the way.
    Protocol(rustls::Error),
}

/// Outgoing bytes that a connection holds while its peer does not read. Rustls would hold 64 KiB, but two
/// full records keep a socket busy too.
const BUFFER_LIMIT: usize = 32 * 1024;

/// Why a TLS stream failed. `None` means that TLS is not the reason: the connection below failed.
#[must_use]
pub fn cause(error: &io::Error) -> Option<Cause> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(description)) => Some(Cause::Alert(Alert::from(*description))),
        Some(other) => Some(Cause::Protocol(other.clone())),
        None if error.kind() == io::ErrorKind::UnexpectedEof => Some(Cause::Truncated),
        None => None,
    }
}

/// The cryptography that all handshakes share.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

// === impl MinVersion ===

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::Tls12 => &BOTH,
            Self::Tls13 => &BOTH[..1],
        }
    }
}

// === impl Alpn ===

impl Alpn {
    /// The name in IANA's registry: "http/1.1", "h2".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::H2 => "h2",
        }
    }

    fn from_bytes(name: &[u8]) -> Option<Self> {
        [Self::Http1, Self::H2].into_iter().find(|alpn| alpn.as_str().as_bytes() == name)
    }

    /// The names for rustls.
    fn names(alpn: &[Self]) -> Vec<Vec<u8>> {
        alpn.iter().map(|alpn| alpn.as_str().as_bytes().to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_stream_has_a_cause_where_tls_is_the_reason() {
        let tls = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let Some(Cause::Alert(alert)) = cause(&tls(alert)) else { panic!("an alert") };
        assert_eq!(alert.name(), Some("certificate_required"));
        let broken = cause(&tls(rustls::Error::DecryptError));
        assert_eq!(broken, Some(Cause::Protocol(rustls::Error::DecryptError)));
        assert_eq!(cause(&io::ErrorKind::UnexpectedEof.into()), Some(Cause::Truncated));
        assert_eq!(cause(&io::ErrorKind::ConnectionReset.into()), None);
    }
}
