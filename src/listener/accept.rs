//! Owns the accept loop, which neither stops nor spins on errors.

use super::Accepted;
use super::socket::Bound;
use crate::addr::{ClientAddr, ListenAddr};
use crate::capacity::Slots;
use crate::clock::LogLimit;
use crate::drain::Watch;
use crate::io::{Stream, TcpOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;

/// The pause after an error that the next accept would hit as well.
const BACKOFF: Duration = Duration::from_millis(100);

/// A task that accepts connections. Dropping this ends it; connections go on.
#[derive(Debug)]
pub(crate) struct AcceptLoop {
    /// The address in the configuration.
    pub address: ListenAddr,
    /// The bound address. `None` means a unix socket.
    pub local: Option<SocketAddr>,
    _stop: oneshot::Sender<()>,
}

impl AcceptLoop {
    /// Accepts connections while slots are free, and passes each to `serve`, until the drain begins. `options`
    /// returns the present TCP options, which may change.
    #[must_use]
    pub(crate) fn start(
        bound: Bound,
        address: ListenAddr,
        slots: Slots,
        options: impl Fn() -> TcpOptions + Send + 'static,
        watch: &Watch,
        serve: impl FnMut(Accepted) + Send + 'static,
    ) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (local, mut draining) = (bound.local_addr(), watch.clone());
        let until = async move {
            tokio::select! {
                _ = stopped => {}
                () = draining.draining() => {}
            }
        };
        tokio::spawn(run(bound, address.clone(), slots, options, until, serve));
        Self { address, local, _stop: stop }
    }
}

/// Accepts until `stop` resolves. Then it also accepts the connections in the kernel's backlog, because their clients
/// already see an open connection.
async fn run(
    bound: Bound,
    address: ListenAddr,
    slots: Slots,
    options: impl Fn() -> TcpOptions,
    stop: impl Future<Output = ()>,
    mut serve: impl FnMut(Accepted),
) {
    let log_limit = LogLimit::default();
    let mut inherited = InheritedOptions::new(options(), &bound, &address);
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&bound, &address, &slots, &log_limit, &mut inherited) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                let options = options();
                if options != inherited.options {
                    inherited = InheritedOptions::new(options, &bound, &address);
                }
                inherited.apply_missing(&accepted);
                serve(accepted);
                // Let all ready tasks run first. So a flood of connections is accepted only as fast as it is
                // served, and tunnels do not wait behind thousands of new connections.
                yield_now().await;
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if log_limit.take() {
                    tracing::error!(listen = %address, %error, "cannot accept connections; raise LimitNOFILE if descriptors ran out");
                }
                sleep(BACKOFF).await;
            }
        }
    }
    for accepted in accept_backlog(bound, &slots).unwrap_or_default() {
        inherited.apply_missing(&accepted);
        serve(accepted);
    }
}

/// Options that connections inherit from their listening socket, which saves system calls for each.
struct InheritedOptions {
    options: TcpOptions,
    /// Whether all connections from now on have the options. Those in the backlog may be older.
    is_complete: bool,
}

impl InheritedOptions {
    fn new(options: TcpOptions, bound: &Bound, address: &ListenAddr) -> Self {
        bound.apply(&options, address);
        Self { options, is_complete: false }
    }

    /// Checks whether the backlog is empty. It asks the kernel, because the runtime may not know yet.
    fn check_backlog(&mut self, listener: &TcpListener) {
        if !self.is_complete {
            let waiting = &mut [PollFd::new(listener, PollFlags::IN)];
            self.is_complete = poll(waiting, Some(&Timespec::default())) == Ok(0);
        }
    }

    fn apply_missing(&self, accepted: &Accepted) {
        if !self.is_complete {
            accepted.stream.apply(&self.options);
        }
    }
}

/// Accepts the connections in the kernel's backlog for which slots are free. It asks the kernel, because the runtime
/// may not know about them yet.
fn accept_backlog(bound: Bound, slots: &Slots) -> io::Result<Vec<Accepted>> {
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
    log_limit: &LogLimit,
    inherited: &mut InheritedOptions,
) -> io::Result<Accepted> {
    let slot = match slots.try_take() {
        Some(slot) => slot,
        None => {
            if log_limit.take() {
                let connections = slots.total();
                let limit = slots.limited_by();
                tracing::warn!(listen = %address, connections, "accepting pauses until a connection ends: {limit}");
            }
            slots.take().await
        }
    };
    match bound {
        Bound::Tcp(listener) => {
            let accept = poll_fn(|cx| {
                let accepted = listener.poll_accept(cx);
                if accepted.is_pending() {
                    inherited.check_backlog(listener);
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

/// Whether the error concerns a single connection, which died in the backlog (`accept(2)`).
fn concerns_one_connection(error: &io::Error) -> bool {
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
        let options_with =
            |seconds| TcpOptions { user_timeout: Some(Duration::from_secs(seconds)), keepalive: None };
        let address: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let settings = Settings {
            address: address.clone(),
            backlog: 16,
            reuse_port: false,
            proxy_protocol: false,
            tls: None,
            tcp: options_with(1),
        };
        let bound = bind(&settings, &Inherited::default()).await.unwrap();
        let to = bound.local_addr().unwrap();
        let current = Arc::new(Mutex::new(options_with(1)));
        let options = {
            let current = Arc::clone(&current);
            move || *current.lock().unwrap()
        };
        let (give, mut accepted) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let until = async { _ = stopped.await };
        let give = move |accepted| _ = give.send(accepted);
        let run = tokio::spawn(run(bound, address, Slots::new(9, ""), options, until, give));
        // The first connection waits in the backlog before the loop begins.
        for seconds in [1, 1, 2, 2, 1] {
            *current.lock().unwrap() = options_with(seconds);
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
