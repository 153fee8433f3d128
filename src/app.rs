//! Owns assembly: it binds a configuration, then runs it. It is the only place that sees every layer.

mod admin_endpoint;
pub mod certificates;
pub mod descriptors;
mod notifier;
mod pid_file;
mod reload;
mod shutdown;
pub mod signal;

pub use reload::ReloadError;
pub use shutdown::Ended;

use crate::addr::ListenAddr;
use crate::admin::server::{Bound as AdminSocket, bind as bind_admin};
use crate::admin::{Token, TokenError};
use crate::capacity::Slots;
use crate::config::Config;
use crate::drain::{self, Trigger, Watch};
use crate::listener::socket::{BindError, Bound as Socket, Inherited, bind};
use crate::listener::{Accepted, accept};
use crate::proxy::Proxy;
use crate::proxy::connection::{ListenerConfig, serve_connection};
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::access_log::{AccessLog, OpenError};
use crate::telemetry::log::LogControl;
use crate::telemetry::metrics::log_bursts;
use crate::tls::sources::Sources;
use crate::tunnel::Driver;
use crate::tunnel::engine::Engine;
use crate::upstream::ports::SourceError;
use crate::upstream::resolve;
use admin_endpoint::{AdminEndpoint, read_token};
use arc_swap::ArcSwap;
use certificates::{CertificateError, load_tls_in_background};
use pid_file::PidFile;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
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
    /// The engine's threads cannot start.
    #[error("process.engine: {0}")]
    Engine(io::Error),
    /// Holdline cannot open the access log.
    #[error("log.access: {0}")]
    AccessLog(OpenError),
    /// Holdline cannot write the pid file.
    #[error("process.pid_file: {0}")]
    PidFile(io::Error),
}

/// A configuration with its open sockets and files. Everything that can fail has succeeded.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    snapshot: Arc<Snapshot>,
    sockets: Vec<(ListenerConfig, Socket)>,
    admin: Option<(AdminSocket, Option<Token>)>,
    inherited: Inherited,
    log: AccessLog,
    engine: Option<Engine>,
    pid_file: Option<PidFile>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    /// Serves requests.
    pub proxy: Arc<Proxy>,
    config: Config,
    listeners: Vec<Active>,
    admin_endpoint: AdminEndpoint,
    inherited: Inherited,
    log_control: Option<LogControl>,
    trigger: Trigger,
    watch: Watch,
    /// Slots of client connections.
    slots: Slots,
    /// The pid file written at the start.
    pid_file: Option<PidFile>,
}

/// A listener that accepts.
#[derive(Debug)]
struct Active {
    address: ListenAddr,
    local: Option<SocketAddr>,
    /// The settings for its new connections.
    settings: Arc<ArcSwap<ListenerConfig>>,
    /// The state of its certificate files when Holdline could not use them.
    refused: Option<Sources>,
    /// Dropping it ends the accept loop.
    _stop: oneshot::Sender<()>,
}

impl Bound {
    /// Binds the sockets and opens the files of the configuration. A server name that does not resolve does
    /// not prevent the start, because it may resolve later.
    ///
    /// # Errors
    /// Returns the first socket or file that fails. Everything opened before is closed again.
    pub async fn new(config: Config, inherited: Inherited) -> Result<Self, StartError> {
        let log = AccessLog::new();
        log.switch_to(log.prepare(&config.log).map_err(StartError::AccessLog)?);
        let snapshot = Arc::new(Snapshot::new(config.plan.clone(), None));
        load_tls_in_background(&snapshot, None).await.map_err(|error| error.placed(&config))?;
        snapshot.upstreams().try_for_each(|upstream| upstream.settings().check_sources())?;
        let mut sockets = Vec::new();
        for listen in &config.listeners {
            let ready = ListenerConfig::read_in_background(listen, None)
                .await
                .map_err(|error| error.placed(&config))?;
            sockets.push((ready, bind(&listen.socket, &inherited).await?));
        }
        let admin = match &config.admin {
            Some(settings) => {
                let token = read_token(settings).await?;
                Some((bind_admin(settings, &inherited).await.map_err(StartError::Admin)?, token))
            }
            None => None,
        };
        let pid_file = config.process.pid_file.as_deref().map(PidFile::write);
        let pid_file = pid_file.transpose().map_err(StartError::PidFile)?;
        let engine = match config.process.engine {
            Driver::Epoll => Some(Engine::start(config.process.workers).map_err(StartError::Engine)?),
            Driver::Tokio => None,
        };
        Ok(Self { config, snapshot, sockets, admin, inherited, log, engine, pid_file })
    }

