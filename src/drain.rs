//! Owns the end of the process's life as seen by its tasks: phases, a deadline, and the knowledge
//! of who is still there. It must not know signals or what the tasks do.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything is served.
    Serving,
    /// Nothing new is begun; what is open closes by the deadline.
    Draining {
        /// When it has to be over.
        deadline: Instant,
    },
    /// The deadline is over: everything ends now.
    Expired,
}

/// The one end that sets the phase.
#[derive(Debug)]
pub struct Trigger(watch::Sender<Phase>);

/// The end that every task holds, for as long as it lives: it is a permit as well.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<Phase>);

/// A trigger and the first watch.
#[must_use]
pub fn channel() -> (Trigger, Watch) {
    let (trigger, watch) = watch::channel(Phase::Serving);
    (Trigger(trigger), Watch(watch))
}

impl Trigger {
    /// Begins to drain; everything has `grace` to end.
    pub fn drain(&self, grace: Duration) {
        self.0.send_replace(Phase::Draining { deadline: Instant::now() + grace });
    }

    /// Ends what is left.
    pub fn expire(&self) {
        self.0.send_replace(Phase::Expired);
    }

    /// How many watches there are.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.0.receiver_count()
    }

    /// Waits until the last watch is dropped.
    pub async fn finished(&self) {
        self.0.closed().await;
    }
}

impl Watch {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits for the drain to begin.
    pub async fn draining(&mut self) {
        self.reach(|phase| *phase != Phase::Serving).await;
    }

    /// Waits for the deadline to be over.
    pub async fn expired(&mut self) {
        self.reach(|phase| *phase == Phase::Expired).await;
    }

    /// A trigger that is dropped ends everything: nobody could end it later.
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
