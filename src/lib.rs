//! Holdline: a WebSocket-aware reverse proxy.
pub mod addr;
pub mod balance;
pub mod drain;
pub mod health;
pub mod http;
pub mod io;
pub mod listener;
pub mod outcome;
pub mod proxy;
pub mod route;
pub mod telemetry;
pub mod tunnel;
pub mod upstream;
pub mod ws;
