//! Owns how fields of X.509 certificates are read (RFC 5280). It must not know whether a certificate is
//! trusted; rustls decides that.

mod name;

use der::asn1::{AnyRef, GeneralizedTime, ObjectIdentifier, UtcTime};
use der::{Decode, Reader, SliceReader, Tag, Tagged};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The fields of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) serial: String,
    pub(super) issuer: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) subject: String,
    pub(super) common_name: Option<String>,
    /// `None` means that there is no such extension.
    pub(super) alt_names: Option<Vec<AltName>>,
}

/// A subject alternative name (RFC 5280 section 4.2.1.6). It is shown as in OpenSSL: `DNS:example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AltName {
    /// A host name, which may have a wildcard as its first label.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
    /// A URI, as in SPIFFE.
    Uri(String),
    /// An email address.
    Email(String),
}

impl std::fmt::Display for AltName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Uri(uri) => write!(f, "URI:{uri}"),
            Self::Email(address) => write!(f, "email:{address}"),
        }
    }
}

pub(super) fn read(certificate: &[u8]) -> der::Result<Fields> {
    let mut signed = Elements::of(AnyRef::from_der(certificate)?)?;
    let mut fields = Elements::of(signed.one(Tag::Sequence)?)?;
    fields.optional(0)?;
    let serial = fields.one(Tag::Integer)?;
    fields.one(Tag::Sequence)?;
    let issuer = fields.one(Tag::Sequence)?;
    let mut validity = Elements::of(fields.one(Tag::Sequence)?)?;
    let (not_before, not_after) = (time(validity.any()?)?, time(validity.any()?)?);
    let subject = fields.one(Tag::Sequence)?;
    fields.one(Tag::Sequence)?;
    // The unique identifiers, which no certificate has today.
    fields.optional(1)?;
    fields.optional(2)?;
    let alt_names = match fields.optional(3)? {
        Some(extensions) => alt_names(extensions)?,
        None => None,
    };
    Ok(Fields {
        serial: hex(serial.value().strip_prefix(&[0]).unwrap_or(serial.value())),
        issuer: name::distinguished_name(issuer)?,
        not_before,
        not_after,
        subject: name::distinguished_name(subject)?,
        common_name: name::common_name(subject)?,
        alt_names,
    })
}

/// When the successor of a revocation list is due (RFC 5280 section 5.1.2.5).
pub(super) fn next_update(crl: &[u8]) -> der::Result<Option<SystemTime>> {
    let mut signed = Elements::of(AnyRef::from_der(crl)?)?;
    let mut fields = Elements::of(signed.one(Tag::Sequence)?)?;
    let first = fields.any()?;
    // If there is no version, `first` was the algorithm.
    if first.tag() == Tag::Integer {
        fields.one(Tag::Sequence)?;
    }
    fields.one(Tag::Sequence)?;
    time(fields.any()?)?;
    match fields.next().transpose()? {
        Some(next) if matches!(next.tag(), Tag::UtcTime | Tag::GeneralizedTime) => time(next).map(Some),
        _ => Ok(None),
    }
}

/// Bytes as upper-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02X}").expect("writing to a String cannot fail");
        text
    })
}

/// The elements of a SEQUENCE or SET.
struct Elements<'a>(SliceReader<'a>);

impl<'a> Elements<'a> {
    fn of(parent: AnyRef<'a>) -> der::Result<Self> {
        SliceReader::new(parent.value()).map(Self)
    }

    fn any(&mut self) -> der::Result<AnyRef<'a>> {
        AnyRef::decode(&mut self.0)
    }

    /// The next element, which must have this tag.
    fn one(&mut self, tag: Tag) -> der::Result<AnyRef<'a>> {
        let found = self.any()?;
        found.tag().assert_eq(tag)?;
        Ok(found)
    }

    /// The next element, if it has this context-specific number.
    fn optional(&mut self, number: u32) -> der::Result<Option<AnyRef<'a>>> {
        if self.0.is_finished() || !is_number(Tag::peek(&self.0)?, number) {
            return Ok(None);
        }
        self.any().map(Some)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = der::Result<AnyRef<'a>>;
    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_finished()).then(|| self.any())
    }
}

fn is_number(tag: Tag, wanted: u32) -> bool {
    matches!(tag, Tag::ContextSpecific { number, .. } if number.value() == wanted)
}

fn time(element: AnyRef<'_>) -> der::Result<SystemTime> {
    let since = match element.tag() {
        Tag::UtcTime => element.decode_as::<UtcTime>()?.to_unix_duration(),
        _ => element.decode_as::<GeneralizedTime>()?.to_unix_duration(),
    };
    Ok(UNIX_EPOCH + since)
}

fn alt_names(extensions: AnyRef<'_>) -> der::Result<Option<Vec<AltName>>> {
    let list = Elements::of(extensions)?.one(Tag::Sequence)?;
    for extension in Elements::of(list)? {
        let mut extension = Elements::of(extension?)?;
        let kind: ObjectIdentifier = extension.one(Tag::ObjectIdentifier)?.decode_as()?;
        if kind != SUBJECT_ALT_NAME {
            continue;
        }
        let mut value = extension.any()?;
        if value.tag() == Tag::Boolean {
            value = extension.one(Tag::OctetString)?;
        }
        let names = Elements::of(AnyRef::from_der(value.value())?)?;
        let names = names.map(|name| name.map(alt_name)).collect::<der::Result<Vec<_>>>()?;
        return Ok(Some(names.into_iter().flatten().collect()));
    }
    Ok(None)
}

/// `None` for names of other kinds, and for those that could not be sent in a header.
fn alt_name(name: AnyRef<'_>) -> Option<AltName> {
    let Tag::ContextSpecific { number, .. } = name.tag() else { return None };
    let bytes = name.value();
    let text =
        || bytes.iter().all(u8::is_ascii_graphic).then(|| bytes.iter().copied().map(char::from).collect());
    match number.value() {
        1 => text().map(AltName::Email),
        2 => text().map(|name: String| AltName::Dns(name.to_ascii_lowercase())),
        6 => text().map(AltName::Uri),
        7 => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| AltName::Ip(octets.into())),
            _ => <[u8; 16]>::try_from(bytes).ok().map(|octets| AltName::Ip(octets.into())),
        },
        _ => None,
    }
}

const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

#[cfg(test)]
mod tests;
