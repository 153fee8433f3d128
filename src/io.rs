//! Owns the byte streams that the stages hand to one another, and the options of their sockets.

mod edge;

pub use edge::Edge;
use rustix::net::{RecvFlags, recv};
use socket2::{SockRef, TcpKeepalive};
use std::fmt::Debug;
use std::io::{self, ErrorKind::WouldBlock};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client;

/// A connection, to a client or to an upstream.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// One of them outside of the runtime.
    Edge(Edge),
    /// What one of them carries: TLS, a stream of HTTP/2. In a box, for plain ones are to stay small.
    Layered(Box<dyn Layered>),
}

/// Bytes both ways over something else.
pub trait Layered: AsyncRead + AsyncWrite + Arrivals + Debug + Send + Unpin {
    /// What it is made of, and alone uses; `None`: others use that as well.
    fn below(&mut self) -> Option<&mut Stream>;
}

impl Layered for client::TlsStream<Stream> {
    fn below(&mut self) -> Option<&mut Stream> {
        Some(self.get_mut().0)
    }
}

impl Stream {
    /// The socket that it is, or is carried by, and alone uses.
    fn socket(&mut self) -> Option<&mut Self> {
        match self {
            Self::Layered(stream) => stream.below()?.socket(),
            socket => Some(socket),
        }
    }

    /// The same, if it is outside of the runtime.
    pub fn edge(&mut self) -> Option<&mut Edge> {
        match self.socket()? {
            Self::Edge(edge) => Some(edge),
            _ => None,
        }
    }

    /// Whether it can be taken out of the runtime.
    pub fn can_leave(&mut self) -> bool {
        self.socket().is_some()
    }

    /// Takes it out of the runtime, where it is to be watched through [`Stream::edge`] from then on.
    ///
    /// # Errors
    /// The runtime does not let go of it, there is no descriptor to be had, or others use the socket.
    pub fn leave(self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => Ok(Self::Edge(Edge::new(stream.into_std()?.into(), true))),
            Self::Unix(stream) => Ok(Self::Edge(Edge::new(stream.into_std()?.into(), false))),
            Self::Edge(_) => Ok(self),
            Self::Layered(mut stream) => {
                let below = stream.below().ok_or(io::ErrorKind::Unsupported)?;
                // It cannot be moved out of what it carries: a second descriptor takes its place.
                let second = match &*below {
                    Self::Tcp(stream) => Self::Edge(Edge::new(stream.as_fd().try_clone_to_owned()?, true)),
                    Self::Unix(stream) => Self::Edge(Edge::new(stream.as_fd().try_clone_to_owned()?, false)),
                    Self::Edge(_) | Self::Layered(_) => return Err(io::ErrorKind::Unsupported.into()),
                };
                *below = second;
                Ok(Self::Layered(stream))
            }
        }
    }

    /// Sets the options of a TCP connection. It fails only when the peer is gone, which reading will tell.
    pub fn apply(&self, options: &TcpOptions) {
        if let Self::Tcp(stream) = self {
            let _ = options.apply(stream);
        }
    }

    /// Limits what the kernel may hold unsent before it takes more, in bytes (TCP_NOTSENT_LOWAT). `None` means the
    /// system's own limit. It fails only where the kernel does not know it, which then has none.
    pub fn limit_unsent(&mut self, limit: Option<u32>) {
        if let Some(Self::Tcp(stream)) = self.socket() {
            let _ = SockRef::from(&*stream).set_tcp_notsent_lowat(limit.unwrap_or(0));
        }
    }

    /// Where it was connected to; `None`: a unix socket, or a layer.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) | Self::Edge(_) | Self::Layered(_) => None,
        }
    }

    /// Looks at the first bytes, `most` at most, without taking them, until `enough` says what they
    /// are. It is not asked before there is a byte, an end or an error. Of layers, and outside of the
    /// runtime, nothing is seen:
    /// `enough` is asked at once.
    ///
    /// # Errors
    /// Those of the socket; `UnexpectedEof`: the end came before there was enough.
    pub async fn look<T>(&mut self, most: usize, enough: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
        // A stream that was just accepted counts as readable until the first try: only a look into
        // the socket tells.
        loop {
            let (ready, found) = match self {
                Self::Tcp(stream) => {
                    let ready = stream.ready(Interest::READABLE).await?;
                    let look = || look(stream.as_fd(), most, &enough);
                    (ready, stream.try_io(Interest::READABLE, look))
                }
                Self::Unix(stream) => {
                    let ready = stream.ready(Interest::READABLE).await?;
                    let look = || look(stream.as_fd(), most, &enough);
                    (ready, stream.try_io(Interest::READABLE, look))
                }
                Self::Edge(_) | Self::Layered(_) => {
                    return enough(&[]).ok_or_else(|| io::ErrorKind::Unsupported.into());
                }
            };
            match found {
                // It would be ready for ever: an end is not cleared, for it does not pass.
                Err(error) if error.kind() == WouldBlock && ready.is_read_closed() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(error) if error.kind() == WouldBlock => {}
                found => return found,
            }
        }
    }
}

