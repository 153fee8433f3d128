//! Owns the traits of streams for TLS on both sides: `io::StreamLayer` and `io::Readiness`.

use super::stream::TlsStream;
use crate::io::{Readiness, Stream, StreamLayer};
use tokio_rustls::client;

impl StreamLayer for TlsStream<Stream> {
    fn inner_mut(&mut self) -> Option<&mut Stream> {
        Some(self.io_mut())
    }
}

impl<S: Readiness> Readiness for TlsStream<S> {
    fn has_pending(&self) -> Option<bool> {
        if self.has_unread() { Some(true) } else { self.io().has_pending() }
    }
}

impl StreamLayer for client::TlsStream<Stream> {
    fn inner_mut(&mut self) -> Option<&mut Stream> {
        Some(self.get_mut().0)
    }
}

/// Any TLS record is a sign of life, whatever it contains.
impl<S: Readiness> Readiness for client::TlsStream<S> {
    fn has_pending(&self) -> Option<bool> {
        self.get_ref().0.has_pending()
    }
}
