//! Owns RFC 6455 as pure code: handshakes, origins, frames, masking and close codes. It must not know sockets, time,
//! or what the proxy does with them.

pub mod close;
pub mod extensions;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod origin;
pub mod scanner;
