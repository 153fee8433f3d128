//! Owns a request's body as a stream of HTTP/2 brings it.

use crate::http::upload::UploadError;
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

/// A request's body. It ends with END_STREAM only: a reset, whatever its code, is an error.
pub struct Received {
    stream: RecvStream,
    /// Bytes that are still to come by its `Content-Length`, to which `h2` holds it (RFC 9113 8.1.1).
    left: Option<u64>,
    /// Says 100 (Continue) when the body is first waited for, to a client that waits for that (RFC 9110 10.1.1).
    invite: Option<mpsc::Sender<Response<()>>>,
    /// Its request is under way while it comes, though the answer may have ended.
    _request: Arc<dyn Any + Send + Sync>,
}

impl Received {
    /// `interim` takes answers that go ahead of the answer. `request` is kept until the body is dropped.
    pub(in crate::http) fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        interim: &mpsc::Sender<Response<()>>,
        request: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        // h2 has found that it is digits (RFC 9113 8.1.1).
        let digits = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
        let add =
            |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0')?));
        let left = digits.and_then(|digits| digits.iter().try_fold(0, add));
        let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        let invite = headers.get(EXPECT).filter(|value| expects(value)).map(|_| interim.clone());
        Self { stream, left, invite, _request: request }
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

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("stream", &self.stream)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let next = self.stream.poll_data(cx);
        if let Some(client) = self.invite.take().filter(|_| next.is_pending()) {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::CONTINUE;
            // One that is answered already does not wait for it.
            let _ = client.try_send(head);
        }
        match ready!(next) {
            Some(Ok(data)) => {
                // It fails only when the stream has ended, and needs no window.
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
    /// What the library found is malformed (RFC 9113 8.1.1); all else was done by the client.
    fn from(error: h2::Error) -> Self {
        if error.is_library() { Self::Malformed(error.to_string()) } else { Self::Broken }
    }
}
