//! Owns one HTTP/1.1 exchange over a connection to an endpoint.

use super::connect::Taken;
use super::login;
use crate::drain::Watch;
use crate::io::Stream;
use crate::slots::File;
use crate::stall::timeout;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// Any body, streamed.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What an answer's head may measure, and its trailer section.
const MAX_HEAD: usize = 64 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection broke, or what came is no HTTP.
    #[error("{}", innermost(.0))]
    Http(#[from] hyper::Error),
    /// No head within `response_timeout`.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl ExchangeError {
    /// The request's body broke off before its end: the endpoint is not to blame. What its source said
    /// of it, if that is of a kind `T`, or nothing.
    #[must_use]
    pub fn body_error<T: std::error::Error + 'static>(&self) -> Option<Option<&T>> {
        let Self::Http(error) = self else { return None };
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        error.is_user().then(|| {
            while let Some(error) = cause {
                if let Some(found) = error.downcast_ref() {
                    return Some(found);
                }
                cause = error.source();
            }
            None
        })
    }

    /// The endpoint did answer, but not with HTTP.
    #[must_use]
    pub fn is_bad_answer(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_parse())
    }
}

/// A connection to an endpoint, for one exchange after another. Dropped, it is closed.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Body>,
    /// It has served an exchange before: the endpoint may be closing it just now.
    pub used: bool,
    taken: Taken,
    /// A login is bound to it: it is its client's alone.
    is_private: bool,
    /// It was asked to become something else, and what it is now only its server knows.
    was_asked_to_upgrade: bool,
}

/// How long a connection whose exchange has ended may take to be ready for the next one.
const SETTLING: Duration = Duration::from_secs(1);

impl Connection {
    /// Makes HTTP of a stream, and holds what it takes.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn new(stream: Stream, taken: Taken, watch: Watch) -> Result<Self, ExchangeError> {
        let mut builder = http1::Builder::new();
        // Some servers look for `Sec-WebSocket-Key` in just this case.
        builder.preserve_header_case(true).max_buf_size(MAX_HEAD).max_header_size(MAX_HEAD);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let file = taken.file.clone();
        tokio::spawn(async move {
            let _held = (watch, file);
            // Its errors reach whoever waits for the answer or its body.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, used: false, taken, is_private: false, was_asked_to_upgrade: false })
    }

    /// What it takes, for what it becomes.
    #[must_use]
    pub fn into_taken(self) -> Taken {
        self.taken
    }

    /// Its descriptor, if those are counted.
    pub(super) fn file(&self) -> Option<&File> {
        self.taken.file.as_deref()
    }

    /// Sends a request and waits for the head of its answer, for `limit` at most (nginx,
    /// `proxy_read_timeout` before the header). A 101 can be taken over with `hyper::upgrade::on`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn exchange(
        &mut self,
        request: Request<Body>,
        limit: Option<Duration>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        self.is_private |= login::has_credentials(request.headers());
        self.was_asked_to_upgrade |= request.headers().contains_key(UPGRADE);
        let answer = self.sender.send_request(framed(request));
        self.used = true;
        let answer = match limit {
            None => answer.await?,
            Some(limit) => timeout(limit, answer).await.map_err(|_| ExchangeError::TimedOut(limit))??,
        };
        self.is_private |= login::has_challenge(answer.headers());
        Ok(answer)
    }

    /// Whether a login is bound to it, so that it serves the client alone that it was made for.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// Whether it may serve any client next.
    #[must_use]
    pub fn is_anybodys(&self) -> bool {
        !self.is_private && !self.was_asked_to_upgrade
    }

    /// Waits until a request can be sent, which is never long after an exchange; whether that is so.
    pub async fn settle(&mut self) -> bool {
        matches!(timeout(SETTLING, self.sender.ready()).await, Ok(Ok(())))
    }

    /// Whether a request can be sent now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether there will never be another exchange.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Has interim answers (1xx) to a request told of (RFC 9110 15.2). A 100 is for this proxy, and a 101 is the
/// answer.
pub fn on_interim<F>(request: &mut Request<Body>, tell: F)
where
    F: Fn(StatusCode, &HeaderMap) + Send + Sync + 'static,
{
    hyper::ext::on_informational(request, move |response| match response.status() {
        StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS => {}
        status => tell(status, response.headers()),
    });
}

/// A request whose body goes on whatever its method is: framing is independent of it (RFC 9112 6). hyper
/// sends a GET or HEAD of unknown length without its body, unless it is told to send chunks.
fn framed(mut request: Request<Body>) -> Request<Body> {
    let body = request.body();
    let is_unknown = !body.is_end_stream() && body.size_hint().exact().is_none();
    if is_unknown && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}

/// hyper's own words hide the cause; the innermost error is the one to read.
fn innermost(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if error.is_incomplete_message() {
        "connection closed before an answer".to_owned()
    } else if error.is_parse() {
        format!("not a valid HTTP/1.1 answer: {cause}")
    } else {
        cause.to_string()
    }
}
