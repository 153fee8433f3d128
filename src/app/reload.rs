//! Owns the change to a new configuration: everything that can fail is done first, then all is
//! swapped, and no connection notices.

use super::certificates::{CertificateError, Ready, secure_aside};
use super::window::read_token;
use super::{Running, look_up_names};
use crate::admin::server::{Bound as AdminSocket, bind as bind_admin};
use crate::admin::{Done, Ordered, Refused, Token, TokenError};
use crate::config::{Config, Errors, Process};
use crate::listener::socket::{BindError, Bound as Socket, bind};
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::access_log::OpenError;
use crate::upstream::ports::SourceError;
use std::sync::Arc;

/// Why a new configuration was not taken over; the old one is still in force then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A new socket cannot be bound.
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
    /// The access log cannot be opened.
    #[error("log.access: {0}")]
    AccessLog(OpenError),
}

/// `None`: there is none. A socket, unless the old one stays, and a token, if it has one.
type NextWindow = Option<(Option<AdminSocket>, Option<Token>)>;

impl Running {
    /// Loads a configuration and takes it over; says in the log how it went. The same for each way
    /// in which it can be ordered.
    ///
    /// # Errors
    /// The running configuration stays, for all these reasons.
    pub async fn load_anew(
        &mut self,
        ordered: &Ordered,
        load: &mut impl FnMut() -> Result<Config, Errors>,
    ) -> Result<Done, Refused> {
        let result = self.try_load_anew(load).await;
        match &result {
            Ok(warnings) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                let tunnels = self.proxy.sessions.count();
                tracing::info!(tunnels, by = &*ordered.by, reason = ordered.reason, "reloaded");
            }
            Err(Refused(errors)) => {
                errors.iter().for_each(|error| tracing::error!("{error}"));
                let (errors, by) = (errors.len(), &*ordered.by);
                tracing::error!(
                    errors,
                    by,
                    reason = ordered.reason,
                    "reload failed, the running configuration stays"
                );
            }
        }
        let told = result.as_ref().map(drop).map_err(|Refused(errors)| errors.join("\n"));
        self.proxy.metrics.reloaded(told);
        result
    }

    async fn try_load_anew(
        &mut self,
        load: &mut impl FnMut() -> Result<Config, Errors>,
    ) -> Result<Done, Refused> {
        let lines = |errors: &Errors| errors.iter().map(ToString::to_string).collect();
        let config = load().map_err(|errors| Refused(lines(&errors)))?;
        let warnings = config.warnings.iter().map(ToString::to_string).collect();
        self.reload(config).await.map_err(|error| Refused(vec![error.to_string()]))?;
        Ok(warnings)
    }

    /// Takes over a new configuration.
    ///
    /// # Errors
    /// Something it needs is not to be had; nothing has changed then.
    pub async fn reload(&mut self, config: Config) -> Result<(), ReloadError> {
        let kept = self.ready_kept(&config).await?;
        let added = self.bind_added(&config).await?;
        let window = self.bind_window(&config).await?;
        let proxy = Arc::clone(&self.proxy);
        let use_log = match self.config.log == config.log {
            true => None,
            false => Some(proxy.log.prepare(&config.log).map_err(ReloadError::AccessLog)?),
        };
        let previous = proxy.snapshot.load_full();
        let next = Arc::new(Snapshot::new(config.plan.clone(), Some(&previous)));
        secure_aside(&next, Some(&previous)).await.map_err(|error| error.placed(&config))?;
        next.upstreams().try_for_each(|upstream| upstream.settings().check_sources())?;
        look_up_names(&next).await;

        // From here on nothing fails.
        proxy.snapshot.store(Arc::clone(&next));
        next.upstreams().for_each(|upstream| upstream.forget_overruled());
        proxy.follow(&next, &previous);
        self.keep_names_fresh();
        self.listeners.retain(|active| config.listeners.iter().any(|l| l.socket.address == active.address));
        self.update_kept(kept);
        for (ready, socket) in added {
            self.listen(ready, socket);
        }
        self.use_window(window);
        if let Some(use_log) = use_log {
            use_log();
            self.log_control.iter().for_each(|control| control.set(&config.log));
        }
        self.count_certificates();
        self.warn_of_what_needs_a_restart(&config);
        self.config = config;
        self.tell_facts();
        Ok(())
    }

    /// The admin endpoint as it will be: its token, and its socket if it is another.
    async fn bind_window(&self, config: &Config) -> Result<NextWindow, ReloadError> {
        let Some(settings) = &config.admin else { return Ok(None) };
        let token = read_token(settings).await?;
        let stays = self.window.serving.as_ref().is_some_and(|serving| serving.address == settings.address);
        let socket = match stays {
            true => None,
            false => Some(bind_admin(settings, &self.inherited).await.map_err(ReloadError::Admin)?),
        };
        Ok(Some((socket, token)))
    }

    fn use_window(&mut self, next: NextWindow) {
        match next {
            Some((Some(socket), token)) => self.window.open(socket, token),
            Some((None, token)) => self.window.admin.set_token(token),
            None => self.window.serving = None,
        }
    }

    /// The new settings of listeners that stay.
    async fn ready_kept(&self, config: &Config) -> Result<Vec<Ready>, CertificateError> {
        let mut kept = Vec::new();
        for listen in &config.listeners {
            let mut active = self.listeners.iter().filter(|active| active.address == listen.socket.address);
            if let Some(active) = active.next() {
                let ready = Ready::read_aside(listen, Some(active.settings.load_full())).await;
                kept.push(ready.map_err(|error| error.placed(config))?);
            }
        }
        Ok(kept)
    }

    async fn bind_added(&self, config: &Config) -> Result<Vec<(Ready, Socket)>, ReloadError> {
        let mut added = Vec::new();
        for listen in &config.listeners {
            if self.listeners.iter().all(|active| active.address != listen.socket.address) {
                let ready = Ready::read_aside(listen, None).await.map_err(|error| error.placed(config))?;
                added.push((ready, bind(&listen.socket, &self.inherited).await?));
            }
        }
        Ok(added)
    }

    /// Connections accepted from now on get the new settings.
    fn update_kept(&mut self, kept: Vec<Ready>) {
        for ready in kept {
            ready.announce();
            let address = &ready.listen.socket.address;
            if let Some(active) = self.listeners.iter_mut().find(|active| active.address == *address) {
                active.refused = None;
                active.settings.store(Arc::new(ready));
            }
        }
    }

    fn warn_of_what_needs_a_restart(&self, config: &Config) {
        let (old, new) = (&self.config.process, &config.process);
        let fixed = |process: &Process| (process.workers, process.engine, process.pid_file.clone());
        if fixed(old) != fixed(new) {
            tracing::warn!("process.workers, process.engine and process.pid_file change only with a restart");
        }
        let fixed = |config: &Config, address| {
            let mut listeners = config.listeners.iter();
            let found = listeners.find(|listen| listen.socket.address == address);
            found.map(|listen| (listen.socket.backlog, listen.socket.reuse_port))
        };
        for active in &self.listeners {
            let address = &active.address;
            let before = fixed(&self.config, address.clone());
            if before.is_some() && before != fixed(config, address.clone()) {
                tracing::warn!(%address, "listen.backlog and listen.reuse_port change only with a restart");
            }
        }
    }
}
