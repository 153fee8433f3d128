//! Owns Server-Sent Events (the HTML standard, 9.2) as a response body.

use super::request::AdminRequest;
use super::response::{AdminResponse, Problem, with_body};
use crate::escape;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use serde::Serialize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Sends events. Dropping it ends the response.
pub(super) struct Sender(mpsc::Sender<Bytes>);

/// The response body that receives events.
struct Events {
    events: mpsc::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

/// Opens a response for events.
///
/// # Errors
/// Returns 503 if the maximum number of streams is open.
pub(super) fn open(request: &AdminRequest) -> Result<(Sender, AdminResponse), Problem> {
    let place = Arc::clone(&request.admin.streams).try_acquire_owned().map_err(|_| {
        Problem::unavailable("as many event streams are open as may be (48); close a page or a tail")
    })?;
    let (sender, events) = mpsc::channel(WAITING);
    let body = Events { events, _place: place }.boxed_unsync();
    Ok((Sender(sender), with_body(StatusCode::OK, "text/event-stream", body)))
}

/// Formats one event. JSON data has one line.
pub(super) fn event(name: &str, data: &impl Serialize) -> Bytes {
    written(name, &escape::json(&serde_json::to_string(data).unwrap_or_default()))
}

/// Formats one event whose data is serialised JSON.
pub(super) fn written(name: &str, json: &str) -> Bytes {
    format!("event: {name}\ndata: {json}\n\n").into()
}

impl Sender {
    /// Sends an event when the reader has space for it. Returns whether there is a reader.
    pub(super) async fn send(&self, event: Bytes) -> bool {
        self.0.send(event).await.is_ok()
    }

    /// Sends a keep-alive comment. Returns whether there is a reader.
    pub(super) async fn beat(&self) -> bool {
        self.send(Bytes::from_static(b": \n\n")).await
    }

    /// Waits until the reader is gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.events.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

/// Maximum number of events that wait for a reader.
const WAITING: usize = 16;

/// Interval of keep-alive comments, below every known idle limit.
pub(super) const BEAT: Duration = Duration::from_secs(15);
