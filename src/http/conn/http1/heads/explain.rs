//! Owns the explanation why a head is not a request, for its client and for the log. It must know only the start of
//! the head.

use super::is_token;
use http::Uri;

/// The readable parts of a head, and what is wrong with it. Nothing in it is escaped. Its writer must do that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartialRequest {
    /// The status of its response.
    pub status: u16,
    /// Its method, if its request line could be read.
    pub method: Option<String>,
    /// Its target, if its request line could be read.
    pub target: Option<Vec<u8>>,
    /// What is wrong.
    pub reason: String,
}

/// hyper's limit.
const MAX_FIELDS: u32 = 100;

/// Explains why hyper answered a head with this status. `seen` is the start of the head, `fields` the number
/// of its header lines.
pub(super) fn explain(seen: &[u8], status: u16, fields: u32) -> PartialRequest {
    let mut lines = seen.split_inclusive(|&byte| byte == b'\n');
    let line = lines.next().unwrap_or_default();
    let read = RequestLine::read(line);
    let reason = match status {
        414 => "the target is over 64 KiB".to_owned(),
        431 if fields >= MAX_FIELDS => format!("the request has over {MAX_FIELDS} headers"),
        431 => "the request's head is over max_header_size".to_owned(),
        _ => {
            let fault =
                fault_of_line(line, &read).or_else(|| lines.find_map(|line| fault_of_field(line, &read)));
            fault.unwrap_or_else(|| "no valid HTTP request".to_owned())
        }
    };
    let known = read.filter(|read| read.is_http());
    PartialRequest {
        status,
        method: known.map(|read| token(read.method)),
        target: known.map(|read| read.target.to_vec()),
        reason,
    }
}

/// The parts of a request line (RFC 9112 3).
#[derive(Clone, Copy)]
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    /// `None` means that the target is incomplete.
    version: Option<&'a [u8]>,
}

impl<'a> RequestLine<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let is_whole = line.ends_with(b"\n");
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut parts = line.splitn(3, |&byte| byte == b' ');
        let (method, target, version) = (parts.next()?, parts.next()?, parts.next());
        let is_method = !method.is_empty() && method.iter().all(|&byte| is_token(byte));
        let version = version.or(is_whole.then_some(b""));
        is_method.then_some(Self { method, target, version })
    }

    /// Whether it may be a request line of HTTP, as far as it was received.
    fn is_http(&self) -> bool {
        let version = self.version.unwrap_or_default();
        let begins = [&b"HTTP/1.1"[..], b"HTTP/1.0"].iter().any(|known| known.starts_with(version));
        begins && self.target.first().is_some_and(|first| matches!(first, b'/' | b'*') || is_token(*first))
    }
}

fn fault_of_line(line: &[u8], read: &Option<RequestLine<'_>>) -> Option<String> {
    if line.starts_with(b"\x16\x03") {
        return Some("TLS was spoken to a port of plain HTTP".to_owned());
    }
    if line.starts_with(b"PRI * HTTP/2.0") {
        return Some("HTTP/2 was spoken where it is not".to_owned());
    }
    let Some(RequestLine { target, version, .. }) = read else {
        return Some("no valid request line".to_owned());
    };
    if target.is_empty() {
        return Some("the request line has no target".to_owned());
    }
    if let Some(fault) = fault_of_target(target, version.is_some()) {
        return Some(fault);
    }
    match version {
        None | Some(b"HTTP/1.1" | b"HTTP/1.0") => None,
        Some(b"") => Some("the request line has no version".to_owned()),
        Some(version) if version.contains(&b' ') => Some("the target has a blank".to_owned()),
        Some(version) => Some(format!("the version is neither HTTP/1.1 nor HTTP/1.0 but {}", shown(version))),
    }
}

fn fault_of_target(target: &[u8], is_whole: bool) -> Option<String> {
    // Check each byte by itself. Bytes that Holdline encodes after a path are no fault.
    let path_end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let is_refused = |byte: u8| byte <= b' ' || byte == 0x7f;
    let has_path = target.starts_with(b"/");
    let is_bad = |at: usize, byte: u8| match byte {
        b'<' | b'>' => true,
        b'"' => !has_path || at > path_end,
        b'`' => !has_path || at < path_end,
        0x80.. => std::str::from_utf8(target).is_err(),
        byte => is_refused(byte),
    };
    let bad = target.iter().enumerate().find(|&(at, &byte)| is_bad(at, byte));
    match bad {
        Some((_, &byte)) => Some(format!("the target has a {}", shown_byte(byte))),
        None if is_whole && Uri::try_from(target).is_err() => {
            Some("the target is neither a path nor a URI".to_owned())
        }
        None => None,
    }
}

