//! Owns a request to the admin endpoint, taken apart.

use super::Admin;
use super::response::Problem;
use crate::drain::Watch;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A parsed request.
pub(super) struct AdminRequest {
    pub(super) admin: Arc<Admin>,
    /// The requester, as named in the log.
    pub(super) by: Arc<str>,
    /// The path segments for each `{name}`, in order.
    pub(super) captures: Vec<String>,
    /// The query parameters, in order.
    pub(super) query: Vec<(String, String)>,
    /// The `Accept` header (RFC 9110 12.5.1).
    pub(super) accept: String,
    pub(super) body: Bytes,
    /// Ends streams at shutdown.
    pub(super) watch: Watch,
}

/// The reason for a request, for the log.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    pub(super) reason: Option<String>,
}

impl AdminRequest {
    /// Parses the body as JSON. An empty body is an empty object.
    pub(super) fn parse_body<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.body.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        let read = serde_json::from_slice(&self.body);
        read.map_err(|error| {
            Problem::malformed(format!("the body: {error}; /api/openapi.json tells what it holds"))
        })
    }
}

/// Parses the parameters of a query (the URL standard's `application/x-www-form-urlencoded`).
pub(super) fn pairs(query: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let each = query.split('&').filter(|pair| !pair.is_empty());
    each.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (decoded(k), decoded(v)))
        .collect()
}

/// Reads a body, which must come at once and be small.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let whole = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    let whole = whole.map_err(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come within 10 s; send it at once")
    })?;
    whole.map(http_body_util::Collected::to_bytes).map_err(|error| match error.is::<LengthLimitError>() {
        true => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 16 KiB; nothing here needs as much")
        }
        false => Problem::malformed("the body broke off; send it whole"),
    })
}

/// Maximum size of a body.
const MAX_BODY: usize = 16 * 1024;

/// Time limit for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_browsers_write_it() {
        let found = pairs("q=a+b%26c&&x&y=1=2");
        let found: Vec<_> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, [("q", "a b&c"), ("x", ""), ("y", "1=2")]);
    }
}
