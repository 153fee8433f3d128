//! Owns the translation of WebSocket handshakes over HTTP/2. An extended CONNECT (RFC 8441) becomes the GET
//! of RFC 6455 that all stages know. Its response becomes one of HTTP/2.

use crate::http::body::Body;
use crate::http::headers::remove_hop_by_hop;
use crate::ws::handshake::new_key;
use h2::ext::Protocol;
use http::header::{CONNECTION, COOKIE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

/// Translates a request to HTTP/1.1. Returns whether it was an extended CONNECT for a WebSocket.
pub(super) fn from_http2<B>(request: &mut Request<B>) -> bool {
    join_cookies(request.headers_mut());
    let protocol = request.extensions_mut().remove::<Protocol>();
    let opens = *request.method() == Method::CONNECT && protocol.is_some_and(|p| p.as_str() == "websocket");
    if opens {
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        // The client sends no key. Create one for the handshake with the upstream (RFC 8441 5).
        set(headers, SEC_WEBSOCKET_KEY, new_key().as_bytes());
    }
    opens
}

/// Translates a response to HTTP/2 (RFC 9113 8.2.2, RFC 8441 4).
pub(super) fn to_http2(response: &mut Response<Body>, opens: bool) {
    if opens && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    }
    remove_hop_by_hop(response.headers_mut());
}

/// HTTP/2 may send cookies separately. HTTP/1.1 has one line (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1 {
        let joined = lines.join(&b"; "[..]);
        set(headers, COOKIE, &joined);
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::full;
    use crate::ws::handshake::{UpgradeKind, classify};
    use http::Version;

    #[test]
    fn an_extended_connect_becomes_a_valid_websocket_request() {
        let request = Request::builder()
            .method(Method::CONNECT)
            .version(Version::HTTP_2)
            .uri("https://example.com/ws?a=1")
            .header("sec-websocket-version", "13")
            .extension(Protocol::from_static("websocket"));
        let mut request = request.body(()).unwrap();
        assert!(from_http2(&mut request));
        assert_eq!(
            classify(request.method(), request.version(), request.headers()),
            Ok(UpgradeKind::WebSocket)
        );
    }

    #[test]
    fn other_connects_stay_what_they_are() {
        let connect = |protocol: Option<&'static str>| {
            let mut request = Request::builder().method(Method::CONNECT).uri("example.com:443");
            if let Some(protocol) = protocol {
                request = request.extension(Protocol::from_static(protocol));
            }
            let mut request = request.body(()).unwrap();
            (from_http2(&mut request), request.method().clone())
        };
        assert_eq!(connect(None), (false, Method::CONNECT));
        assert_eq!(connect(Some("connect-udp")), (false, Method::CONNECT));
    }

    #[test]
    fn a_101_becomes_a_200() {
        let answer = |status: u16| {
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            to_http2(&mut response, true);
            assert!(response.headers().is_empty(), "{:?}", response.headers());
            response.status().as_u16()
        };
        assert_eq!([101, 302, 403].map(answer), [200, 302, 403]);
    }

    #[test]
    fn cookies_become_one_line() {
        let mut request = Request::builder().uri("/").header("cookie", "a=1").header("cookie", "b=2");
        request = request.header("x", "1").header("x", "2");
        let mut request = request.body(()).unwrap();
        from_http2(&mut request);
        let lines = |name| request.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(lines("cookie"), ["a=1; b=2"]);
        assert_eq!(lines("x"), ["1", "2"]);
    }
}
