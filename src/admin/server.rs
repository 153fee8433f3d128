//! Owns the listener of the admin endpoint and its connections: HTTP/1.1, within bounds of its own, so that neither
//! clients nor operators can take the other's places.

use super::access::Asker;
use super::{Admin, Settings, router};
use crate::addr::ListenAddr;
use crate::drain::Watch;
use crate::http::respond::Body;
use crate::io::{Stream, TcpOptions};
use crate::listener::socket::{BindError, Bound as Socket, Inherited, bind_for_group};
use crate::listener::{self, Accepted, accept};
use crate::slots::{Slot, Slots};
use hyper::Request;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// A socket for the operator.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: ListenAddr,
}

/// A listener that accepts; dropped, it accepts no more, and its connections go on.
#[derive(Debug)]
pub struct Serving {
    /// As configured.
    pub address: ListenAddr,
    /// Where it really listens; `None`: a unix socket.
    pub local: Option<SocketAddr>,
    _stop: oneshot::Sender<()>,
}

/// Binds the socket; a unix socket is its owner's and its group's.
///
/// # Errors
/// It is not to be had.
pub async fn bind(settings: &Settings, inherited: &Inherited) -> Result<Bound, BindError> {
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
    /// Begins to answer. Connections end with the watch.
    #[must_use]
    pub fn serve(self, admin: &Arc<Admin>, watch: &Watch) -> Serving {
        let Self { socket, address } = self;
        let (stop, stopped) = oneshot::channel::<()>();
        let local = socket.local_addr();
        match local {
            Some(local) => tracing::info!(%address, %local, "admin endpoint"),
            None => tracing::info!(%address, "admin endpoint"),
        }
        let mut ending = watch.clone();
        let until = async move {
            tokio::select! {
                _ = stopped => {}
                () = ending.draining() => {}
            }
        };
        let connections = CONNECTIONS.min(admin.slots.own() / 2);
        let (admin, watch) = (Arc::clone(admin), watch.clone());
        let give = move |accepted: Accepted| {
            tokio::spawn(serve_one(accepted, Arc::clone(&admin), watch.clone()));
        };
        let slots = Slots::new(connections, "it is the admin endpoint's own bound");
        tokio::spawn(accept::run(socket, address.clone(), slots, TcpOptions::default, until, give));
        Serving { address, local, _stop: stop }
    }
}

/// One connection, to its end.
async fn serve_one(accepted: Accepted, admin: Arc<Admin>, mut watch: Watch) {
    let Accepted { stream, slot, client } = accepted;
    let asker = Asker::of(&stream, client);
    let ending = watch.clone();
    let quiet = Arc::new(Quiet::default());
    let asked = Arc::clone(&quiet);
    let service = service_fn(move |request: Request<Incoming>| {
        let (admin, asker, ending) = (Arc::clone(&admin), asker.clone(), ending.clone());
        let busy = admin.is_known(request.headers()).then(|| Busy::begin(&asked));
        async move {
            let answer = router::answer(&admin, asker, request, ending).await;
            Ok::<_, Infallible>(answer.map(|body| UnderWay { body, _busy: busy }))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD);
    let connection = http.serve_connection(TokioIo::new(Patient { stream, stalled: None }), service);
    tokio::pin!(connection);
    let mut end = watch.clone();
    let mut draining = false;
    loop {
        tokio::select! {
            // How it ended is nobody's concern: what was asked for was answered, or its asker has left.
            _ = &mut connection => return,
            () = watch.draining(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = end.expired() => return,
            () = quiet.gives_way(&slot) => return,
        }
    }
}

/// Since when a connection has asked for nothing that it may ask for.
#[derive(Debug)]
struct Quiet(Mutex<Asking>);

#[derive(Debug)]
struct Asking {
    requests: usize,
    quiet_since: Instant,
}

/// A request that is under way.
#[derive(Debug)]
struct Busy(Arc<Quiet>);

impl Default for Quiet {
    fn default() -> Self {
        Self(Mutex::new(Asking { requests: 0, quiet_since: Instant::now() }))
    }
}

impl Quiet {
    /// Waits until somebody wants the place of a connection that is quiet, and gives it.
    async fn gives_way(&self, slot: &Slot) {
        loop {
            let claim = slot.wanted(PATIENCE).await;
            let asking = self.lock();
            if asking.requests == 0 && asking.quiet_since.elapsed() >= PATIENCE {
                claim.give();
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Busy {
    fn begin(quiet: &Arc<Quiet>) -> Self {
        quiet.lock().requests += 1;
        Self(Arc::clone(quiet))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut asking = self.0.lock();
        asking.requests -= 1;
        asking.quiet_since = Instant::now();
    }
}

/// An answer's body: it is under way until this is dropped.
struct UnderWay {
    body: Body,
    _busy: Option<Busy>,
}

impl hyper::body::Body for UnderWay {
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

/// A stream that gives up a peer which takes nothing for [`SEND_TIMEOUT`] while bytes wait for it: a viewer
/// that has fallen asleep would hold its place for ever.
struct Patient {
    stream: Stream,
    /// Runs while bytes wait.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
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

/// Connections at once: some viewers of the page, each with a browser's few, a scraper, health checks.
const CONNECTIONS: usize = 64;

/// Connections that may wait to be accepted. Of more, the kernel would let some wait for a second.
const BACKLOG: u32 = 1024;

/// How long a connection may be quiet while others want its place: from the opening, or the last answer, to a
/// request that is answered, and shows the token where there is one. It is short, for a health check waits for it.
const PATIENCE: Duration = Duration::from_millis(250);

/// From the opening, or the end of the last answer, to the end of a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a head; a browser's cookies for other ports of this host are among them.
const MAX_HEAD: usize = 32 * 1024;

/// From the last byte that a peer took to giving it up, while bytes wait for it.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_sleeps_is_given_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut patient = Patient { stream: Stream::Unix(ours), stalled: None };
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
