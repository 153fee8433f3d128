//! Owns what a request takes along of the connection that it came over: its body's settings, its room, and the
//! stream that is left when it becomes a tunnel.

use super::activity::{Exchange, Fate};
use super::hints::Hints;
use super::http1::Watched;
use super::http2::Tunnel;
use crate::http::incoming::Incoming;
use crate::http::upload::Upload;
use crate::io::Stream;
use crate::slots::Slot;
use http::Request;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// What a request is told of its listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    pub(super) body_timeout: Option<Duration>,
    pub(super) underscores: bool,
}

/// The tunnel of a CONNECT of HTTP/2, once it is answered so.
#[derive(Clone, Debug)]
pub(super) struct OnTunnel(Arc<Mutex<Option<oneshot::Receiver<Tunnel>>>>);

impl OnTunnel {
    pub(super) fn new(opened: oneshot::Receiver<Tunnel>) -> Self {
        Self(Arc::new(Mutex::new(Some(opened))))
    }

    /// Waits for it; `None` means that the client left before, or that another asked.
    async fn opened(self) -> Option<Tunnel> {
        let opened = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        opened?.await.ok()
    }
}

#[derive(Clone, Debug)]
enum On {
    Http1(OnUpgrade),
    Http2(OnTunnel),
}

/// The connection, or the stream of HTTP/2, that a request came over: a tunnel once it is answered
/// so.
#[derive(Clone, Debug)]
pub struct Upgrade {
    on: On,
    ways: Option<Ways>,
    version: http::Version,
    exchange: Option<Arc<Exchange>>,
}

impl Upgrade {
    /// That of a request.
    #[must_use]
    pub fn of(request: &mut Request<Incoming>) -> Self {
        let tunnel = request.extensions_mut().remove();
        let on = tunnel.map_or_else(|| On::Http1(hyper::upgrade::on(&mut *request)), On::Http2);
        Self {
            on,
            ways: request.extensions_mut().remove(),
            version: request.version(),
            exchange: request.extensions_mut().remove(),
        }
    }

    /// What is going to become of the connection.
    #[must_use]
    pub fn fate(&self) -> Option<Fate> {
        self.exchange.as_ref().map(|exchange| exchange.fate())
    }

    /// What passes interim answers to the client. `None` means that it cannot be sent any: HTTP/1.0 knows none
    /// (RFC 9110 15.2).
    #[must_use]
    pub fn hints(&self) -> Option<Hints> {
        let exchange = self.exchange.as_ref().filter(|_| self.version >= http::Version::HTTP_11);
        exchange.map(|exchange| exchange.hints())
    }

    /// Waits until there is room for a connection to an upstream. It is kept until the exchange is over, or its
    /// tunnel.
    pub async fn make_room(&self, slot: &Slot) {
        if let Some(exchange) = &self.exchange {
            exchange.make_room(slot).await;
        }
    }

    /// A request's body, with the patience that its listener has for it.
    #[must_use]
    pub fn upload(&self, body: Incoming) -> Upload {
        let is_flagged = self.version == http::Version::HTTP_2;
        let Some(Ways { body_timeout, underscores }) = self.ways else {
            return Upload::new(body, None, is_flagged);
        };
        Upload::new(body, body_timeout, is_flagged).with_underscores(underscores)
    }

    /// Waits until the answer is written; then the stream, and what was read from it ahead. The
    /// bytes are copied: to keep hyper's would keep its whole buffer. `None` means that the client left before.
    pub async fn into_stream(self) -> Option<(Stream, Vec<u8>)> {
        let upgraded = match self.on {
            On::Http1(on) => on.await.ok()?,
            On::Http2(on) => return Some((Stream::Layered(Box::new(on.opened().await?)), Vec::new())),
        };
        let parts = upgraded.downcast::<TokioIo<Watched>>().ok()?;
        let (stream, held) = parts.io.into_inner().into_parts();
        Some((stream, [&parts.read_buf[..], &held].concat()))
    }
}
