//! Owns an answer of HTTP/1 on its way to the client: when the client is waited for, and how it ends where it breaks
//! off.

use super::super::activity::Exchange;
use crate::http::respond::Body;
use hyper::body::{Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// An answer's body; when it is written or given up, the exchange is over. It is asked for more when
/// the client has taken what there was, so that between a piece and the next question it is the
/// client who is waited for.
pub(in crate::http::serve) struct Counted {
    body: Body,
    exchange: Arc<Exchange>,
    /// The client is waited for.
    waits: bool,
    /// It has failed. The client gets what came before, and then learns of it.
    failed: Option<Failed>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Why an answer's body failed, and the flush before it.
struct Failed {
    error: Error,
    flush: u64,
}

impl Counted {
    pub(in crate::http::serve) fn new(body: Body, exchange: Arc<Exchange>) -> Self {
        let mut counted = Self { body, exchange, waits: false, failed: None };
        counted.waits_for_client(true);
        counted
    }

    /// Gives the error back once all that came before it is written. The client is waited for meanwhile.
    fn poll_failed(&mut self, cx: &Context<'_>) -> Poll<Option<Error>> {
        if let (Some(failed), Some(activity)) = (&self.failed, self.exchange.activity()) {
            ready!(activity.flush.poll_done(failed.flush, cx));
        }
        Poll::Ready(self.failed.take().map(|failed| failed.error))
    }

    fn waits_for_client(&mut self, waits: bool) {
        let Some(activity) = self.exchange.activity().filter(|_| waits != self.waits) else { return };
        self.waits = waits;
        activity.waits_for_client(waits);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waits_for_client(false);
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.failed.is_some() {
            return self.poll_failed(cx).map(|error| error.map(Err));
        }
        self.waits_for_client(false);
        let next = Pin::new(&mut self.body).poll_frame(cx);
        self.waits_for_client(matches!(next, Poll::Ready(Some(_))));
        match (next, self.exchange.activity()) {
            (Poll::Ready(Some(Err(error))), Some(activity)) => {
                self.failed = Some(Failed { error, flush: activity.flush.ask() });
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
