//! Owns the byte streams that the stages pass to each other, and the options of their sockets.

mod epoll_socket;
mod prefixed_stream;

pub(crate) use epoll_socket::EpollSocket;
pub(crate) use prefixed_stream::PrefixedStream;
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

/// A connection, to a client or to an upstream.
#[derive(Debug)]
pub enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection over a unix socket.
    Unix(UnixStream),
    /// A TCP or unix socket that was detached from the tokio runtime.
    Epoll(EpollSocket),
    /// A protocol over one of the above: TLS, or an HTTP/2 stream. Boxed, so that plain streams stay small.
    Layered(Box<dyn StreamLayer>),
}

/// A byte stream that another stream carries.
pub trait StreamLayer: AsyncRead + AsyncWrite + Readiness + Debug + Send + Unpin {
    /// The stream that carries this one. `None` means that it carries other streams too.
    fn inner_mut(&mut self) -> Option<&mut Stream>;
}

impl Stream {
    /// The socket at the bottom. `None` means that other streams share it.
    fn socket(&mut self) -> Option<&mut Self> {
        match self {
            Self::Layered(stream) => stream.inner_mut()?.socket(),
            socket => Some(socket),
        }
    }

    /// The socket at the bottom, if it was detached from the runtime.
    pub fn epoll_socket(&mut self) -> Option<&mut EpollSocket> {
        match self.socket()? {
            Self::Epoll(edge) => Some(edge),
            _ => None,
        }
    }

    /// Whether [`Stream::detach`] is possible: no other stream shares the socket.
    pub fn can_detach(&mut self) -> bool {
        self.socket().is_some()
    }

    /// Detaches the socket from the tokio runtime. From then on the caller reports its events through
    /// [`Stream::epoll_socket`].
    ///
    /// # Errors
    /// The runtime cannot deregister the socket, no descriptor is free, or other streams share the socket
    /// (`Unsupported`). The stream is dropped then.
    pub fn detach(self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => Ok(Self::Epoll(EpollSocket::new(stream.into_std()?.into(), true))),
            Self::Unix(stream) => Ok(Self::Epoll(EpollSocket::new(stream.into_std()?.into(), false))),
            Self::Epoll(_) => Ok(self),
            Self::Layered(mut stream) => {
                let below = stream.inner_mut().ok_or(io::ErrorKind::Unsupported)?;
                // The layer owns its socket, so a second descriptor of the same socket replaces it.
                let second = match &*below {
                    Self::Tcp(stream) => {
                        Self::Epoll(EpollSocket::new(stream.as_fd().try_clone_to_owned()?, true))
                    }
                    Self::Unix(stream) => {
                        Self::Epoll(EpollSocket::new(stream.as_fd().try_clone_to_owned()?, false))
                    }
                    Self::Epoll(_) | Self::Layered(_) => return Err(io::ErrorKind::Unsupported.into()),
                };
                *below = second;
                Ok(Self::Layered(stream))
            }
        }
    }

    /// Sets the options of a TCP connection. This fails only when the peer is gone, which the next read reports.
    pub fn apply(&self, options: &TcpOptions) {
        if let Self::Tcp(stream) = self {
            let _ = options.apply(stream);
        }
    }

    /// Limits the unsent bytes that the kernel may buffer (TCP_NOTSENT_LOWAT). `None` means the system's own limit.
    /// This fails only on kernels without the option, which then have no limit.
    pub fn limit_unsent(&mut self, limit: Option<u32>) {
        if let Some(Self::Tcp(stream)) = self.socket() {
            let _ = SockRef::from(&*stream).set_tcp_notsent_lowat(limit.unwrap_or(0));
        }
    }

    /// The local address. `None` means that this is no TCP stream of the runtime.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) | Self::Epoll(_) | Self::Layered(_) => None,
        }
    }

    /// Peeks at up to `most` of the first bytes until `enough` returns a value. The bytes stay in the socket. The
    /// first call of `enough` waits for a byte, the end of the stream or an error. Layers and detached sockets
    /// cannot be peeked at, so there `enough` sees no bytes.
    ///
    /// # Errors
    /// Those of the socket. `UnexpectedEof` if the stream ended before `enough` returned a value. `Unsupported` if
    /// this stream cannot be peeked at.
    pub async fn peek<T>(&mut self, most: usize, enough: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
        // tokio reports a stream as readable until a first read fails. Only the socket itself can tell.
        loop {
            let (ready, found) = match self {
                Self::Tcp(stream) => {
                    let ready = stream.ready(Interest::READABLE).await?;
                    let peek = || peek_once(stream.as_fd(), most, &enough);
                    (ready, stream.try_io(Interest::READABLE, peek))
                }
                Self::Unix(stream) => {
                    let ready = stream.ready(Interest::READABLE).await?;
                    let peek = || peek_once(stream.as_fd(), most, &enough);
                    (ready, stream.try_io(Interest::READABLE, peek))
                }
                Self::Epoll(_) | Self::Layered(_) => {
                    return enough(&[]).ok_or_else(|| io::ErrorKind::Unsupported.into());
                }
            };
            match found {
                // tokio never clears the end of a stream, so waiting again would loop for ever.
                Err(error) if error.kind() == WouldBlock && ready.is_read_closed() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(error) if error.kind() == WouldBlock => {}
                found => return found,
            }
        }
    }
}

