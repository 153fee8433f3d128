//! Owns how PEM files are read (RFC 7468). It must not know what certificates are used for.

use super::problem::{Fault, Holds, PemFault};
use super::sources::Sources;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls_pemfile::Item;
use std::path::Path;

/// The contents of a file.
#[derive(Default)]
pub(super) struct Pem {
    certificates: Vec<CertificateDer<'static>>,
    key: Option<PrivateKeyDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    holds: Holds,
}

impl Pem {
    /// Reads a file, and notes it in `sources`. A key that others may read is not an error: containers often
    /// have such keys, and the operator decides.
    pub(super) fn read(path: &Path, sources: &mut Sources) -> Result<Self, Fault> {
        sources.add(path);
        let bytes = std::fs::read(path).map_err(Fault::Unreadable)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        match bytes {
            [] => return Err(Fault::Empty),
            // An ASN.1 SEQUENCE of more than 127 bytes begins so.
            [0x30, 0x81..=0x84, ..] => return Err(Fault::Binary),
            _ => {}
        }
        let (holds, encrypted) = count_sections(bytes);
        let mut pem = Self { holds, ..Self::default() };
        // Keys in OpenSSL's own encryption have headers that are not base64.
        if encrypted {
            return Ok(pem);
        }
        let mut rest = bytes;
        while let Some((item, remainder)) = rustls_pemfile::read_one_from_slice(rest).map_err(malformed)? {
            rest = remainder;
            match item {
                Item::X509Certificate(certificate) => pem.certificates.push(certificate),
                Item::Crl(crl) => pem.crls.push(crl),
                // As in OpenSSL, the first key counts.
                Item::Pkcs1Key(key) => pem.key = pem.key.or(Some(key.into())),
                Item::Pkcs8Key(key) => pem.key = pem.key.or(Some(key.into())),
                Item::Sec1Key(key) => pem.key = pem.key.or(Some(key.into())),
                _ => {}
            }
        }
        Ok(pem)
    }

    /// At least one certificate, in the file's order.
    pub(super) fn certificates(self) -> Result<Vec<CertificateDer<'static>>, Fault> {
        if self.certificates.is_empty() {
            Err(Fault::NoCertificate(self.holds))
        } else {
            Ok(self.certificates)
        }
    }

    /// The first private key.
    pub(super) fn key(self) -> Result<PrivateKeyDer<'static>, Fault> {
        match self.key {
            Some(key) => Ok(key),
            None if self.holds.encrypted_keys > 0 => Err(Fault::EncryptedKey),
            None => Err(Fault::NoKey(self.holds)),
        }
    }

    /// At least one revocation list.
    pub(super) fn crls(self) -> Result<Vec<CertificateRevocationListDer<'static>>, Fault> {
        if self.crls.is_empty() { Err(Fault::NoCrl(self.holds)) } else { Ok(self.crls) }
    }
}

/// Counts all sections by their first lines, also those that the parser skips. The flag says whether one is
/// encrypted as OpenSSL did before PKCS #8 (RFC 1421 section 4.6.1.1).
fn count_sections(bytes: &[u8]) -> (Holds, bool) {
    let text = String::from_utf8_lossy(bytes);
    let mut holds = Holds::default();
    let mut lines = text.lines().map(str::trim).peekable();
    let mut encrypted = false;
    while let Some(line) = lines.next() {
        let label = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        let old_encryption = lines.peek().is_some_and(|next| *next == "Proc-Type: 4,ENCRYPTED");
        let count = match label {
            Some("CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE") => &mut holds.certificates,
            Some("ENCRYPTED PRIVATE KEY") => &mut holds.encrypted_keys,
            Some(label) if label.ends_with("PRIVATE KEY") && old_encryption => {
                encrypted = true;
                &mut holds.encrypted_keys
            }
            Some(label) if label.ends_with("PRIVATE KEY") => &mut holds.keys,
            Some("X509 CRL") => &mut holds.crls,
            Some("CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") => &mut holds.requests,
            Some("PUBLIC KEY") => &mut holds.public_keys,
            Some(_) => &mut holds.others,
            None => continue,
        };
        *count += 1;
    }
    (holds, encrypted)
}

fn malformed(error: rustls_pemfile::Error) -> Fault {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    Fault::Malformed(match error {
        rustls_pemfile::Error::MissingSectionEnd { end_marker } => {
            PemFault::NoEnd(format!("-----END {}-----", text(end_marker)))
        }
        rustls_pemfile::Error::IllegalSectionStart { line } => PemFault::BadStart(text(line)),
        rustls_pemfile::Error::Base64Decode(what) => PemFault::BadBase64(what),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> String {
        match Pem::parse(text.as_bytes()).and_then(Pem::key) {
            Ok(_) => "a key".to_owned(),
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn broken_files_are_told_apart() {
        assert_eq!(found(""), "the file is empty");
        assert_eq!(found("hello"), "no private key found; it holds no PEM section");
        assert!(matches!(Pem::parse(&[0x30, 0x82, 1, 2]), Err(Fault::Binary)));
        assert_eq!(
            found("-----BEGIN PRIVATE KEY-----\nAAAA\n"),
            "broken PEM: the line \"-----END PRIVATE KEY-----\" is missing"
        );
        assert!(found("-----BEGIN PRIVATE KEY-----\n?!\n-----END PRIVATE KEY-----\n").contains("not base64"));
        assert!(found("-----BEGIN PRIVATE KEY\nAAAA\n").contains("-----BEGIN PRIVATE KEY"));
    }

    #[test]
    fn encrypted_keys_of_both_kinds_are_named() {
        let new = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(found(new), "the private key is encrypted");
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
                   AAAA\n-----END RSA PRIVATE KEY-----\n";
        assert_eq!(found(old), "the private key is encrypted");
    }

    #[test]
    fn parameters_before_a_key_are_passed_over() {
        let text = "-----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----\n\
                    -----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(found(text), "a key");
    }
}
