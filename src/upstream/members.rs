//! Owns the list of an upstream's endpoints: which are in use and which are out.

use super::State;
use super::endpoint::{Endpoint, Member};
use super::overrides::Overrides;
use crate::health::{Availability, Group};
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Members {
    pub(super) list: ArcSwap<Vec<Member>>,
    /// The operator's overrides, which outlive reloads.
    pub(super) overrides: Arc<Overrides>,
    choosing: Mutex<()>,
}

impl Members {
    pub(super) fn new(overrides: Arc<Overrides>) -> Self {
        Self { list: ArcSwap::default(), overrides, choosing: Mutex::default() }
    }

    /// Choosing an endpoint and counting the connection are one step. So are checking which endpoints are out
    /// and taking out one more.
    pub(super) fn choosing(&self) -> MutexGuard<'_, ()> {
        self.choosing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the group that one endpoint belongs to.
    pub(super) fn group(&self, endpoint: &Endpoint) -> Group {
        let now = Instant::now().into_std();
        let members = self.list.load();
        let overrides = self.overrides.lock();
        let in_use: Vec<&Member> =
            members.iter().filter(|member| member.state(&overrides).0 == State::Up).collect();
        drop(overrides);
        let is_out = |member: &&&Member| {
            !std::ptr::eq(&*member.endpoint, endpoint)
                && member.endpoint.standing().availability(now) == Availability::Out
        };
        Group { all: in_use.len(), others_out: in_use.iter().filter(is_out).count() }
    }
}
