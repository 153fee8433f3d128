//! Owns what Holdline shows of certificates and revocation lists: names, issuer, validity. It must not know
//! which handshakes use them.

pub(super) mod load;

use super::x509;
use rustls::pki_types::UnixTime;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(crate) use super::x509::AltName;

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// PEM: the certificate, then those that issued it (nginx, `ssl_certificate`).
    pub cert: PathBuf,
    /// PEM: its private key in PKCS #8, PKCS #1 or SEC 1, without a passphrase (nginx,
    /// `ssl_certificate_key`). It may be the same file.
    pub key: PathBuf,
}

/// What Holdline shows of a certificate, the first one of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The file that has it.
    pub path: PathBuf,
    /// Its subject alternative names with their addresses, or its CN if it has none. DNS names are in lower
    /// case.
    pub names: Vec<String>,
    /// The subject, in the form of RFC 4514.
    pub subject: String,
    /// The issuer, in the form of RFC 4514.
    pub issuer: String,
    /// The kind of its key.
    pub key: KeyType,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// RSA.
    Rsa,
    /// ECDSA.
    Ecdsa,
    /// Ed25519, or a later kind.
    Other,
}

/// What Holdline shows of a revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// The file that has it.
    pub path: PathBuf,
    /// When its successor is due. From then on it is not valid, and Holdline refuses each certificate that it
    /// covers. `None` means that it stays valid.
    pub next_update: Option<SystemTime>,
}

/// Why an operator should look at a certificate or revocation list. It is shown as
/// `expired on 2026-01-01T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It is not yet valid. A peer that checks the time refuses it.
    NotYetValid {
        /// Valid from.
        from: SystemTime,
    },
    /// It ends within [`Expiry::SOON`].
    Soon {
        /// Valid until.
        at: SystemTime,
        /// Whole days until then.
        days: i64,
    },
    /// It has expired. A peer that checks the time refuses it.
    Expired {
        /// Valid until.
        at: SystemTime,
    },
}

impl Expiry {
    /// 14 days. Certificates of 90 days are usually renewed 30 days before they expire, so at 14 days renewal
    /// has failed for two weeks.
    pub const SOON: Duration = Duration::from_secs(14 * DAY);

    fn of(until: SystemTime, now: SystemTime) -> Option<Self> {
        match until.duration_since(now) {
            Err(_) => Some(Self::Expired { at: until }),
            Ok(left) if left < Self::SOON => Some(Self::Soon { at: until, days: days(until, now) }),
            Ok(_) => None,
        }
    }
}

impl Certificate {
    /// Whole days until it expires; negative afterwards.
    #[must_use]
    pub fn days_left(&self, now: SystemTime) -> i64 {
        days(self.not_after, now)
    }

    /// What the operator should know. `None` means that all is well.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<Expiry> {
        if self.not_before > now {
            return Some(Expiry::NotYetValid { from: self.not_before });
        }
        Expiry::of(self.not_after, now)
    }

    /// # Errors
    /// The bytes are not an X.509 certificate.
    fn read(path: &Path, der: &[u8], key: KeyType) -> der::Result<Self> {
        let fields = x509::read(der)?;
        // RFC 9525 section 2: a CN counts only if there is nothing better, as in nginx.
        let names = match fields.alt_names {
            Some(names) => names.into_iter().filter_map(served).collect(),
            None => fields.common_name.map(|name| name.to_ascii_lowercase()).into_iter().collect(),
        };
        Ok(Self {
            path: path.to_owned(),
            names,
            subject: fields.subject,
            issuer: fields.issuer,
            key,
            not_before: fields.not_before,
            not_after: fields.not_after,
        })
    }
}

impl RevocationList {
    /// What the operator should know. `None` means that all is well.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<Expiry> {
        Expiry::of(self.next_update?, now)
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "RSA",
            Self::Ecdsa => "ECDSA",
            Self::Other => "Ed25519",
        })
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { from } => write!(f, "not valid before {}", date(*from)),
            Self::Soon { at, days: 1 } => write!(f, "expires in 1 day, on {}", date(*at)),
            Self::Soon { at, days } => write!(f, "expires in {days} days, on {}", date(*at)),
            Self::Expired { at } => write!(f, "expired on {}", date(*at)),
        }
    }
}

/// A name by which Holdline chooses a server certificate, and shows it.
fn served(name: AltName) -> Option<String> {
    match name {
        AltName::Dns(name) => Some(name),
        AltName::Ip(address) => Some(address.to_string()),
        AltName::Uri(_) | AltName::Email(_) => None,
    }
}

const DAY: u64 = 24 * 60 * 60;

fn days(until: SystemTime, now: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs() / DAY).unwrap_or(i64::MAX);
    match until.duration_since(now) {
        Ok(left) => whole(left),
        Err(over) => -1 - whole(over.duration()),
    }
}

/// A time in the form of RFC 3339.
pub(super) fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A time of rustls.
pub(super) fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(from: i64, until: i64) -> (Certificate, SystemTime) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let at = |seconds: i64| now.checked_add_signed(seconds);
        let certificate = Certificate {
            path: "cert.pem".into(),
            names: vec!["example.com".to_owned()],
            subject: String::new(),
            issuer: String::new(),
            key: KeyType::Ecdsa,
            not_before: at(from),
            not_after: at(until),
        };
        (certificate, now)
    }

    trait CheckedAddSigned {
        fn checked_add_signed(self, seconds: i64) -> SystemTime;
    }

    impl CheckedAddSigned for SystemTime {
        fn checked_add_signed(self, seconds: i64) -> SystemTime {
            let span = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { self - span } else { self + span }
        }
    }

    #[test]
    fn a_certificate_warns_before_its_end() {
        let day = i64::try_from(DAY).unwrap();
        let says = |from, until| {
            let (certificate, now) = certificate(from, until);
            (certificate.days_left(now), certificate.warning(now).map(|expiry| expiry.to_string()))
        };
        assert_eq!(says(-day, 14 * day), (14, None));
        let soon = "expires in 13 days, on 2001-09-23T01:46:39Z".to_owned();
        assert_eq!(says(-day, 14 * day - 1), (13, Some(soon)));
        assert_eq!(says(-day, day).1.unwrap(), "expires in 1 day, on 2001-09-10T01:46:40Z");
        assert_eq!(says(-day, -1), (-1, Some("expired on 2001-09-09T01:46:39Z".to_owned())));
        assert_eq!(says(1, 90 * day).1.unwrap(), "not valid before 2001-09-09T01:46:41Z");
    }

    #[test]
    fn a_revocation_list_without_an_end_never_warns() {
        let now = SystemTime::now();
        let mut list = RevocationList { path: "crl.pem".into(), next_update: None };
        assert_eq!(list.warning(now), None);
        list.next_update = Some(now - Duration::from_secs(1));
        assert!(matches!(list.warning(now), Some(Expiry::Expired { .. })));
    }
}
