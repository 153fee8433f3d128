//! Owns listening sockets: binding them, and taking over those that systemd hands down.

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
pub enum Bound {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket; its file goes with it, if it made the file.
    Unix(UnixListener, Option<SocketFile>),
}

/// The file of a unix socket, removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by hand: nothing to do then.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The kernel says why.
    #[error("{address}: {error}{}", remedy(.error))]
    Io {
        /// What was to be bound.
        address: ListenAddr,
        /// Why not.
        error: io::Error,
    },
    /// systemd handed down no socket of this name.
    #[error(
        "systemd:{name}: no socket of this name was handed down (there {}); \
         set FileDescriptorName={name} in the .socket unit",
        if .known.is_empty() { "are none".to_owned() } else { format!("are: {}", .known.join(", ")) }
    )]
    NotHandedDown {
        /// The name asked for.
        name: String,
        /// The names there are.
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

/// The sockets that systemd handed down (`sd_listen_fds(3)`), by name. They are kept for as long as
/// the process lives, so that a reload can take them up again.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<String, HandedDown>);

#[derive(Debug)]
enum HandedDown {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Inherited {
    /// Takes them over from the environment. To be called once, before threads are started.
    #[must_use]
    pub fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut sockets = ListenFd::from_env();
        let mut found = HashMap::new();
        for index in 0..sockets.len() {
            // systemd's own word for a socket without a name.
            let name = names.get(index).filter(|name| !name.is_empty()).unwrap_or(&"unknown");
            let socket = match sockets.take_tcp_listener(index) {
                Ok(Some(tcp)) => Some(HandedDown::Tcp(tcp)),
                _ => sockets.take_unix_listener(index).ok().flatten().map(HandedDown::Unix),
            };
            if let Some(socket) = socket {
                found.insert((*name).to_owned(), socket);
            }
        }
        Self(found)
    }

    fn take_up(&self, name: &str) -> Result<Bound, BindError> {
        let address = ListenAddr::Systemd(name.to_owned());
        let socket = self.0.get(name).ok_or_else(|| {
            let mut known: Vec<_> = self.0.keys().cloned().collect();
            known.sort();
            BindError::NotHandedDown { name: name.to_owned(), known }
        })?;
        let bound = match socket {
            HandedDown::Tcp(tcp) => tcp.try_clone().and_then(|tcp| {
                tcp.set_nonblocking(true)?;
                Ok(Bound::Tcp(TcpListener::from_std(tcp)?))
            }),
            HandedDown::Unix(unix) => unix.try_clone().and_then(|unix| {
                unix.set_nonblocking(true)?;
                Ok(Bound::Unix(UnixListener::from_std(unix)?, None))
            }),
        };
        bound.map_err(|error| BindError::Io { address, error })
    }
}

impl Bound {
    /// Where it really listens: the port, where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Sets the options that its connections inherit.
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
/// The address is in use, not allowed, not of this host; or systemd handed down no such socket.
pub async fn bind(settings: &Settings, inherited: &Inherited) -> Result<Bound, BindError> {
    // Who may connect is a question for the folder's rights, as with any other proxy's socket.
    bind_as(settings, inherited, 0o666).await
}

/// The same; a unix socket is open to its owner and its group alone.
///
/// # Errors
/// As with [`bind`].
pub async fn bind_for_group(settings: &Settings, inherited: &Inherited) -> Result<Bound, BindError> {
    bind_as(settings, inherited, 0o660).await
}

async fn bind_as(settings: &Settings, inherited: &Inherited, mode: u32) -> Result<Bound, BindError> {
    let bound = match &settings.address {
        ListenAddr::Systemd(name) => return inherited.take_up(name),
        ListenAddr::Tcp(address) => bind_tcp(*address, settings).map(Bound::Tcp),
        ListenAddr::Unix(path) => bind_unix(path, mode).await,
    };
    bound.map_err(|error| BindError::Io { address: settings.address.clone(), error })
}

fn bind_tcp(address: SocketAddr, settings: &Settings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // As nginx does: 0.0.0.0 and [::] may stand side by side.
        socket.set_only_v6(true)?;
    }
    // Sockets of the last run that are in TIME_WAIT do not keep a restart from binding.
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
    // As nginx does: who may connect is decided by the folder's permissions.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(Bound::Unix(listener, Some(file)))
}

/// Whether a socket's file is there without anybody who listens.
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
