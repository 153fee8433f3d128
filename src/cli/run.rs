//! Owns `holdline run`: it starts the log, the runtime and the proxy.

use super::{fail, load};
use crate::app::signal::Signals;
use crate::app::{Startup, descriptors};
use crate::config::Config;
use crate::listener::socket::Inherited;
use crate::telemetry::log;
use std::io;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(path: &Path) -> ExitCode {
    let inherited = Inherited::from_env();
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let log_control = log::start(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    descriptors::raise();
    let (files, connections) =
        (descriptors::open_files(), descriptors::capacity_for(&config.process).total());
    tracing::info!("{connections} client connections fit into the limit of {files} open files");
    let workers = config.process.workers;
    let serve = async move {
        let signals = Signals::new()?;
        let startup = Startup::prepare(config, inherited).await.map_err(io::Error::other)?;
        let running = startup.run(Some(log_control)).await;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "serving");
        Ok(signals.run_until_signal(running, || Config::load(path)).await)
    };
    block_on(workers, serve)
}

/// Runs a future on `workers` threads. 0 means one for each CPU.
pub(super) fn block_on(workers: usize, future: impl Future<Output = io::Result<ExitCode>>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if workers > 0 {
        builder.worker_threads(workers);
    }
    let result = builder.enable_all().build().and_then(|runtime| runtime.block_on(future));
    result.unwrap_or_else(|error| fail(&error))
}
