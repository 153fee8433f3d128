//! Owns the body of a request: how long its client may stall, how large it may be, and why it failed.

use super::body;
use super::incoming::{Incoming, UploadError};
use super::names::clean_trailers;
use http::HeaderName;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// A request's body. Its timeout runs only while Holdline waits for bytes: a slow upstream is not the
/// client's fault.
#[derive(Debug)]
pub(crate) struct Upload<B = Incoming> {
    body: B,
    patience: Option<Duration>,
    /// Runs while Holdline waits for the client. Created on the first wait.
    timer: Option<Pin<Box<Sleep>>>,
    waits: bool,
    /// How many more bytes it may have. `None` means no limit.
    room: Option<u64>,
    /// Whether a flag of its last frame marks its end, as in HTTP/2.
    is_flagged: bool,
    /// `None` means that there is no body.
    progress: Progress,
    /// Whether names of its trailers may contain `_`.
    underscores: bool,
    /// Names that its trailers may not have, beside those that no trailers may have.
    barred: Vec<HeaderName>,
}

/// The state of a body, for a caller that sees only the broken exchange that follows from its failure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Option<Arc<State>>);

#[derive(Debug, Default)]
struct State {
    failure: OnceLock<UploadError>,
    is_over: AtomicBool,
    is_chunked: bool,
    /// The body, if an HTTP/2 stream can end while nothing polls it.
    body: OnceLock<Weak<Mutex<Upload>>>,
}

impl Progress {
    /// Returns why it failed. `None` means that it has not.
    #[must_use]
    pub(crate) fn failure(&self) -> Option<&UploadError> {
        self.0.as_ref().and_then(|state| state.failure.get())
    }

    /// Polls the body to learn why its stream ended, for a request that is being dropped. It discards the
    /// data.
    pub(crate) fn look(&self) {
        let body = self.0.as_ref().filter(|state| !state.is_over.load(Ordering::Relaxed));
        let Some(body) = body.and_then(|state| state.body.get()).and_then(Weak::upgrade) else { return };
        // Another poll in progress will see the error.
        let Ok(mut body) = body.try_lock() else { return };
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(_))) = Pin::new(&mut *body).poll_frame(&mut cx) {}
    }

    /// Whether more chunks of HTTP/1.1, and perhaps trailers, are still missing.
    #[must_use]
    pub(crate) fn is_amid_chunks(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.is_chunked && !state.is_over.load(Ordering::Relaxed))
    }
}

impl Upload {
    /// Returns it as the body of the forwarded request.
    #[must_use]
    pub(crate) fn boxed(self) -> body::Body {
        let Some(state) = self.progress.0.clone().filter(|_| self.is_flagged) else {
            return self.map_err(Into::into).boxed_unsync();
        };
        let shared = Arc::new(Mutex::new(self));
        // `boxed` is called once.
        let _ = state.body.set(Arc::downgrade(&shared));
        Shared(shared).map_err(Into::into).boxed_unsync()
    }
}

