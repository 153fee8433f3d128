//! Owns one HTTP/1.1 exchange over a connection to an endpoint.

use super::bound_login;
use super::resources::ConnectionResources;
use crate::capacity::Descriptor;
use crate::clock::timeout;
use crate::drain::Watch;
use crate::io::{PrefixedStream, Stream};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A streamed body of any kind.
pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Maximum size of a response head, and of its trailers.
const MAX_HEAD: usize = 64 * 1024;

/// Why there was no response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection broke, or the response is not HTTP.
    #[error("{}", innermost(.0))]
    Http(#[from] hyper::Error),
    /// No response head within `response_timeout`.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl ExchangeError {
    /// Whether the request's body failed. The endpoint is then not to blame.
    #[must_use]
    pub fn is_caused_by_body(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_user())
    }

    /// Returns the error of the request's body. `None` means that the body did not fail, or failed with another
    /// type of error.
    #[must_use]
    pub fn body_error<T: std::error::Error + 'static>(&self) -> Option<&T> {
        let Self::Http(error) = self else { return None };
        let mut cause: Option<&dyn std::error::Error> = error.is_user().then_some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }

    /// Whether the endpoint answered with something other than HTTP.
    #[must_use]
    pub fn is_bad_answer(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_parse())
    }
}

/// What an endpoint answers.
#[derive(Debug)]
pub enum Answer {
    /// A response, and its body.
    Response(Response<ResponseBody>),
    /// The head of a 101, and the stream that follows.
    Tunnel(Parts, EndpointStream),
}

/// The body of a response, as it comes.
#[derive(Debug)]
pub struct ResponseBody(Incoming);

/// Why a response's body broke off. Its source tells whether the connection broke or the body is malformed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(#[source] hyper::Error);

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(BodyError)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// The stream to an endpoint that switched protocols.
#[derive(Debug)]
pub struct EndpointStream(OnUpgrade);

impl EndpointStream {
    /// Waits until hyper has sent the request's body and gives up the socket. Returns the stream and the bytes
    /// already read from it. They are copied, because keeping hyper's would keep its whole buffer. `None` means
    /// that the endpoint left.
    pub async fn into_stream(self) -> Option<PrefixedStream<Stream>> {
        let parts = self.0.await.ok()?.downcast::<TokioIo<Stream>>().ok()?;
        Some(PrefixedStream { stream: parts.io.into_inner(), ahead: parts.read_buf.to_vec() })
    }
}

/// A connection to an endpoint, for one exchange after another. Dropping it closes it.
#[derive(Debug)]
pub struct EndpointConnection {
    sender: http1::SendRequest<Body>,
    /// Whether it has served an exchange. The endpoint may be closing it right now.
    pub used: bool,
    resources: ConnectionResources,
    /// A login is bound to it, so only its client may use it.
    is_private: bool,
    /// A request on it asked for an upgrade. Only the server knows what it is now.
    was_asked_to_upgrade: bool,
}

/// How long a connection may take to become ready after an exchange.
const SETTLING: Duration = Duration::from_secs(1);

impl EndpointConnection {
    /// Starts HTTP on a stream, and holds its resources.
    ///
    /// # Errors
    /// Returns [`ExchangeError::Http`] if the stream broke.
    pub async fn new(
        stream: Stream,
        resources: ConnectionResources,
        watch: Watch,
    ) -> Result<Self, ExchangeError> {
        let mut builder = http1::Builder::new();
        // Some servers look for `Sec-WebSocket-Key` in just this case.
        builder.preserve_header_case(true).max_buf_size(MAX_HEAD).max_header_size(MAX_HEAD);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let descriptor = resources.descriptor.clone();
        tokio::spawn(async move {
            let _held = (watch, descriptor);
            // The response or its body reports its errors.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, used: false, resources, is_private: false, was_asked_to_upgrade: false })
    }

    /// Returns its resources, for the tunnel that it becomes.
    #[must_use]
    pub fn into_resources(self) -> ConnectionResources {
        self.resources
    }

    /// Returns its descriptor, if descriptors are counted.
    pub(super) fn descriptor(&self) -> Option<&Descriptor> {
        self.resources.descriptor.as_deref()
    }

    /// Sends a request and waits for the head of its answer, at most for `limit` (nginx, `proxy_read_timeout`
    /// before the header).
    ///
    /// # Errors
    /// Returns why there is no response.
    pub async fn exchange(
        &mut self,
        request: Request<Body>,
        limit: Option<Duration>,
    ) -> Result<Answer, ExchangeError> {
        self.is_private |= bound_login::has_credentials(request.headers());
        self.was_asked_to_upgrade |= request.headers().contains_key(UPGRADE);
        let answer = self.sender.send_request(framed(request));
        self.used = true;
        let mut answer = match limit {
            None => answer.await?,
            Some(limit) => timeout(limit, answer).await.map_err(|_| ExchangeError::TimedOut(limit))??,
        };
        self.is_private |= bound_login::has_challenge(answer.headers());
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let stream = EndpointStream(hyper::upgrade::on(&mut answer));
            return Ok(Answer::Tunnel(answer.into_parts().0, stream));
        }
        Ok(Answer::Response(answer.map(ResponseBody)))
    }

    /// Whether a login is bound to it, so that it serves only one client.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// Whether it may serve any client next.
    #[must_use]
    pub fn is_shareable(&self) -> bool {
        !self.is_private && !self.was_asked_to_upgrade
    }

    /// Waits shortly until it can take another request. Returns whether it can.
    pub async fn wait_ready(&mut self) -> bool {
        matches!(timeout(SETTLING, self.sender.ready()).await, Ok(Ok(())))
    }

    /// Whether it can take a request now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether it is closed to further requests.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Calls `tell` for each interim response (1xx) to a request (RFC 9110 15.2), except for a 100, which is for
/// this proxy, and a 101, which is the final response.
pub(crate) fn on_interim<F>(request: &mut Request<Body>, tell: F)
where
    F: Fn(StatusCode, &HeaderMap) + Send + Sync + 'static,
{
    hyper::ext::on_informational(request, move |response| match response.status() {
        StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS => {}
        status => tell(status, response.headers()),
    });
}

/// Frames a request so that hyper sends its body whatever its method is (RFC 9112 6). By default, hyper drops
/// the body of a GET or HEAD of unknown length.
fn framed(mut request: Request<Body>) -> Request<Body> {
    let body = request.body();
    let is_unknown = !body.is_end_stream() && body.size_hint().exact().is_none();
    if is_unknown && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}

/// hyper's own message hides the cause. The innermost error names it.
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
