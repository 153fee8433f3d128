//! Owns the change to a new configuration: its preparation, and its adoption, which cannot fail. Connections do
//! not notice.

use super::prepare::{From, PrepareError, Prepared, PreparedAdmin};
use super::{Running, look_up_names};
use crate::admin::{ReloadOrigin, ReloadRejected, ReloadWarnings};
use crate::config::{Config, Errors, Process};
use crate::proxy::snapshot::Snapshot;
use std::mem;
use std::sync::Arc;

impl Running {
    /// Loads a configuration, applies it and logs the result. Every kind of reload request comes here.
    ///
    /// # Errors
    /// Returns every reason why the running configuration stays.
    pub(super) async fn load_and_reload(
        &mut self,
        origin: &ReloadOrigin,
        load: &mut impl FnMut() -> Result<Config, Errors>,
    ) -> Result<ReloadWarnings, ReloadRejected> {
        let result = self.load_and_try_reload(load).await;
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

    async fn load_and_try_reload(
        &mut self,
        load: &mut impl FnMut() -> Result<Config, Errors>,
    ) -> Result<ReloadWarnings, ReloadRejected> {
        let lines = |errors: &Errors| errors.iter().map(ToString::to_string).collect();
        let config = load().map_err(|errors| ReloadRejected(lines(&errors)))?;
        let warnings = config.warnings.iter().map(ToString::to_string).collect();
        self.reload(config).await.map_err(|error| ReloadRejected(vec![error.to_string()]))?;
        Ok(warnings)
    }

    /// Prepares a new configuration and applies it.
    ///
    /// # Errors
    /// Returns what failed. Nothing has changed then.
    pub async fn reload(&mut self, config: Config) -> Result<(), PrepareError> {
        let prepared = Prepared::new(config, From::Running(self)).await?;
        look_up_names(&prepared.snapshot).await;
        self.adopt(prepared);
        Ok(())
    }

    /// Applies a prepared configuration. Nothing fails here.
    pub(super) fn adopt(&mut self, prepared: Prepared) {
        let Prepared { config, snapshot, listeners, admin, access_log } = prepared;
        let previous = mem::replace(&mut self.config, config);
        self.adopt_snapshot(snapshot);
        self.adopt_listeners(listeners);
        self.count_certificates();
        self.update_runtime_info();
        self.adopt_admin_endpoint(admin);
        if let Some(target) = access_log {
            self.proxy.log.switch_to(target);
            if let Some(control) = &self.log_control {
                control.set(&self.config.log);
            }
        }
        self.warn_of_what_needs_a_restart(&previous);
    }

    fn adopt_snapshot(&self, next: Arc<Snapshot>) {
        let previous = self.proxy.snapshot.swap(Arc::clone(&next));
        next.upstreams().for_each(|upstream| upstream.forget_superseded());
        self.proxy.apply_snapshot(&next, &previous);
        self.keep_names_fresh();
    }

    fn adopt_admin_endpoint(&mut self, prepared: Option<PreparedAdmin>) {
        match prepared {
            Some(PreparedAdmin { socket: Some(socket), token }) => self.admin_endpoint.open(socket, token),
            Some(PreparedAdmin { socket: None, token }) => self.admin_endpoint.admin.set_token(token),
            None => self.admin_endpoint.serving = None,
        }
    }

    fn warn_of_what_needs_a_restart(&self, previous: &Config) {
        let (old, new) = (&previous.process, &self.config.process);
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
            let address = active.address();
            let before = fixed(previous, address.clone());
            if before.is_some() && before != fixed(&self.config, address.clone()) {
                tracing::warn!(%address, "listen.backlog and listen.reuse_port change only with a restart");
            }
        }
    }
}
