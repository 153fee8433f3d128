//! Owns the headers that a proxy changes: hop-by-hop ones go, forwarding ones come.

use super::Forwarded;
use crate::addr::ClientAddr;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use std::net::IpAddr;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Headers that concern one connection only (RFC 9110 7.6.1). Credentials for a proxy are for this
/// one; whatever the framing of a body was, it is made anew. `Trailer` stays: trailers pass.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes what concerns only the connection it came over, with all that `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // A client may not have the proxy take away what tells the upstream whom it talks to.
        .filter(|name| *name != HOST && !is_forwarding(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Finds what two readers may frame differently: whoever stands behind would be smuggled the
/// difference as a message of its own (RFC 9112 6.3, 11.2).
///
/// # Errors
/// What is ambiguous.
pub fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), &'static str> {
    let lines = |name| headers.get_all(name).iter().collect::<Vec<_>>();
    let (codings, lengths) = (lines(TRANSFER_ENCODING), lines(CONTENT_LENGTH));
    let is_chunked = |coding: &&HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    let is_number =
        |length: &&HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if !codings.is_empty() && !lengths.is_empty() {
        Err("both Transfer-Encoding and Content-Length")
    } else if !codings.is_empty() && version < Version::HTTP_11 {
        Err("Transfer-Encoding in HTTP/1.0")
    } else if codings.len() > 1 || !codings.iter().all(is_chunked) {
        Err("a Transfer-Encoding other than chunked")
    } else if lengths.len() > 1 || !lengths.iter().all(is_number) {
        Err("Content-Length is not one number")
    } else {
        Ok(())
    }
}

/// Says that a message came through here, as a proxy must (RFC 9110 7.6.3), behind those before it.
pub fn add_via(headers: &mut HeaderMap, received: Version) {
    let version = match received {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    append(headers, &VIA, &format!("{version} holdline"));
}

/// `Expect: 100-continue` is answered here: the request is not held back towards the upstream.
pub fn remove_expect(headers: &mut HeaderMap) {
    headers.remove(EXPECT);
}

fn is_forwarding(name: &HeaderName) -> bool {
    [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REAL_IP, FORWARDED].contains(name)
}

/// Tells the upstream whence a request came. `X-Forwarded-For` and `Forwarded` are appended to what
/// came, the others are set.
pub fn add_forwarding(headers: &mut HeaderMap, mode: Forwarded, client: ClientAddr, scheme: &'static str) {
    let host = headers.get(HOST).cloned();
    if matches!(mode, Forwarded::X | Forwarded::Both) {
        let ip = client.ip().map_or_else(|| "unix:".to_owned(), |ip| ip.to_string());
        append(headers, &X_FORWARDED_FOR, &ip);
        set(headers, X_REAL_IP, &ip);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
        if let Some(host) = &host {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
    }
    if matches!(mode, Forwarded::Rfc7239 | Forwarded::Both) {
        append(headers, &FORWARDED, &forwarded_element(client, host.as_ref(), scheme));
    }
}

/// One element of `Forwarded` (RFC 7239 4); IPv6 and hosts with a port need quotes.
fn forwarded_element(client: ClientAddr, host: Option<&HeaderValue>, scheme: &str) -> String {
    let node = match client.ip() {
        Some(IpAddr::V4(v4)) => v4.to_string(),
        Some(IpAddr::V6(v6)) => format!("\"[{v6}]\""),
        None => "unknown".to_owned(),
    };
    let mut element = format!("for={node};proto={scheme}");
    if let Some(host) = host.and_then(|host| host.to_str().ok()).filter(|host| !host.contains(['"', '\\'])) {
        element += &format!(";host=\"{host}\"");
    }
    element
}

fn append(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    let before: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    let list = before.into_iter().chain([value]).collect::<Vec<_>>().join(", ");
    set(headers, name.clone(), &list);
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn client(address: &str) -> ClientAddr {
        ClientAddr::Tcp(address.parse().unwrap())
    }

    #[test]
    fn hop_by_hop_headers_go_with_those_that_connection_names() {
        let mut all = headers(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "close, host, x-forwarded-for"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("host", "example.com"),
            ("x-forwarded-for", "192.0.2.1"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut all);
        let mut left: Vec<_> = all.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host", "x-forwarded-for"]);
    }

    #[test]
    fn the_client_is_appended_to_those_before_it() {
        let mut all = headers(&[
            ("host", "example.com:8080"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-real-ip", "1.2.3.4"),
        ]);
        add_forwarding(&mut all, Forwarded::X, client("192.0.2.1:5000"), "http");
        assert_eq!(all["x-forwarded-for"], "203.0.113.9, 198.51.100.7, 192.0.2.1");
        assert_eq!(
            (&all["x-real-ip"], &all["x-forwarded-proto"]),
            (&"192.0.2.1".parse().unwrap(), &"http".parse().unwrap())
        );
        assert_eq!(all["x-forwarded-host"], "example.com:8080");
        assert!(!all.contains_key("forwarded"));
    }

    #[test]
    fn forwarded_is_written_as_rfc_7239_wants_it() {
        let mut all = headers(&[("host", "example.com"), ("forwarded", "for=203.0.113.9")]);
        add_forwarding(&mut all, Forwarded::Rfc7239, client("[2001:db8::1]:5000"), "https");
        let expected = "for=203.0.113.9, for=\"[2001:db8::1]\";proto=https;host=\"example.com\"";
        assert_eq!(all["forwarded"], expected);
        assert!(!all.contains_key("x-forwarded-for"));
    }

    #[test]
    fn off_adds_nothing() {
        let mut all = headers(&[("host", "example.com")]);
        add_forwarding(&mut all, Forwarded::Off, client("192.0.2.1:1"), "http");
        assert_eq!(all.len(), 1);
    }
}
