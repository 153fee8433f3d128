//! Owns access control: the token, and the defence against pages of other sites in the operator's browser.

use super::response::Problem;
use super::token::Token;
use crate::addr::{ClientAddr, HostPort};
use crate::io::Stream;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::UnixStream;

/// How a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Over TCP. A page can make a browser send such requests.
    Tcp,
    /// Over a unix socket. Its file permissions restrict access.
    Unix,
}

/// The sender of a request, for the log.
#[derive(Clone, Debug)]
pub(super) struct Requester {
    pub(super) transport: Transport,
    /// An address or the peer process.
    pub(super) name: Arc<str>,
}

impl Requester {
    /// Identifies the peer of a connection.
    pub(super) fn of(stream: &Stream, client: ClientAddr) -> Self {
        match stream {
            Stream::Unix(stream) => Self { transport: Transport::Unix, name: process(stream).into() },
            _ => Self { transport: Transport::Tcp, name: client.to_string().into() },
        }
    }
}

/// Describes the peer process of a unix socket (SO_PEERCRED of unix(7)).
fn process(stream: &UnixStream) -> String {
    let Ok(peer) = stream.peer_cred() else { return "unix:".to_owned() };
    let pid = peer.pid().map_or_else(String::new, |pid| format!(" pid {pid}"));
    format!("unix: uid {}{pid}", peer.uid())
}

/// Checks whether a request may be answered. `is_open` means that its path needs no token.
///
/// # Errors
/// Returns the error response if it may not.
pub(super) fn check(
    parts: &Parts,
    transport: Transport,
    token: Option<&Token>,
    is_open: bool,
) -> Result<(), Problem> {
    match token {
        Some(_) if is_open => Ok(()),
        Some(token) => check_token(&parts.headers, token),
        None if transport == Transport::Unix => Ok(()),
        None => check_same_site(parts, is_open),
    }
}

/// Checks whether a request has the token.
///
/// # Errors
/// Returns 401 if it does not.
pub(super) fn check_token(headers: &HeaderMap, token: &Token) -> Result<(), Problem> {
    let Some(sent) = headers.get(AUTHORIZATION) else {
        let error = "a token is needed; send it as `Authorization: Bearer ...`";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, error));
    };
    let bytes = sent.as_bytes();
    let (scheme, rest) = bytes.split_at(bytes.len().min(BEARER.len()));
    if scheme.eq_ignore_ascii_case(BEARER) && token.is(rest.trim_ascii()) {
        return Ok(());
    }
    let error = "that is not the token; it is the one that [admin] of the configuration names";
    Err(Problem::new(StatusCode::UNAUTHORIZED, error))
}

/// Without a token, Holdline checks the headers in which a browser tells where a request comes from.
fn check_same_site(parts: &Parts, is_open: bool) -> Result<(), Problem> {
    let headers = &parts.headers;
    let host = text(headers, HOST.as_str()).unwrap_or_default();
    if !is_loopback(host) {
        // A foreign name may resolve to this address (DNS rebinding).
        let error = "the Host is no name of loopback; ask for 127.0.0.1, [::1] or localhost, or set a token";
        return Err(Problem::new(StatusCode::FORBIDDEN, error));
    }
    let forbidden = || {
        let error = "a page of another site asks; open the endpoint's own page, or set a token";
        Err(Problem::new(StatusCode::FORBIDDEN, error))
    };
    let is_foreign = matches!(text(headers, "sec-fetch-site"), Some("cross-site" | "same-site"));
    // Any site may link to the page.
    let is_link = is_open && text(headers, "sec-fetch-mode") == Some("navigate");
    if is_foreign && !is_link {
        return forbidden();
    }
    if parts.method != Method::POST {
        return Ok(());
    }
    let own = format!("http://{host}");
    if headers.get(ORIGIN).is_some_and(|origin| !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes())) {
        return forbidden();
    }
    // Other sites' pages cannot send it without a CORS preflight (the Fetch standard), and OPTIONS gets 405.
    let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let error = "a POST is JSON here; send `Content-Type: application/json`";
        return Err(Problem::new(StatusCode::FORBIDDEN, error));
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a Host, with or without a port, is a loopback name.
fn is_loopback(host: &str) -> bool {
    let split = HostPort::split(host);
    let name = split.literal().unwrap_or(split.host);
    // An IPv6 address needs its brackets (RFC 3986 3.2.2).
    if split.literal().is_none() && name.contains(':') {
        return false;
    }
    // Resolvers map `localhost` and its subdomains to loopback (RFC 6761 6.3).
    let lower = name.trim_end_matches('.').to_ascii_lowercase();
    let is_name = lower == "localhost" || lower.ends_with(".localhost");
    is_name || name.parse::<IpAddr>().is_ok_and(super::is_loopback)
}

