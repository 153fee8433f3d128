//! Owns a request's body on its way in, and how long its client may keep it waiting.

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// A request's body. Time counts only while it is asked for more and there is none: an upstream that
/// reads slowly is not the client's fault.
#[derive(Debug)]
pub struct Upload<B = Incoming> {
    body: B,
    patience: Option<Duration>,
    /// Runs while the client is waited for; made when that happens first.
    timer: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

/// Nothing of it came for `body_timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing of the request's body came within body_timeout")]
pub struct TooSlow;

impl<B> Upload<B> {
    /// One that may stand still for so long; `None`: for ever.
    #[must_use]
    pub fn new(body: B, patience: Option<Duration>) -> Self {
        Self { body, patience, timer: None, waits: false }
    }

    /// Whether it has been waited for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(patience) = self.patience else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        if !self.waits {
            self.waits = true;
            timer.as_mut().reset(Instant::now() + patience);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(next) => {
                self.waits = false;
                Poll::Ready(next.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending if self.is_late(cx) => Poll::Ready(Some(Err(TooSlow.into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::convert::Infallible;
    use tokio::sync::mpsc;

    struct Pieces(mpsc::Receiver<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
        }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn only_time_in_which_it_is_asked_for_more_counts() {
        let (send, pieces) = mpsc::channel(8);
        let mut upload = Upload::new(Pieces(pieces), Some(PATIENCE));
        for _ in 0..3 {
            let late = async {
                sleep(PATIENCE * 9 / 10).await;
                send.send(Bytes::from_static(b"x")).await.unwrap();
            };
            let (frame, ()) = tokio::join!(upload.frame(), late);
            assert!(frame.unwrap().is_ok());
            // Now the upstream takes its time.
            sleep(PATIENCE * 2).await;
        }
        let began = Instant::now();
        let error = upload.frame().await.unwrap().unwrap_err();
        assert!(error.downcast_ref::<TooSlow>().is_some());
        assert!(began.elapsed().abs_diff(PATIENCE) < Duration::from_millis(5));
    }
}
