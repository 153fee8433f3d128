//! Owns what can fail before a configuration takes effect: it reads and opens everything that the
//! configuration names. It must not change anything that runs.

use super::Running;
use super::certificates::{CertificateError, load_tls_in_background};
use crate::addr::ListenAddr;
use crate::admin::server::{Bound as AdminSocket, bind as bind_admin};
use crate::admin::{self, Token, TokenError};
use crate::config::Config;
use crate::listener::socket::{BindError, Bound as Socket, Inherited, bind};
use crate::proxy::connection::ListenerConfig;
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::access_log::{AccessLog, NextTarget, OpenError};
use crate::telemetry::{AccessTarget, Settings as LogSettings};
use crate::upstream::ports::SourceError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Why a configuration cannot take effect. Each message begins with the place in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Holdline cannot bind a socket.
    #[error("listen: {0}")]
    Bind(#[from] BindError),
    /// Holdline cannot bind the socket of the admin endpoint.
    #[error("admin: {0}")]
    Admin(BindError),
    /// Holdline cannot read the token of the admin endpoint.
    #[error("admin.token_file: {0}")]
    Token(#[from] TokenError),
    /// Holdline cannot use certificates.
    #[error("{0}")]
    Certificates(#[from] CertificateError),
    /// A source address does not belong to this machine.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// Holdline cannot open the access log.
    #[error("log.access: {0}{remedy}", remedy = log_remedy(.0))]
    AccessLog(#[from] OpenError),
    /// The engine's threads cannot start. Only a start can fail so.
    #[error("process.engine: {0}; each of its threads takes two descriptors: raise LimitNOFILE or TasksMax")]
    Engine(io::Error),
    /// Holdline cannot write the pid file. Only a start can fail so.
    #[error("process.pid_file: {}: {error}{}", .path.display(), file_remedy(.error))]
    PidFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

fn log_remedy(error: &OpenError) -> &'static str {
    match error.target {
        AccessTarget::File(_) => file_remedy(&error.error),
        _ => "",
    }
}

fn file_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; its folder must exist",
        io::ErrorKind::PermissionDenied => "; the proxy's user must be able to write it and its folder",
        _ => "",
    }
}

/// What a configuration is prepared from, and what it can take over.
#[derive(Clone, Copy, Debug)]
pub(super) enum From<'a> {
    /// Nothing runs yet. The process has the sockets that systemd passed, and a log without a target.
    Nothing { inherited: &'a Inherited, log: &'a AccessLog },
    /// A running proxy, which keeps its sockets, TLS sessions, endpoints and counts.
    Running(&'a Running),
}

/// A configuration with everything that it needs. Dropping it closes what was opened for it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) config: Config,
    pub(super) snapshot: Arc<Snapshot>,
    /// The listeners, in the order of the file.
    pub(super) listeners: Vec<PreparedListener>,
    /// `None` means no admin endpoint.
    pub(super) admin: Option<PreparedAdmin>,
    /// `None` means that the target in use stays.
    pub(super) access_log: Option<NextTarget>,
}

#[derive(Debug)]
pub(super) struct PreparedListener {
    pub(super) config: ListenerConfig,
    /// `None` means that the running listener keeps its socket.
    pub(super) socket: Option<Socket>,
}

#[derive(Debug)]
pub(super) struct PreparedAdmin {
    /// `None` means that the running endpoint keeps its socket.
    pub(super) socket: Option<AdminSocket>,
    /// `None` means that requests need no token.
    pub(super) token: Option<Token>,
}

