//! Owns the process's signals and what they mean.

use super::systemd::Systemd;
use super::{Ended, Running};
use crate::admin::{Ordered, Refused};
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

    /// Runs the proxy until SIGTERM or SIGINT: SIGHUP, or the admin endpoint, loads the configuration
    /// anew, SIGUSR1 opens the access log anew. A second SIGTERM or SIGINT ends the process at once.
    pub async fn attend(
        mut self,
        mut running: Running,
        mut load: impl FnMut() -> Result<Config, Errors>,
    ) -> ExitCode {
        let systemd = Systemd::serving(&running.proxy.sessions, running.listeners.len());
        let mut look_again = interval(CERTIFICATES_CHECKED);
        let by = loop {
            tokio::select! {
                _ = look_again.tick() => running.refresh_certificates().await,
                _ = self.hangup.recv() => {
                    systemd.reloading();
                    let failed = running.load_anew(&Ordered::by_signal("SIGHUP"), &mut load).await.err();
                    systemd.reloaded(running.listeners.len(), failed.map(first_of));
                }
                order = running.window.ordered() => {
                    systemd.reloading();
                    let result = running.load_anew(&order.ordered, &mut load).await;
                    systemd.reloaded(running.listeners.len(), result.clone().err().map(first_of));
                    order.answer(result);
                }
                _ = self.user1.recv() => running.proxy.log.reopen(),
                _ = self.terminate.recv() => break "SIGTERM",
                _ = self.interrupt.recv() => break "SIGINT",
            }
        };
        tracing::info!(by, "the order to stop came");
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

/// How soon the files of certificates are seen to have changed; one `stat(2)` each.
const CERTIFICATES_CHECKED: Duration = Duration::from_secs(10);

/// In short why a reload failed.
fn first_of(Refused(errors): Refused) -> String {
    match &errors[..] {
        [] => String::new(),
        [one] => one.clone(),
        [first, more @ ..] => format!("{first} (and {} more)", more.len()),
    }
}
