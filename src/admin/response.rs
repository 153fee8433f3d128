//! Owns the forms of responses: JSON, text, errors, and their common headers.

use crate::escape;
use crate::http::body::{Body, full};
pub(super) use crate::telemetry::report::Seconds;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::{Serialize, Serializer};
use serde_json::json;
use std::time::SystemTime;

pub(super) type AdminResponse = Response<Body>;

/// An error response: what is wrong, and the remedy.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: String,
    /// All errors, if there are several.
    errors: Option<Vec<String>>,
    allow: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), errors: None, allow: None }
    }

    /// 400.
    pub(super) fn malformed(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 404.
    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// 404, for an unknown path.
    pub(super) fn nothing_here() -> Self {
        Self::not_found("there is nothing of this name; /api/openapi.json tells what there is")
    }

    /// 422: understood, but not possible.
    pub(super) fn refused(error: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }

    /// 503.
    pub(super) fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    /// Adds each single error.
    pub(super) fn with_errors(self, errors: Vec<String>) -> Self {
        Self { errors: Some(errors), ..self }
    }

    /// 405, with the allowed methods (RFC 9110 15.5.6).
    pub(super) fn wrong_method(allow: String) -> Self {
        let error = format!("another method is expected here; there is {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, error) }
    }

    pub(super) fn answer(self) -> AdminResponse {
        let mut body = json!({ "error": self.error });
        if let Some(errors) = self.errors {
            body["errors"] = errors.into();
        }
        let mut answer = json_with(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            answer
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"holdline\""));
        }
        if let Some(allow) = self.allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
            answer.headers_mut().insert(ALLOW, allow);
        }
        answer
    }
}

/// 200 with a value.
pub(super) fn json(value: &impl Serialize) -> AdminResponse {
    json_with(StatusCode::OK, value)
}

pub(super) fn json_with(status: StatusCode, value: &impl Serialize) -> AdminResponse {
    // Strings, numbers and lists always serialise.
    let text = serde_json::to_string(value).unwrap_or_default();
    of(status, "application/json", escape::json(&text).into_owned().into())
}

pub(super) fn text(status: StatusCode, text: &'static str) -> AdminResponse {
    of(status, "text/plain; charset=utf-8", text.into())
}

pub(super) fn of(status: StatusCode, kind: &'static str, body: bytes::Bytes) -> AdminResponse {
    with_body(status, kind, full(body))
}

pub(super) fn with_body(status: StatusCode, kind: &'static str, body: Body) -> AdminResponse {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in SECURITY_HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

/// Headers that restrict what browsers do with a response.
const SECURITY_HEADERS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
];

/// A time by RFC 3339, in UTC, to the millisecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time(pub(super) SystemTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.0))
    }
}
