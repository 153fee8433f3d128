//! Owns the accept loop.

use super::Accepted;
use super::socket::Bound;
use crate::addr::{ClientAddr, ListenAddr};
use crate::capacity::{LogLimit, Slots};
use crate::io::{Stream, TcpOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::future::{Future, poll_fn};
use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::yield_now;
use tokio::time::sleep;

/// The pause after an error that the next accept would meet again.
const BACKOFF: Duration = Duration::from_millis(100);

/// Accepts connections while there is room for them, and gives each to `serve`, until `stop` is
/// ready; then those that already wait in the kernel's queue are served as well, for their clients
/// believe to be connected. `options` tells those of its connections, which may change.
pub async fn run(
    bound: Bound,
    address: ListenAddr,
    slots: Slots,
    options: impl Fn() -> TcpOptions,
    stop: impl Future<Output = ()>,
    mut serve: impl FnMut(Accepted),
) {
    let lines = LogLimit::default();
    let mut heritage = Heritage::new(options(), &bound, &address);
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&bound, &address, &slots, &lines, &mut heritage) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                let options = options();
                if options != heritage.options {
                    heritage = Heritage::new(options, &bound, &address);
                }
                heritage.complete(&accepted);
                serve(accepted);
                // Behind all that is ready: of a flood of connections no more are taken than are served,
                // and tunnels do not come to their turn behind thousands of new ones.
                yield_now().await;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if lines.take() {
                    tracing::error!(listen = %address, %error, "cannot accept connections; raise LimitNOFILE if descriptors ran out");
                }
                sleep(BACKOFF).await;
            }
        }
    }
    for accepted in queued(bound, &slots).unwrap_or_default() {
        heritage.complete(&accepted);
        serve(accepted);
    }
}

/// Options that connections inherit from their listener, at no price for each.
struct Heritage {
    options: TcpOptions,
    /// No connection waits any more that began before the listener had them.
    by_all: bool,
}

impl Heritage {
    fn new(options: TcpOptions, bound: &Bound, address: &ListenAddr) -> Self {
        bound.apply(&options, address);
        Self { options, by_all: false }
    }

    /// Looks whether nobody waits. The kernel is asked itself: the runtime may not have heard yet.
    fn look(&mut self, listener: &TcpListener) {
        if !self.by_all {
            let waiting = &mut [PollFd::new(listener, PollFlags::IN)];
            self.by_all = poll(waiting, Some(&Timespec::default())) == Ok(0);
        }
    }

    fn complete(&self, accepted: &Accepted) {
        if !self.by_all {
            accepted.stream.apply(&self.options);
        }
    }
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
    lines: &LogLimit,
    heritage: &mut Heritage,
) -> io::Result<Accepted> {
    let slot = match slots.try_take() {
        Some(slot) => slot,
        None => {
            if lines.take() {
                let connections = slots.total();
                let bound = slots.limited_by();
                tracing::warn!(listen = %address, connections, "accepting pauses until a connection ends: {bound}");
            }
            slots.take().await
        }
    };
    match bound {
        Bound::Tcp(listener) => {
            let accept = poll_fn(|cx| {
                let accepted = listener.poll_accept(cx);
                if accepted.is_pending() {
                    heritage.look(listener);
                }
                accepted
            });
            let (stream, peer) = accept.await?;
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

#[cfg(test)]
mod tests {
    use super::super::socket::{Inherited, bind};
    use super::*;
    use crate::listener::Settings;
    use socket2::SockRef;
    use std::sync::{Arc, Mutex};
    use tokio::sync::{mpsc, oneshot};

    #[tokio::test]
    async fn options_that_change_reach_the_connections_that_come_then() {
        let told = |seconds| TcpOptions { user_timeout: Some(Duration::from_secs(seconds)), keepalive: None };
        let address: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let settings = Settings {
            address: address.clone(),
            backlog: 16,
            reuse_port: false,
            proxy_protocol: false,
            tls: None,
            tcp: told(1),
        };
        let bound = bind(&settings, &Inherited::default()).await.unwrap();
        let to = bound.local_addr().unwrap();
        let current = Arc::new(Mutex::new(told(1)));
        let options = {
            let current = Arc::clone(&current);
            move || *current.lock().unwrap()
        };
        let (give, mut accepted) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let until = async { _ = stopped.await };
        let give = move |accepted| _ = give.send(accepted);
        let run = tokio::spawn(run(bound, address, Slots::new(9, ""), options, until, give));
        // The first waits before the loop begins.
        for seconds in [1, 1, 2, 2, 1] {
            *current.lock().unwrap() = told(seconds);
            let _client = TcpStream::connect(to).await.unwrap();
            let Stream::Tcp(stream) = accepted.recv().await.unwrap().stream else { panic!("it is TCP") };
            let socket = SockRef::from(&stream);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(seconds)));
            assert!(socket.tcp_nodelay().unwrap());
        }
        stop.send(()).unwrap();
        run.await.unwrap();
    }
}
