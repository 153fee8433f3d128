//! Owns what a server of the configuration resolves to. It must not know the endpoints that exist already.

pub(crate) mod dns;

use super::Server;
use crate::addr::{EndpointAddr, ServerAddr};

/// One address that a server resolves to, and how Holdline uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// The address to connect to.
    pub address: EndpointAddr,
    /// Its weight among the addresses of its priority, 1 to 65535.
    pub weight: u32,
    /// Lower values come first. Holdline uses a higher one only if no address of a lower one can serve.
    pub priority: u16,
}

impl Discovered {
    /// An address of a server, as the server's own settings say. Servers have priority 0, and backups 1.
    #[must_use]
    pub fn of(server: &Server, address: EndpointAddr) -> Self {
        Self { address, weight: server.weight, priority: u16::from(server.backup) }
    }
}

/// Returns the address of a server that is given as one. `None` means that its name must be looked up.
#[must_use]
pub(super) fn fixed(server: &Server) -> Option<Discovered> {
    let address = match &server.address {
        ServerAddr::Ip(address) => EndpointAddr::Tcp(*address),
        ServerAddr::Unix(path) => EndpointAddr::Unix(path.as_path().into()),
        ServerAddr::Name(..) => return None,
    };
    Some(Discovered::of(server, address))
}
