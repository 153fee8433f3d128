//! Owns why a handshake with an upstream fails, in messages with a remedy. It must not know which upstream.

use crate::tls::ServerName;
use crate::tls::alert::Alert;
use crate::tls::certs::{date, system_time};
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};
use std::io;
use std::time::SystemTime;

/// Why a handshake with an upstream failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The upstream closed or reset the connection during the handshake.
    #[error("TLS: closed in the handshake")]
    Closed,
    /// The upstream does not speak TLS.
    #[error("TLS: the upstream does not speak TLS on this port")]
    NotTls,
    /// Holdline trusts no authority that issued the certificate.
    #[error("TLS: unknown issuer: name its authority's certificate as `ca`")]
    UnknownIssuer,
    /// The certificate is for other names.
    #[error("TLS: wanted {}, the certificate is for {}: set `server_name`", .wanted.to_str(), list(.presented))]
    NameMismatch {
        /// The name that the upstream must have.
        wanted: ServerName<'static>,
        /// The names of its certificate.
        presented: Vec<String>,
    },
    /// The certificate, or one that issued it, has expired.
    #[error("TLS: the certificate expired on {}", date(*.at))]
    Expired {
        /// Valid until.
        at: SystemTime,
    },
    /// The certificate, or one that issued it, is not yet valid.
    #[error("TLS: the certificate is not valid before {}: is the clock right?", date(*.from))]
    NotYetValid {
        /// Valid from.
        from: SystemTime,
    },
    /// The certificate is one of an authority, as `openssl req -x509` makes it.
    #[error(
        "TLS: the upstream shows the certificate of an authority as its own: make one with \
         `-addext basicConstraints=critical,CA:FALSE`"
    )]
    CaAsServer,
    /// The certificate cannot be accepted for another reason.
    #[error("TLS: {0}")]
    Certificate(#[source] rustls::Error),
    /// The upstream requires a certificate of Holdline.
    #[error("TLS: the upstream requires a client certificate: set `client_cert` and `client_key`")]
    ClientCertificateRequired,
    /// The upstream sent an alert.
    #[error("TLS: alert of the upstream: {0}")]
    Alert(Alert),
    /// The upstream has no version in common with Holdline.
    #[error("TLS: no shared version: {0:?}")]
    NoSharedVersion(PeerIncompatible),
    /// The upstream broke the protocol, or has no cipher in common with Holdline.
    #[error("TLS: {0}")]
    Protocol(#[source] rustls::Error),
    /// The connection failed.
    #[error("TLS: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::from(inner.clone()),
            None if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) => Self::Closed,
            None => Self::Io(error),
        }
    }
}

impl From<rustls::Error> for ConnectError {
    fn from(error: rustls::Error) -> Self {
        use PeerIncompatible as Lacks;
        match error {
            rustls::Error::InvalidCertificate(fault) => Self::from(fault),
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Self::ClientCertificateRequired
            }
            rustls::Error::AlertReceived(description) => Self::Alert(description.into()),
            // These bytes are not the header of a record.
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge,
            ) => Self::NotTls,
            rustls::Error::PeerIncompatible(
                lacks @ (Lacks::ServerDoesNotSupportTls12Or13 | Lacks::ServerTlsVersionIsDisabledByOurConfig),
            ) => Self::NoSharedVersion(lacks),
            other => Self::Protocol(other),
        }
    }
}

impl From<CertificateError> for ConnectError {
    fn from(fault: CertificateError) -> Self {
        match fault {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::NotValidForNameContext { expected, presented } => Self::NameMismatch {
                wanted: expected,
                presented: presented.iter().map(|name| plain(name).to_owned()).collect(),
            },
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::Expired { at: system_time(not_after) }
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { from: system_time(not_before) }
            }
            // Rustls has no variant for this one.
            CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                Self::CaAsServer
            }
            other => Self::Certificate(other.into()),
        }
    }
}

/// The name in rustls' `DnsName("example.com")`.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no name".to_owned() } else { names.join(", ") }
}
