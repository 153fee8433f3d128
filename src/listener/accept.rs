//! Owns the accept loop.

use super::Accepted;
use super::slots::Slots;
use super::socket::Bound;
use crate::addr::{ClientAddr, ListenAddr};
use crate::io::Stream;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// The pause after an error that the next accept would meet again.
const BACKOFF: Duration = Duration::from_millis(100);
/// The log is told of a lasting error once in this time.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Accepts connections while there is room for them, and gives each to `serve`, until `stop` is
/// ready; then those that already wait in the kernel's queue are served as well, for their clients
/// believe to be connected.
pub async fn run(
    bound: Bound,
    address: ListenAddr,
    slots: Slots,
    stop: impl Future<Output = ()>,
    mut serve: impl FnMut(Accepted),
) {
    let mut complained: Option<Instant> = None;
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&bound, &address, &slots, &mut complained) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                serve(accepted);
                // Behind all that is ready: of a flood of connections no more are taken than are served,
                // and tunnels do not come to their turn behind thousands of new ones.
                yield_now().await;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if may_complain(&mut complained) {
                    tracing::error!(listen = %address, %error, "cannot accept connections; raise LimitNOFILE if descriptors ran out");
                }
                sleep(BACKOFF).await;
            }
        }
    }
    queued(bound, &slots).unwrap_or_default().into_iter().for_each(serve);
}

/// What waits in the kernel's queue and has room. The kernel is asked itself: the runtime may not
/// have heard yet that somebody is waiting.
fn queued(bound: Bound, slots: &Slots) -> io::Result<Vec<Accepted>> {
    let mut found = Vec::new();
    match bound {
        Bound::Tcp(listener) => {
            let listener = listener.into_std()?;
            while let Some(slot) = slots.try_take()
                && let Ok((stream, peer)) = listener.accept()
            {
                stream.set_nonblocking(true)?;
                let stream = Stream::Tcp(TcpStream::from_std(stream)?);
                found.push(Accepted { stream, client: ClientAddr::Tcp(peer), slot });
            }
        }
        Bound::Unix(listener, _file) => {
            let listener = listener.into_std()?;
            while let Some(slot) = slots.try_take()
                && let Ok((stream, _)) = listener.accept()
            {
                stream.set_nonblocking(true)?;
                let stream = Stream::Unix(UnixStream::from_std(stream)?);
                found.push(Accepted { stream, client: ClientAddr::Unix, slot });
            }
        }
    }
    Ok(found)
}

async fn accept(
    bound: &Bound,
    address: &ListenAddr,
    slots: &Slots,
    complained: &mut Option<Instant>,
) -> io::Result<Accepted> {
    let slot = match slots.try_take() {
        Some(slot) => slot,
        None => {
            if may_complain(complained) {
                let connections = slots.all();
                let bound = slots.bound();
                tracing::warn!(listen = %address, connections, "accepting pauses until a connection ends: {bound}");
            }
            slots.take().await
        }
    };
    match bound {
        Bound::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            Ok(Accepted { stream: Stream::Tcp(stream), client: ClientAddr::Tcp(peer), slot })
        }
        Bound::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            Ok(Accepted { stream: Stream::Unix(stream), client: ClientAddr::Unix, slot })
        }
    }
}

/// Errors of a connection that died in the queue (`accept(2)`): the next one may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | WouldBlock)
}

/// Whether it is time to say again what lasts.
fn may_complain(complained: &mut Option<Instant>) -> bool {
    let may = complained.is_none_or(|last| last.elapsed() >= COMPLAIN);
    if may {
        *complained = Some(Instant::now());
    }
    may
}
