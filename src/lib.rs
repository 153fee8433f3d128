//! Holdline: a WebSocket-aware reverse proxy.
pub mod ws;
