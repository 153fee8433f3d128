//! Owns RFC 6455 as pure code: openings and whence they may come, frames, masking, close codes.
//! It must not know sockets, time, or what the proxy wants to do with any of it.

pub mod close;
pub mod extensions;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod origin;
pub mod scanner;
