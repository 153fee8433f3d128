//! Owns the endpoints of an upstream that stand beside one another: who is in use, who is out.

use super::State;
use super::endpoint::{Endpoint, Member};
use super::order::Orders;
use crate::health::{Availability, Group};
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// The endpoints of an upstream.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) list: ArcSwap<Vec<Member>>,
    /// What the operator ordered; it outlives reloads.
    pub(super) orders: Arc<Orders>,
    choosing: Mutex<()>,
}

impl Members {
    pub(super) fn new(orders: Arc<Orders>) -> Self {
        Self { list: ArcSwap::default(), orders, choosing: Mutex::default() }
    }

    /// A choice and the counting of the chosen are one step, and so are the look at who is out and the taking out
    /// of one more.
    pub(super) fn choosing(&self) -> MutexGuard<'_, ()> {
        self.choosing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one endpoint has beside it.
    pub(super) fn group(&self, endpoint: &Endpoint) -> Group {
        let now = Instant::now().into_std();
        let members = self.list.load();
        let orders = self.orders.lock();
        let in_use: Vec<&Member> =
            members.iter().filter(|member| member.state(&orders).0 == State::Up).collect();
        drop(orders);
        let is_out = |member: &&&Member| {
            !std::ptr::eq(&*member.endpoint, endpoint)
                && member.endpoint.standing().availability(now) == Availability::Out
        };
        Group { all: in_use.len(), others_out: in_use.iter().filter(is_out).count() }
    }
}
