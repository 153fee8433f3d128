//! Owns the operator's changes to endpoint states: an endpoint is drained, taken down, or put back up.

use super::Proxy;
use crate::addr::EndpointAddr;
use crate::upstream::State;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The result of a change to an endpoint's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChanged {
    /// The state that is now in effect.
    pub state: State,
    /// How many of its tunnels Holdline will close.
    pub closing: usize,
}

/// The upstream or endpoint that a request names does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No upstream has this name.
    #[error("no upstream \"{name}\"; there {}", listed(.known))]
    Upstream {
        /// The name in the request.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// There is no such endpoint.
    #[error("no endpoint {address} in upstream \"{name}\"; there {}", listed(.known))]
    Endpoint {
        /// The upstream.
        name: String,
        /// The address in the request.
        address: String,
        /// The addresses that exist.
        known: Vec<String>,
    },
}

fn listed(known: &[String]) -> String {
    match known {
        [] => "is none".to_owned(),
        [one] => format!("is {one}"),
        more => format!("are {}", more.join(", ")),
    }
}

impl Proxy {
    /// Sets the state of an endpoint, which `address` names as the status shows it. See
    /// [`Upstream::override_state`](crate::upstream::Upstream::override_state). Unless the state is
    /// [`State::Up`], Holdline closes the endpoint's tunnels with 1012, at random moments within `spread`.
    /// `None` means that they stay open.
    ///
    /// # Errors
    /// There is no such endpoint.
    pub fn set_endpoint_state(
        &self,
        name: &str,
        address: &str,
        state: State,
        spread: Option<Duration>,
    ) -> Result<StateChanged, NotFound> {
        let snapshot = self.snapshot.load();
        let Some(upstream) = snapshot.upstream(name) else {
            let mut known: Vec<_> = snapshot.upstreams().map(|u| u.settings().name.to_string()).collect();
            known.sort();
            return Err(NotFound::Upstream { name: name.to_owned(), known });
        };
        let endpoints = upstream.endpoints();
        let until = spread.map(|spread| Instant::now() + spread).filter(|_| state != State::Up);
        let named: Option<EndpointAddr> =
            endpoints.iter().map(|endpoint| endpoint.address()).find(|a| a.to_string() == address).cloned();
        let changed = named.and_then(|named| Some((upstream.override_state(&named, state, until)?, named)));
        let Some((in_effect, named)) = changed else {
            let known = endpoints.iter().map(|endpoint| endpoint.address().to_string()).collect();
            return Err(NotFound::Endpoint { name: name.to_owned(), address: address.to_owned(), known });
        };
        let name = Arc::clone(&upstream.settings().name);
        // The override comes first: a tunnel that opens in between finds it.
        let closing = until.map_or(0, |until| self.tunnels.close_by(&name, &named, until));
        Ok(StateChanged { state: in_effect, closing })
    }
}
