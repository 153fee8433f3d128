//! Owns the headers that a proxy changes. It removes hop-by-hop headers and adds forwarding headers.

use super::Forwarded;
use super::names::{is_alike, remove_alike};
use crate::addr::ClientAddr;
use crate::real_ip::Origin;
use crate::tls::session::ClientCertificate;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use std::net::IpAddr;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Headers that concern one connection only (RFC 9110 7.6.1). Proxy credentials are for this proxy, and it
/// frames each body itself. `Trailer` stays, because trailers pass.
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

/// Removes the hop-by-hop headers, and all that `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named = connection_options(headers);
    for name in named.iter().chain(&HOP_BY_HOP) {
        remove_alike(headers, name);
    }
}

/// Returns the headers that `Connection` names, except those that tell the upstream about the client. A
/// client must not make the proxy remove these.
#[must_use]
pub(crate) fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter();
    let names = lines.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    names.filter(|name| !is_told_upstream(name)).collect()
}

fn is_told_upstream(name: &HeaderName) -> bool {
    let forwarding = [HOST, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REAL_IP, FORWARDED];
    forwarding.iter().chain(&CLIENT_CERTIFICATE).any(|told| is_alike(name, told))
}

/// Checks that all readers frame a message alike. Otherwise a client could smuggle a second message past the
/// proxy (RFC 9112 6.3, 11.2).
///
/// # Errors
/// Returns what is ambiguous.
pub(crate) fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), &'static str> {
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

/// Normalises `Content-Length`: some readers take `005` as octal.
///
/// # Errors
/// Returns an error if it does not fit 64 bits.
pub(crate) fn settle_length(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let Some(length) = headers.get(CONTENT_LENGTH) else { return Ok(()) };
    let number = std::str::from_utf8(length.as_bytes()).ok().and_then(|length| length.parse::<u64>().ok());
    let number = number.ok_or("Content-Length is not one number")?;
    headers.insert(CONTENT_LENGTH, number.into());
    Ok(())
}

