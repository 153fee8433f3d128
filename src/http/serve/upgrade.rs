//! Owns what a request keeps of its connection: the settings of its body, the capacity it holds, and the
//! stream that remains when it becomes a tunnel.

use super::conn_state::{ConnectionEnd, RequestGuard};
use super::http1::ObservedStream;
use super::http2::Http2Tunnel;
use super::interim_sender::InterimSender;
use crate::capacity::Slot;
use crate::http::incoming::Incoming;
use crate::http::upload::Upload;
use crate::io::Stream;
use http::Request;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The settings of the listener that apply to a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestOptions {
    pub(super) body_timeout: Option<Duration>,
    pub(super) underscores: bool,
}

/// The future tunnel of an HTTP/2 CONNECT, which opens with a 2xx response.
#[derive(Clone, Debug)]
pub(super) struct PendingTunnel(Arc<Mutex<Option<oneshot::Receiver<Http2Tunnel>>>>);

impl PendingTunnel {
    pub(super) fn new(opened: oneshot::Receiver<Http2Tunnel>) -> Self {
        Self(Arc::new(Mutex::new(Some(opened))))
    }

    /// Waits for the tunnel. `None` means that the client left first, or that another caller took it.
    async fn opened(self) -> Option<Http2Tunnel> {
        let opened = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        opened?.await.ok()
    }
}

#[derive(Clone, Debug)]
enum PendingUpgrade {
    Http1(OnUpgrade),
    Http2(PendingTunnel),
}

/// The connection or HTTP/2 stream of a request. It becomes a tunnel with the right response.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pending: PendingUpgrade,
    options: Option<RequestOptions>,
    version: http::Version,
    request_guard: Option<Arc<RequestGuard>>,
}

impl Upgrade {
    /// Takes it from a request.
    #[must_use]
    pub fn of(request: &mut Request<Incoming>) -> Self {
        let tunnel = request.extensions_mut().remove();
        let pending = tunnel
            .map_or_else(|| PendingUpgrade::Http1(hyper::upgrade::on(&mut *request)), PendingUpgrade::Http2);
        Self {
            pending,
            options: request.extensions_mut().remove(),
            version: request.version(),
            request_guard: request.extensions_mut().remove(),
        }
    }

    /// Returns a handle to the end of the connection.
    #[must_use]
    pub fn connection_end(&self) -> Option<ConnectionEnd> {
        self.request_guard.as_ref().map(|request_guard| request_guard.connection_end())
    }

    /// Returns what sends interim responses to the client. `None` means that HTTP/1.0 has none (RFC 9110
    /// 15.2).
    #[must_use]
    pub fn interim_sender(&self) -> Option<InterimSender> {
        let request_guard = self.request_guard.as_ref().filter(|_| self.version >= http::Version::HTTP_11);
        request_guard.map(|request_guard| request_guard.interim_sender())
    }

    /// Waits until there is capacity for a connection to an upstream. The request or its tunnel holds it to
    /// its end.
    pub async fn wait_for_capacity(&self, slot: &Slot) {
        if let Some(request_guard) = &self.request_guard {
            request_guard.wait_for_capacity(slot).await;
        }
    }

    /// Returns a request's body with the listener's timeout.
    #[must_use]
    pub fn upload(&self, body: Incoming) -> Upload {
        let is_flagged = self.version == http::Version::HTTP_2;
        let Some(RequestOptions { body_timeout, underscores }) = self.options else {
            return Upload::new(body, None, is_flagged);
        };
        Upload::new(body, body_timeout, is_flagged).with_underscores(underscores)
    }

    /// Waits until the response is written. Returns the stream and the bytes already read from it. They are
    /// copied, because keeping hyper's would keep its whole buffer. `None` means that the client left first.
    pub async fn into_stream(self) -> Option<(Stream, Vec<u8>)> {
        let upgraded = match self.pending {
            PendingUpgrade::Http1(upgrade) => upgrade.await.ok()?,
            PendingUpgrade::Http2(tunnel) => {
                return Some((Stream::Layered(Box::new(tunnel.opened().await?)), Vec::new()));
            }
        };
        let parts = upgraded.downcast::<TokioIo<ObservedStream>>().ok()?;
        let (stream, held) = parts.io.into_inner().into_parts();
        Some((stream, [&parts.read_buf[..], &held].concat()))
    }
}
