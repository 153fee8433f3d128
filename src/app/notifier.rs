//! Owns the notifications to systemd (`sd_notify(3)`): ready, reloading, stopping, the status text and the
//! watchdog. It must not know signals, nor decide anything.

use crate::proxy::registry::Registry;
use sd_notify::NotifyState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Notifies systemd. `None` means that the environment does not ask for it.
#[derive(Debug)]
pub(super) struct Notifier(Option<ActiveNotifier>);

#[derive(Debug)]
struct ActiveNotifier {
    status_text: Arc<StatusText>,
    /// The task that refreshes the status and the watchdog. The drain does not wait for it. [`Notifier::end`]
    /// ends it, and so does dropping this.
    task: JoinSet<()>,
}

/// The status text for systemd.
#[derive(Debug)]
struct StatusText {
    tunnels: Arc<Registry>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    process_state: ProcessState,
    /// The status last sent.
    last_sent: String,
}

#[derive(Debug)]
enum ProcessState {
    Serving {
        listeners: usize,
        /// Why the last reload failed, if it did.
        failed: Option<String>,
    },
    Closing,
}

impl Notifier {
    /// Sends READY, then keeps the status and the watchdog up to date, as far as the environment asks for it.
    pub(super) fn serving(tunnels: &Arc<Registry>, listeners: usize) -> Self {
        if std::env::var_os(NOTIFY_SOCKET).is_none_or(|socket| socket.is_empty()) {
            return Self(None);
        }
        let (status_text, status) =
            StatusText::new(Arc::clone(tunnels), ProcessState::Serving { listeners, failed: None });
        send(&[NotifyState::Ready, NotifyState::Status(&status)]);
        let status_text = Arc::new(status_text);
        let mut task = JoinSet::new();
        // Also `None` if the watchdog is for another process.
        let watchdog = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
        task.spawn(run(Arc::clone(&status_text), watchdog, send));
        Self(Some(ActiveNotifier { status_text, task }))
    }

