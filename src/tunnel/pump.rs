//! Owns the tokio driver: a tunnel as a future that one task polls, over any two byte streams. It must not know what
//! happens to the bytes.

use super::control::Control;
use super::relay::BadPong;
use super::session::{Next, Session};
use super::{Framing, Settings};
use crate::io::{PrefixedStream, Readiness};
use crate::outcome::{Outcome, PerSide};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep_until};

/// An open tunnel, as a future that resolves to its outcome. Only one task may poll it, because it keeps the waker of
/// its first poll.
#[must_use = "a tunnel does nothing unless polled"]
pub(crate) struct Pump<S> {
    session: Session<S>,
    /// One timer for all deadlines. It is reset only when it fires or must fire earlier.
    timer: Pin<Box<Sleep>>,
}

/// Relays between two streams until the tunnel ends. The tunnel's time begins with its control.
pub(crate) fn run<S>(
    streams: PerSide<PrefixedStream<S>>,
    settings: Arc<Settings>,
    framing: Framing,
    control: Arc<Control>,
) -> Pump<S>
where
    S: AsyncRead + AsyncWrite + Readiness + Unpin,
{
    let timer = Box::pin(sleep_until(control.opened()));
    Pump { session: Session::new(streams, settings, framing, control), timer }
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Future for Pump<S> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Self { session, timer } = self.get_mut();
        if !std::mem::replace(&mut session.is_attached, true) {
            session.control().attach(cx.waker().into());
        }
        match session.turn(session.control().now(), cx) {
            Next::End => return Poll::Ready(session.outcome()),
            // A busy tokio thread polls its sockets only every 61st task. `yield_now` makes it poll them first, so
            // that bytes for other tunnels do not wait.
            Next::Again => _ = pin!(yield_now()).poll(cx),
            Next::Wait => {}
        }
        if let Some(next) = session.arm() {
            timer.as_mut().reset(session.control().opened() + next.elapsed());
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Readiness + Unpin> Pump<S> {
    /// Takes a bad Pong that was found since the last call.
    pub(crate) fn take_bad_pong(&mut self) -> Option<BadPong> {
        self.session.take_bad_pong()
    }

    /// The outcome up to now, for a tunnel that is dropped before its end.
    #[must_use]
    pub(crate) fn outcome(&self) -> Outcome {
        self.session.outcome()
    }
}

#[cfg(test)]
mod tests;
