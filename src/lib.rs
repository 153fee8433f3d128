//! Holdline: a WebSocket-aware reverse proxy.
