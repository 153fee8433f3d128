//! Owns the answers that the proxy gives itself.

use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use std::time::{Duration, SystemTime};

/// Any body, streamed.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A body that is there already.
#[must_use]
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A plain answer: the status in words, and what is to be said of it.
#[must_use]
pub fn plain(status: StatusCode, explanation: &str) -> Response<Body> {
    let mut response = Response::new(full(body_of(status, explanation)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        retry_after(&mut response, RETRY_AFTER_DEFAULT);
    }
    response
}

/// The body of a plain answer.
#[must_use]
pub(super) fn body_of(status: StatusCode, explanation: &str) -> String {
    format!("{} {}\n{explanation}\n", status.as_u16(), title(status))
}

/// A status in words.
#[must_use]
pub(super) fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

/// Says when a client that was refused for now may ask again (RFC 9110 10.2.3), in whole seconds.
pub fn retry_after<B>(response: &mut Response<B>, wait: Duration) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
}

/// Gives an answer the date, if it has none (RFC 9110 6.6.1). hyper would do so as well, but with one
/// that it keeps until the clock is past it: a clock that was set back would stand still.
pub fn date<B>(response: &mut Response<B>) {
    response.headers_mut().entry(DATE).or_insert_with(|| {
        let now = httpdate::fmt_http_date(SystemTime::now());
        HeaderValue::from_str(&now).expect("a date is ASCII")
    });
}

/// Where nobody knows: the order of `fail_timeout`.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(10);
