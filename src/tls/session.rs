//! Owns what a handshake has negotiated, for reports and headers. It must not know who uses it.

use super::certs::AltName;
use super::stream::TlsStream;
use super::{Alpn, x509};
use aws_lc_rs::digest;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};
use std::fmt;
use std::time::SystemTime;

/// What a handshake has negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// "TLSv1.3" or "TLSv1.2" (nginx, `$ssl_protocol`).
    pub version: &'static str,
    /// The cipher suite by its name in IANA's registry, like `TLS_AES_128_GCM_SHA256`. (nginx, `$ssl_cipher`,
    /// has OpenSSL's own names for TLS 1.2.)
    pub cipher: Cipher,
    /// The host name of the client, in lower case (nginx, `$ssl_server_name`). `None` means that it sent
    /// none, or that this is a connection to an upstream.
    pub server_name: Option<String>,
    /// The application protocol (nginx, `$ssl_alpn_protocol`). `None` means that none was negotiated.
    pub alpn: Option<Alpn>,
    /// Whether an earlier session was resumed (nginx, `$ssl_session_reused`).
    pub resumed: bool,
}

/// A cipher suite. It is shown by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cipher(CipherSuite);

/// A certificate of a client, which has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject, in the form of RFC 4514 and in ASCII (nginx, `$ssl_client_s_dn`).
    pub subject: String,
    /// The issuer, in the same form (nginx, `$ssl_client_i_dn`).
    pub issuer: String,
    /// The serial number in upper-case hexadecimal digits (nginx, `$ssl_client_serial`).
    pub serial: String,
    /// The subject alternative names.
    pub names: Vec<AltName>,
    /// Valid until (nginx, `$ssl_client_v_end`).
    pub not_after: SystemTime,
    /// The SHA-256 digest of the certificate in lower-case hexadecimal digits.
    pub sha256: String,
    /// The SHA-1 digest in the same form (nginx, `$ssl_client_fingerprint`). Old applications know
    /// certificates by it; it proves nothing.
    pub sha1: String,
}

impl Session {
    /// The session of a client's connection.
    #[must_use]
    pub fn of_client<S>(stream: &TlsStream<S>) -> Self {
        let server_name = stream.server_name().map(str::to_ascii_lowercase);
        Self { server_name, ..Self::of(stream.session()) }
    }

    /// The session of a connection to an upstream.
    #[must_use]
    pub fn of_upstream<S>(stream: &tokio_rustls::client::TlsStream<S>) -> Self {
        Self::of(stream.get_ref().1)
    }

    fn of(session: &CommonState) -> Self {
        let suite = session.negotiated_cipher_suite().expect("the handshake is done");
        Self {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            cipher: Cipher(suite.suite()),
            server_name: None,
            alpn: session.alpn_protocol().and_then(Alpn::from_bytes),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

impl ClientCertificate {
    /// The certificate of a client's connection. `None` means that the client showed none.
    #[must_use]
    pub fn of<S>(stream: &TlsStream<S>) -> Option<Self> {
        stream.session().peer_certificates()?.first().and_then(|certificate| Self::read(certificate))
    }

    /// `None` means that it cannot be read. Rustls does not accept such a certificate.
    fn read(der: &[u8]) -> Option<Self> {
        let fields = x509::read(der).ok()?;
        let digest = |algorithm| x509::hex(digest::digest(algorithm, der).as_ref()).to_ascii_lowercase();
        Some(Self {
            subject: fields.subject,
            issuer: fields.issuer,
            serial: fields.serial,
            names: fields.alt_names.unwrap_or_default(),
            not_after: fields.not_after,
            sha256: digest(&digest::SHA256),
            sha1: digest(&digest::SHA1_FOR_LEGACY_USE_ONLY),
        })
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // For TLS 1.3, rustls adds a "13" that is not in IANA's names.
        match self.0.as_str() {
            Some(name) => f.write_str(&name.replacen("TLS13_", "TLS_", 1)),
            None => write!(f, "0x{:04X}", u16::from(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_suites_have_the_names_of_iana() {
        let name = |suite| Cipher(suite).to_string();
        assert_eq!(name(CipherSuite::TLS13_AES_128_GCM_SHA256), "TLS_AES_128_GCM_SHA256");
        let old = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
        assert_eq!(name(old), "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
    }
}