    /// Begins to serve.
    pub async fn start(self, log_control: Option<LogControl>) -> Running {
        let (trigger, watch) = drain::channel();
        look_up_names(&self.snapshot).await;
        let slots = descriptors::capacity_for(&self.config.process);
        let proxy = Arc::new(Proxy::new(self.snapshot, Arc::new(self.log), self.engine.map(Arc::new)));
        let mut running = Running {
            admin_endpoint: AdminEndpoint::new(&proxy, &slots),
            proxy,
            slots,
            pid_file: self.pid_file,
            config: self.config,
            listeners: Vec::new(),
            inherited: self.inherited,
            log_control,
            trigger,
            watch,
        };
        running.proxy.metrics.set_connection_capacity(running.slots.total());
        running.keep_names_fresh();
        tokio::spawn(log_bursts(Arc::downgrade(&running.proxy.metrics)));
        for (ready, socket) in self.sockets {
            running.listen(ready, socket);
        }
        running.count_certificates();
        running.update_runtime_info();
        if let Some((socket, token)) = self.admin {
            running.admin_endpoint.open(socket, token);
        }
        running
    }
}

/// Looks up, concurrently, the names that have never resolved, and logs those that fail. Others are refreshed
/// in the background, so that a reload does not wait for a slow resolver.
async fn look_up_names(snapshot: &Snapshot) {
    let mut lookups = JoinSet::new();
    for upstream in snapshot.upstreams().filter(|upstream| resolve::is_missing_names(upstream)) {
        let upstream = Arc::clone(upstream);
        lookups.spawn(async move { (resolve::refresh(&upstream).await, upstream) });
    }
    while let Some(Ok((failed, upstream))) = lookups.join_next().await {
        for (server, error) in failed {
            let upstream = &upstream.settings().name;
            tracing::warn!(%upstream, %server, error, "look-up failed, it will be tried again");
        }
    }
}

impl Running {
    /// Returns the addresses of the listeners, in the order of the file, with the real port where the file
    /// says 0.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<Option<SocketAddr>> {
        self.listeners.iter().map(|active| active.local).collect()
    }

    /// Returns the address of the admin endpoint. `None` means that there is none, or a unix socket.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_endpoint.serving.as_ref().and_then(|serving| serving.local)
    }

    /// Returns how many tasks a shutdown waits for.
    #[must_use]
    pub fn permits(&self) -> usize {
        // The permit of `self` is no task.
        self.trigger.remaining() - 1
    }

    fn keep_names_fresh(&self) {
        for upstream in self.proxy.snapshot.load().upstreams().filter(|upstream| resolve::has_names(upstream))
        {
            tokio::spawn(resolve::keep_fresh(Arc::downgrade(upstream), self.watch.clone()));
        }
    }

    fn listen(&mut self, ready: ListenerConfig, socket: Socket) {
        let (stop, stopped) = oneshot::channel::<()>();
        let local = socket.local_addr();
        ready.announce();
        let address = ready.socket.address.clone();
        let settings = Arc::new(ArcSwap::from_pointee(ready));
        let (proxy, watch, now) = (Arc::clone(&self.proxy), self.watch.clone(), Arc::clone(&settings));
        let current = Arc::clone(&settings);
        let options = move || current.load().socket.tcp;
        let mut draining = self.watch.clone();
        let until = async move {
            tokio::select! {
                _ = stopped => {}
                () = draining.draining() => {}
            }
        };
        let give = move |accepted: Accepted| {
            tokio::spawn(serve_connection(accepted, now.load_full(), Arc::clone(&proxy), watch.clone()));
        };
        tokio::spawn(accept::run(socket, address.clone(), self.slots.clone(), options, until, give));
        match local {
            Some(local) => tracing::info!(%address, %local, "listening"),
            None => tracing::info!(%address, "listening"),
        }
        self.listeners.push(Active { address, local, settings, refused: None, _stop: stop });
    }
}
