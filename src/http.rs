//! Owns the HTTP server side of a connection. It must not know proxying.

pub mod headers;
pub mod incoming;
pub mod malformed;
pub mod names;
pub mod respond;
pub mod serve;
pub mod upload;

use std::time::Duration;

/// How requests are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The versions that are spoken.
    pub protocols: Protocols,
    /// From a request's first byte, or from the connection's opening, to the end of its head
    /// (nginx, `client_header_timeout`).
    pub header_timeout: Duration,
    /// From a request's end to the beginning of the next (nginx, `keepalive_timeout`).
    pub keepalive_timeout: Duration,
    /// How long a client may send none of a request's body, or take none of its answer, while it is
    /// waited for (nginx, `client_body_timeout` and `send_timeout`); `None`: never ended for it.
    pub body_timeout: Option<Duration>,
    /// Largest head of a request, in bytes, 8 KiB at least (nginx, `large_client_header_buffers`).
    pub max_header_size: usize,
    /// Whether headers of requests may have `_` in their names (nginx, `underscores_in_headers`).
    pub underscores_in_headers: bool,
}

/// Versions of HTTP; one of them at least is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.1, and 1.0.
    pub http1: bool,
    /// HTTP/2, with WebSockets by extended CONNECT (RFC 8441): by ALPN over TLS, else by prior
    /// knowledge (RFC 9113 3.3).
    pub http2: bool,
}

/// Which headers tell the upstream whence a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto`, `-Host` and `X-Real-IP`.
    X,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
    /// All of them.
    Both,
    /// None is added; what the client sent passes as it came.
    Off,
}

/// Which messages say that they came through here, by `Via` (RFC 9110 7.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// All of them.
    On,
    /// Requests.
    Request,
    /// Responses.
    Response,
    /// None.
    Off,
}

impl Via {
    /// Whether requests do.
    #[must_use]
    pub fn is_on_requests(self) -> bool {
        matches!(self, Self::On | Self::Request)
    }

    /// Whether responses do.
    #[must_use]
    pub fn is_on_responses(self) -> bool {
        matches!(self, Self::On | Self::Response)
    }
}
