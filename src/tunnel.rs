//! Owns an open connection between a client and an upstream, from the switching of protocols to
//! its end. It must not know HTTP, routes or how the upstream was chosen.

mod blind;
pub mod control;
pub mod counters;
mod ends;
pub mod engine;
mod join;
pub mod pump;
pub mod relay;
pub mod tap;
pub mod timer;

pub use blind::Blind;
pub use ends::possible_ends;

use crate::outcome::{Outcome, PerSide};
use crate::ws::close::CloseCode;
use relay::BadAnswer;
use std::time::Duration;

/// How a tunnel behaves. Shared by all tunnels of a route and exchanged on reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Silence of a side after which it is sent a Ping; `None`: never.
    pub ping: PerSide<Option<Duration>>,
    /// From a Ping to the latest moment for any byte of that side.
    pub ping_timeout: Duration,
    /// What follows when no byte comes.
    pub pong: Pong,
    /// From the last byte of either side to giving both up (nginx `proxy_read_timeout` as it acts
    /// on upgraded connections); `None`: never.
    pub read_timeout: Option<Duration>,
    /// From the last byte that a side took, while more are waiting for it, to giving it up (nginx
    /// `send_timeout`, `proxy_send_timeout`); `None`: never.
    pub send_timeout: Option<Duration>,
    /// From the first sign of the end to cutting what has not closed by itself.
    pub close_timeout: Duration,
    /// From the opening to the end; `None`: as long as the peers like.
    pub max_lifetime: Option<Duration>,
    /// What follows a breach of framing.
    pub on_violation: OnViolation,
    /// Largest message, in bytes as sent (compressed ones count compressed); `None`: any.
    pub max_message_size: Option<u64>,
    /// Which close codes peers are sent.
    pub close_codes: CloseCodes,
}

#[cfg(test)]
impl Settings {
    /// What tests begin with: no pings, and the usual timeouts.
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
    /// A side that sends no byte after a Ping is dead.
    Required,
    /// Pings only keep the path warm.
    Optional,
}

/// What to do about a breach of framing (RFC 6455 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    /// Relay on without reading frames; the peers judge it themselves.
    Blind,
    /// Close both sides with 1002.
    Close,
}

/// Which close codes peers are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCodes {
    /// All that IANA registered, 1012 to 1014 among them.
    Registered,
    /// Only those that RFC 6455 defines.
    Rfc6455,
}

impl CloseCodes {
    /// The code as it is sent.
    #[must_use]
    pub fn apply(self, code: CloseCode) -> CloseCode {
        match self {
            Self::Registered => code,
            Self::Rfc6455 => code.to_rfc6455(),
        }
    }
}

/// Who is told of a tunnel, on the thread that relays it.
pub trait Observer: Send {
    /// A side answers the proxy's Pings badly; told once of each side.
    fn answered_badly(&self, _: BadAnswer) {}

    /// The tunnel has ended; told once.
    fn ended(self: Box<Self>, outcome: Outcome);
}

impl<F: FnOnce(Outcome) + Send> Observer for F {
    fn ended(self: Box<Self>, outcome: Outcome) {
        self(outcome);
    }
}

/// What relays the tunnels whose sockets are theirs alone. Those over HTTP/2 are tasks of the runtime in
/// any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Threads of their own, each with an epoll instance: [`engine`].
    Epoll,
    /// Tasks of the runtime: [`pump`].
    Tokio,
}

/// What the bytes of a tunnel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// WebSocket frames.
    WebSocket {
        /// permessage-deflate was agreed on.
        deflate: bool,
    },
    /// Not readable here, for the reason given: nothing is injected.
    Blind(Blind),
}
