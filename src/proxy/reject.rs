//! Owns refusals. A refusal is a status. For WebSocket clients that cannot see one, it is a handshake that
//! Holdline accepts only to close it with a code and a reason.

use super::failure::Failure;
use super::reporting::ReportGuard;
use super::snapshot::{RejectWith, Route};
use crate::capacity::Slot;
use crate::http::body::{Body, full};
use crate::http::conn::ClientStream;
use crate::http::respond::{plain, retry_after};
use crate::outcome::PerSide;
use crate::tunnel::CloseCodes;
use crate::ws::close::{self, CloseCode};
use crate::ws::frame::{OpCode, encode};
use crate::ws::handshake::{VERSION, accept, tokens};
use http::header::{
    ALLOW, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long a rejected client may take to close the connection.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The methods that Holdline forwards, of those in RFC 9110 9.3 and RFC 5789.
pub(super) const ALLOWED: &str = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";

/// Refuses a request with a status.
pub(super) fn with_status(failure: &Failure, mut guard: ReportGuard) -> Response<Body> {
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
        // Holdline cannot trust what follows on this connection to be a request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    guard.report().status = failure.logged_status().as_u16();
    guard.finish(failure.ending(), PerSide::<u64>::default());
    response
}

/// Returns the close code that refuses a WebSocket handshake on this route. `None` means that a status
/// refuses it.
#[must_use]
pub(super) fn close_code(failure: &Failure, route: &Route) -> Option<CloseCode> {
    let codes: CloseCodes = route.tunnel.close_codes;
    failure.close_code().filter(|_| route.reject_with == RejectWith::Close).map(|code| codes.apply(code))
}

/// Accepts a WebSocket handshake and closes it with a code. The connection keeps its slot until it is closed.
pub(super) fn with_close(
    failure: &Failure,
    code: CloseCode,
    request: &HeaderMap,
    client: ClientStream,
    slot: Arc<Slot>,
    mut guard: ReportGuard,
) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let key = request.get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    headers.extend(HeaderValue::from_str(&accept(key)).map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
    // Browsers fail a handshake if none of their subprotocols is chosen.
    let first = tokens(request, &SEC_WEBSOCKET_PROTOCOL).next();
    headers.extend(first.and_then(|p| HeaderValue::from_str(p).ok()).map(|p| (SEC_WEBSOCKET_PROTOCOL, p)));
    guard.report().status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
    let frame = encode(OpCode::Close, &close::payload(code, &failure.public()), None);
    let mut ending = failure.ending();
    ending.code = Some(code);
    tokio::spawn(async move {
        send_close(client, &frame).await;
        guard.finish(ending, PerSide::<u64>::default());
        // The socket is closed only now.
        drop(slot);
    });
    response
}

/// Sends the Close frame and waits until the client closes the connection.
async fn send_close(client: ClientStream, frame: &[u8]) {
    let close = async {
        let mut stream = client.into_stream().await?.stream;
        stream.write_all(frame).await.ok()?;
        stream.shutdown().await.ok()?;
        let mut scratch = [0; 512];
        while stream.read(&mut scratch).await.ok()? > 0 {}
        Some(())
    };
    // Do not wait longer for a client that does not close.
    let _ = timeout(CLOSE_WAIT, close).await;
}
