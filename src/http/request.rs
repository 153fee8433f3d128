//! Owns a request as a client sent it: its head, its body, and the stream that may become a tunnel.

use super::conn::ClientStream;
use super::upload::Upload;
use http::request::Parts;

/// A request of a client, over any version of HTTP. An extended CONNECT of HTTP/2 (RFC 8441) has the form of
/// HTTP/1.1 here: GET with `Upgrade`.
#[derive(Debug)]
pub(crate) struct Request {
    /// Its method, target and headers.
    pub head: Parts,
    /// Its body.
    pub body: Upload,
    /// The connection or HTTP/2 stream that it came over.
    pub client: ClientStream,
}
