//! Owns the change to a new configuration. Everything that can fail comes first, then everything is swapped.
//! Connections do not notice.

use super::admin_endpoint::read_token;
use super::certificates::{CertificateError, load_tls_in_background};
use super::{Running, look_up_names};
use crate::admin::server::{Bound as AdminSocket, bind as bind_admin};
use crate::admin::{ReloadOrigin, ReloadRejected, ReloadWarnings, Token, TokenError};
use crate::config::{Config, Errors, Process};
use crate::listener::socket::{BindError, Bound as Socket, bind};
use crate::proxy::connection::ListenerConfig;
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::access_log::OpenError;
use crate::upstream::ports::SourceError;
use std::sync::Arc;

/// Why a reload failed. The old configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Holdline cannot bind a new socket.
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
    #[error("log.access: {0}")]
    AccessLog(OpenError),
}

/// A new socket, unless the old one stays, and the token, if it has one. `None` means no admin endpoint.
type NextAdminEndpoint = Option<(Option<AdminSocket>, Option<Token>)>;

impl Running {
    /// Loads a configuration, applies it and logs the result. Every kind of reload request comes here.
    ///
    /// # Errors
    /// Returns every reason why the running configuration stays.
    pub async fn load_and_reload(
        &mut self,
        origin: &ReloadOrigin,
        load: &mut impl FnMut() -> Result<Config, Errors>,
    ) -> Result<ReloadWarnings, ReloadRejected> {
        let result = self.try_load_anew(load).await;
        match &result {
            Ok(warnings) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                let tunnels = self.proxy.tunnels.count();
                tracing::info!(tunnels, by = &*origin.by, reason = origin.reason, "reloaded");
            }
            Err(ReloadRejected(errors)) => {
                errors.iter().for_each(|error| tracing::error!("{error}"));
                let (errors, by) = (errors.len(), &*origin.by);
                tracing::error!(
                    errors,
                    by,
                    reason = origin.reason,
                    "reload failed, the running configuration stays"
                );
            }
        }
        let outcome = result.as_ref().map(drop).map_err(|ReloadRejected(errors)| errors.join("\n"));
        self.proxy.metrics.reloaded(outcome);
        result
    }

    async fn try_load_anew(
        &mut self,
        load: &mut impl FnMut() -> Result<Config, Errors>,
    ) -> Result<ReloadWarnings, ReloadRejected> {
        let lines = |errors: &Errors| errors.iter().map(ToString::to_string).collect();
        let config = load().map_err(|errors| ReloadRejected(lines(&errors)))?;
        let warnings = config.warnings.iter().map(ToString::to_string).collect();
        self.reload(config).await.map_err(|error| ReloadRejected(vec![error.to_string()]))?;
        Ok(warnings)
    }

    /// Applies a new configuration.
    ///
    /// # Errors
    /// Returns what failed. Nothing has changed then.
    pub async fn reload(&mut self, config: Config) -> Result<(), ReloadError> {
        let kept = self.ready_kept(&config).await?;
        let added = self.bind_added(&config).await?;
        let admin_endpoint = self.bind_admin_endpoint(&config).await?;
        let proxy = Arc::clone(&self.proxy);
        let access_log = match self.config.log == config.log {
            true => None,
            false => Some(proxy.log.prepare(&config.log).map_err(ReloadError::AccessLog)?),
        };
        let previous = proxy.snapshot.load_full();
        let next = Arc::new(Snapshot::new(config.plan.clone(), Some(&previous)));
        load_tls_in_background(&next, Some(&previous)).await.map_err(|error| error.placed(&config))?;
        next.upstreams().try_for_each(|upstream| upstream.settings().check_sources())?;
        look_up_names(&next).await;

        // Nothing fails from here on.
        proxy.snapshot.store(Arc::clone(&next));
        next.upstreams().for_each(|upstream| upstream.forget_superseded());
        proxy.apply_snapshot(&next, &previous);
        self.keep_names_fresh();
        self.listeners.retain(|active| config.listeners.iter().any(|l| l.socket.address == active.address));
        self.update_kept(kept);
        for (ready, socket) in added {
            self.listen(ready, socket);
        }
        self.use_admin_endpoint(admin_endpoint);
        if let Some(target) = access_log {
            proxy.log.switch_to(target);
            self.log_control.iter().for_each(|control| control.set(&config.log));
        }
        self.count_certificates();
        self.warn_of_what_needs_a_restart(&config);
        self.config = config;
        self.update_runtime_info();
        Ok(())
    }

    /// Prepares the new admin endpoint: its token, and its socket if the address changes.
    async fn bind_admin_endpoint(&self, config: &Config) -> Result<NextAdminEndpoint, ReloadError> {
        let Some(settings) = &config.admin else { return Ok(None) };
        let token = read_token(settings).await?;
        let stays =
            self.admin_endpoint.serving.as_ref().is_some_and(|serving| serving.address == settings.address);
        let socket = match stays {
            true => None,
            false => Some(bind_admin(settings, &self.inherited).await.map_err(ReloadError::Admin)?),
        };
        Ok(Some((socket, token)))
    }

    fn use_admin_endpoint(&mut self, next: NextAdminEndpoint) {
        match next {
            Some((Some(socket), token)) => self.admin_endpoint.open(socket, token),
            Some((None, token)) => self.admin_endpoint.admin.set_token(token),
            None => self.admin_endpoint.serving = None,
        }
    }

    /// Prepares the new settings of listeners that stay.
    async fn ready_kept(&self, config: &Config) -> Result<Vec<ListenerConfig>, CertificateError> {
        let mut kept = Vec::new();
        for listen in &config.listeners {
            let mut active = self.listeners.iter().filter(|active| active.address == listen.socket.address);
            if let Some(active) = active.next() {
                let ready =
                    ListenerConfig::read_in_background(listen, Some(active.settings.load_full())).await;
                kept.push(ready.map_err(|error| error.placed(config))?);
            }
        }
        Ok(kept)
    }

    async fn bind_added(&self, config: &Config) -> Result<Vec<(ListenerConfig, Socket)>, ReloadError> {
        let mut added = Vec::new();
        for listen in &config.listeners {
            if self.listeners.iter().all(|active| active.address != listen.socket.address) {
                let ready = ListenerConfig::read_in_background(listen, None)
                    .await
                    .map_err(|error| error.placed(config))?;
                added.push((ready, bind(&listen.socket, &self.inherited).await?));
            }
        }
        Ok(added)
    }

    /// Applies new settings to connections accepted from now on.
    fn update_kept(&mut self, kept: Vec<ListenerConfig>) {
        for ready in kept {
            ready.announce();
            let address = &ready.socket.address;
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
