//! Holdline: a WebSocket-aware reverse proxy.
pub mod addr;
pub mod drain;
pub mod io;
pub mod outcome;
pub mod tunnel;
pub mod ws;
