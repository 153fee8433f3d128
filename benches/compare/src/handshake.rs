//! Owns the opening's text (RFC 6455 4): what a client asks, and what an echo answers.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// The key of RFC 6455 1.3: nobody here is to be kept apart.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What a client sends to open a WebSocket.
pub fn request(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// What a client sends that wants a page.
pub fn plain_request(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// Looks at the head of an answer to `request`; else what is wrong with it.
pub fn check(head: &[u8]) -> Result<(), String> {
    let status = status(head);
    if status != "101" {
        return Err(format!("status {status}"));
    }
    match header(head, "sec-websocket-accept") {
        Some(accept) if accept == self::accept(KEY) => Ok(()),
        _ => Err("false accept".to_owned()),
    }
}

/// The status of an answer, or what stands in its place.
pub fn status(head: &[u8]) -> String {
    let line = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(3)]).into_owned()
}

/// An echo's answer to an opening with this key.
pub fn accepted(key: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    )
    .into_bytes()
}

/// A header of a head, whatever the case of its name.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(head).ok()?;
    text.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Where a head ends, and what follows it begins.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn accept(key: &str) -> String {
    let mut sha1 = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(sha1.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_answer_is_looked_at() {
        assert_eq!(check(&accepted(KEY)), Ok(()));
        assert_eq!(check(&accepted("another")), Err("false accept".to_owned()));
        assert_eq!(check(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Err("status 503".to_owned()));
        assert_eq!(check(b""), Err("status ".to_owned()));
    }
}