const BEARER: &[u8] = b"Bearer ";

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const TOKEN: &str = "0123456789abcdef";

    fn status(method: Method, transport: Transport, token: bool, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().method(method).uri("/api/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let token = token.then(|| TOKEN.parse().unwrap());
        let problem = check(&parts, transport, token.as_ref(), false).err();
        problem.map(|problem| problem.answer().status().as_u16())
    }

    #[test]
    fn a_host_of_loopback_is_known_in_each_form() {
        for host in
            ["localhost", "LOCALHOST:80", "127.0.0.1", "127.8.0.1:9", "[::1]", "[::1]:80", "a.localhost."]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "127.0.0.1.example.com",
            "localhost.example.com",
            "[::2]",
            "10.0.0.1",
            "::1",
            "::1:80",
            "[::1]x",
            "[::1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_name_that_was_bound_to_loopback_is_refused() {
        let ask = |headers: &[(&str, &str)]| status(Method::GET, Transport::Tcp, false, headers);
        assert_eq!(ask(&[("host", "127.0.0.1:9109")]), None);
        assert_eq!(ask(&[("host", "evil.example:9109")]), Some(403));
        assert_eq!(ask(&[]), Some(403));
        assert_eq!(ask(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]), Some(403));
        assert_eq!(ask(&[("host", "localhost"), ("sec-fetch-site", "none")]), None);
    }

    #[test]
    fn a_post_of_another_site_is_refused() {
        let post = |headers: &[(&str, &str)]| {
            let all: Vec<_> = [("host", "localhost:1")].iter().chain(headers).copied().collect();
            status(Method::POST, Transport::Tcp, false, &all)
        };
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(post(&[json]), None);
        assert_eq!(post(&[json, ("origin", "http://localhost:1")]), None);
        assert_eq!(post(&[json, ("origin", "http://localhost:2")]), Some(403));
        assert_eq!(post(&[json, ("origin", "null")]), Some(403));
        assert_eq!(post(&[("content-type", "text/plain")]), Some(403));
        assert_eq!(post(&[]), Some(403));
        assert_eq!(
            status(Method::POST, Transport::Unix, false, &[]),
            None,
            "no browser reaches a unix socket"
        );
    }

    #[test]
    fn with_a_token_the_token_counts() {
        let ask = |value: Option<&str>| {
            let headers: Vec<_> = value.iter().map(|value| ("authorization", *value)).collect();
            [Transport::Tcp, Transport::Unix].map(|transport| status(Method::POST, transport, true, &headers))
        };
        assert_eq!(ask(Some("Bearer 0123456789abcdef")), [None; 2]);
        assert_eq!(ask(Some("bearer 0123456789abcdef")), [None; 2]);
        for wrong in
            [None, Some("Bearer 0123456789abcdee"), Some("Basic 0123456789abcdef"), Some("Bearer"), Some("")]
        {
            assert_eq!(ask(wrong), [Some(401); 2], "{wrong:?}");
        }
    }
}
