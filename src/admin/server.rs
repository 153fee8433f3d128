//! Owns the listener of the admin endpoint and its HTTP/1.1 connections. It has its own limits, so that
//! clients and operators cannot take each other's slots.

use super::access::Requester;
use super::{Admin, Settings, router};
use crate::addr::ListenAddr;
use crate::capacity::{LOOK, Slots};
use crate::drain::Watch;
use crate::http::body::Body;
use crate::io::{Stream, TcpOptions};
use crate::listener::accept::AcceptLoop;
use crate::listener::socket::{BindError, Bound as Socket, Inherited, bind_for_group};
use crate::listener::{self, Accepted};
use hyper::Request;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The bound socket of the admin endpoint.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: Socket,
    address: ListenAddr,
}

/// Binds the socket. A unix socket is accessible to its owner and group.
///
/// # Errors
/// Returns [`BindError`] if the socket cannot be bound.
pub(crate) async fn bind(settings: &Settings, inherited: &Inherited) -> Result<Bound, BindError> {
    let address = settings.address.clone();
    let socket = listener::Settings {
        address: address.clone(),
        backlog: BACKLOG,
        reuse_port: false,
        proxy_protocol: false,
        tls: None,
        tcp: TcpOptions::default(),
    };
    Ok(Bound { socket: bind_for_group(&socket, inherited).await?, address })
}

impl Bound {
    /// Starts to accept. Connections end with the watch.
    #[must_use]
    pub(crate) fn serve(self, admin: &Arc<Admin>, watch: &Watch) -> AcceptLoop {
        let Self { socket, address } = self;
        match socket.local_addr() {
            Some(local) => tracing::info!(%address, %local, "admin endpoint"),
            None => tracing::info!(%address, "admin endpoint"),
        }
        let connections = CONNECTIONS.min(admin.slots.reserved() / 2);
        let slots = Slots::new(connections, "it is the admin endpoint's own bound");
        let (admin, ending) = (Arc::clone(admin), watch.clone());
        let serve = move |accepted: Accepted| {
            tokio::spawn(serve_one(accepted, Arc::clone(&admin), ending.clone()));
        };
        AcceptLoop::start(socket, address, slots, TcpOptions::default, watch, serve)
    }
}

/// Serves one connection.
async fn serve_one(accepted: Accepted, admin: Arc<Admin>, mut watch: Watch) {
    let Accepted { stream, slot, client } = accepted;
    let requester = Requester::of(&stream, client);
    let ending = watch.clone();
    let idleness = Arc::new(Idleness::default());
    let asked = Arc::clone(&idleness);
    let service = service_fn(move |request: Request<Incoming>| {
        let (admin, requester, ending) = (Arc::clone(&admin), requester.clone(), ending.clone());
        let busy = admin.is_known(request.headers()).then(|| ActiveRequest::begin(&asked));
        async move {
            let answer = router::answer(&admin, requester, request, ending).await;
            Ok::<_, Infallible>(answer.map(|body| TrackedBody { body, _busy: busy }))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD);
    let connection =
        http.serve_connection(TokioIo::new(SendTimeoutStream { stream, stalled: None }), service);
    tokio::pin!(connection);
    let evicted = slot.evicted(PATIENCE, LOOK, || idleness.waited());
    tokio::pin!(evicted);
    let mut end = watch.clone();
    let mut draining = false;
    loop {
        tokio::select! {
            // A request that has come counts before the wait for it.
            biased;
            // The result does not matter: the request was answered, or its sender has left.
            _ = &mut connection => return,
            () = watch.draining(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = end.expired() => return,
            _ = &mut evicted => return,
        }
    }
}

/// Since when a connection has sent no authorised request.
#[derive(Debug)]
struct Idleness(Mutex<Asking>);

#[derive(Debug)]
struct Asking {
    requests: usize,
    idle_since: Instant,
}

/// Marks an authorised request as active.
#[derive(Debug)]
struct ActiveRequest(Arc<Idleness>);

impl Default for Idleness {
    fn default() -> Self {
        Self(Mutex::new(Asking { requests: 0, idle_since: Instant::now() }))
    }
}

impl Idleness {
    /// Returns how long the connection has sent no authorised request. `None` means that one is active.
    fn waited(&self) -> Option<Duration> {
        let asking = self.lock();
        (asking.requests == 0).then(|| asking.idle_since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveRequest {
    fn begin(idleness: &Arc<Idleness>) -> Self {
        idleness.lock().requests += 1;
        Self(Arc::clone(idleness))
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let mut asking = self.0.lock();
        asking.requests -= 1;
        asking.idle_since = Instant::now();
    }
}

/// A response body. The request is active until this is dropped.
struct TrackedBody {
    body: Body,
    _busy: Option<ActiveRequest>,
}

impl hyper::body::Body for TrackedBody {
    type Data = Bytes;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that fails if its peer accepts nothing for [`SEND_TIMEOUT`] while data is ready. Otherwise a
/// suspended viewer would hold its slot for ever.
struct SendTimeoutStream {
    stream: Stream,
    /// Runs while data waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for SendTimeoutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for SendTimeoutStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(SEND_TIMEOUT)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Maximum number of connections: some viewers of the page with a few each, a scraper, health checks.
const CONNECTIONS: usize = 64;

/// Accept backlog. With a smaller one, the kernel would delay some connections by a second.
const BACKLOG: u32 = 1024;

/// How long a connection may be idle while others need its slot: from its start, or the last response, to an
/// authorised request. It is short, because a health check may be waiting.
const PATIENCE: Duration = Duration::from_millis(250);

/// Time limit for a request head, from the start of the connection or the end of the last response.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of a head. It includes a browser's cookies for other ports of this host.
const MAX_HEAD: usize = 32 * 1024;

/// How long a peer may accept nothing while data is ready.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_sleeps_is_given_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut patient = SendTimeoutStream { stream: Stream::Unix(ours), stalled: None };
        let started = tokio::time::Instant::now();
        let error = loop {
            if let Err(error) = patient.write_all(&[0; 4096]).await {
                break error;
            }
        };
        assert_eq!(
            (error.kind(), started.elapsed().as_secs()),
            (io::ErrorKind::TimedOut, SEND_TIMEOUT.as_secs())
        );
        drop(theirs);
    }
}
