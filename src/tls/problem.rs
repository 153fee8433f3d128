//! Owns the messages about certificate files that cannot be used: the file, what was found in it, and a
//! remedy. It must not know how files are read.

use rustls::CertRevocationListError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file that cannot be used. It is shown as `key.pem: no private key found; it holds 2 certificates: are
/// cert and key swapped?`.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}: {}{}", .path.display(), .fault.remedy(&.path.display().to_string()), whole_path(.path, .fault))]
pub struct Problem {
    /// The setting that names the file.
    pub part: Part,
    /// The file. For [`Fault::NoSystemRoots`] it is the folder that Holdline searched.
    pub path: PathBuf,
    /// What is wrong with the file.
    pub fault: Fault,
}

/// For a file that cannot be read by its relative path: the whole path.
fn whole_path(path: &Path, fault: &Fault) -> String {
    match (fault, std::path::absolute(path)) {
        (Fault::Unreadable(_), Ok(whole)) if path.is_relative() => {
            format!("; it was looked for at {}, below the working directory", whole.display())
        }
        _ => String::new(),
    }
}

/// A setting that names a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A certificate chain, with its position in the list, from 0. A client certificate for an upstream has
    /// 0.
    Cert(usize),
    /// A private key, with the position of its chain.
    Key(usize),
    /// The certificate authorities of clients or of an upstream.
    Ca,
    /// A revocation list, with its position in the list, from 0.
    Crl(usize),
}

/// What is wrong with a file. It is shown as what was found.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The kernel refused to read it.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It has no bytes.
    #[error("the file is empty")]
    Empty,
    /// It is DER or PKCS #12.
    #[error("the file is binary, not PEM")]
    Binary,
    /// PEM (RFC 7468) with a mistake.
    #[error("broken PEM: {0}")]
    Malformed(PemFault),
    /// It has no certificate, and must have one.
    #[error("no certificate found; it holds {0}")]
    NoCertificate(Holds),
    /// It has no private key, and must have one.
    #[error("no private key found; it holds {0}")]
    NoKey(Holds),
    /// It has no revocation list, and must have one.
    #[error("no revocation list found; it holds {0}")]
    NoCrl(Holds),
    /// The key needs a passphrase.
    #[error("the private key is encrypted")]
    EncryptedKey,
    /// Rustls cannot use a certificate.
    #[error("certificate {position} of the file is not usable: {error}")]
    BadCertificate {
        /// Its position in the file, from 1.
        position: usize,
        /// The reason.
        error: rustls::Error,
    },
    /// Rustls cannot use the key.
    #[error("the private key is not usable: {0}")]
    BadKey(#[source] rustls::Error),
    /// Rustls cannot use a revocation list.
    #[error("the revocation list is not usable: {0:?}")]
    BadCrl(CertRevocationListError),
    /// The certificate and the key are not a pair.
    #[error("the private key does not belong to the certificate in {}", .cert.display())]
    Mismatch {
        /// The file of the certificate.
        cert: PathBuf,
    },
    /// The certificate of the key is not the first in the file.
    #[error("the private key belongs to certificate {position} of the file, not to the first")]
    LeafNotFirst {
        /// Its position in the file, from 1.
        position: usize,
    },
    /// The system has no root certificates.
    #[error("no root certificates found on this system")]
    NoSystemRoots,
}

/// A mistake in a PEM file (RFC 7468).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemFault {
    /// A section has no end.
    #[error("the line {0:?} is missing")]
    NoEnd(String),
    /// A section's first line is not well formed.
    #[error("the line {0:?} is not well formed")]
    BadStart(String),
    /// A section is not base64.
    #[error("a section is not base64: {0}")]
    BadBase64(String),
}

/// How many sections of each kind a PEM file has. It is shown as "2 certificates and 1 private key".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Certificates.
    pub certificates: usize,
    /// Private keys.
    pub keys: usize,
    /// Private keys that need a passphrase.
    pub encrypted_keys: usize,
    /// Revocation lists.
    pub crls: usize,
    /// Certificate requests.
    pub requests: usize,
    /// Public keys.
    pub public_keys: usize,
    /// Other sections, for example parameters.
    pub others: usize,
}

