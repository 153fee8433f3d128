//! Owns the start of the process's proxy: what only a start prepares, and the first configuration.

use super::admin_endpoint::AdminEndpoint;
use super::pid_file::PidFile;
use super::prepare::{From, PrepareError, Prepared};
use super::{Running, descriptors, look_up_names};
use crate::config::{Config, Process};
use crate::drain;
use crate::listener::socket::Inherited;
use crate::proxy::Proxy;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log::LogControl;
use crate::telemetry::metrics::log_bursts;
use crate::tunnel::Driver;
use crate::tunnel::engine::Engine;
use std::path::Path;
use std::sync::Arc;

/// A proxy that is ready to run: everything that can fail has succeeded. Dropping it closes everything again.
#[derive(Debug)]
pub struct Startup {
    prepared: Prepared,
    inherited: Inherited,
    log: AccessLog,
    /// `None` means that tasks of the runtime relay tunnels.
    engine: Option<Engine>,
    pid_file: Option<PidFile>,
}

impl Startup {
    /// Prepares a configuration and the process. The pid file comes last, because it replaces another.
    ///
    /// # Errors
    /// Returns the first thing that fails. Everything opened before is closed again. The file of an access
    /// log and its earlier lines stay.
    pub async fn prepare(config: Config, inherited: Inherited) -> Result<Self, PrepareError> {
        let log = AccessLog::new();
        let prepared = Prepared::new(config, From::Nothing { inherited: &inherited, log: &log }).await?;
        let process = &prepared.config.process;
        let engine = start_engine(process)?;
        let pid_file = process.pid_file.as_deref().map(write_pid_file).transpose()?;
        Ok(Self { prepared, inherited, log, engine, pid_file })
    }

    /// Begins to serve.
    pub async fn run(self, log_control: Option<LogControl>) -> Running {
        let Self { prepared, inherited, log, engine, pid_file } = self;
        look_up_names(&prepared.snapshot).await;
        let slots = descriptors::capacity_for(&prepared.config.process);
        let proxy = Arc::new(Proxy::new(Arc::clone(&prepared.snapshot), Arc::new(log), engine.map(Arc::new)));
        let (trigger, watch) = drain::channel();
        let mut running = Running {
            admin_endpoint: AdminEndpoint::new(&proxy, &slots),
            config: prepared.config.clone(),
            listeners: Vec::new(),
            proxy,
            slots,
            pid_file,
            inherited,
            log_control,
            trigger,
            watch,
        };
        running.proxy.metrics.set_connection_capacity(running.slots.total());
        tokio::spawn(log_bursts(Arc::downgrade(&running.proxy.metrics)));
        running.adopt(prepared);
        running
    }
}

fn start_engine(process: &Process) -> Result<Option<Engine>, PrepareError> {
    match process.engine {
        Driver::Epoll => Engine::start(process.workers).map(Some).map_err(PrepareError::Engine),
        Driver::Tokio => Ok(None),
    }
}

fn write_pid_file(path: &Path) -> Result<PidFile, PrepareError> {
    PidFile::write(path).map_err(|error| PrepareError::PidFile { path: path.to_owned(), error })
}
