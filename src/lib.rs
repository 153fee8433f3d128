//! Holdline: a WebSocket-aware reverse proxy.
//!
//! This is the map. The table lists the modules by rank, and below it stands the path of a connection. The first
//! line of each module says what it owns. Dependencies run down the ranks. Within a rank, `a < b` means
//! that `b` may import `a` (`tests/layering.rs` holds them to it):
//!
//! | rank | may do | modules |
//! |---|---|---|
//! | 1 vocabulary and protocol | bytes in, values out; no tokio, no clock, no log ([`ws`] draws random keys) | [`addr`] < [`ws`]; [`escape`] [`proxy_protocol`] |
//! | 2 decisions and records | own state; `now` is an argument; no I/O | [`route`] [`real_ip`] [`limit`] [`balance`] [`health`] [`outcome`] |
//! | 3 services | tokio, tracing, certificate files, where logs go | [`clock`] < [`capacity`] [`telemetry`]; [`io`] < [`tls`]; [`drain`] |
//! | 4 stages | sockets | [`listener`] [`http`] [`upstream`] [`tunnel`] |
//! | 5 request path | joins the stages; reads one snapshot | [`proxy`] |
//! | 6 operator's window | reads 2 to 5, and gives their orders | [`admin`] |
//! | 7 configuration | knows every settings type of 1 to 6, and TOML | [`config`] |
//! | 8 process | knows everything; runs tasks | [`app`] |
//! | 9 command line | calls 7 and 8 | [`cli`], `main`; [`testing`] lists what tests, benches and fuzz targets use |
//!
//! The path of one connection: [`listener`] accepts it, and `app` passes it to [`proxy::connection`]. That calls
//! [`listener::establish`] (PROXY header, [`tls`]) and [`http::conn`], which reads requests. For each, `proxy::exchange`
//! finds the client by [`real_ip`] and the route by [`route`], checks a WebSocket handshake with [`ws`], and admits it
//! by [`limit`]. `proxy::upgrade` runs the tries by `proxy::retry`: [`upstream`] chooses an endpoint by [`balance`] and
//! [`health`], connects and exchanges. After a valid 101 both sockets go to a [`tunnel`], whose end is an [`outcome`]
//! that `proxy::reporting` has [`telemetry`] write down.

// The modules that a connection meets, roughly in order. `proxy` joins them.
mod listener;
mod proxy_protocol;
mod tls;
mod http;
mod real_ip;
mod route;
mod limit;
mod balance;
mod health;
mod upstream;
mod ws;
mod tunnel;
mod outcome;
mod proxy;
mod telemetry;

// What surrounds it.
mod addr;
mod escape;
mod io;
mod drain;
mod capacity;
mod clock;
mod admin;
mod config;
mod app;
pub mod cli;

#[doc(hidden)]
pub mod testing;
