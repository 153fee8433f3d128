//! Owns the HTTP server side of a connection. It must not know proxying.

pub(crate) mod body;
pub(crate) mod conn;
pub(crate) mod headers;
pub(crate) mod incoming;
pub(crate) mod malformed;
pub(crate) mod names;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod upload;

pub(crate) use request::Request;

use std::time::Duration;

/// How Holdline accepts requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The enabled versions.
    pub protocols: Protocols,
    /// Time limit for a request head, from its first byte, or from the start of the connection (nginx,
    /// `client_header_timeout`).
    pub header_timeout: Duration,
    /// Time limit between two requests (nginx, `keepalive_timeout`).
    pub keepalive_timeout: Duration,
    /// How long a client may send nothing of a request body, or accept nothing of a response, while Holdline
    /// waits for it (nginx, `client_body_timeout` and `send_timeout`). `None` means no limit.
    pub body_timeout: Option<Duration>,
    /// Maximum size of a request head, in bytes, at least 8 KiB (nginx, `large_client_header_buffers`).
    pub max_header_size: usize,
    /// Whether names of request headers may contain `_` (nginx, `underscores_in_headers`).
    pub underscores_in_headers: bool,
}

/// The enabled versions of HTTP. At least one is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocols {
    /// HTTP/1.1, and 1.0.
    pub http1: bool,
    /// HTTP/2, with WebSockets by extended CONNECT (RFC 8441): by ALPN over TLS, else by prior
    /// knowledge (RFC 9113 3.3).
    pub http2: bool,
}

/// The headers that tell the upstream where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto`, `-Host` and `X-Real-IP`.
    X,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
    /// All of them.
    Both,
    /// Holdline adds none, and forwards the client's unchanged.
    Off,
}

/// The messages that get a `Via` header (RFC 9110 7.6.3).
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
    /// Whether requests get one.
    #[must_use]
    pub fn is_on_requests(self) -> bool {
        matches!(self, Self::On | Self::Request)
    }

    /// Whether responses get one.
    #[must_use]
    pub fn is_on_responses(self) -> bool {
        matches!(self, Self::On | Self::Response)
    }
}
