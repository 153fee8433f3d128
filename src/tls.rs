//! Owns rustls configurations, read from certificate files and swapped whole on reload, and the
//! handshakes made with them. It must not know HTTP, routes, upstreams or the configuration file.
//!
//! How the end of a TLS stream shows when it is read (RFC 8446 section 6.1):
//!
//! - The peer said `close_notify`: a read of 0 bytes, like the end of a plain stream.
//! - The peer just closed: [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof), [`Cause::Truncated`].
//!   Somebody in between may have cut the stream. What was said before is authentic, so that after a
//!   Close frame it is no worse than an end; and many peers never say `close_notify`.
//! - The peer refused something: [`InvalidData`](std::io::ErrorKind::InvalidData), [`Cause::Alert`]. With
//!   TLS 1.3 a server judges the client's certificate after the client's side of the handshake is done:
//!   `certificate_required` and `bad_certificate` show at the first read, not in the handshake.
//! - Bytes were altered or are no TLS: `InvalidData`, [`Cause::Protocol`].
//!
//! [`cause`] tells them apart. Shutting a stream down says `close_notify`.

pub mod alert;
pub mod certs;
pub mod client;
pub mod problem;
pub mod server;
pub mod session;
pub mod sources;
pub mod stream;
mod layers;
mod pem;
mod x509;

use alert::Alert;
use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::io;
use std::sync::{Arc, LazyLock};

pub use rustls::pki_types::ServerName;

/// The least version that is spoken (nginx, `ssl_protocols`). Older ones than 1.2 are not there:
/// RFC 8996 forbids them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
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

/// Why a TLS stream failed, where TLS is the reason.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// It ended without `close_notify`.
    Truncated,
    /// The peer sent a fatal alert.
    Alert(Alert),
    /// The peer broke the protocol, or bytes were altered on the way.
    Protocol(rustls::Error),
}

/// Outgoing bytes that one connection holds while its peer does not take them. Rustls would hold
/// 64 KiB; two full records keep a socket busy as well.
const BUFFER_LIMIT: usize = 32 * 1024;

/// What TLS has to do with an error of a TLS stream; `None`: nothing, the connection below failed.
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

/// The cryptography, one for all.
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
    /// Its name in the registry of IANA: "http/1.1", "h2".
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

    /// As rustls takes them.
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
