//! Owns what the demo's upstreams do: a chat room, and an echo.

use super::server::{Answer, Asked};
use super::socket::{Message, Socket, open};
use crate::ws::frame::OpCode;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::broadcast;

/// Messages that a slow guest may lag behind.
const HISTORY: usize = 64;

/// Everybody hears everybody.
pub(super) struct Room {
    said: broadcast::Sender<String>,
    guests: AtomicUsize,
}

impl Default for Room {
    fn default() -> Self {
        Self { said: broadcast::channel(HISTORY).0, guests: AtomicUsize::new(0) }
    }
}

pub(super) fn chat(room: &Arc<Room>, (request, watch): Asked) -> Answer {
    let room = Arc::clone(room);
    Box::pin(async move { open(request, watch, move |socket| room.host(socket)) })
}

pub(super) fn echo((request, watch): Asked) -> Answer {
    Box::pin(async move { open(request, watch, repeat) })
}

async fn repeat(mut socket: Socket) {
    while let Some(message) = socket.next().await {
        let sent = match message {
            Message::Text(text) => socket.send(OpCode::Text, &text).await,
            Message::Binary(bytes) => socket.send(OpCode::Binary, &bytes).await,
        };
        if sent.is_none() {
            return;
        }
    }
}

impl Room {
    async fn host(self: Arc<Self>, mut socket: Socket) {
        let name = format!("guest-{}", self.guests.fetch_add(1, Ordering::Relaxed) + 1);
        let mut heard = self.said.subscribe();
        self.announce(&format!("{name} joined"), self.said.receiver_count());
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Message::Text(text)) => {
                        let text = String::from_utf8_lossy(&text).into_owned();
                        self.say(&json!({ "from": name, "text": text }));
                    }
                    Some(Message::Binary(_)) => {}
                    None => break,
                },
                said = heard.recv() => match said {
                    Ok(said) if socket.send(OpCode::Text, said.as_bytes()).await.is_none() => break,
                    // A guest who lags behind misses some.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                },
            }
        }
        self.announce(&format!("{name} left"), self.said.receiver_count().saturating_sub(1));
    }

    fn announce(&self, text: &str, present: usize) {
        self.say(&json!({ "system": text, "present": present }));
    }

    fn say(&self, what: &serde_json::Value) {
        // It fails if the room is empty.
        let _ = self.said.send(what.to_string());
    }
}
