//! Owns tunnels: upgraded connections between a client and an upstream, from the 101 to the end. It must not know
//! HTTP, routes, or how the upstream was chosen.

mod blind;
pub(crate) mod control;
pub(crate) mod counters;
mod ends;
pub(crate) mod engine;
mod session;
pub(crate) mod pump;
pub(crate) mod relay;
pub(crate) mod inspect;
pub(crate) mod timer;
mod wake;

pub use blind::Blind;
pub(crate) use ends::possible_ends;

use crate::outcome::{Outcome, PerSide};
use crate::ws::close::CloseCode;
use relay::BadPong;
use std::time::Duration;

/// How a tunnel behaves. All tunnels of a route share it, and a reload replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Holdline sends a side a Ping after this much silence. `None` means never.
    pub ping: PerSide<Option<Duration>>,
    /// How long a side may send no byte after a Ping.
    pub ping_timeout: Duration,
    /// Whether a side that sends nothing within `ping_timeout` ends the tunnel.
    pub pong: Pong,
    /// Idle timeout: how long both sides may be silent (nginx `proxy_read_timeout`, as it acts on upgraded
    /// connections). `None` means without limit.
    pub read_timeout: Option<Duration>,
    /// How long a side may accept no byte while output waits for it (nginx `send_timeout`, `proxy_send_timeout`). `None`
    /// means without limit.
    pub send_timeout: Option<Duration>,
    /// How long the sides may take to close after the end is decided.
    pub close_timeout: Duration,
    /// How long the tunnel may live. `None` means without limit.
    pub max_lifetime: Option<Duration>,
    /// What Holdline does about a breach of framing.
    pub on_violation: OnViolation,
    /// The largest message, in bytes as sent: a compressed message counts compressed. `None` means without limit.
    pub max_message_size: Option<u64>,
    /// Which close codes Holdline sends.
    pub close_codes: CloseCodes,
}

#[cfg(test)]
impl Settings {
    /// The settings that tests begin with: no Pings, and the usual timeouts.
    fn of_tests() -> Self {
        Self {
            ping: PerSide::default(),
            ping_timeout: Duration::from_secs(20),
            pong: Pong::Required,
            read_timeout: None,
            send_timeout: Some(Duration::from_secs(60)),
            close_timeout: Duration::from_secs(10),
            max_lifetime: None,
            on_violation: OnViolation::Blind,
            max_message_size: None,
            close_codes: CloseCodes::Registered,
        }
    }
}

/// Whether a peer must answer Pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pong {
    /// A side that sends no byte after a Ping counts as dead.
    Required,
    /// Pings only keep the path warm.
    Optional,
}

/// What to do about a breach of framing (RFC 6455 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    /// Relay on without reading frames. The peers decide what to do. With `max_message_size`, Holdline closes instead.
    Blind,
    /// Close both sides with 1002.
    Close,
}

/// Which close codes Holdline sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCodes {
    /// All that IANA registered, including 1012 to 1014.
    Registered,
    /// Only those that RFC 6455 defines.
    Rfc6455,
}

impl CloseCodes {
    /// The code that Holdline sends for `code`.
    #[must_use]
    pub fn apply(self, code: CloseCode) -> CloseCode {
        match self {
            Self::Registered => code,
            Self::Rfc6455 => code.to_rfc6455(),
        }
    }
}

/// Learns about a tunnel, on the thread that relays it.
pub trait Observer: Send {
    /// Called once for each side that answers Holdline's Pings incorrectly.
    fn report_bad_pong(&self, _: BadPong) {}

    /// Called once, when the tunnel has ended.
    fn ended(self: Box<Self>, outcome: Outcome);
}

impl<F: FnOnce(Outcome) + Send> Observer for F {
    fn ended(self: Box<Self>, outcome: Outcome) {
        self(outcome);
    }
}

/// Which driver relays tunnels over sockets of their own. Tunnels over HTTP/2 share a socket, so they are always tokio
/// tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// The threads of [`engine`], each with its epoll instance.
    Epoll,
    /// One tokio task for each tunnel: [`pump`].
    Tokio,
}

/// Whether the relay reads the bytes of a tunnel as frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// WebSocket frames.
    WebSocket {
        /// Whether the handshake agreed on permessage-deflate.
        deflate: bool,
    },
    /// The relay reads no frames, for this reason, and injects none.
    Blind(Blind),
}
