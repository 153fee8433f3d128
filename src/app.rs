//! Owns assembly: a configuration is bound, then run. It is the only place that sees every layer.

pub mod certificates;
pub mod descriptors;
mod pid_file;
mod reload;
mod shutdown;
pub mod signal;
mod systemd;
mod window;

pub use reload::ReloadError;
pub use shutdown::Ended;

use crate::addr::ListenAddr;
use crate::admin::server::{Bound as AdminSocket, bind as bind_admin};
use crate::admin::{Token, TokenError};
use crate::config::Config;
use crate::drain::{self, Trigger, Watch};
use crate::http::serve::serve;
use crate::http::{self, Protocols};
use crate::listener::connection::{Connection, ready};
use crate::listener::socket::{BindError, Bound as Socket, Inherited, bind};
use crate::listener::{Accepted, accept};
use crate::proxy::Proxy;
use crate::proxy::snapshot::Snapshot;
use crate::slots::Slots;
use crate::telemetry::access_log::{AccessLog, OpenError};
use crate::telemetry::log::LogControl;
use crate::telemetry::metrics::tell_bursts;
use crate::tls::Alpn;
use crate::tls::sources::Sources;
use crate::tunnel::Driver;
use crate::tunnel::engine::Engine;
use crate::upstream::Private;
use crate::upstream::ports::SourceError;
use crate::upstream::resolve;
use arc_swap::ArcSwap;
use certificates::{CertificateError, Ready, secure_aside};
use pid_file::PidFile;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use window::{Window, read_token};

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket cannot be bound.
    #[error("listen: {0}")]
    Bind(#[from] BindError),
    /// The socket of the admin endpoint cannot be bound.
    #[error("admin: {0}")]
    Admin(BindError),
    /// The token of the admin endpoint cannot be read.
    #[error("admin.token_file: {0}")]
    Token(#[from] TokenError),
    /// Certificates cannot be used.
    #[error("{0}")]
    Certificates(#[from] CertificateError),
    /// A source address is not of this machine.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The threads that relay cannot be had.
    #[error("process.engine: {0}")]
    Engine(io::Error),
    /// The access log cannot be opened.
    #[error("log.access: {0}")]
    AccessLog(OpenError),
    /// The pid file cannot be written.
    #[error("process.pid_file: {0}")]
    PidFile(io::Error),
}

/// A configuration with everything at hand that can fail: sockets and files.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    snapshot: Arc<Snapshot>,
    sockets: Vec<(Ready, Socket)>,
    admin: Option<(AdminSocket, Option<Token>)>,
    inherited: Inherited,
    log: AccessLog,
    engine: Option<Engine>,
    pid_file: Option<PidFile>,
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Running {
    /// What serves requests.
    pub proxy: Arc<Proxy>,
    config: Config,
    listeners: Vec<Active>,
    window: Window,
    inherited: Inherited,
    log_control: Option<LogControl>,
    trigger: Trigger,
    watch: Watch,
    /// Room for connections.
    slots: Slots,
    /// As it was written at the start.
    pid_file: Option<PidFile>,
}

/// A listener that accepts.
#[derive(Debug)]
struct Active {
    address: ListenAddr,
    local: Option<SocketAddr>,
    /// What its connections get from now on.
    settings: Arc<ArcSwap<Ready>>,
    /// How the files of its certificates looked when they could not be used.
    refused: Option<Sources>,
    /// Dropped, it ends the accept loop.
    _stop: oneshot::Sender<()>,
}

impl Bound {
    /// Binds what the configuration names. Names of servers are looked up too, but one that is
    /// not found keeps nothing from starting: it may come up later.
    ///
    /// # Errors
    /// A socket or file is not to be had.
    pub async fn new(config: Config, inherited: Inherited) -> Result<Self, StartError> {
        let log = AccessLog::open(&config.log).map_err(StartError::AccessLog)?;
        let snapshot = Arc::new(Snapshot::new(config.plan.clone(), None));
        secure_aside(&snapshot, None).await.map_err(|error| error.placed(&config))?;
        snapshot.upstreams().try_for_each(|upstream| upstream.settings().check_sources())?;
        let mut sockets = Vec::new();
        for listen in &config.listeners {
            let ready = Ready::read_aside(listen, None).await.map_err(|error| error.placed(&config))?;
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
        let slots = descriptors::slots(&self.config.process);
        let proxy = Arc::new(Proxy::new(self.snapshot, Arc::new(self.log), self.engine.map(Arc::new)));
        let mut running = Running {
            window: Window::new(&proxy, &slots),
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
        running.proxy.metrics.set_room(running.slots.all());
        running.keep_names_fresh();
        tokio::spawn(tell_bursts(Arc::downgrade(&running.proxy.metrics)));
        for (ready, socket) in self.sockets {
            running.listen(ready, socket);
        }
        running.count_certificates();
        running.tell_facts();
        if let Some((socket, token)) = self.admin {
            running.window.open(socket, token);
        }
        running
    }
}

/// Looks up, side by side, the names that nothing is known of yet, and says which are not found.
/// The others are refreshed by the way: a reload does not wait for a slow resolver.
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
    /// The addresses that are listened on, in the order of the file; the real port where the file
    /// says 0.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<Option<SocketAddr>> {
        self.listeners.iter().map(|active| active.local).collect()
    }

    /// Where the admin endpoint listens; `None`: nowhere, or on a unix socket.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.window.serving.as_ref().and_then(|serving| serving.local)
    }

    /// How many tasks there are that a shutdown waits for.
    #[must_use]
    pub fn permits(&self) -> usize {
        // The one of `self` is no task.
        self.trigger.remaining() - 1
    }

    fn keep_names_fresh(&self) {
        for upstream in self.proxy.snapshot.load().upstreams().filter(|upstream| resolve::has_names(upstream))
        {
            tokio::spawn(resolve::keep_fresh(Arc::downgrade(upstream), self.watch.clone()));
        }
    }

    fn listen(&mut self, ready: Ready, socket: Socket) {
        let (stop, stopped) = oneshot::channel::<()>();
        let local = socket.local_addr();
        ready.announce();
        let address = ready.listen.socket.address.clone();
        let settings = Arc::new(ArcSwap::from_pointee(ready));
        let (proxy, watch, now) = (Arc::clone(&self.proxy), self.watch.clone(), Arc::clone(&settings));
        let current = Arc::clone(&settings);
        let options = move || current.load().listen.socket.tcp;
        let mut draining = self.watch.clone();
        let until = async move {
            tokio::select! {
                _ = stopped => {}
                () = draining.draining() => {}
            }
        };
        let give = move |accepted: Accepted| {
            tokio::spawn(serve_one(accepted, now.load_full(), Arc::clone(&proxy), watch.clone()));
        };
        tokio::spawn(accept::run(socket, address.clone(), self.slots.clone(), options, until, give));
        match local {
            Some(local) => tracing::info!(%address, %local, "listening"),
            None => tracing::info!(%address, "listening"),
        }
        self.listeners.push(Active { address, local, settings, refused: None, _stop: stop });
    }
}

/// One accepted connection, to its end as HTTP.
async fn serve_one(accepted: Accepted, settings: Arc<Ready>, proxy: Arc<Proxy>, watch: Watch) {
    let client = accepted.client;
    let snapshot = proxy.snapshot.load_full();
    let Ready { listen, tls, handshakes } = &*settings;
    let limit = listen.http.header_timeout;
    let tls = tls.as_deref().map(|tls| (tls, handshakes));
    let ready = ready(accepted, &listen.socket, tls, &snapshot.real_ip, &proxy.metrics, limit);
    let (stream, connection) = match ready.await {
        Ok((stream, connection)) => (stream, Arc::new(connection)),
        Err(error) => return proxy.not_ready(&error, client, watch),
    };
    let private = Arc::<Private>::default();
    let answer = |request| {
        let (proxy, connection, watch) = (Arc::clone(&proxy), Arc::clone(&connection), watch.clone());
        let private = Arc::clone(&private);
        async move { proxy.answer(request, &connection, &private, watch).await }
    };
    let refused = |refusal, told| proxy.refused(refusal, told, connection.peer, watch.clone());
    let http =
        http::Settings { protocols: protocols(&connection, listen.http.protocols), ..listen.http.clone() };
    // The certificates may be swapped while it lasts.
    drop(settings);
    serve(stream, &http, watch.clone(), answer, refused, &connection.slot).await;
}

/// The versions of HTTP that may come over a connection, of those that its listener speaks: over TLS
/// what was negotiated (RFC 7301), and of a client that negotiates nothing HTTP/1.1, if that is spoken.
fn protocols(connection: &Connection, spoken: Protocols) -> Protocols {
    let Some(tls) = &connection.tls else { return spoken };
    let http2 = match tls.session.alpn {
        Some(alpn) => alpn == Alpn::H2,
        None => !spoken.http1,
    };
    Protocols { http1: !http2, http2 }
}
