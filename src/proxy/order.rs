//! Owns what the operator orders of a running proxy: endpoints that are to be left, and come back.

use super::Proxy;
use crate::addr::EndpointAddr;
use crate::upstream::State;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What came of an order about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// The state in effect.
    pub state: State,
    /// How many of its tunnels will be closed.
    pub closing: usize,
}

/// Whom an order is about who is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// There is no such upstream.
    #[error("no upstream \"{name}\"; there {}", listed(.known))]
    Upstream {
        /// The name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// There is no such endpoint.
    #[error("no endpoint {address} in upstream \"{name}\"; there {}", listed(.known))]
    Endpoint {
        /// The upstream.
        name: String,
        /// The address.
        address: String,
        /// Those there are.
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
    /// Orders an endpoint, by its address as shown, to be in a state; see
    /// [`Upstream::order`](crate::upstream::Upstream::order). Unless it is [`State::Up`], its
    /// tunnels are closed with 1012, evenly spread at random over `spread`; `None`: they stay.
    ///
    /// # Errors
    /// There is no such endpoint.
    pub fn order(
        &self,
        name: &str,
        address: &str,
        state: State,
        spread: Option<Duration>,
    ) -> Result<Ordered, Unknown> {
        let snapshot = self.snapshot.load();
        let Some(upstream) = snapshot.upstream(name) else {
            let mut known: Vec<_> = snapshot.upstreams().map(|u| u.settings().name.to_string()).collect();
            known.sort();
            return Err(Unknown::Upstream { name: name.to_owned(), known });
        };
        let endpoints = upstream.endpoints();
        let until = spread.map(|spread| Instant::now() + spread).filter(|_| state != State::Up);
        let named: Option<EndpointAddr> =
            endpoints.iter().map(|endpoint| endpoint.address()).find(|a| a.to_string() == address).cloned();
        let ordered = named.and_then(|named| Some((upstream.order(&named, state, until)?, named)));
        let Some((in_effect, named)) = ordered else {
            let known = endpoints.iter().map(|endpoint| endpoint.address().to_string()).collect();
            return Err(Unknown::Endpoint { name: name.to_owned(), address: address.to_owned(), known });
        };
        let name = Arc::clone(&upstream.settings().name);
        // After the order, not before: what opens in between finds it there.
        let closing = until.map_or(0, |until| self.sessions.leave(&name, &named, until));
        Ok(Ordered { state: in_effect, closing })
    }
}
