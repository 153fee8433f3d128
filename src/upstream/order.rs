//! Owns the operator's orders about endpoints: each stands over what the file says of it, across reloads,
//! until it is taken back or the file says something else. It must not know tunnels.

use super::{Member, State, Upstream};
use crate::addr::EndpointAddr;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// The orders about the endpoints of one upstream.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<HashMap<EndpointAddr, Order>>);

/// One order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    state: State,
    /// What the file said when it was given.
    over: State,
    /// By when the endpoint's tunnels are closed; `None`: they stay.
    until: Option<Instant>,
}

/// Whose word an endpoint's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The file's.
    Configuration,
    /// The operator's, over what the file says.
    Operator,
}

impl Orders {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<EndpointAddr, Order>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// The order about it, if one stands.
    fn order(&self, orders: &HashMap<EndpointAddr, Order>) -> Option<Order> {
        orders.get(self.endpoint.address()).copied().filter(|order| order.over == self.server.state)
    }

    /// What is wanted of it, and by whom.
    pub(super) fn state(&self, orders: &HashMap<EndpointAddr, Order>) -> (State, By) {
        let of_file = (self.server.state, By::Configuration);
        self.order(orders).map_or(of_file, |order| (order.state, By::Operator))
    }
}

impl Upstream {
    /// Orders an endpoint to be in a state: what is open there is closed by `until` by whoever looks
    /// after tunnels, and so is what opens there yet. [`State::Up`] takes orders back: the file
    /// counts. The state in effect; `None`: there is no such endpoint.
    pub fn order(&self, address: &EndpointAddr, state: State, until: Option<Instant>) -> Option<State> {
        let members = self.members.list.load();
        let member = members.iter().find(|member| member.endpoint.address() == address)?;
        let mut orders = self.members.orders.lock();
        match state {
            State::Up => orders.remove(address),
            _ => orders.insert(address.clone(), Order { state, over: member.server.state, until }),
        };
        Some(member.state(&orders).0)
    }

    /// By when the tunnels of an endpoint are closed, by order; `None`: they stay.
    #[must_use]
    pub fn leaves_by(&self, address: &EndpointAddr) -> Option<Instant> {
        let orders = self.members.orders.lock();
        let members = self.members.list.load();
        let member = members.iter().find(|member| member.endpoint.address() == address)?;
        member.order(&orders)?.until
    }

    /// Forgets the orders that the file has overruled. To be called when it has come into force.
    pub fn forget_overruled(&self) {
        let members = self.members.list.load();
        let mut orders = self.members.orders.lock();
        for member in members.iter() {
            if member.order(&orders).is_none() {
                orders.remove(member.endpoint.address());
            }
        }
    }
}
