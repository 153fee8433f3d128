//! Owns a stream together with what was read from it too early.

/// A stream, and the bytes that were already read from it.
#[derive(Debug)]
pub struct PrefixedStream<S> {
    /// The stream.
    pub stream: S,
    /// Bytes that come before the next read.
    pub ahead: Vec<u8>,
}
