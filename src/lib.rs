//! Holdline: a WebSocket-aware reverse proxy.
pub mod addr;
pub mod balance;
pub mod drain;
pub mod health;
pub mod io;
pub mod outcome;
pub mod route;
pub mod tunnel;
pub mod ws;