/// Appends this proxy to `Via`, as a proxy must (RFC 9110 7.6.3).
pub(crate) fn add_via(headers: &mut HeaderMap, received: Version) {
    let version = match received {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    append(headers, &VIA, format!("{version} holdline").as_bytes());
}

/// Tells the upstream the identity in the client's certificate: `X-SSL-Client-S-DN` (nginx,
/// `$ssl_client_s_dn`), `-Serial`, and `-Fingerprint`, its SHA-256. Holdline removes what the client sends
/// under these names.
pub(crate) fn set_client_certificate(headers: &mut HeaderMap, certificate: Option<&ClientCertificate>) {
    let values = certificate.map(|found| [&found.subject, &found.serial, &found.sha256]);
    for (place, name) in CLIENT_CERTIFICATE.into_iter().enumerate() {
        headers.remove(&name);
        values.iter().for_each(|values| set(headers, name.clone(), values[place].as_bytes()));
    }
}

const CLIENT_CERTIFICATE: [HeaderName; 3] = [
    HeaderName::from_static("x-ssl-client-s-dn"),
    HeaderName::from_static("x-ssl-client-serial"),
    HeaderName::from_static("x-ssl-client-fingerprint"),
];

/// Removes `Expect: 100-continue`, because the proxy answers it itself.
pub(crate) fn remove_expect(headers: &mut HeaderMap) {
    headers.remove(EXPECT);
}

/// Tells the upstream where a request came from. Holdline appends the peer to `X-Forwarded-For` and
/// `Forwarded`, and sets the other headers, to the claims of a trusted peer if it makes any. `scheme` is that
/// of the connection to the peer.
///
/// Holdline removes the claims of an untrusted peer, because upstreams read these headers without knowing who
/// wrote them. `X-Forwarded-For` stays, with the peer at its end (nginx, `$proxy_add_x_forwarded_for`).
pub(crate) fn add_forwarding(
    headers: &mut HeaderMap,
    mode: Forwarded,
    origin: &Origin,
    scheme: &'static str,
) {
    if mode == Forwarded::Off {
        return;
    }
    let host = headers.get(HOST).cloned();
    if !origin.trusted {
        remove_claims(headers, mode);
    }
    if matches!(mode, Forwarded::X | Forwarded::Both) {
        append(headers, &X_FORWARDED_FOR, ip_text(origin.peer).as_bytes());
        set(headers, X_REAL_IP, ip_text(origin.client).as_bytes());
        let proto = origin.proto.as_ref().map_or(scheme, Scheme::as_str);
        set(headers, X_FORWARDED_PROTO, proto.as_bytes());
        match (&origin.host, &host) {
            (Some(told), _) => set(headers, X_FORWARDED_HOST, told.as_str().as_bytes()),
            (None, Some(asked)) => drop(headers.insert(X_FORWARDED_HOST, asked.clone())),
            (None, None) => {}
        }
    }
    if matches!(mode, Forwarded::Rfc7239 | Forwarded::Both) {
        append(headers, &FORWARDED, &forwarded_element(origin.peer, host.as_ref(), scheme));
    }
}

fn remove_claims(headers: &mut HeaderMap, mode: Forwarded) {
    for name in [X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REAL_IP, FORWARDED] {
        headers.remove(name);
    }
    if mode == Forwarded::Rfc7239 {
        // In this mode Holdline does not append the peer to it.
        headers.remove(X_FORWARDED_FOR);
    }
}

fn ip_text(address: ClientAddr) -> String {
    address.ip().map_or_else(|| "unix:".to_owned(), |ip| ip.to_string())
}

/// Returns one element of `Forwarded` (RFC 7239 4). IPv6 addresses and hosts with a port need quotes.
fn forwarded_element(peer: ClientAddr, host: Option<&HeaderValue>, scheme: &str) -> Vec<u8> {
    let node = match peer.ip() {
        Some(IpAddr::V4(v4)) => v4.to_string(),
        Some(IpAddr::V6(v6)) => format!("\"[{v6}]\""),
        None => "unknown".to_owned(),
    };
    let mut element = format!("for={node};proto={scheme}").into_bytes();
    // An accepted host has neither a quote nor a backslash.
    if let Some(host) = host {
        element.extend_from_slice(b";host=\"");
        element.extend_from_slice(host.as_bytes());
        element.push(b'"');
    }
    element
}

/// Appends an element to a list, and joins its lines into one. Bytes beyond ASCII stay unchanged (RFC 9110
/// 5.5).
fn append(headers: &mut HeaderMap, name: &HeaderName, value: &[u8]) {
    let before = headers.get_all(name).iter().map(HeaderValue::as_bytes).filter(|line| !line.is_empty());
    let list = before.chain([value]).collect::<Vec<_>>().join(&b", "[..]);
    set(headers, name.clone(), &list);
}

/// Sets a header. All values consist of received values and valid bytes.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
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

    fn direct(address: &str) -> Origin {
        Origin::direct(ClientAddr::Tcp(address.parse().unwrap()))
    }

    /// Of a request through a trusted proxy at 10.0.0.1.
    fn through_a_proxy(client: &str) -> Origin {
        let client = ClientAddr::Tcp(client.parse().unwrap());
        Origin { client, trusted: true, ..direct("10.0.0.1:5000") }
    }

    /// All of them, as a client or a proxy may send them.
    fn claims() -> HeaderMap {
        headers(&[
            ("host", "example.com"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
            ("x-real-ip", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9;proto=https"),
        ])
    }

    /// What `claims` become, without the host: `name: value`, sorted.
    fn passed(mode: Forwarded, origin: &Origin) -> Vec<String> {
        let mut all = claims();
        add_forwarding(&mut all, mode, origin, "http");
        let lines = all.iter().filter(|(name, _)| **name != HOST);
        let mut lines: Vec<_> =
            lines.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
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
        add_forwarding(&mut all, Forwarded::X, &direct("192.0.2.1:5000"), "http");
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
        let origin = Origin { trusted: true, ..direct("[2001:db8::1]:5000") };
        add_forwarding(&mut all, Forwarded::Rfc7239, &origin, "https");
        let expected = "for=203.0.113.9, for=\"[2001:db8::1]\";proto=https;host=\"example.com\"";
        assert_eq!(all["forwarded"], expected);
        assert!(!all.contains_key("x-forwarded-for"));
    }

    #[test]
    fn what_a_client_claims_does_not_survive() {
        let client = direct("192.0.2.1:5000");
        let forwarded = "forwarded: for=192.0.2.1;proto=http;host=\"example.com\"";
        let x = [
            "x-forwarded-for: 203.0.113.9, 192.0.2.1",
            "x-forwarded-host: example.com",
            "x-forwarded-proto: http",
            "x-real-ip: 192.0.2.1",
        ];
        assert_eq!(passed(Forwarded::X, &client), x);
        assert_eq!(passed(Forwarded::Rfc7239, &client), [forwarded]);
        assert_eq!(passed(Forwarded::Both, &client), [&[forwarded], &x[..]].concat());
        assert_eq!(passed(Forwarded::Off, &client).len(), 5);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_passed_on() {
        let proxy = Origin {
            proto: Some(Scheme::HTTPS),
            host: Some("shop.example".parse().unwrap()),
            ..through_a_proxy("203.0.113.9:0")
        };
        let expected = [
            "forwarded: for=203.0.113.9;proto=https, for=10.0.0.1;proto=http;host=\"example.com\"",
            "x-forwarded-for: 203.0.113.9, 10.0.0.1",
            "x-forwarded-host: shop.example",
            "x-forwarded-proto: https",
            "x-real-ip: 203.0.113.9",
        ];
        assert_eq!(passed(Forwarded::Both, &proxy), expected);
        // It says nothing that could be a scheme or a host.
        let silent = passed(Forwarded::X, &through_a_proxy("203.0.113.9:0"));
        assert_eq!(silent[2..4], ["x-forwarded-host: example.com", "x-forwarded-proto: http"]);
    }

    #[test]
    fn off_adds_nothing() {
        let mut all = headers(&[("host", "example.com")]);
        add_forwarding(&mut all, Forwarded::Off, &direct("192.0.2.1:1"), "http");
        assert_eq!(all.len(), 1);
    }
}
