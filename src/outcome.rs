//! Owns the end of a connection as a value: who ended it, the cause, the close code and reason, traffic and idle
//! times. It must not know sockets or protocols.

use crate::ws::close::CloseCode;
use std::fmt;
use std::ops::{Index, IndexMut};
use std::time::{Duration, SystemTime};

/// One of the two peers of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client, which connected to the proxy.
    Client,
    /// The server that the proxy connected to.
    Upstream,
}

impl Side {
    /// Both, for loops.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    /// Returns the word for it in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }

    /// Returns the other side.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

/// Two values, one for each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerSide<T> {
    /// The client's.
    pub client: T,
    /// The upstream's.
    pub upstream: T,
}

impl<T> Index<Side> for PerSide<T> {
    type Output = T;
    fn index(&self, side: Side) -> &T {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }
}

impl<T> IndexMut<Side> for PerSide<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndedBy {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
    /// The proxy, because of a limit, a timeout or an order of the operator.
    Proxy,
}

impl From<Side> for EndedBy {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Upstream => Self::Upstream,
        }
    }
}

impl EndedBy {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Client, Self::Upstream, Self::Proxy];

    /// The word for it in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Proxy => "proxy",
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// An HTTP exchange was answered in full.
    Done,
    /// A Close frame.
    Close,
    /// End of stream without a Close frame; applications call it 1006.
    Eof,
    /// ECONNRESET or EPIPE; a fatal alert or an altered record of TLS; RST_STREAM, or a connection error of
    /// HTTP/2.
    Reset,
    /// No byte came within `ping.timeout` after a Ping of the proxy.
    Unresponsive,
    /// Neither side delivered a byte for `read_timeout`.
    ReadTimeout,
    /// Bytes waited for that side, but it took none for `send_timeout`.
    SendTimeout,
    /// The tunnel reached `max_lifetime`.
    Lifetime,
    /// The kernel gave up on the peer (ETIMEDOUT: keepalive or `tcp_user_timeout`).
    TcpTimeout,
    /// The operator drains its endpoint.
    Drain,
    /// The proxy shuts down.
    Shutdown,
    /// A reload removed the endpoint from the configuration.
    EndpointRemoved,
    /// The operator closed this one connection.
    Operator,
    /// A message over `max_message_size`.
    TooBig,
    /// A violation of framing, with `on_violation = "close"` or `max_message_size`.
    Violation,
    /// A limit on connections or WebSocket handshakes is reached.
    Limit,
    /// The request is malformed, or no route serves it.
    Refused,
    /// No endpoint could be reached, or none is available.
    Unreachable,
    /// An endpoint accepted the connection and did not answer in time.
    ResponseTimeout,
    /// An endpoint gave an answer that is not valid.
    BadAnswer,
    /// The task was dropped, which is a defect.
    Aborted,
}

impl Cause {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 21] = [
        Self::Done,
        Self::Close,
        Self::Eof,
        Self::Reset,
        Self::Unresponsive,
        Self::ReadTimeout,
        Self::SendTimeout,
        Self::Lifetime,
        Self::TcpTimeout,
        Self::Drain,
        Self::Shutdown,
        Self::EndpointRemoved,
        Self::Operator,
        Self::TooBig,
        Self::Violation,
        Self::Limit,
        Self::Refused,
        Self::Unreachable,
        Self::ResponseTimeout,
        Self::BadAnswer,
        Self::Aborted,
    ];

    /// Whether the end was unplanned: not by a Close frame, a complete exchange, `max_lifetime`, a shutdown or an
    /// order of the operator.
    #[must_use]
    pub fn is_abnormal(self) -> bool {
        !matches!(
            self,
            Self::Done
                | Self::Close
                | Self::Lifetime
                | Self::Drain
                | Self::Shutdown
                | Self::EndpointRemoved
                | Self::Operator
        )
    }

    /// The word for it in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Close => "close",
            Self::Eof => "eof",
            Self::Reset => "reset",
            Self::Unresponsive => "unresponsive",
            Self::ReadTimeout => "read_timeout",
            Self::SendTimeout => "send_timeout",
            Self::Lifetime => "lifetime",
            Self::TcpTimeout => "tcp_timeout",
            Self::Drain => "drain",
            Self::Shutdown => "shutdown",
            Self::EndpointRemoved => "endpoint_removed",
            Self::Operator => "operator",
            Self::TooBig => "too_big",
            Self::Violation => "violation",
            Self::Limit => "limit",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ResponseTimeout => "response_timeout",
            Self::BadAnswer => "bad_answer",
            Self::Aborted => "aborted",
        }
    }
}

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who ended a connection, why, and the Close frame if there was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Who ended it.
    pub ended_by: EndedBy,
    /// Why.
    pub cause: Cause,
    /// The code of the Close frame that ended it, received or sent by the proxy.
    pub code: Option<CloseCode>,
    /// The text of that frame, or an explanation of an end without one.
    pub reason: Box<str>,
}

impl Ending {
    /// Returns who wrote [`Ending::code`]: a side in its Close frame, or the proxy to tell the peers.
    #[must_use]
    pub fn code_from(&self) -> Option<EndedBy> {
        self.code.map(|_| if self.cause == Cause::Close { self.ended_by } else { EndedBy::Proxy })
    }

    /// Makes an ending without a Close frame.
    #[must_use]
    pub fn new(ended_by: impl Into<EndedBy>, cause: Cause) -> Self {
        Self { ended_by: ended_by.into(), cause, code: None, reason: "".into() }
    }
}

/// What one side sent, and how it answered pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received from this side.
    pub bytes: u64,
    /// Messages received whole from this side. It is 0 on blind tunnels.
    pub messages: u64,
    /// Pings that the proxy sent to this side.
    pub pings: u32,
    /// How many of them it answered.
    pub pongs: u32,
    /// Last round-trip time of a ping.
    pub last_rtt: Option<Duration>,
    /// Longest round-trip time of a ping.
    pub worst_rtt: Option<Duration>,
}

/// The end of a connection, and what went over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What each side sent.
    pub traffic: PerSide<Traffic>,
    /// From the 101 to the end of a tunnel, or from the arrival of an HTTP request to its end.
    pub duration: Duration,
    /// How long each side had been silent when the end was decided.
    pub idle: PerSide<Duration>,
    /// Why frames were not read, if they were not: another protocol, an unknown extension, a
    /// breach of framing.
    pub blind: Option<&'static str>,
    /// When it ended, by the wall clock. `None` means that it is not reported yet, because relays know no wall
    /// clock.
    pub ended: Option<SystemTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_in_the_order_of_the_declarations() {
        assert!(EndedBy::ALL.iter().enumerate().all(|(index, ended_by)| *ended_by as usize == index));
        assert!(Cause::ALL.iter().enumerate().all(|(index, cause)| *cause as usize == index));
    }
}
