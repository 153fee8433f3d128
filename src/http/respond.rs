//! Owns the responses that the proxy itself sends.

use super::body::{Body, full};
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use std::time::{Duration, SystemTime};

/// Returns a plain text response: the status and a message.
#[must_use]
pub(crate) fn plain(status: StatusCode, explanation: &str) -> Response<Body> {
    let mut response = Response::new(full(body_of(status, explanation)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        retry_after(&mut response, RETRY_AFTER_DEFAULT);
    }
    response
}

/// Returns the body of a plain text response.
#[must_use]
pub(super) fn body_of(status: StatusCode, explanation: &str) -> String {
    format!("{} {}\n{explanation}\n", status.as_u16(), title(status))
}

/// Returns a status in words.
#[must_use]
pub(super) fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

/// Tells a rejected client when to try again (RFC 9110 10.2.3), in whole seconds.
pub(crate) fn retry_after<B>(response: &mut Response<B>, wait: Duration) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
}

/// Sets `Date` if it is missing (RFC 9110 6.6.1). hyper caches its date until the clock has passed it, so
/// that it would stand still after the clock is set back.
pub(crate) fn date<B>(response: &mut Response<B>) {
    response.headers_mut().entry(DATE).or_insert_with(|| {
        let now = httpdate::fmt_http_date(SystemTime::now());
        HeaderValue::from_str(&now).expect("a date is ASCII")
    });
}

/// Used when the wait is unknown. It has the magnitude of `fail_timeout`.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(10);