    /// Tells systemd that a reload begins. It waits for [`Self::reloaded`].
    pub(super) fn reloading(&self) {
        if self.0.is_none() {
            return;
        }
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot tell systemd about the reload"),
        }
    }

    /// Tells systemd that a reload is over. `failed` says why it failed, if it did.
    pub(super) fn reloaded(&self, listeners: usize, failed: Option<String>) {
        let Some(active) = &self.0 else { return };
        let status = active.status_text.change(ProcessState::Serving { listeners, failed });
        send(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Tells systemd that shutdown begins and takes at most `longest`. systemd then waits that long, even if
    /// `TimeoutStopSec` is shorter.
    pub(super) fn stopping(&self, longest: Duration) {
        let Some(active) = &self.0 else { return };
        let status = active.status_text.change(ProcessState::Closing);
        let timeout = format!("EXTEND_TIMEOUT_USEC={}", (longest + STOP_MARGIN).as_micros());
        send(&[NotifyState::Stopping, NotifyState::Status(&status), NotifyState::Custom(&timeout)]);
    }

    /// Ends the task and waits for it.
    pub(super) async fn end(self) {
        if let Some(mut active) = self.0 {
            active.task.shutdown().await;
        }
    }
}

impl StatusText {
    /// Creates it. Returns the status to send too.
    fn new(tunnels: Arc<Registry>, process_state: ProcessState) -> (Self, String) {
        let status = process_state.status(tunnels.count());
        (Self { tunnels, state: Mutex::new(State { process_state, last_sent: status.clone() }) }, status)
    }

    /// Changes the process state. Returns the status to send.
    fn change(&self, process_state: ProcessState) -> String {
        let tunnels = self.tunnels.count();
        let mut state = self.lock();
        state.last_sent = process_state.status(tunnels);
        state.process_state = process_state;
        state.last_sent.clone()
    }

    /// Returns the status if it differs from the last one sent.
    fn changed_status(&self) -> Option<String> {
        let tunnels = self.tunnels.count();
        let mut state = self.lock();
        let status = state.process_state.status(tunnels);
        (status != state.last_sent).then(|| {
            state.last_sent.clone_from(&status);
            status
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProcessState {
    fn status(&self, tunnels: usize) -> String {
        let tunnels = counted(tunnels, "tunnel");
        match self {
            Self::Serving { listeners, failed } => {
                let serving = format!("serving {tunnels} on {}", counted(*listeners, "listener"));
                match failed {
                    Some(why) => format!("reload failed: {}; still {serving}", one_line(why)),
                    None => serving,
                }
            }
            Self::Closing => format!("closing {tunnels}"),
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Makes one line of a text. A line break would start another assignment, and systemd drops messages over 4
/// KiB.
fn one_line(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON_CHARS).collect();
    if text.chars().nth(MAX_REASON_CHARS).is_some() {
        line.push('…');
    }
    line
}

/// Refreshes the status, and sends WATCHDOG twice per timeout of the watchdog. It runs on the same runtime as the
/// connections: if the timer or the workers stall, systemd notices.
async fn run(status_text: Arc<StatusText>, watchdog: Option<Duration>, send: impl Fn(&[NotifyState<'_>])) {
    let now = Instant::now();
    let mut refresh = interval_at(now + REFRESH, REFRESH);
    let mut alive = interval_at(now, watchdog.unwrap_or(REFRESH) / 2);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = alive.tick(), if watchdog.is_some() => send(&[NotifyState::Watchdog]),
            _ = refresh.tick() => {
                if let Some(status) = status_text.changed_status() {
                    send(&[NotifyState::Status(&status)]);
                }
            }
        }
    }
}

fn send(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Refresh interval of the status, which people read.
const REFRESH: Duration = Duration::from_secs(10);

/// Extra time from the end of a shutdown to the exit of the process.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Maximum length of a reason: enough for one error with its place.
const MAX_REASON_CHARS: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    fn serving(failed: Option<&str>) -> ProcessState {
        ProcessState::Serving { listeners: 2, failed: failed.map(str::to_owned) }
    }

    #[test]
    fn the_status_says_what_is_done() {
        assert_eq!(serving(None).status(1), "serving 1 tunnel on 2 listeners");
        assert_eq!(ProcessState::Closing.status(20), "closing 20 tunnels");
        let failed = serving(Some("a.toml:1: no\nREADY=1")).status(0);
        assert_eq!(failed, "reload failed: a.toml:1: no READY=1; still serving 0 tunnels on 2 listeners");
        let long = serving(Some(&"ü".repeat(5000))).status(0);
        assert!(long.len() < 1000 && long.contains("…; still"), "{long}");
    }

    #[tokio::test(start_paused = true)]
    async fn watchdog_messages_come_at_half_the_timeout_and_a_status_only_when_it_changes() {
        let status_text = Arc::new(StatusText::new(Arc::default(), serving(None)).0);
        let (tell, mut sent) = mpsc::unbounded_channel();
        let tell = move |what: &[NotifyState<'_>]| tell.send(what[0].to_string()).unwrap();
        let task = tokio::spawn(run(Arc::clone(&status_text), Some(Duration::from_secs(7)), tell));
        sleep(Duration::from_secs(22)).await;
        let mut alive = 0;
        while let Ok(what) = sent.try_recv() {
            assert_eq!(what, "WATCHDOG=1");
            alive += 1;
        }
        assert_eq!(alive, 7, "at 0, 3.5, ... 21 s");
        status_text.lock().process_state = ProcessState::Closing;
        let mut next = async || sent.recv().await.unwrap();
        assert_eq!([next().await, next().await], ["WATCHDOG=1"; 2], "at 24.5 and 28 s");
        assert_eq!(next().await, "STATUS=closing 0 tunnels", "at 30 s");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_only_the_status_is_sent() {
        let status_text = Arc::new(StatusText::new(Arc::default(), serving(None)).0);
        let (tell, mut sent) = mpsc::unbounded_channel();
        let tell = move |what: &[NotifyState<'_>]| tell.send(what[0].to_string()).unwrap();
        let task = tokio::spawn(run(Arc::clone(&status_text), None, tell));
        sleep(Duration::from_secs(100)).await;
        status_text.lock().process_state = ProcessState::Closing;
        assert_eq!(sent.recv().await.unwrap(), "STATUS=closing 0 tunnels");
        task.abort();
    }
}
