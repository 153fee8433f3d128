//! Owns the sending of interim responses (1xx) to a client (RFC 9110 15.2).

use super::ConnState;
use http::{HeaderMap, Response, StatusCode};
use std::sync::Weak;
use tokio::sync::mpsc;

/// Sends interim responses to the client of one request.
#[derive(Clone, Debug)]
pub(crate) struct InterimSender(Way);

#[derive(Clone, Debug)]
enum Way {
    /// Past hyper's server, which cannot send any.
    Http1 { conn_state: Weak<ConnState>, exchange: u64 },
    /// Through the task of its stream.
    Http2(mpsc::Sender<Response<()>>),
}

impl InterimSender {
    /// Sends those of one exchange of an HTTP/1 connection.
    pub(in crate::http::conn) fn over_http1(conn_state: Weak<ConnState>, exchange: u64) -> Self {
        Self(Way::Http1 { conn_state, exchange })
    }

    /// Sends those of an HTTP/2 stream through its task.
    pub(in crate::http::conn) fn over_http2(interim: mpsc::Sender<Response<()>>) -> Self {
        Self(Way::Http2(interim))
    }

    /// Sends one. Holdline drops it if the final response has begun, or if the client reads nothing.
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        match &self.0 {
            Way::Http1 { conn_state, exchange } => {
                if let Some(conn_state) = conn_state.upgrade()
                    && conn_state.interim.push(*exchange, status, headers)
                {
                    conn_state.flush.request();
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
