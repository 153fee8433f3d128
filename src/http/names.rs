//! Owns the rules for header names: which ones pass, and which ones a server treats as the same. It must not
//! know header values.
//!
//! CGI, FastCGI, WSGI, Rack and PHP read `X-Real-IP` and `X_Real_IP` as one variable (RFC 3875 4.1.18). A
//! client must not bypass the proxy's rules with another spelling.

use http::{HeaderMap, HeaderName};

/// Whether two names are equal to a reader that treats `-` and `_` alike.
#[must_use]
pub(crate) fn is_alike(a: &HeaderName, b: &HeaderName) -> bool {
    let (a, b) = (a.as_str().as_bytes(), b.as_str().as_bytes());
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| fold(a) == fold(b))
}

fn fold(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// Removes a header in every spelling.
pub(crate) fn remove_alike(headers: &mut HeaderMap, name: &HeaderName) {
    remove_where(headers, |key| is_alike(key, name));
}

/// Removes request headers whose names contain anything but letters, digits and `-` (nginx,
/// `ignore_invalid_headers`). With `underscores`, `_` passes too (nginx, `underscores_in_headers`).
pub(crate) fn remove_invalid(headers: &mut HeaderMap, underscores: bool) {
    remove_where(headers, |name| !passes(name, underscores));
}

/// Removes request trailers that the proxy would not pass as headers, or controls itself. Some servers merge
/// trailers into headers (RFC 9110 6.5.1 warns of it). `barred` names more.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, underscores: bool, barred: &[HeaderName]) {
    remove_where(trailers, |name| {
        let is_barred = barred.iter().any(|barred| is_alike(name, barred));
        is_barred || !passes(name, underscores) || is_ruled(name.as_str())
    });
}

fn remove_where(headers: &mut HeaderMap, is_bad: impl Fn(&HeaderName) -> bool) {
    let bad: Vec<HeaderName> = headers.keys().filter(|name| is_bad(name)).cloned().collect();
    for name in bad {
        headers.remove(name);
    }
}

fn passes(name: &HeaderName, underscores: bool) -> bool {
    let name = name.as_str();
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        // CGI turns it into `HTTP_PROXY`, which makes programs use a proxy of the client's choice
        // (CVE-2016-5385).
        return name != "proxy";
    }
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    underscores && is_plain && !is_ruled(&name.replace('_', "-"))
}

/// Whether the proxy itself reads, sets or removes a header of this name.
fn is_ruled(name: &str) -> bool {
    RULED_FAMILIES.iter().any(|family| name.starts_with(family)) || RULED.contains(&name)
}

const RULED_FAMILIES: [&str; 3] = ["sec-websocket-", "x-forwarded-", "x-ssl-client-"];

const RULED: [&str; 16] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
];

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn left(names: &[&'static str], clean: impl FnOnce(&mut HeaderMap)) -> Vec<String> {
        let value = HeaderValue::from_static("1");
        let mut headers: HeaderMap = names
            .iter()
            .map(|name| (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.clone()))
            .collect();
        clean(&mut headers);
        let mut left: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
        left.sort_unstable();
        left
    }

    const SENT: [&str; 12] = [
        "Accept",
        "X-Real-IP",
        "X_Own",
        "X_Real_IP",
        "X-Forwarded_For",
        "X_SSL-Client_S_DN",
        "Transfer_Encoding",
        "Sec_WebSocket-Key",
        "Keep_Alive",
        "X.Own",
        "X.Real.IP",
        "Proxy",
    ];

    #[test]
    fn by_default_only_letters_digits_and_hyphens_pass() {
        assert_eq!(left(&SENT, |headers| remove_invalid(headers, false)), ["accept", "x-real-ip"]);
    }

    #[test]
    fn with_underscores_no_other_spelling_of_a_ruled_name_passes() {
        assert_eq!(left(&SENT, |headers| remove_invalid(headers, true)), ["accept", "x-real-ip", "x_own"]);
    }

    #[test]
    fn trailers_hold_nothing_that_the_proxy_rules_or_a_route_bars() {
        let sent = [&SENT[..], &["X-Sum", "X_Barred", "Host", "Forwarded", "X-Forwarded-Proto"]].concat();
        let barred = [HeaderName::from_static("x-barred")];
        assert_eq!(
            left(&sent, |headers| clean_trailers(headers, true, &barred)),
            ["accept", "x-sum", "x_own"]
        );
        assert_eq!(left(&sent, |headers| clean_trailers(headers, false, &barred)), ["accept", "x-sum"]);
    }

    #[test]
    fn every_spelling_is_removed() {
        let all = ["x-a-b", "x_a-b", "x_a_b", "x-a-c"];
        let name = HeaderName::from_static("x-a_b");
        assert_eq!(left(&all, |headers| remove_alike(headers, &name)), ["x-a-c"]);
    }
}
