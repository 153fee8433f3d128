//! Owns how names in certificates are written as text. It must not know which field has them.

use super::{Elements, hex};
use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Tag, Tagged};
use std::fmt::Write as _;

/// A distinguished name in the form of RFC 4514, the last part first. Bytes that are not ASCII become
/// `\C3\A4`, so that a header can have it. OpenSSL does so with `RFC2253`, and nginx in `$ssl_client_s_dn`.
pub(super) fn distinguished_name(element: AnyRef<'_>) -> der::Result<String> {
    let mut parts = Elements::of(element)?.map(|part| relative(part?)).collect::<der::Result<Vec<_>>>()?;
    parts.reverse();
    Ok(parts.join(","))
}

/// One part of a name, which may have several values.
fn relative(element: AnyRef<'_>) -> der::Result<String> {
    let values = Elements::of(element)?.map(|pair| {
        let (kind, value) = attribute(pair?)?;
        let known = KINDS.iter().find(|(oid, _)| *oid == kind);
        Ok(match (known, text(value)) {
            (Some((_, name)), Some(text)) => format!("{name}={}", escaped(&text)),
            (Some((_, name)), None) => format!("{name}=#{}", dump(value)),
            // RFC 4514 section 2.4: a value whose kind has no name is written in DER.
            (None, _) => format!("{kind}=#{}", dump(value)),
        })
    });
    Ok(values.collect::<der::Result<Vec<_>>>()?.join("+"))
}

fn attribute(pair: AnyRef<'_>) -> der::Result<(ObjectIdentifier, AnyRef<'_>)> {
    let mut pair = Elements::of(pair)?;
    Ok((pair.one(Tag::ObjectIdentifier)?.decode_as()?, pair.any()?))
}

/// The most specific CN.
pub(super) fn common_name(element: AnyRef<'_>) -> der::Result<Option<String>> {
    let mut found = None;
    for part in Elements::of(element)? {
        for pair in Elements::of(part?)? {
            let (kind, value) = attribute(pair?)?;
            found = if kind == COMMON_NAME { text(value) } else { found };
        }
    }
    Ok(found)
}

fn text(value: AnyRef<'_>) -> Option<String> {
    let bytes = value.value();
    match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        // In practice Teletex is Latin-1; the others are ASCII.
        Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString
        | Tag::TeletexString => Some(bytes.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let units: Vec<u16> = bytes
                .chunks(2)
                .map(|unit| unit.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte)))
                .collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

/// Escapes a value (RFC 4514 section 2.4).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.bytes().enumerate() {
        let at_edge = (index == 0 && matches!(byte, b' ' | b'#')) || (index == last && byte == b' ');
        if at_edge || matches!(byte, b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';') {
            escaped.extend(['\\', char::from(byte)]);
        } else if byte == b' ' || byte.is_ascii_graphic() {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "\\{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    escaped
}

/// A whole element in hexadecimal digits.
fn dump(element: AnyRef<'_>) -> String {
    let mut bytes = [0; 16];
    let head = der::Encode::encode_to_slice(&element.header(), &mut bytes).unwrap_or_default();
    hex(head) + &hex(element.value())
}

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// OpenSSL's short names for the kinds of values in names.
const KINDS: [(ObjectIdentifier, &str); 24] = [
    (COMMON_NAME, "CN"),
    (ObjectIdentifier::new_unwrap("2.5.4.4"), "SN"),
    (ObjectIdentifier::new_unwrap("2.5.4.5"), "serialNumber"),
    (ObjectIdentifier::new_unwrap("2.5.4.6"), "C"),
    (ObjectIdentifier::new_unwrap("2.5.4.7"), "L"),
    (ObjectIdentifier::new_unwrap("2.5.4.8"), "ST"),
    (ObjectIdentifier::new_unwrap("2.5.4.9"), "street"),
    (ObjectIdentifier::new_unwrap("2.5.4.10"), "O"),
    (ObjectIdentifier::new_unwrap("2.5.4.11"), "OU"),
    (ObjectIdentifier::new_unwrap("2.5.4.12"), "title"),
    (ObjectIdentifier::new_unwrap("2.5.4.13"), "description"),
    (ObjectIdentifier::new_unwrap("2.5.4.15"), "businessCategory"),
    (ObjectIdentifier::new_unwrap("2.5.4.17"), "postalCode"),
    (ObjectIdentifier::new_unwrap("2.5.4.41"), "name"),
    (ObjectIdentifier::new_unwrap("2.5.4.42"), "GN"),
    (ObjectIdentifier::new_unwrap("2.5.4.46"), "dnQualifier"),
    (ObjectIdentifier::new_unwrap("2.5.4.65"), "pseudonym"),
    (ObjectIdentifier::new_unwrap("2.5.4.97"), "organizationIdentifier"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1"), "UID"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25"), "DC"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"), "emailAddress"),
    (ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.60.2.1.1"), "jurisdictionL"),
    (ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.60.2.1.2"), "jurisdictionST"),
    (ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.60.2.1.3"), "jurisdictionC"),
];
