//! Owns what systemd is told (`sd_notify(3)`): that the proxy serves, reloads and ends, what it is
//! doing, and that it is alive. It must not know signals, nor decide anything.

use crate::proxy::session::Sessions;
use sd_notify::NotifyState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// The line to systemd; `None` where nobody asked for one, and then nothing is done.
#[derive(Debug)]
pub(super) struct Systemd(Option<Line>);

#[derive(Debug)]
struct Line {
    outlook: Arc<Outlook>,
    /// Holds the beat. It is not waited for by the drain, as it lives through it: [`Systemd::end`]
    /// ends it, and so does dropping this.
    beat: JoinSet<()>,
}

/// What the process does, as told to systemd.
#[derive(Debug)]
struct Outlook {
    sessions: Arc<Sessions>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    doing: Doing,
    /// The status that systemd has.
    told: String,
}

#[derive(Debug)]
enum Doing {
    Serving {
        listeners: usize,
        /// Why the last reload failed, if it did.
        failed: Option<String>,
    },
    Closing,
}

// === impl Systemd ===

impl Systemd {
    /// Tells it that the proxy serves, and from now on what it does and that it is alive, as far as
    /// the environment asks for it.
    pub(super) fn serving(sessions: &Arc<Sessions>, listeners: usize) -> Self {
        if std::env::var_os(NOTIFY_SOCKET).is_none_or(|socket| socket.is_empty()) {
            return Self(None);
        }
        let (outlook, status) =
            Outlook::new(Arc::clone(sessions), Doing::Serving { listeners, failed: None });
        say(&[NotifyState::Ready, NotifyState::Status(&status)]);
        let outlook = Arc::new(outlook);
        let mut beat = JoinSet::new();
        // `None` also where the watchdog waits for another process.
        let patience = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero());
        beat.spawn(live(Arc::clone(&outlook), patience, say));
        Self(Some(Line { outlook, beat }))
    }

    /// A reload begins. systemd waits for its end from here on, however it ends.
    pub(super) fn reloading(&self) {
        if self.0.is_none() {
            return;
        }
        match NotifyState::monotonic_usec_now() {
            Ok(now) => say(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd is not told of the reload"),
        }
    }

    /// A reload is over; `failed` says why nothing has changed, if so.
    pub(super) fn reloaded(&self, listeners: usize, failed: Option<String>) {
        let Some(line) = &self.0 else { return };
        let status = line.outlook.turn(Doing::Serving { listeners, failed });
        say(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// The end begins, and is over after `longest`. systemd waits for it, even if its
    /// `TimeoutStopSec` is shorter.
    pub(super) fn stopping(&self, longest: Duration) {
        let Some(line) = &self.0 else { return };
        let status = line.outlook.turn(Doing::Closing);
        let patience = format!("EXTEND_TIMEOUT_USEC={}", (longest + STOP_MARGIN).as_micros());
        say(&[NotifyState::Stopping, NotifyState::Status(&status), NotifyState::Custom(&patience)]);
    }

    /// Ends the beat; nothing of it remains.
    pub(super) async fn end(self) {
        if let Some(mut line) = self.0 {
            line.beat.shutdown().await;
        }
    }
}

// === impl Outlook ===

impl Outlook {
    /// It, and the status to tell.
    fn new(sessions: Arc<Sessions>, doing: Doing) -> (Self, String) {
        let status = doing.status(sessions.count());
        (Self { sessions, state: Mutex::new(State { doing, told: status.clone() }) }, status)
    }

    /// Something else is done now; the status to tell.
    fn turn(&self, doing: Doing) -> String {
        let tunnels = self.sessions.count();
        let mut state = self.lock();
        state.told = doing.status(tunnels);
        state.doing = doing;
        state.told.clone()
    }

    /// The status, if it is another than the one told last.
    fn news(&self) -> Option<String> {
        let tunnels = self.sessions.count();
        let mut state = self.lock();
        let status = state.doing.status(tunnels);
        (status != state.told).then(|| {
            state.told.clone_from(&status);
            status
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doing {
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

/// A line break would begin another message to systemd, and one over 4 KiB is dropped there.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// Keeps the status fresh, and says at half of systemd's `patience` that the process is alive. It is a
/// task among those that carry the connections: when the runtime's timer does not wake it, or no
/// worker is free to run it for that long, they fare no better, and systemd hears nothing.
async fn live(outlook: Arc<Outlook>, patience: Option<Duration>, say: impl Fn(&[NotifyState<'_>])) {
    let now = Instant::now();
    let mut refresh = interval_at(now + REFRESH, REFRESH);
    let mut alive = interval_at(now, patience.unwrap_or(REFRESH) / 2);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = alive.tick(), if patience.is_some() => say(&[NotifyState::Watchdog]),
            _ = refresh.tick() => {
                if let Some(status) = outlook.news() {
                    say(&[NotifyState::Status(&status)]);
                }
            }
        }
    }
}

fn say(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// How old a status may be: `systemctl status` is read by people.
const REFRESH: Duration = Duration::from_secs(10);

/// From the last word of a shutdown to the end of the process.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Characters of a reason: enough for one mistake with its place.
const LONGEST: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    fn serving(failed: Option<&str>) -> Doing {
        Doing::Serving { listeners: 2, failed: failed.map(str::to_owned) }
    }

    #[test]
    fn the_status_says_what_is_done() {
        assert_eq!(serving(None).status(1), "serving 1 tunnel on 2 listeners");
        assert_eq!(Doing::Closing.status(20), "closing 20 tunnels");
        let failed = serving(Some("a.toml:1: no\nREADY=1")).status(0);
        assert_eq!(failed, "reload failed: a.toml:1: no READY=1; still serving 0 tunnels on 2 listeners");
        let long = serving(Some(&"ü".repeat(5000))).status(0);
        assert!(long.len() < 1000 && long.contains("…; still"), "{long}");
    }

    #[tokio::test(start_paused = true)]
    async fn life_is_shown_at_half_the_patience_and_a_status_only_when_it_changes() {
        let outlook = Arc::new(Outlook::new(Arc::default(), serving(None)).0);
        let (tell, mut told) = mpsc::unbounded_channel();
        let tell = move |what: &[NotifyState<'_>]| tell.send(what[0].to_string()).unwrap();
        let beat = tokio::spawn(live(Arc::clone(&outlook), Some(Duration::from_secs(7)), tell));
        sleep(Duration::from_secs(22)).await;
        let mut alive = 0;
        while let Ok(what) = told.try_recv() {
            assert_eq!(what, "WATCHDOG=1");
            alive += 1;
        }
        assert_eq!(alive, 7, "at 0, 3.5, ... 21 s");
        outlook.lock().doing = Doing::Closing;
        let mut next = async || told.recv().await.unwrap();
        assert_eq!([next().await, next().await], ["WATCHDOG=1"; 2], "at 24.5 and 28 s");
        assert_eq!(next().await, "STATUS=closing 0 tunnels", "at 30 s");
        beat.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_there_is_no_sign_of_life() {
        let outlook = Arc::new(Outlook::new(Arc::default(), serving(None)).0);
        let (tell, mut told) = mpsc::unbounded_channel();
        let tell = move |what: &[NotifyState<'_>]| tell.send(what[0].to_string()).unwrap();
        let beat = tokio::spawn(live(Arc::clone(&outlook), None, tell));
        sleep(Duration::from_secs(100)).await;
        outlook.lock().doing = Doing::Closing;
        assert_eq!(told.recv().await.unwrap(), "STATUS=closing 0 tunnels");
        beat.abort();
    }
}
