//! Ways to die: each in a row of a table, brought about on real sockets, with who ended it, why and with which
//! code, wherever that is told: the report, the line of the access log, the recent ends and what the operator
//! reads of them, the metric, and what each side of the tunnel is told.
//!
//! Cables that are pulled need hosts of their own, and so do the kernel's timeouts: `tests/soak/blackhole.py` sets
//! links of network namespaces down, with `client/unresponsive` and `upstream/unresponsive` where there are pings,
//! `client/tcp_timeout` and `upstream/tcp_timeout` (`tcp_user_timeout`) where there are none, and
//! `upstream/unreachable`, `upstream/response_timeout` and `proxy/refused` (408) before there is a tunnel. A
//! process that is stopped and never ends is `frozen` in `tests/soak/soak.py`.
//!
//! Connections that end before they asked for anything are no ends of tunnels: handshakes that fail, by an alert
//! of the client's too, are in `tests/tls.rs`, PROXY headers in `tests/front_door.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod refusals;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod tunnels;