impl Prepared {
    /// Reads all files first and binds sockets last, because clients can connect to a bound socket.
    ///
    /// # Errors
    /// Returns the first file, address or socket that cannot be used. Everything opened before is closed
    /// again, and what runs is unchanged. A server name that does not resolve is no error, because it may
    /// resolve later.
    pub(super) async fn new(config: Config, from: From<'_>) -> Result<Self, PrepareError> {
        let configs = read_listeners(&config, from).await?;
        let token = match &config.admin {
            Some(settings) => read_token(settings).await?,
            None => None,
        };
        let snapshot = build_snapshot(&config, from).await?;
        let access_log = from.open_access_log(&config.log)?;
        let mut listeners = Vec::new();
        for config in configs {
            let socket = from.bind_unless_running(&config).await?;
            listeners.push(PreparedListener { config, socket });
        }
        let admin = match &config.admin {
            Some(settings) => {
                Some(PreparedAdmin { socket: from.bind_admin_unless_running(settings).await?, token })
            }
            None => None,
        };
        Ok(Self { config, snapshot, listeners, admin, access_log })
    }
}

impl<'a> From<'a> {
    fn running(self) -> Option<&'a Running> {
        match self {
            Self::Nothing { .. } => None,
            Self::Running(running) => Some(running),
        }
    }

    fn inherited(self) -> &'a Inherited {
        match self {
            Self::Nothing { inherited, .. } => inherited,
            Self::Running(running) => &running.inherited,
        }
    }

    /// Returns the configuration of the running listener with this address.
    fn listener(self, address: &ListenAddr) -> Option<Arc<ListenerConfig>> {
        let active = self.running()?.listeners.iter().find(|active| active.address() == address);
        active.map(|active| active.config.load_full())
    }

    /// Opens the target of the access log, unless the running one has the same settings.
    fn open_access_log(self, settings: &LogSettings) -> Result<Option<NextTarget>, OpenError> {
        match self {
            Self::Running(running) if running.config.log == *settings => Ok(None),
            Self::Running(running) => running.proxy.log.prepare(settings).map(Some),
            Self::Nothing { log, .. } => log.prepare(settings).map(Some),
        }
    }

    async fn bind_unless_running(self, config: &ListenerConfig) -> Result<Option<Socket>, PrepareError> {
        match self.listener(&config.socket.address) {
            Some(_) => Ok(None),
            None => Ok(Some(bind(&config.socket, self.inherited()).await?)),
        }
    }

    async fn bind_admin_unless_running(
        self,
        settings: &admin::Settings,
    ) -> Result<Option<AdminSocket>, PrepareError> {
        let serving = self.running().and_then(|running| running.admin_endpoint.serving.as_ref());
        match serving {
            Some(serving) if serving.address == settings.address => Ok(None),
            _ => bind_admin(settings, self.inherited()).await.map(Some).map_err(PrepareError::Admin),
        }
    }
}

/// Reads the certificates of the listeners, in the order of the file.
async fn read_listeners(config: &Config, from: From<'_>) -> Result<Vec<ListenerConfig>, CertificateError> {
    let mut read = Vec::new();
    for listen in &config.listeners {
        let previous = from.listener(&listen.socket.address);
        let listener = ListenerConfig::read_in_background(listen, previous).await;
        read.push(listener.map_err(|error| error.placed(config))?);
    }
    Ok(read)
}

/// Builds the snapshot of routes and upstreams, reads the TLS files of the upstreams and checks their source
/// addresses.
async fn build_snapshot(config: &Config, from: From<'_>) -> Result<Arc<Snapshot>, PrepareError> {
    let previous = from.running().map(|running| running.proxy.snapshot.load_full());
    let next = Arc::new(Snapshot::new(config.plan.clone(), previous.as_deref()));
    load_tls_in_background(&next, previous.as_ref()).await.map_err(|error| error.placed(config))?;
    next.upstreams().try_for_each(|upstream| upstream.settings().check_sources())?;
    Ok(next)
}

/// Reads the token of the endpoint, if it has one, on a blocking thread.
async fn read_token(settings: &admin::Settings) -> Result<Option<Token>, TokenError> {
    let Some(secret) = settings.token.clone() else { return Ok(None) };
    let read = spawn_blocking(move || secret.token()).await;
    read.expect("reading a file does not panic").map(Some)
}
