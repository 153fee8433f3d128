//! Owns the change to a new configuration: everything that can fail is done first, then all is
//! swapped, and no connection notices.

use super::certificates::{CertificateError, Ready, secure_aside};
use super::{Running, look_up_names};
use crate::config::Config;
use crate::listener::socket::{BindError, Bound as Socket, bind};
use crate::proxy::snapshot::Snapshot;
use crate::upstream::ports::SourceError;
use std::io;
use std::sync::Arc;

/// Why a new configuration was not taken over; the old one is still in force then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A new socket cannot be bound.
    #[error("listen: {0}")]
    Bind(#[from] BindError),
    /// Certificates cannot be used.
    #[error("{0}")]
    Certificates(#[from] CertificateError),
    /// A source address is not of this machine.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The access log cannot be opened.
    #[error("log.access: {0}")]
    AccessLog(io::Error),
}

impl Running {
    /// Takes over a new configuration.
    ///
    /// # Errors
    /// Something it needs is not to be had; nothing has changed then.
    pub async fn reload(&mut self, config: Config) -> Result<(), ReloadError> {
        let kept = self.ready_kept(&config).await?;
        let added = self.bind_added(&config).await?;
        let proxy = Arc::clone(&self.proxy);
        let use_log = match self.config.log == config.log {
            true => None,
            false => Some(proxy.log.prepare(&config.log).map_err(ReloadError::AccessLog)?),
        };
        let previous = proxy.snapshot.load_full();
        let next = Arc::new(Snapshot::new(config.plan.clone(), Some(&previous)));
        secure_aside(&next, Some(&previous)).await?;
        next.upstreams().try_for_each(|upstream| upstream.settings().check_sources())?;
        look_up_names(&next).await;

        // From here on nothing fails.
        proxy.snapshot.store(Arc::clone(&next));
        proxy.follow(&next, &previous);
        self.keep_names_fresh();
        self.listeners.retain(|active| config.listeners.iter().any(|l| l.socket.address == active.address));
        self.update_kept(kept);
        for (ready, socket) in added {
            self.listen(ready, socket);
        }
        if let Some(use_log) = use_log {
            use_log();
            self.log_control.iter().for_each(|control| control.set(&config.log));
        }
        self.count_certificates();
        self.warn_of_what_needs_a_restart(&config);
        self.config = config;
        Ok(())
    }

    /// The new settings of listeners that stay.
    async fn ready_kept(&self, config: &Config) -> Result<Vec<Ready>, CertificateError> {
        let mut kept = Vec::new();
        for listen in &config.listeners {
            let mut active = self.listeners.iter().filter(|active| active.address == listen.socket.address);
            if let Some(active) = active.next() {
                kept.push(Ready::read_aside(listen, Some(active.settings.load_full())).await?);
            }
        }
        Ok(kept)
    }

    async fn bind_added(&self, config: &Config) -> Result<Vec<(Ready, Socket)>, ReloadError> {
        let mut added = Vec::new();
        for listen in &config.listeners {
            if self.listeners.iter().all(|active| active.address != listen.socket.address) {
                let ready = Ready::read_aside(listen, None).await?;
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
        if old.workers != new.workers || old.pid_file != new.pid_file {
            tracing::warn!("process.workers and process.pid_file change only with a restart");
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
