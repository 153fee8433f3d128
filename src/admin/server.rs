//! Owns the listener of the admin endpoint and its connections: HTTP/1.1, within bounds of its own, so that neither
//! clients nor operators can take the other's places.

use super::access::Asker;
use super::{Admin, Settings, router};
use crate::addr::ListenAddr;
use crate::drain::Watch;
use crate::io::{Stream, TcpOptions};
use crate::listener::socket::{BindError, Bound as Socket, Inherited, bind_for_group};
use crate::listener::{self, Accepted, accept};
use crate::slots::Slots;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

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
        let (admin, watch) = (Arc::clone(admin), watch.clone());
        let give = move |accepted: Accepted| {
            tokio::spawn(serve_one(accepted, Arc::clone(&admin), watch.clone()));
        };
        let slots = Slots::new(CONNECTIONS, "it is the admin endpoint's own bound");
        tokio::spawn(accept::run(socket, address.clone(), slots, TcpOptions::default, until, give));
        Serving { address, local, _stop: stop }
    }
}

/// One connection, to its end.
async fn serve_one(accepted: Accepted, admin: Arc<Admin>, mut watch: Watch) {
    let Accepted { stream, slot: _slot, client } = accepted;
    let asker = Asker::of(&stream, client);
    let ending = watch.clone();
    let service = service_fn(move |request| {
        let (admin, asker, ending) = (Arc::clone(&admin), asker.clone(), ending.clone());
        async move { Ok::<_, Infallible>(router::answer(&admin, asker, request, ending).await) }
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
        }
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

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 64;

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
