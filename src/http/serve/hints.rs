//! Owns the way of interim answers (1xx) to a client (RFC 9110 15.2).

use super::activity::Activity;
use http::{HeaderMap, Response, StatusCode};
use std::sync::Weak;
use tokio::sync::mpsc;

/// Passes interim answers to the client of one request.
#[derive(Clone, Debug)]
pub struct Hints(Way);

#[derive(Clone, Debug)]
enum Way {
    /// Around hyper's server, which can send none.
    Http1 { activity: Weak<Activity>, exchange: u64 },
    /// By the task of its stream.
    Http2(mpsc::Sender<Response<()>>),
}

impl Hints {
    /// Those of one exchange of a connection of HTTP/1.
    pub(super) fn over_http1(activity: Weak<Activity>, exchange: u64) -> Self {
        Self(Way::Http1 { activity, exchange })
    }

    /// Those of a stream of HTTP/2, which go to its task.
    pub(super) fn over_http2(interim: mpsc::Sender<Response<()>>) -> Self {
        Self(Way::Http2(interim))
    }

    /// Passes one on. It is left out where the answer is there already, or the client takes nothing.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        match &self.0 {
            Way::Http1 { activity, exchange } => {
                if let Some(activity) = activity.upgrade()
                    && activity.interim.add(*exchange, status, headers)
                {
                    activity.flush.ask();
                }
            }
            Way::Http2(stream) => {
                let mut head = Response::new(());
                *head.status_mut() = status;
                head.headers_mut().clone_from(headers);
                let _ = stream.try_send(head);
            }
        }
    }
}
