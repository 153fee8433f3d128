//! Owns a client's HTTP/1 connection (RFC 9112), which hyper parses: the layers between hyper and the socket,
//! and between hyper and the responses.

mod head_filter;
mod heads;
mod observed_stream;
mod response_body;

use super::super::Settings;
pub(super) use head_filter::{HeadFilter, Shared};
pub(crate) use heads::PartialRequest;
use hyper::server::conn::http1::Builder;
pub(super) use observed_stream::ObservedStream;
pub(super) use response_body::ResponseBody;

/// Configures hyper's parser.
pub(super) fn builder(settings: &Settings, keep_alive: bool) -> Builder {
    let mut builder = Builder::new();
    builder.keep_alive(keep_alive);
    // The buffer size limits only heads that arrive in several reads.
    builder.max_buf_size(settings.max_header_size).max_header_size(settings.max_header_size);
    builder.preserve_header_case(true);
    builder
}
