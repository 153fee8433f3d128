//! Owns a client's connection of HTTP/1 (RFC 9112), which hyper parses: what stands between hyper and the socket,
//! and between hyper and the answers.

mod along;
mod counted;
mod flush;
mod heads;
mod interim;
mod watched;

use super::super::Settings;
pub(super) use along::{Along, Shared};
pub(super) use counted::Counted;
pub(super) use flush::Flush;
pub use heads::Told;
use hyper::server::conn::http1::Builder;
pub(super) use interim::Interim;
pub(super) use watched::Watched;

/// What parses the requests of a connection.
pub(super) fn builder(settings: &Settings, keep_alive: bool) -> Builder {
    let mut builder = Builder::new();
    builder.keep_alive(keep_alive);
    // The size of the buffer holds only for heads that come in pieces.
    builder.max_buf_size(settings.max_header_size).max_header_size(settings.max_header_size);
    builder.preserve_header_case(true);
    builder
}
