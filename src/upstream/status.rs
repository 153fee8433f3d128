//! Owns the status of an upstream's endpoints.

use super::members::Member;
use super::ports::{Usage, or_any};
use super::{Endpoint, Server, State, StateSource, Upstream};
use crate::addr::EndpointAddr;
use crate::health::Availability;
use std::sync::Arc;
use tokio::time::Instant;

/// The status of one endpoint at one moment.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Its server in the configuration.
    pub server: Server,
    /// Its weight.
    pub weight: u32,
    /// Its state.
    pub state: State,
    /// Where the state comes from.
    pub state_source: StateSource,
    /// Whether its health allows connections.
    pub availability: Availability,
    /// The factor of its weight during a slow start, in thousandths. 1000 is the full weight.
    pub share: u32,
    /// Failures that count towards its `max_fails`.
    pub failures: u32,
}

impl Upstream {
    /// Returns the ports to an endpoint. `None` means a unix socket.
    #[must_use]
    pub fn ports(&self, endpoint: &Endpoint) -> Option<Usage> {
        let EndpointAddr::Tcp(address) = *endpoint.address() else { return None };
        let sources = self.settings.sources_to(address).map(Some).collect();
        Some(endpoint.ports.usage(&or_any(sources), self.ports_per_source))
    }

    /// Returns the current status of its endpoints, in the order of the file.
    #[must_use]
    pub fn endpoint_statuses(&self) -> Vec<EndpointStatus> {
        let now = Instant::now().into_std();
        let members = self.members.list.load();
        let overrides = self.members.overrides.lock();
        let status = |member: &Member| {
            let (state, state_source) = member.state(&overrides);
            let standing = member.endpoint.standing();
            EndpointStatus {
                endpoint: Arc::clone(&member.endpoint),
                server: member.server.clone(),
                weight: member.discovered.weight,
                state,
                state_source,
                availability: standing.availability(now),
                share: standing.share(&member.terms.rules, now),
                failures: standing.counted(&member.terms.rules, now),
            }
        };
        members.iter().map(status).collect()
    }
}
