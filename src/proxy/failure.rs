//! Owns the failures of a request, and the one place that maps them to statuses, close codes and causes.

use crate::http::incoming::UploadError;
use crate::limit::{Limit, LimitExceeded};
use crate::outcome::{Cause, EndedBy, Ending};
use crate::route::PathError;
use crate::upstream::NoEndpoint;
use crate::upstream::connect::ConnectError;
use crate::upstream::exchange::ExchangeError;
use crate::ws::close::CloseCode;
use crate::ws::handshake::{AnswerError, UpgradeError};
use http::{Method, StatusCode};
use std::time::Duration;

/// Why a request was not forwarded, or not answered by its upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The WebSocket handshake is invalid.
    #[error("{0}")]
    BadHandshake(#[from] UpgradeError),
    /// The path has no normal form.
    #[error("{0}")]
    Path(#[from] PathError),
    /// The request has no `Host` header, or several (RFC 9112 3.2).
    #[error("the request needs exactly one Host header")]
    Host,
    /// The `Host` header names no host (RFC 9112 3.2), or holds a name and a password (RFC 9110 4.2.4).
    #[error("the Host header names no host")]
    BadHost,
    /// `:scheme` is empty (RFC 9113 8.3.1). h2 accepts that.
    #[error(":scheme is empty")]
    Scheme,
    /// The rewritten target is too long.
    #[error("the target is over {MAX_TARGET} bytes once it is rewritten")]
    TargetTooLong,
    /// Two readers may disagree where the request's body ends (RFC 9112 6.1, 6.3).
    #[error("the length of the request's body is ambiguous: {0}")]
    Framing(&'static str),
    /// Holdline serves neither CONNECT tunnels nor TRACE. An answer to TRACE would show what the proxy adds
    /// to requests (nginx, 405).
    #[error("{0} is not served here")]
    Method(Method),
    /// The request comes from a page of another site.
    #[error("pages of {origin} may not open a WebSocket here{}", own_origin_note(own.as_deref()))]
    Origin {
        /// The request's `Origin`.
        origin: String,
        /// The origin that `"self"` stands for, if it is allowed.
        own: Option<String>,
    },
    /// The request's body ended early.
    #[error("{0}")]
    Body(#[from] UploadError),
    /// A limit is reached.
    #[error("{0}")]
    Limit(#[from] LimitExceeded),
    /// No route serves the host and path.
    #[error("no route serves this host and path")]
    NoRoute,
    /// No endpoint is available.
    #[error("{0}")]
    NoEndpoint(#[from] NoEndpoint),
    /// The last endpoint tried could not be connected to.
    #[error("{0}")]
    NotConnected(#[from] ConnectError),
    /// The endpoint gave no response.
    #[error("{0}")]
    NoAnswer(#[from] ExchangeError),
    /// The endpoint's 101 does not accept this WebSocket handshake.
    #[error("{0}")]
    BadAnswer(#[from] AnswerError),
    /// Two readers may disagree where the response's body ends.
    #[error("the length of its answer is ambiguous: {0}")]
    AnswerFraming(&'static str),
    /// The status is a 2xx: over HTTP/1.1 it refuses the WebSocket handshake, but over HTTP/2 it would accept it.
    #[error("the WebSocket handshake was answered with {0}, not with 101")]
    NotOpened(StatusCode),
    /// The endpoint switched protocols, but the request asked for no upgrade.
    #[error("it switched protocols although nobody asked")]
    UnexpectedUpgrade,
}

impl Failure {
    /// Returns the failure of an exchange without an answer. The client's body may have caused it.
    #[must_use]
    pub(crate) fn of_exchange(error: ExchangeError) -> Self {
        if !error.is_caused_by_body() {
            return Self::NoAnswer(error);
        }
        Self::Body(error.body_error().cloned().unwrap_or(UploadError::Broken))
    }

    /// Returns who is to blame for a failed try.
    #[must_use]
    pub(crate) fn blame(&self) -> Blame {
        match self {
            Self::NotConnected(error) if error.is_own() => Blame::Nobody,
            Self::NotConnected(_) | Self::BadAnswer(AnswerError::Accept) => Blame::Endpoint,
            Self::BadAnswer(error) if error.is_caused_by_request() => Blame::Nobody,
            Self::NoAnswer(_) | Self::BadAnswer(_) | Self::AnswerFraming(_) | Self::UnexpectedUpgrade => {
                Blame::Either
            }
            // The client or this proxy caused it.
            _ => Blame::Nobody,
        }
    }

    /// Returns the status that answers the client.
    #[must_use]
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadHandshake(error) => error.status(),
            Self::Path(_) | Self::Host | Self::BadHost | Self::Scheme | Self::Framing(_) => {
                StatusCode::BAD_REQUEST
            }
            // A client that closed only one half of its connection still reads (RFC 9112 8).
            Self::Body(UploadError::Malformed(_) | UploadError::Broken) => StatusCode::BAD_REQUEST,
            Self::Body(UploadError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(UploadError::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Origin { .. } => StatusCode::FORBIDDEN,
            // The proxy or the route is full, whatever this client does (nginx, `limit_conn_status`).
            Self::Limit(LimitExceeded { limit: Limit::MaxConnections | Limit::Connections, .. }) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Limit(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoEndpoint(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotConnected(ConnectError::TimedOut(_)) | Self::NoAnswer(ExchangeError::TimedOut(_)) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::NotConnected(error) if error.is_shortage() => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotConnected(_)
            | Self::NoAnswer(ExchangeError::Http(_))
            | Self::BadAnswer(_)
            | Self::AnswerFraming(_)
            | Self::NotOpened(_)
            | Self::UnexpectedUpgrade => StatusCode::BAD_GATEWAY,
        }
    }

    /// Returns the status in logs and metrics.
    #[must_use]
    pub(crate) fn logged_status(&self) -> StatusCode {
        match self {
            Self::Body(UploadError::Broken) => CLIENT_LEFT,
            _ => self.status(),
        }
    }

    /// Returns after what time the client may try again. `None` means that it is unknown.
    #[must_use]
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limit(refused) => refused.retry_after,
            _ => None,
        }
    }

    /// Returns the close code for clients whose handshakes are refused with one. `None` means that the
    /// request is at fault, and only a status can say so.
    #[must_use]
    pub(crate) fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::NoEndpoint(_) | Self::Limit(_) => Some(CloseCode::TRY_AGAIN_LATER),
            Self::NotConnected(error) if error.is_shortage() => Some(CloseCode::TRY_AGAIN_LATER),
            Self::NotConnected(_)
            | Self::NoAnswer(_)
            | Self::BadAnswer(_)
            | Self::AnswerFraming(_)
            | Self::NotOpened(_)
            | Self::UnexpectedUpgrade => Some(CloseCode::BAD_GATEWAY),
            _ => None,
        }
    }

    /// Returns the reason for the client. It names no host behind the proxy.
    #[must_use]
    pub(crate) fn public(&self) -> String {
        match self {
            Self::NotConnected(error) if error.is_exhausted() => "too many connections at once".to_owned(),
            Self::NotConnected(_) => "the upstream cannot be reached".to_owned(),
            Self::NoAnswer(ExchangeError::TimedOut(_)) => "the upstream did not answer in time".to_owned(),
            Self::NoAnswer(_) => "the upstream gave no answer".to_owned(),
            Self::BadAnswer(_) | Self::AnswerFraming(_) | Self::NotOpened(_) | Self::UnexpectedUpgrade => {
                "the upstream gave no valid answer".to_owned()
            }
            Self::NoEndpoint(_) => "no upstream server is available".to_owned(),
            other => other.to_string(),
        }
    }

    /// Returns the ending for the report.
    #[must_use]
    pub(crate) fn ending(&self) -> Ending {
        let (ended_by, cause) = match self {
            Self::BadHandshake(_)
            | Self::Path(_)
            | Self::Host
            | Self::BadHost
            | Self::Scheme
            | Self::TargetTooLong
            | Self::Framing(_)
            | Self::Method(_)
            | Self::Origin { .. }
            | Self::NoRoute => (EndedBy::Proxy, Cause::Refused),
            Self::Limit(_) => (EndedBy::Proxy, Cause::Limit),
            Self::Body(UploadError::TooLarge) => (EndedBy::Proxy, Cause::TooBig),
            Self::Body(UploadError::TooSlow | UploadError::Malformed(_)) => (EndedBy::Proxy, Cause::Refused),
            Self::Body(UploadError::Broken) => (EndedBy::Client, Cause::Eof),
            Self::NoEndpoint(_) => (EndedBy::Proxy, Cause::Unreachable),
            Self::NotConnected(error) if error.is_own() => (EndedBy::Proxy, Cause::Unreachable),
            Self::NotConnected(_) => (EndedBy::Upstream, Cause::Unreachable),
            Self::NoAnswer(ExchangeError::TimedOut(_)) => (EndedBy::Upstream, Cause::ResponseTimeout),
            Self::NoAnswer(error) if error.is_bad_answer() => (EndedBy::Upstream, Cause::BadAnswer),
            Self::NoAnswer(_) => (EndedBy::Upstream, Cause::Eof),
            Self::BadAnswer(_) | Self::AnswerFraming(_) | Self::NotOpened(_) | Self::UnexpectedUpgrade => {
                (EndedBy::Upstream, Cause::BadAnswer)
            }
        };
        Ending { reason: self.to_string().into(), ..Ending::new(ended_by, cause) }
    }
}

/// Who caused a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// No endpoint. The client or this proxy is at fault, and no other endpoint would do better.
    Nobody,
    /// The endpoint. No client can cause this failure.
    Endpoint,
    /// The endpoint or the request. It is the endpoint if other clients meet the same failure.
    Either,
}

fn own_origin_note(own: Option<&str>) -> String {
    own.map(|own| format!(", which is {own} itself")).unwrap_or_default()
}

/// The longest path and query that the `http` crate takes.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// nginx's status for a request whose client left before the answer. It appears only in logs and metrics.
pub(super) const CLIENT_LEFT: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};