/// Peeks once. `WouldBlock` means that `enough` needs more bytes.
fn peek_once<T>(socket: BorrowedFd<'_>, most: usize, enough: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
    let mut seen = vec![0; most];
    let (length, _) = recv(socket, &mut seen[..], RecvFlags::PEEK)?;
    enough(&seen[..length]).ok_or_else(|| WouldBlock.into())
}

/// What is known about a stream without reading from it.
pub trait Readiness {
    /// Whether bytes, the end of the stream or an error wait to be read. This asks the kernel, because the runtime
    /// may not know yet. `None` means that this stream cannot tell.
    fn has_pending(&self) -> Option<bool>;

    /// Whether the next read may find something, as far as is known without a system call. `false` means that it
    /// would only return `Pending`.
    fn may_read(&self) -> bool {
        true
    }

    /// Takes the socket's pending error (SO_ERROR), and returns whether there was one. It tells that the peer is
    /// gone after the end of its stream was read, when another read would only return that end again.
    fn check_broken(&mut self) -> bool {
        false
    }

    /// Makes the drop of this stream look like a failure to the peer: TCP sends RST. Other streams ignore it.
    fn reset_on_close(&mut self) {}
}

fn check_broken(socket: &impl AsFd) -> bool {
    !matches!(SockRef::from(socket).take_error(), Ok(None))
}

/// Sends RST instead of FIN at the close, and discards unsent bytes (`SO_LINGER` 0). This fails only when the peer
/// is gone.
fn reset_on_close(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

impl Readiness for Stream {
    fn has_pending(&self) -> Option<bool> {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Epoll(stream) => stream.as_fd(),
            Self::Layered(stream) => return stream.has_pending(),
        };
        Some(peek_once(socket, 1, |_| Some(())).map_or_else(|error| error.kind() != WouldBlock, |()| true))
    }

    fn check_broken(&mut self) -> bool {
        match self.socket() {
            Some(Self::Tcp(stream)) => check_broken(stream),
            Some(Self::Epoll(stream)) => stream.check_broken(),
            _ => false,
        }
    }

    fn reset_on_close(&mut self) {
        match self.socket() {
            Some(Self::Tcp(stream)) => reset_on_close(stream),
            Some(Self::Epoll(stream)) => stream.reset_on_close(),
            _ => {}
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Epoll(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Layered(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Epoll(stream) => Pin::new(stream).poll_write(cx, bytes),
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
            Self::Epoll(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Layered(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Epoll(_) => false,
            Self::Layered(stream) => stream.is_write_vectored(),
        }
    }

    /// Plain sockets have no buffer here.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Unix(_) | Self::Epoll(_) => Poll::Ready(Ok(())),
            Self::Layered(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Epoll(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Layered(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// How the kernel finds out that the peer of a TCP connection is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// SO_KEEPALIVE. `None` means off.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged. `None` means the kernel's retransmission
    /// limit, about 15 minutes.
    pub user_timeout: Option<Duration>,
}

/// TCP keepalive (nginx `so_keepalive=time:interval:probes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub time: Duration,
    /// Time from one probe to the next.
    pub interval: Duration,
    /// The kernel closes the connection after this many unanswered probes.
    pub probes: u32,
}

impl TcpOptions {
    /// Sets the options and TCP_NODELAY, because Nagle's algorithm only delays frames. Accepted connections inherit
    /// the options of their listening socket.
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
