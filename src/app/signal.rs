//! Owns the process's signals and what they mean.

use super::{Ended, Running};
use crate::config::{Config, Errors};
use std::io;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that are listened to.
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    user1: Signal,
}

/// The status of a process that a second signal ended at once: 128 + SIGINT, as shells have it.
const EXIT_AT_ONCE: u8 = 130;

impl Signals {
    /// Takes the signals over; before, they would end the process.
    ///
    /// # Errors
    /// The runtime has no signal driver.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Runs the proxy until SIGTERM or SIGINT: SIGHUP loads the configuration anew, SIGUSR1 opens
    /// the access log anew. A second SIGTERM or SIGINT ends the process at once.
    pub async fn attend(
        mut self,
        mut running: Running,
        mut load: impl FnMut() -> Result<Config, Errors>,
    ) -> ExitCode {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => reload(&mut running, &mut load).await,
                _ = self.user1.recv() => {
                    running.proxy.log.reopen();
                    tracing::info!("access log is opened anew");
                }
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
            }
        }
        let second = async {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        };
        match running.shut_down(second).await {
            Ended::InTime | Ended::Cut => ExitCode::SUCCESS,
            Ended::AtOnce => ExitCode::from(EXIT_AT_ONCE),
        }
    }
}

async fn reload(running: &mut Running, load: &mut impl FnMut() -> Result<Config, Errors>) {
    let config = match load() {
        Ok(config) => config,
        Err(errors) => {
            for error in errors.iter() {
                tracing::error!("{error}");
            }
            return tracing::error!(
                errors = errors.iter().count(),
                "reload failed, the running configuration stays"
            );
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match running.reload(config).await {
        Ok(()) => tracing::info!(tunnels = running.proxy.sessions.count(), "reloaded"),
        Err(error) => tracing::error!(%error, "reload failed, the running configuration stays"),
    }
}
