//! Owns the tokio driver: a tunnel as a future, over any two byte streams, that one task polls. It must not
//! know what is done with the bytes.

use super::control::Control;
pub use super::join::Opened;
use super::join::{Join, Next};
use super::relay::BadAnswer;
use super::{Framing, Settings};
use crate::io::Readiness;
use crate::outcome::{Outcome, PerSide};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep_until};

/// An open tunnel; as a future it resolves to the tunnel's outcome. It is to be polled by one task
/// only, whose waker it keeps.
#[must_use = "a tunnel does nothing unless polled"]
pub struct Pump<S> {
    join: Join<S>,
    /// One wake-up for all timers, set again only when it fires or must come earlier.
    wake_up: Pin<Box<Sleep>>,
}

/// Joins two streams to their end; the tunnel's time begins with its control.
pub fn run<S>(
    streams: PerSide<Opened<S>>,
    settings: Arc<Settings>,
    framing: Framing,
    control: Arc<Control>,
) -> Pump<S>
where
    S: AsyncRead + AsyncWrite + Readiness + Unpin,
{
    let wake_up = Box::pin(sleep_until(control.opened()));
    Pump { join: Join::new(streams, settings, framing, control), wake_up }
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Future for Pump<S> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Self { join, wake_up } = self.get_mut();
        if !std::mem::replace(&mut join.attached, true) {
            join.control().attach(cx.waker().into());
        }
        match join.turn(join.control().now(), cx) {
            Next::End => return Poll::Ready(join.outcome()),
            // A thread that always has a task at hand looks at its sockets only every 61st time: a mere
            // wake-up would keep bytes for others waiting.
            Next::GoOn => _ = pin!(yield_now()).poll(cx),
            Next::Wait => {}
        }
        if let Some(next) = join.arm() {
            wake_up.as_mut().reset(join.control().opened() + next.elapsed());
            if wake_up.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Pump<S> {
    /// A side that answers Pings badly, if one was found since this was last asked.
    pub fn take_bad_answer(&mut self) -> Option<BadAnswer> {
        self.join.take_bad_answer()
    }

    /// The story so far, for a tunnel that is given up.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.join.outcome()
    }
}

#[cfg(test)]
mod tests;
