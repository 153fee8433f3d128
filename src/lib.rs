//! Holdline: a WebSocket-aware reverse proxy.
pub mod outcome;
pub mod tunnel;
pub mod ws;