/// Returns what is wrong with a complete header line (RFC 9112 5).
fn fault_of_field(line: &[u8], read: &Option<RequestLine<'_>>) -> Option<String> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return None;
    }
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Some("a header line begins with a blank".to_owned());
    }
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        return Some(format!("the header line {} has no colon", shown(line)));
    };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() {
        return Some("a header has no name".to_owned());
    }
    if let Some(&byte) = name.iter().find(|byte| !is_token(**byte)) {
        return Some(format!("the header name {} has a {}", shown(name), shown_byte(byte)));
    }
    if let Some(&byte) = value.iter().find(|byte| (**byte < b' ' && **byte != b'\t') || **byte == 0x7f) {
        return Some(format!("the header {} has a {}", token(name), shown_byte(byte)));
    }
    if name.eq_ignore_ascii_case(b"content-length")
        && !value.iter().all(u8::is_ascii_digit) | value.is_empty()
    {
        return Some("Content-Length is not one number".to_owned());
    }
    if name.eq_ignore_ascii_case(b"transfer-encoding") {
        let is_old = read.is_some_and(|read| read.version == Some(b"HTTP/1.0"));
        let fault =
            if is_old { "Transfer-Encoding in HTTP/1.0" } else { "a Transfer-Encoding other than chunked" };
        return (is_old || !value.eq_ignore_ascii_case(b"chunked")).then(|| fault.to_owned());
    }
    None
}

/// A token (RFC 9110 5.6.2), which is ASCII.
fn token(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The beginning of some bytes in quotes. What is not UTF-8 becomes U+FFFD.
fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 32;
    let more = if bytes.len() > MOST { "..." } else { "" };
    format!("\"{}{more}\"", String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]))
}

/// A byte in quotes, or its number where a reader would not see it.
fn shown_byte(byte: u8) -> String {
    match byte {
        b' '..=b'~' => format!("\"{}\"", char::from(byte)),
        _ => format!("byte 0x{byte:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (head, reason) in [
            ("GET http://x/<a> HTTP/1.1\r\n", "the target has a \"<\""),
            ("GET http://x/?\" HTTP/1.1\r\n", "the target has a \"\"\""),
            ("GET /\x01 HTTP/1.1\r\n", "the target has a byte 0x01"),
            ("GET /a b HTTP/1.1\r\n", "the target has a blank"),
            ("GET a/b HTTP/1.1\r\n", "the target is neither a path nor a URI"),
            ("GET  HTTP/1.1\r\n", "the request line has no target"),
            ("GET /a\r\n", "the request line has no version"),
            ("GET /a HTTP/1.2\r\n", "the version is neither HTTP/1.1 nor HTTP/1.0 but \"HTTP/1.2\""),
            ("G(T /a HTTP/1.1\r\n", "no valid request line"),
            ("\x16\x03\x01\x02", "TLS was spoken to a port of plain HTTP"),
            ("PRI * HTTP/2.0\r\n\r\n", "HTTP/2 was spoken where it is not"),
            ("GET /a HTTP/1.1\r\nX y\r\n", "the header line \"X y\" has no colon"),
            ("GET /a HTTP/1.1\r\nX : y\r\n", "the header name \"X \" has a \" \""),
            ("GET /a HTTP/1.1\r\n: y\r\n", "a header has no name"),
            ("GET /a HTTP/1.1\r\nX: y\r\n z\r\n", "a header line begins with a blank"),
            ("GET /a HTTP/1.1\r\nX: a\0b\r\n", "the header X has a byte 0x00"),
            ("GET /a HTTP/1.1\r\nContent-Length: 5a\r\n", "Content-Length is not one number"),
            ("GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding in HTTP/1.0"),
            ("GET /a HTTP/1.1\r\nTransfer-Encoding: x\r\n", "a Transfer-Encoding other than chunked"),
            ("GET /a HTTP/1.1\r\nHost: x\r\n\r\n", "no valid HTTP request"),
            ("", "no valid request line"),
        ] {
            assert_eq!(explain(head.as_bytes(), 400, 0).reason, reason, "{head:?}");
        }
        assert_eq!(explain(b"GET /a HTTP/1.1\r\n", 431, 100).reason, "the request has over 100 headers");
        assert_eq!(
            explain(b"GET /a HTTP/1.1\r\n", 431, 2).reason,
            "the request's head is over max_header_size"
        );
    }

    #[test]
    fn a_request_line_is_told_if_it_is_one() {
        let partial = |head: &str| {
            let partial = explain(head.as_bytes(), 400, 0);
            partial.method.zip(partial.target)
        };
        let both = |method: &str, target: &str| Some((method.to_owned(), target.into()));
        assert_eq!(partial("GET /a?\"<\r\x01> HTTP/1.1\r\n"), both("GET", "/a?\"<\r\x01>"));
        assert_eq!(partial("GET /a HTTP/1.1\r\nHost"), both("GET", "/a"));
        assert_eq!(partial("PUT /unfinished"), both("PUT", "/unfinished"));
        for head in
            ["no HTTP at all\r\n\r\n", "PRI * HTTP/2.0\r\n", "\x16\x03\x01", "G(T /a HTTP/1.1\r\n", "GET", ""]
        {
            assert_eq!(partial(head), None, "{head:?}");
        }
    }
}
