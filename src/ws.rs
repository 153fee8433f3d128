//! Owns RFC 6455 as pure code: handshakes, origins, frames, masking and close codes. It must not know sockets, time,
//! or what the proxy does with them.

pub(crate) mod close;
pub(crate) mod extensions;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod mask;
pub(crate) mod origin;
pub(crate) mod scanner;
