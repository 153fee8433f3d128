//! Owns the body of a request as it comes, whatever version of HTTP it comes over.

mod http2;

use super::malformed::Malformed;
pub(crate) use http2::Http2Body;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The body of a request.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Of HTTP/1.
    Http1(hyper::body::Incoming),
    /// Of HTTP/2.
    Http2(Http2Body),
    /// None.
    Empty,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Http1(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// Why a request's body failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadError {
    /// The client sent nothing for `body_timeout`.
    #[error("nothing of the request's body came within body_timeout")]
    TooSlow,
    /// It exceeds `max_body_size`.
    #[error("the request's body is over max_body_size")]
    TooLarge,
    /// It violates its framing.
    #[error("the request's body is malformed: {0}")]
    Malformed(String),
    /// The client left.
    #[error("client left before the end of the request's body")]
    Broken,
}

impl From<hyper::Error> for UploadError {
    fn from(error: hyper::Error) -> Self {
        match Malformed::of(&error) {
            Some(Malformed::Trailers(text) | Malformed::Framing(text)) => Self::Malformed(text),
            None => Self::Broken,
        }
    }
}