impl Problem {
    /// What was found, without the name of the file.
    #[must_use]
    pub fn found(&self) -> String {
        self.fault.to_string()
    }

    /// What the operator can do.
    #[must_use]
    pub fn remedy(&self) -> String {
        self.fault.remedy(&self.path.display().to_string())
    }
}

impl Fault {
    fn remedy(&self, path: &str) -> String {
        let text = match self {
            Self::Unreadable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "let the proxy's user read it"
            }
            Self::Unreadable(_) => "check the path",
            Self::Empty => "is it still being written, or was the disk full?",
            Self::Binary => {
                return format!(
                    "convert it with `openssl x509 -inform DER -in {path}`, `openssl pkey -inform DER -in {path}` \
                     or `openssl pkcs12 -nodes -in {path}`"
                );
            }
            Self::Malformed(_) => "copy the file again, whole",
            Self::NoCertificate(holds) if holds.keys + holds.encrypted_keys > 0 => {
                "are cert and key swapped?"
            }
            Self::NoKey(holds) if holds.certificates > 0 => "are cert and key swapped?",
            Self::NoCertificate(holds) if holds.requests > 0 => "a request is not yet signed: ask its issuer",
            Self::NoCertificate(_) => "expected -----BEGIN CERTIFICATE-----",
            Self::NoKey(_) => "expected -----BEGIN PRIVATE KEY-----",
            Self::NoCrl(_) => "expected -----BEGIN X509 CRL-----",
            Self::EncryptedKey => {
                return format!("write it without a passphrase: `openssl pkey -in {path} -out NEW.pem`");
            }
            Self::BadCertificate { .. } => "expected an X.509 certificate of version 3",
            Self::BadKey(_) => "expected RSA of 2048 to 8192 bits, ECDSA P-256, P-384 or P-521, or Ed25519",
            Self::BadCrl(_) => "expected an X.509 CRL of version 2 that is complete (no delta CRL)",
            Self::Mismatch { .. } => "was only one of the two files replaced?",
            Self::LeafNotFirst { .. } => "put the server's certificate first, below it those that issued it",
            Self::NoSystemRoots => "install them (package ca-certificates), or name a file as `ca`",
        };
        text.to_owned()
    }
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.certificates, "certificate"),
            (self.keys, "private key"),
            (self.encrypted_keys, "encrypted private key"),
            (self.crls, "revocation list"),
            (self.requests, "certificate request"),
            (self.public_keys, "public key"),
            (self.others, "section of another kind"),
        ];
        let mut parts: Vec<String> = Vec::new();
        for (count, name) in counts.into_iter().filter(|(count, _)| *count > 0) {
            let plural = match (count, name.strip_suffix(" of another kind")) {
                (1, _) => name.to_owned(),
                (_, Some(name)) => format!("{name}s of another kind"),
                (_, None) => format!("{name}s"),
            };
            parts.push(format!("{count} {plural}"));
        }
        match parts.as_slice() {
            [] => f.write_str("no PEM section"),
            [one] => f.write_str(one),
            [rest @ .., last] => write!(f, "{} and {last}", rest.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_the_file_what_was_found_and_the_remedy() {
        let holds = Holds { certificates: 2, ..Holds::default() };
        let problem = Problem { part: Part::Key(0), path: "key.pem".into(), fault: Fault::NoKey(holds) };
        let text = "key.pem: no private key found; it holds 2 certificates: are cert and key swapped?";
        assert_eq!(problem.to_string(), text);
        assert_eq!(problem.found(), "no private key found; it holds 2 certificates");
        assert_eq!(problem.remedy(), "are cert and key swapped?");
    }

    #[test]
    fn what_a_file_holds_is_counted() {
        let holds = Holds { certificates: 1, keys: 2, others: 2, ..Holds::default() };
        assert_eq!(holds.to_string(), "1 certificate, 2 private keys and 2 sections of another kind");
        assert_eq!(Holds::default().to_string(), "no PEM section");
    }
}