/// A body that [`Progress`] can poll too.
struct Shared(Arc<Mutex<Upload>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Upload> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for Shared {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}

impl<B: Body> Upload<B> {
    /// Creates a body that may stall for `patience`. `None` means no limit. `is_flagged` means that a flag of
    /// its last frame marks its end, as in HTTP/2.
    #[must_use]
    pub(crate) fn new(body: B, patience: Option<Duration>, is_flagged: bool) -> Self {
        let is_chunked = !is_flagged && body.size_hint().exact().is_none();
        let progress = (!body.is_end_stream()).then(|| Arc::new(State { is_chunked, ..State::default() }));
        let progress = Progress(progress);
        Self {
            body,
            patience,
            timer: None,
            waits: false,
            room: None,
            is_flagged,
            progress,
            underscores: false,
            barred: Vec::new(),
        }
    }

    /// Limits its size in bytes. A larger body ends with an error. `None` means no limit.
    ///
    /// # Errors
    /// Returns [`UploadError::TooLarge`] if its announced size exceeds the limit.
    pub(crate) fn limit(&mut self, most: Option<u64>) -> Result<(), UploadError> {
        self.room = most;
        match most {
            Some(most) if self.body.size_hint().lower() > most => Err(UploadError::TooLarge),
            _ => Ok(()),
        }
    }

    /// Returns a handle to its state, which outlives the body.
    #[must_use]
    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Sets whether names of its trailers may contain `_`.
    #[must_use]
    pub(crate) fn with_underscores(self, underscores: bool) -> Self {
        Self { underscores, ..self }
    }

    /// Bars names from its trailers that are removed from the headers.
    #[must_use]
    pub(crate) fn barring(self, barred: Vec<HeaderName>) -> Self {
        Self { barred, ..self }
    }

    /// Returns a frame without barred trailers. `None` means that no trailer is left, which ends the body.
    fn cleaned(&self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let mut trailers = match frame.into_trailers() {
            Ok(trailers) => trailers,
            Err(frame) => return Some(frame),
        };
        clean_trailers(&mut trailers, self.underscores, &self.barred);
        (!trailers.is_empty()).then(|| Frame::trailers(trailers))
    }

    /// The next frame that brings the body on. One without a byte, which HTTP/2 can send for ever, is passed over: it
    /// must not restart the timer that limits its sender.
    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        for _ in 0..MOST_EMPTY {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                polled => return polled,
            }
        }
        // Others have their turn, and the timer is looked at.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the client has stalled for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(patience) = self.patience else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        if !self.waits {
            self.waits = true;
            timer.as_mut().reset(Instant::now() + patience);
        }
        timer.as_mut().poll(cx).is_ready()
    }

    /// Checks a frame against the size limit.
    fn admit(&mut self, frame: Frame<B::Data>) -> Result<Frame<B::Data>, UploadError>
    where
        B: Body<Data = Bytes>,
    {
        if let (Some(room), Some(data)) = (&mut self.room, frame.data_ref()) {
            *room = room.checked_sub(data.len() as u64).ok_or(UploadError::TooLarge)?;
        }
        Ok(frame)
    }

    fn note(&self, next: Option<&Result<Frame<B::Data>, UploadError>>) {
        let Some(state) = &self.progress.0 else { return };
        let is_over = next.is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers));
        state.is_over.fetch_or(is_over, Ordering::Relaxed);
        if let Some(Err(error)) = next {
            // The first reason counts.
            let _ = state.failure.set(error.clone());
        }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<UploadError>,
{
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let next = match self.poll_progress(cx) {
            Poll::Pending if self.is_late(cx) => Some(Err(UploadError::TooSlow)),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(next) => {
                self.waits = false;
                match next {
                    // Nothing is left of the trailers, so the body ends here.
                    Some(Ok(frame)) => self.cleaned(frame).map(|frame| self.admit(frame)),
                    Some(Err(error)) => Some(Err(error.into())),
                    None => None,
                }
            }
        };
        self.note(next.as_ref());
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Frames without a byte that are passed over in one turn.
const MOST_EMPTY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    struct Pieces(mpsc::Receiver<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = UploadError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
            self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
        }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn only_time_in_which_it_is_asked_for_more_counts() {
        let (send, pieces) = mpsc::channel(8);
        let mut upload = Upload::new(Pieces(pieces), Some(PATIENCE), false);
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
        assert_eq!(error, UploadError::TooSlow);
        assert!(began.elapsed().abs_diff(PATIENCE) < Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_without_a_byte_are_no_progress() {
        // A few now and then, and more than one turn takes at once.
        for (count, pause) in [(1, PATIENCE / 4), (10 * MOST_EMPTY, Duration::from_secs(1))] {
            let (send, pieces) = mpsc::channel(count);
            let mut upload = Upload::new(Pieces(pieces), Some(PATIENCE), true);
            let began = Instant::now();
            let empty = async {
                loop {
                    for _ in 0..count {
                        send.send(Bytes::new()).await.unwrap();
                    }
                    sleep(pause).await;
                }
            };
            let frame = tokio::select! {
                frame = upload.frame() => frame,
                () = empty => unreachable!("it goes on for ever"),
                () = sleep(2 * PATIENCE) => panic!("the timer began again"),
            };
            assert_eq!(frame.unwrap().unwrap_err(), UploadError::TooSlow);
            assert!(began.elapsed().abs_diff(PATIENCE) < Duration::from_millis(5));
        }
    }

    #[tokio::test]
    async fn it_brings_no_more_than_its_limit_and_says_why_it_failed() {
        let (send, pieces) = mpsc::channel(8);
        let mut upload = Upload::new(Pieces(pieces), None, false);
        upload.limit(Some(5)).unwrap();
        let progress = upload.progress();
        for piece in ["hello", "", "!"] {
            send.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        }
        assert!(upload.frame().await.unwrap().is_ok());
        assert_eq!(progress.failure(), None);
        assert!(progress.is_amid_chunks());
        assert_eq!(upload.frame().await.unwrap().unwrap_err(), UploadError::TooLarge);
        assert_eq!(progress.failure(), Some(&UploadError::TooLarge));
        assert!(!progress.is_amid_chunks());
    }
}
