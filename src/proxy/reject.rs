//! Owns refusals: a status, or, for clients that cannot see one, an opening accepted only to be
//! closed with a reason.

use super::failure::Failure;
use super::guard::Guard;
use super::snapshot::{RejectWith, Route};
use crate::http::respond::{Body, full, plain, retry_after};
use crate::http::serve::Upgrade;
use crate::outcome::PerSide;
use crate::slots::Slot;
use crate::tunnel::CloseCodes;
use crate::ws::close::{self, CloseCode};
use crate::ws::frame::{OpCode, encode};
use crate::ws::handshake::{VERSION, accept, tokens};
use http::header::{
    ALLOW, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long a client that is turned away may take to close.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is passed on, as far as it has a name in RFC 9110 9.3 and RFC 5789.
pub(super) const ALLOWED: &str = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";

/// Refuses a request with a status.
pub(super) fn with_status(failure: &Failure, mut guard: Guard) -> Response<Body> {
    let status = failure.status();
    let mut response = plain(status, &failure.public());
    if let Some(wait) = failure.retry_after() {
        retry_after(&mut response, wait);
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(ALLOWED));
    }
    if status == StatusCode::BAD_REQUEST {
        // What follows on the connection cannot be trusted to be a request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    guard.report().status = failure.logged_status().as_u16();
    guard.finish_http(failure.ending(), PerSide::<u64>::default());
    response
}

/// The code that refuses an opening of this route; `None`: it is refused with a status.
#[must_use]
pub(super) fn close_code(failure: &Failure, route: &Route) -> Option<CloseCode> {
    let codes: CloseCodes = route.tunnel.close_codes;
    failure.close_code().filter(|_| route.reject_with == RejectWith::Close).map(|code| codes.apply(code))
}

/// Accepts an opening and closes it. Its connection keeps its place until it has gone.
pub(super) fn with_close(
    failure: &Failure,
    code: CloseCode,
    opening: &HeaderMap,
    client: Upgrade,
    slot: Arc<Slot>,
    mut guard: Guard,
) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let key = opening.get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    headers.extend(HeaderValue::from_str(&accept(key)).map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
    // Browsers fail an opening whose subprotocols were all passed over.
    let first = tokens(opening, &SEC_WEBSOCKET_PROTOCOL).next();
    headers.extend(first.and_then(|p| HeaderValue::from_str(p).ok()).map(|p| (SEC_WEBSOCKET_PROTOCOL, p)));
    guard.report().status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
    let frame = encode(OpCode::Close, &close::payload(code, &failure.public()), None);
    let mut ending = failure.ending();
    ending.code = Some(code);
    tokio::spawn(async move {
        say_farewell(client, &frame).await;
        guard.finish_http(ending, PerSide::<u64>::default());
        // Only now is the socket closed.
        drop(slot);
    });
    response
}

/// Sends the Close and waits for the client to go.
async fn say_farewell(client: Upgrade, frame: &[u8]) {
    let farewell = async {
        let (mut stream, _) = client.into_stream().await?;
        stream.write_all(frame).await.ok()?;
        stream.shutdown().await.ok()?;
        let mut scratch = [0; 512];
        while stream.read(&mut scratch).await.ok()? > 0 {}
        Some(())
    };
    // Whoever does not go in time is left.
    let _ = timeout(FAREWELL, farewell).await;
}
