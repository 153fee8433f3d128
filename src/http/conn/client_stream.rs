//! Owns the stream of a client's request: what Holdline may do with it while it answers, and the byte stream
//! that remains when the request becomes a tunnel. Beyond it nobody knows hyper or h2.

use super::http1::ObservedStream;
use super::http2::PendingTunnel;
use super::shared::{ConnectionEnd, InterimSender, RequestGuard};
use crate::capacity::Slot;
use crate::io::{PrefixedStream, Stream};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, PoisonError};

/// What the stream of a request becomes after a 101, or a 2xx to CONNECT.
#[derive(Clone, Debug)]
pub(super) enum PendingStream {
    /// The whole connection, after a 101.
    Http1(OnUpgrade),
    /// The stream of a CONNECT, after a 2xx.
    Http2(Arc<Mutex<Option<PendingTunnel>>>),
    /// Nothing: another request of HTTP/2.
    None,
}

impl PendingStream {
    pub(super) fn over_http2(opened: Option<PendingTunnel>) -> Self {
        opened.map_or(Self::None, |opened| Self::Http2(Arc::new(Mutex::new(Some(opened)))))
    }
}

/// The connection or HTTP/2 stream of a request. It becomes a tunnel after a 101, or a 2xx to CONNECT.
#[derive(Clone, Debug)]
pub(crate) struct ClientStream {
    pending: PendingStream,
    version: http::Version,
    request_guard: Arc<RequestGuard>,
}

impl ClientStream {
    pub(super) fn new(
        pending: PendingStream,
        version: http::Version,
        request_guard: Arc<RequestGuard>,
    ) -> Self {
        Self { pending, version, request_guard }
    }

    /// Returns a handle to the end of the connection.
    #[must_use]
    pub(crate) fn connection_end(&self) -> ConnectionEnd {
        self.request_guard.connection_end()
    }

    /// Returns what sends interim responses to the client. `None` means that HTTP/1.0 has none (RFC 9110
    /// 15.2).
    #[must_use]
    pub(crate) fn interim_sender(&self) -> Option<InterimSender> {
        (self.version >= http::Version::HTTP_11).then(|| self.request_guard.interim_sender())
    }

    /// Waits until there is room for a connection to an upstream. The request or its tunnel holds it to
    /// its end.
    pub(crate) async fn wait_for_room(&self, slot: &Slot) {
        self.request_guard.wait_for_room(slot).await;
    }

    /// Waits until the response is written. Returns the stream and the bytes already read from it. They are
    /// copied, because keeping hyper's would keep its whole buffer. `None` means that the client left first.
    pub(crate) async fn into_stream(self) -> Option<PrefixedStream<Stream>> {
        let upgraded = match self.pending {
            PendingStream::Http1(upgrade) => upgrade.await.ok()?,
            PendingStream::Http2(opened) => {
                let opened = opened.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stream = Stream::Layered(Box::new(opened?.await.ok()?));
                return Some(PrefixedStream { stream, ahead: Vec::new() });
            }
            PendingStream::None => return None,
        };
        let parts = upgraded.downcast::<TokioIo<ObservedStream>>().ok()?;
        let (stream, held) = parts.io.into_inner().into_parts();
        Some(PrefixedStream { stream, ahead: [&parts.read_buf[..], &held].concat() })
    }
}
