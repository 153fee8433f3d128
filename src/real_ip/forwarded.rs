//! Owns the grammar of `Forwarded` (RFC 7239 4). It must not know who is trusted.
//!
//! The list is read from its end, because each proxy appends. So nothing that a client sends, such as an open
//! quote, can change how the elements of the proxies are read.

use super::{authority, node, scheme};
use http::HeaderMap;
use http::header::FORWARDED;
use http::uri::{Authority, Scheme};
use std::net::SocketAddr;

/// What one hop says about the sender of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// `for`, if it is an address. `None` means that it is missing, "unknown" or obfuscated.
    pub(super) node: Option<SocketAddr>,
    /// `proto`.
    pub(super) proto: Option<Scheme>,
    /// `host`.
    pub(super) host: Option<Authority>,
}

impl Element {
    /// Returns the element of a header that has only addresses.
    pub(super) fn of(node: SocketAddr) -> Self {
        Self { node: Some(node), ..Self::default() }
    }

    /// Parses an element. `None` means that it is malformed. Blanks around `;` and unquoted values are common, so
    /// they are accepted. A repeated parameter is not.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (mut node_text, mut proto, mut host) = (None, None, None);
        let mut rest = skip_separators(text);
        while !rest.is_empty() {
            let (name, value, behind) = pair(rest)?;
            rest = behind;
            let known = match name.to_ascii_lowercase().as_slice() {
                b"for" => &mut node_text,
                b"proto" => &mut proto,
                b"host" => &mut host,
                // "by" and extensions (RFC 7239 5.1, 5.5).
                _ => continue,
            };
            if known.replace(value).is_some() {
                return None;
            }
        }
        let text = |value: Option<Vec<u8>>| value.and_then(|value| String::from_utf8(value).ok());
        Some(Self {
            node: node_text.and_then(|text| node(&text, true)),
            proto: text(proto).and_then(|text| scheme(&text)),
            host: text(host).and_then(|text| authority(&text)),
        })
    }
}

/// Returns the elements of all lines, the last first, unparsed. Leaves out empty ones (RFC 9110 5.6.1.2).
pub(super) fn elements(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(FORWARDED).iter().rev();
    let elements = lines.flat_map(|line| LastFirst(Some(line.as_bytes())));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// The parts of a line between commas, the last first. Commas in quoted strings do not count.
struct LastFirst<'a>(Option<&'a [u8]>);

impl<'a> Iterator for LastFirst<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0.take()?;
        let mut is_quoted = false;
        for at in (0..line.len()).rev() {
            match line[at] {
                b'"' if !is_quoted || !is_escaped(line, at) => is_quoted = !is_quoted,
                b',' if !is_quoted => {
                    self.0 = Some(&line[..at]);
                    return Some(&line[at + 1..]);
                }
                _ => {}
            }
        }
        Some(line)
    }
}

/// Whether an odd number of backslashes precedes a byte.
fn is_escaped(line: &[u8], at: usize) -> bool {
    line[..at].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// Returns the name and value of an element's first pair, and the rest.
fn pair(text: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    let equals = text.iter().position(|&byte| byte == b'=')?;
    let name = &text[..equals];
    let (value, rest) = match &text[equals + 1..] {
        [b'"', quoted @ ..] => unquote(quoted)?,
        bare => {
            let end = bare.iter().position(|&byte| !is_token(byte) && !b":[]".contains(&byte));
            let (value, rest) = bare.split_at(end.unwrap_or(bare.len()));
            (Some(value.to_vec()).filter(|value| !value.is_empty())?, rest)
        }
    };
    let ends = matches!(rest.trim_ascii_start(), [] | [b';', ..]);
    let is_name = !name.is_empty() && name.iter().copied().all(is_token);
    (is_name && ends).then(|| (name, value, skip_separators(rest)))
}

/// Skips separators. There may be no pair between two `;`.
fn skip_separators(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !b"; \t".contains(byte));
    &text[start.unwrap_or(text.len())..]
}

/// Returns the text of a quoted string that follows its first quote, and the rest after its last (RFC 9110 5.6.4).
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &text[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            _ => value.push(byte),
        }
    }
    None
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<&str> {
        LastFirst(Some(line.as_bytes())).map(|text| std::str::from_utf8(text).unwrap()).collect()
    }

    fn node_of(text: &str) -> Option<String> {
        Element::parse(text.as_bytes())?.node.map(|node| node.to_string())
    }

    #[test]
    fn lists_are_split_from_their_end() {
        assert_eq!(split("a, b,,c"), ["c", "", " b", "a"]);
        assert_eq!(split(r#"for="a,b", for="c\",d""#), [r#" for="c\",d""#, r#"for="a,b""#]);
        assert_eq!(split(r#"for="a\\", for=b"#), [" for=b", r#"for="a\\""#]);
        // What is behind a quote that never ends is read all the same.
        assert_eq!(split(r#"for="x, for="[::1]", for=b"#)[..2], [" for=b", r#" for="[::1]""#]);
    }

    #[test]
    fn elements_are_read_as_rfc_7239_writes_them() {
        for (text, expected) in [
            ("for=192.0.2.43", "192.0.2.43:0"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "[2001:db8:cafe::17]:4711"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60:0"),
            ("for=\"[2001:db8:cafe::17]\"", "[2001:db8:cafe::17]:0"),
            ("for=\"192.0.2.43:47011\"", "192.0.2.43:47011"),
            ("for=\"192.0.2.43:_port.1\"", "192.0.2.43:0"),
            ("for=\"[2001:db8::1]:_p\"", "[2001:db8::1]:0"),
            ("by=x; for=192.0.2.43:80 ; ext=\"a;b\"", "192.0.2.43:80"),
            (r#"for="192.0\.2\.43""#, "192.0.2.43:0"),
            ("for=\"[::ffff:192.0.2.43]\"", "192.0.2.43:0"),
            (";for=1.2.3.4;;", "1.2.3.4:0"),
            ("for=unknown", ""),
            ("for=_hidden", ""),
            ("for=\"_SEVKISEK:1\"", ""),
            ("for=\"192.0.2.43:_\"", ""),
            ("for=\"192.0.2.43:0\"", ""),
            ("for=\"2001:db8::1:_p\"", ""),
            ("for=\"[fe80::1%eth0]\"", ""),
            ("proto=https", ""),
        ] {
            assert_eq!(node_of(text).unwrap_or_default(), expected, "{text}");
        }
        for text in [
            "for",
            "for=",
            "=192.0.2.43",
            "for=192.0.2.43;for=192.0.2.44",
            "for=192.0.2.43;FOR=192.0.2.43",
            "for=192.0.2.43 proto=http",
            "for=\"192.0.2.43",
            "for=\"192.0.2.43\"x",
            "for=\"192.0.2.43\\",
            "f r=192.0.2.43",
            "for=192.0.2.43@",
        ] {
            assert_eq!(Element::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn proto_and_host_are_read_if_they_can_be_such() {
        let element = Element::parse(br#"proto=HTTPS;host="example.com:8080""#).unwrap();
        assert_eq!(element.proto, Some(Scheme::HTTPS));
        assert_eq!(element.host.unwrap(), "example.com:8080");
        for text in ["proto=\"\";host=\"\"", "proto=1x;host=\"a@b\"", "proto=\"a b\";host=\"a/b\""] {
            assert_eq!(Element::parse(text.as_bytes()), Some(Element::default()), "{text}");
        }
    }
}
