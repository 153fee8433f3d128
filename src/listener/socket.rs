//! Owns listening sockets: it binds them, or takes those that systemd passes to the process.

use super::Settings;
use crate::addr::ListenAddr;
use crate::io::TcpOptions;
use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Bound {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A unix socket. If this process made its file, the file is removed with it.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a unix socket. Dropping this removes the file.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Someone may have removed the file by hand.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The kernel refused.
    #[error("{address}: {error}{}", remedy(.error))]
    Io {
        /// The address to bind.
        address: ListenAddr,
        /// The reason.
        error: io::Error,
    },
    /// systemd passed no socket of this name.
    #[error(
        "systemd:{name}: no socket of this name was handed down (there {}); \
         set FileDescriptorName={name} in the .socket unit",
        if .known.is_empty() { "are none".to_owned() } else { format!("are: {}", .known.join(", ")) }
    )]
    NotHandedDown {
        /// The name in the configuration.
        name: String,
        /// The names of the sockets that systemd passed.
        known: Vec<String>,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: `ss -ltnp` names it",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE or a systemd socket",
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has the address",
        _ => "",
    }
}

/// The sockets that systemd passed (`sd_listen_fds(3)`), by name. The process keeps them until it ends, so that a
/// reload can use them again.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<String, InheritedSocket>);

#[derive(Debug)]
enum InheritedSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Inherited {
    /// Takes the sockets that the environment names. Call this once, before the process starts threads.
    #[must_use]
    pub fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut sockets = ListenFd::from_env();
        let mut found = HashMap::new();
        for index in 0..sockets.len() {
            // systemd's name for a socket without one.
            let name = names.get(index).filter(|name| !name.is_empty()).unwrap_or(&"unknown");
            let socket = match sockets.take_tcp_listener(index) {
                Ok(Some(tcp)) => Some(InheritedSocket::Tcp(tcp)),
                _ => sockets.take_unix_listener(index).ok().flatten().map(InheritedSocket::Unix),
            };
            if let Some(socket) = socket {
                found.insert((*name).to_owned(), socket);
            }
        }
        Self(found)
    }

    fn take(&self, name: &str) -> Result<Bound, BindError> {
        let address = ListenAddr::Systemd(name.to_owned());
        let socket = self.0.get(name).ok_or_else(|| {
            let mut known: Vec<_> = self.0.keys().cloned().collect();
            known.sort();
            BindError::NotHandedDown { name: name.to_owned(), known }
        })?;
        let bound = match socket {
            InheritedSocket::Tcp(tcp) => tcp.try_clone().and_then(|tcp| {
                tcp.set_nonblocking(true)?;
                Ok(Bound::Tcp(TcpListener::from_std(tcp)?))
            }),
            InheritedSocket::Unix(unix) => unix.try_clone().and_then(|unix| {
                unix.set_nonblocking(true)?;
                Ok(Bound::Unix(UnixListener::from_std(unix)?, None))
            }),
        };
        bound.map_err(|error| BindError::Io { address, error })
    }
}

impl Bound {
    /// The bound address, with the real port if the configuration has 0. `None` means a unix socket.
    #[must_use]
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Sets the options that accepted connections inherit.
    pub(super) fn apply(&self, options: &TcpOptions, address: &ListenAddr) {
        if let Self::Tcp(listener) = self
            && let Err(error) = options.apply(listener)
        {
            tracing::error!(listen = %address, %error, "cannot set tcp_keepalive, tcp_user_timeout or TCP_NODELAY");
        }
    }
}

/// Binds a socket and listens on it.
///
/// # Errors
/// [`BindError`]: the address is in use, not permitted, or not of this host. Or systemd passed no such socket.
pub(crate) async fn bind(settings: &Settings, inherited: &Inherited) -> Result<Bound, BindError> {
    // As in other proxies, the permissions of the directory decide who may connect.
    bind_as(settings, inherited, 0o666).await
}

/// Like [`bind`], but only the owner and group may connect to a unix socket.
///
/// # Errors
/// Those of [`bind`].
pub(crate) async fn bind_for_group(settings: &Settings, inherited: &Inherited) -> Result<Bound, BindError> {
    bind_as(settings, inherited, 0o660).await
}

async fn bind_as(settings: &Settings, inherited: &Inherited, mode: u32) -> Result<Bound, BindError> {
    let bound = match &settings.address {
        ListenAddr::Systemd(name) => return inherited.take(name),
        ListenAddr::Tcp(address) => bind_tcp(*address, settings).map(Bound::Tcp),
        ListenAddr::Unix(path) => bind_unix(path, mode).await,
    };
    bound.map_err(|error| BindError::Io { address: settings.address.clone(), error })
}

fn bind_tcp(address: SocketAddr, settings: &Settings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // As in nginx, so that 0.0.0.0 and [::] can be bound together.
        socket.set_only_v6(true)?;
    }
    // Sockets in TIME_WAIT from the last run must not prevent a restart.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(settings.reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

async fn bind_unix(path: &Path, mode: u32) -> io::Result<Bound> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path).await => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    let file = SocketFile(path.to_owned());
    // As in nginx, the permissions of the directory decide who may connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(Bound::Unix(listener, Some(file)))
}

/// Whether the path is a socket on which nobody listens.
async fn is_left_over(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .await
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> Settings {
        let address = address.parse().unwrap();
        Settings {
            address,
            backlog: 16,
            reuse_port: false,
            proxy_protocol: false,
            tls: None,
            tcp: TcpOptions::default(),
        }
    }

    #[tokio::test]
    async fn ports_are_bound_for_both_families_side_by_side() {
        let none = Inherited::default();
        let v4 = bind(&settings("127.0.0.1:0"), &none).await.unwrap();
        let port = v4.local_addr().unwrap().port();
        let taken = bind(&settings(&format!("127.0.0.1:{port}")), &none).await.unwrap_err();
        assert!(taken.to_string().contains("another process listens there"), "{taken}");
        bind(&settings(&format!("[::1]:{port}")), &none).await.unwrap();
    }

    #[tokio::test]
    async fn a_left_over_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let (settings, none) = (settings(&format!("unix:{}", path.display())), Inherited::default());
        drop(UnixListener::bind(&path).unwrap());
        let bound = bind(&settings, &none).await.unwrap();
        assert!(bind(&settings, &none).await.is_err());
        drop(bound);
        assert!(!path.exists(), "its file goes with it");
        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&settings, &none).await.is_err());
        assert!(path.exists(), "a file that is no socket is not touched");
    }

    #[tokio::test]
    async fn a_missing_systemd_socket_is_explained() {
        let error = bind(&settings("systemd:web"), &Inherited::default()).await.unwrap_err();
        assert!(error.to_string().contains("FileDescriptorName=web"), "{error}");
    }
}
