//! Owns the list of an upstream's endpoints: which are in use and which are out.

use super::discovery::Discovered;
use super::endpoint::Endpoint;
use super::overrides::{Override, Overrides, StateSource};
use super::{Server, State};
use crate::addr::EndpointAddr;
use crate::balance::{Candidate, key_of};
use crate::health::{Availability, Group, Rules};
use crate::tls::ServerName;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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

/// An endpoint with its place in the configuration.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) server: Server,
    pub(super) discovered: Discovered,
    pub(super) terms: Arc<Terms>,
    id: u64,
}

/// The rules for connections to an endpoint.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) rules: Rules,
    /// The name that its certificate must match.
    pub(super) name: Option<ServerName<'static>>,
    /// It serves only if no other can.
    pub(super) backup: bool,
    /// The other endpoints of its configuration, as long as that exists.
    pub(super) members: Weak<Members>,
}

impl Member {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        server: &Server,
        discovered: Discovered,
        terms: Terms,
    ) -> Self {
        // Hash the address, not the name, so that proxies with the same view choose alike.
        let id = key_of(endpoint.address.to_string().as_bytes());
        Self { endpoint, server: server.clone(), discovered, terms: Arc::new(terms), id }
    }

    pub(super) fn is_full(&self) -> bool {
        self.server.max_conns.is_some_and(|max| self.endpoint.active() >= max)
    }

    pub(super) fn candidate(&self, now: std::time::Instant) -> Candidate {
        debug_assert!(self.server.state == State::Up);
        let share = self.endpoint.standing().share(&self.terms.rules, now);
        Candidate {
            id: self.id,
            weight: self.discovered.weight.saturating_mul(share).max(1),
            active: self.endpoint.active(),
            turn: self.endpoint.turn(),
        }
    }

    /// Returns its override, if one is in force.
    pub(super) fn override_in_force(&self, overrides: &HashMap<EndpointAddr, Override>) -> Option<Override> {
        overrides.get(self.endpoint.address()).copied().filter(|entry| entry.configured == self.server.state)
    }

    /// Returns the state in effect, and where it comes from.
    pub(super) fn state(&self, overrides: &HashMap<EndpointAddr, Override>) -> (State, StateSource) {
        let of_file = (self.server.state, StateSource::Configuration);
        self.override_in_force(overrides).map_or(of_file, |entry| (entry.state, StateSource::Operator))
    }
}

/// Returns the members to choose from: those of the first priority that can serve. If all are out, Holdline tries
/// them all the same, as nginx does.
pub(super) fn first_tier<'a>(free: &[&'a Member], now: std::time::Instant) -> Option<Vec<&'a Member>> {
    let is_in = |member: &&&Member| member.endpoint.standing().availability(now) != Availability::Out;
    let of_first = |members: Vec<&'a Member>| {
        let first = members.iter().map(|member| member.discovered.priority).min()?;
        Some(members.into_iter().filter(|member| member.discovered.priority == first).collect())
    };
    of_first(free.iter().filter(is_in).copied().collect()).or_else(|| of_first(free.to_vec()))
}
