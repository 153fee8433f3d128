//! Owns the process's signals and what they mean.

use super::systemd::Systemd;
use super::{Ended, Running};
use crate::config::{Config, Errors};
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::interval;

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
        let systemd = Systemd::serving(&running.proxy.sessions, running.listeners.len());
        let mut look_again = interval(CERTIFICATES_CHECKED);
        loop {
            tokio::select! {
                _ = look_again.tick() => running.refresh_certificates().await,
                _ = self.hangup.recv() => {
                    systemd.reloading();
                    let result = reload(&mut running, &mut load).await;
                    running.proxy.metrics.reloaded(result.clone());
                    systemd.reloaded(running.listeners.len(), result.err());
                }
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
        systemd.stopping(running.longest_end());
        let ended = running.shut_down(second).await;
        systemd.end().await;
        match ended {
            Ended::InTime | Ended::Cut => ExitCode::SUCCESS,
            Ended::AtOnce => ExitCode::from(EXIT_AT_ONCE),
        }
    }
}

/// Loads and takes over; says in the log how it went, and returns in short why it failed.
async fn reload(
    running: &mut Running,
    load: &mut impl FnMut() -> Result<Config, Errors>,
) -> Result<(), String> {
    let config = load().map_err(|errors| {
        for error in errors.iter() {
            tracing::error!("{error}");
        }
        tracing::error!(errors = errors.iter().count(), "reload failed, the running configuration stays");
        first_of(&errors)
    })?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    running.reload(config).await.map_err(|error| {
        tracing::error!(%error, "reload failed, the running configuration stays");
        error.to_string()
    })?;
    tracing::info!(tunnels = running.proxy.sessions.count(), "reloaded");
    Ok(())
}

/// How soon the files of certificates are seen to have changed; one `stat(2)` each.
const CERTIFICATES_CHECKED: Duration = Duration::from_secs(10);

fn first_of(errors: &Errors) -> String {
    let mut all = errors.iter();
    let first = all.next().map(ToString::to_string).unwrap_or_default();
    match all.count() {
        0 => first,
        more => format!("{first} (and {more} more)"),
    }
}
