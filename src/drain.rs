//! Owns the shutdown as tasks see it: phases, a deadline, and the count of tasks that still run. It must not know
//! signals, or what the tasks do.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A phase of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No shutdown has begun.
    Serving,
    /// Tasks begin nothing new, and close what is open by the deadline.
    Draining {
        /// When the drain must be over.
        deadline: Instant,
    },
    /// The deadline has passed, so everything ends now.
    Expired,
}

/// Sets the phase. There is one trigger.
#[derive(Debug)]
pub(crate) struct Trigger(watch::Sender<Phase>);

/// Tells a task the phase. Each task holds one as long as it lives, so the trigger knows how many tasks run.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<Phase>);

/// A trigger and its first watch.
#[must_use]
pub(crate) fn channel() -> (Trigger, Watch) {
    let (trigger, watch) = watch::channel(Phase::Serving);
    (Trigger(trigger), Watch(watch))
}

impl Trigger {
    /// Begins the drain, with a deadline after `grace`.
    pub(crate) fn drain(&self, grace: Duration) {
        self.0.send_replace(Phase::Draining { deadline: Instant::now() + grace });
    }

    /// Ends all tasks that are left.
    pub(crate) fn expire(&self) {
        self.0.send_replace(Phase::Expired);
    }

    /// How many watches are alive.
    #[must_use]
    pub(crate) fn remaining(&self) -> usize {
        self.0.receiver_count()
    }

    /// Waits until the last watch is dropped.
    pub(crate) async fn finished(&self) {
        self.0.closed().await;
    }
}

impl Watch {
    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the drain begins.
    pub async fn draining(&mut self) {
        self.reach(|phase| *phase != Phase::Serving).await;
    }

    /// Waits until the deadline has passed.
    pub async fn expired(&mut self) {
        self.reach(|phase| *phase == Phase::Expired).await;
    }

    /// Also returns when the trigger is dropped, because no later phase can come.
    async fn reach(&mut self, reached: impl FnMut(&Phase) -> bool) {
        let _ = self.0.wait_for(reached).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn phases_follow_each_other_and_the_last_watch_ends_it() {
        let (trigger, mut watch) = channel();
        assert_eq!(watch.phase(), Phase::Serving);
        let task = tokio::spawn(async move {
            watch.draining().await;
            watch.expired().await;
        });
        trigger.drain(Duration::from_secs(5));
        assert_eq!(trigger.remaining(), 1);
        trigger.expire();
        trigger.finished().await;
        assert_eq!(trigger.remaining(), 0);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_trigger_ends_the_waiting() {
        let (trigger, mut watch) = channel();
        drop(trigger);
        watch.expired().await;
    }
}
