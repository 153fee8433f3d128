//! Owns the limited resources that a connection to an endpoint holds while it is open.

use super::ports::Port;
use crate::capacity::Descriptor;
use std::sync::Arc;

/// The limited resources that a connection holds while it is open.
#[derive(Debug, Default)]
pub struct ConnectionResources {
    /// Its local port. `None` means a unix socket.
    pub port: Option<Port>,
    /// Its descriptor. Both the user of the connection and the task that closes it hold it. `None` means that
    /// descriptors are not counted.
    pub(super) descriptor: Option<Arc<Descriptor>>,
}
