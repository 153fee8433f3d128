//! Owns the operator's overrides of endpoint states. An override stays in force across reloads, until the
//! operator undoes it or the file's own `state` changes. It must not know tunnels.

use super::{State, Upstream};
use crate::addr::EndpointAddr;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// The overrides of one upstream's endpoints.
#[derive(Debug, Default)]
pub(super) struct Overrides(Mutex<HashMap<EndpointAddr, Override>>);

/// An override of one endpoint's state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Override {
    pub(super) state: State,
    /// The configured state when the operator set the override.
    pub(super) configured: State,
    /// When the endpoint's tunnels are closed by. `None` means that they stay open.
    until: Option<Instant>,
}

/// Where an endpoint's state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateSource {
    /// The configuration file.
    Configuration,
    /// The operator, who overrides the file.
    Operator,
}

impl StateSource {
    /// Returns the word for it in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Operator => "operator",
        }
    }
}

impl Overrides {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<EndpointAddr, Override>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    /// Overrides the state of an endpoint. The caller must close its open tunnels by `until`;
    /// [`Self::close_deadline`] applies to tunnels that open later. [`State::Up`] removes the override, so
    /// that the file counts. Returns the state in effect. `None` means that there is no such endpoint.
    pub fn override_state(
        &self,
        address: &EndpointAddr,
        state: State,
        until: Option<Instant>,
    ) -> Option<State> {
        let members = self.members.list.load();
        let member = members.iter().find(|member| member.endpoint.address() == address)?;
        let mut overrides = self.members.overrides.lock();
        match state {
            State::Up => overrides.remove(address),
            _ => {
                overrides.insert(address.clone(), Override { state, configured: member.server.state, until })
            }
        };
        Some(member.state(&overrides).0)
    }

    /// Returns when the tunnels of an endpoint must be closed by. `None` means that they stay open.
    #[must_use]
    pub fn close_deadline(&self, address: &EndpointAddr) -> Option<Instant> {
        let overrides = self.members.overrides.lock();
        let members = self.members.list.load();
        let member = members.iter().find(|member| member.endpoint.address() == address)?;
        member.override_in_force(&overrides)?.until
    }

    /// Removes the overrides that the file has superseded. Call it once the new file is in force.
    pub fn forget_superseded(&self) {
        let members = self.members.list.load();
        let mut overrides = self.members.overrides.lock();
        for member in members.iter() {
            if member.override_in_force(&overrides).is_none() {
                overrides.remove(member.endpoint.address());
            }
        }
    }
}
