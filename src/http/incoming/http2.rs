//! Owns a request body that arrives in an HTTP/2 stream.

use super::UploadError;
use bytes::Bytes;
use h2::RecvStream;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// A request's body. Only END_STREAM ends it. A reset with any code is an error.
pub(crate) struct Http2Body {
    stream: RecvStream,
    /// Missing bytes by its `Content-Length`, which `h2` enforces (RFC 9113 8.1.1).
    left: Option<u64>,
    /// Sends 100 (Continue) when Holdline first waits for the body, to a client that expects it (RFC 9110
    /// 10.1.1).
    continue_sender: Option<mpsc::Sender<Response<()>>>,
    /// Keeps the request active while the body comes, even if the response has ended.
    _request: Arc<dyn Any + Send + Sync>,
}

impl Http2Body {
    /// Creates a body. `interim` sends interim responses. It holds `request` until it is dropped.
    pub(in crate::http) fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        interim: &mpsc::Sender<Response<()>>,
        request: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        // h2 has checked that it consists of digits (RFC 9113 8.1.1).
        let digits = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
        let add =
            |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0')?));
        let left = digits.and_then(|digits| digits.iter().try_fold(0, add));
        let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        let continue_sender = headers.get(EXPECT).filter(|value| expects(value)).map(|_| interim.clone());
        Self { stream, left, continue_sender, _request: request }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) if self.stream.is_end_stream() => None,
            Ok(None) => Some(Err(UploadError::Broken)),
            Err(error) => Some(Err(error.into())),
        })
    }
}

impl fmt::Debug for Http2Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Body")
            .field("stream", &self.stream)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let next = self.stream.poll_data(cx);
        if let Some(client) = self.continue_sender.take().filter(|_| next.is_pending()) {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::CONTINUE;
            // A client that has its response does not wait for it.
            let _ = client.try_send(head);
        }
        match ready!(next) {
            Some(Ok(data)) => {
                // It fails only if the stream has ended. Then the window does not matter.
                let _ = self.stream.flow_control().release_capacity(data.len());
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => self.poll_end(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl From<h2::Error> for UploadError {
    /// Errors that the library found are malformed bodies (RFC 9113 8.1.1). All others come from the client.
    fn from(error: h2::Error) -> Self {
        if error.is_library() { Self::Malformed(error.to_string()) } else { Self::Broken }
    }
}
