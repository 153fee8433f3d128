//! Owns an HTTP/1 response on its way to the client: when Holdline waits for the client, and how a broken
//! response ends.

use super::super::shared::RequestGuard;
use crate::http::body::Body;
use hyper::body::{Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A response body. The exchange is over when the body is written or dropped. hyper polls it once the client
/// has accepted the previous data, so between two polls Holdline waits for the client.
pub(in crate::http::conn) struct ResponseBody {
    body: Body,
    request_guard: Arc<RequestGuard>,
    /// Whether Holdline waits for the client.
    waits: bool,
    /// Set when it has failed. The client first gets the data before the failure.
    failed: Option<Failed>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Why a response body failed, and the flush before it.
struct Failed {
    error: Error,
    flush: u64,
}

impl ResponseBody {
    pub(in crate::http::conn) fn new(body: Body, request_guard: Arc<RequestGuard>) -> Self {
        let mut response_body = Self { body, request_guard, waits: false, failed: None };
        response_body.set_waiting_for_client(true);
        response_body
    }

    /// Returns the error once all data before it is written. Until then Holdline waits for the client.
    fn poll_failed(&mut self, cx: &Context<'_>) -> Poll<Option<Error>> {
        if let (Some(failed), Some(conn_state)) = (&self.failed, self.request_guard.conn_state()) {
            ready!(conn_state.flush.poll_done(failed.flush, cx));
        }
        Poll::Ready(self.failed.take().map(|failed| failed.error))
    }

    fn set_waiting_for_client(&mut self, waits: bool) {
        let Some(conn_state) = self.request_guard.conn_state().filter(|_| waits != self.waits) else {
            return;
        };
        self.waits = waits;
        conn_state.set_waiting_for_client(waits);
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.set_waiting_for_client(false);
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.failed.is_some() {
            return self.poll_failed(cx).map(|error| error.map(Err));
        }
        self.set_waiting_for_client(false);
        let next = Pin::new(&mut self.body).poll_frame(cx);
        self.set_waiting_for_client(matches!(next, Poll::Ready(Some(_))));
        match (next, self.request_guard.conn_state()) {
            (Poll::Ready(Some(Err(error))), Some(conn_state)) => {
                self.failed = Some(Failed { error, flush: conn_state.flush.request() });
                self.poll_failed(cx).map(|error| error.map(Err))
            }
            (next, _) => next,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
