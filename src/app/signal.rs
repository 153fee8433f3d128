//! Owns the process's signals and what they mean.

use super::notifier::Notifier;
use super::{Ended, Running};
use crate::admin::{ReloadOrigin, ReloadRejected};
use crate::config::{Config, Errors};
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::interval;

/// The signals that Holdline handles.
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    user1: Signal,
}

/// Exit status after a second signal: 128 + SIGINT, as in shells.
const EXIT_AT_ONCE: u8 = 130;

impl Signals {
    /// Installs the handlers. Before that, the signals would end the process.
    ///
    /// # Errors
    /// Returns an error if the runtime has no signal driver.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Runs the proxy until SIGTERM or SIGINT. SIGHUP or the admin endpoint reloads the configuration.
    /// SIGUSR1 reopens the access log. A second SIGTERM or SIGINT ends the process at once.
    pub async fn run_until_signal(
        mut self,
        mut running: Running,
        mut load: impl FnMut() -> Result<Config, Errors>,
    ) -> ExitCode {
        let notifier = Notifier::serving(&running.proxy.tunnels, running.listeners.len());
        let mut certificate_check = interval(CERTIFICATE_CHECK_INTERVAL);
        let by = loop {
            tokio::select! {
                _ = certificate_check.tick() => running.refresh_certificates().await,
                _ = self.hangup.recv() => {
                    notifier.reloading();
                    let origin = ReloadOrigin::by_signal("SIGHUP");
                    let failed = running.load_and_reload(&origin, &mut load).await.err();
                    notifier.reloaded(running.listeners.len(), failed.map(first_of));
                }
                reload = running.admin_endpoint.next_reload() => {
                    notifier.reloading();
                    let result = running.load_and_reload(&reload.origin, &mut load).await;
                    notifier.reloaded(running.listeners.len(), result.clone().err().map(first_of));
                    reload.respond(result);
                }
                _ = self.user1.recv() => running.proxy.log.reopen(),
                _ = self.terminate.recv() => break "SIGTERM",
                _ = self.interrupt.recv() => break "SIGINT",
            }
        };
        tracing::info!(by, "received a signal to stop");
        let second = async {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        };
        notifier.stopping(running.longest_end());
        let ended = running.shut_down(second).await;
        notifier.end().await;
        match ended {
            Ended::InTime | Ended::Cut => ExitCode::SUCCESS,
            Ended::AtOnce => ExitCode::from(EXIT_AT_ONCE),
        }
    }
}

/// How often Holdline checks certificate files for changes, with one `stat(2)` each.
const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Summarises why a reload failed.
fn first_of(ReloadRejected(errors): ReloadRejected) -> String {
    match &errors[..] {
        [] => String::new(),
        [one] => one.clone(),
        [first, more @ ..] => format!("{first} (and {} more)", more.len()),
    }
}
