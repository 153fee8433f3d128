//! Owns RFC 6455 as pure code: openings, frames, masking, close codes.
//! It must not know sockets, time, or what the proxy wants to do with any of it.

pub mod close;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod scanner;