/// One look; `WouldBlock` when more is to come before anything can be said.
fn look<T>(socket: BorrowedFd<'_>, most: usize, enough: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
    let mut seen = vec![0; most];
    let (length, _) = recv(socket, &mut seen[..], RecvFlags::PEEK)?;
    enough(&seen[..length]).ok_or_else(|| WouldBlock.into())
}

/// What can be said of bytes that nobody has read yet.
pub trait Arrivals {
    /// Whether there is something to read: bytes, an end or an error. The kernel is asked itself:
    /// the runtime may not have heard of it yet. `None` where that cannot be told.
    fn has_arrived(&self) -> Option<bool>;

    /// Whether another read may find something, as far as is known without asking anybody: `false` when
    /// it would only say that it has to wait.
    fn may_read(&self) -> bool {
        true
    }

    /// Whether the peer is gone, though its end was read before: reading says only that again. As far as the
    /// kernel knows.
    fn is_broken(&mut self) -> bool {
        false
    }

    /// Has the peer told of a break, not of an end, when this is dropped: TCP by RST. Without effect on others.
    fn break_off(&mut self) {}
}

fn is_broken(socket: &impl AsFd) -> bool {
    !matches!(SockRef::from(socket).take_error(), Ok(None))
}

/// RST rather than FIN at the close: no time is given to what was not sent. It fails only when the peer is
/// gone.
fn break_off(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

impl Arrivals for Stream {
    fn has_arrived(&self) -> Option<bool> {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Edge(stream) => stream.as_fd(),
            Self::Layered(stream) => return stream.has_arrived(),
        };
        Some(look(socket, 1, |_| Some(())).map_or_else(|error| error.kind() != WouldBlock, |()| true))
    }

    fn is_broken(&mut self) -> bool {
        match self.socket() {
            Some(Self::Tcp(stream)) => is_broken(stream),
            Some(Self::Edge(stream)) => stream.is_broken(),
            _ => false,
        }
    }

    fn break_off(&mut self) {
        match self.socket() {
            Some(Self::Tcp(stream)) => break_off(stream),
            Some(Self::Edge(stream)) => stream.break_off(),
            _ => {}
        }
    }
}

/// A record of TLS is a sign of life, whatever is in it.
impl<S: Arrivals> Arrivals for client::TlsStream<S> {
    fn has_arrived(&self) -> Option<bool> {
        self.get_ref().0.has_arrived()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Edge(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Layered(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Edge(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Layered(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Edge(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Layered(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Edge(_) => false,
            Self::Layered(stream) => stream.is_write_vectored(),
        }
    }

    /// Nothing of a plain socket is buffered here.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Unix(_) | Self::Edge(_) => Poll::Ready(Ok(())),
            Self::Layered(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Edge(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Layered(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// How the kernel watches over a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// SO_KEEPALIVE and its numbers; `None`: off.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged; `None`: the kernel's
    /// retransmission limit, about 15 minutes.
    pub user_timeout: Option<Duration>,
}

/// TCP keepalive (nginx `so_keepalive=time:interval:probes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub time: Duration,
    /// From one probe to the next.
    pub interval: Duration,
    /// Unanswered probes that end the connection.
    pub probes: u32,
}

impl TcpOptions {
    /// Sets the options, and TCP_NODELAY: a frame is a unit, waiting for more to send with it
    /// only delays it. Those of a listening socket are inherited by each connection that it accepts.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        match self.keepalive {
            Some(Keepalive { time, interval, probes }) => {
                let keepalive =
                    TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes);
                socket.set_tcp_keepalive(&keepalive)?;
            }
            None => socket.set_keepalive(false)?,
        }
        socket.set_tcp_user_timeout(self.user_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn options_reach_the_socket_and_those_that_it_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keepalive =
            Keepalive { time: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 4 };
        let options = TcpOptions { keepalive: Some(keepalive), user_timeout: Some(Duration::from_secs(30)) };
        let off = TcpOptions::default();
        for options in [options, off, options] {
            options.apply(&listener).unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            options.apply(&near).unwrap();
            let (far, _) = listener.accept().await.unwrap();
            for stream in [near, far] {
                let socket = SockRef::from(&stream);
                assert!(socket.tcp_nodelay().unwrap());
                assert_eq!(socket.keepalive().unwrap(), options.keepalive.is_some());
                assert_eq!(socket.tcp_user_timeout().unwrap(), options.user_timeout);
                if options.keepalive.is_some() {
                    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
                    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
                    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
                }
            }
        }
    }
}
