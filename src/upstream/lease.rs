//! Owns the lease that counts one connection to an endpoint, and charges the endpoint for failures.

use super::endpoint::Endpoint;
use super::members::{Member, Terms};
use crate::health::{Availability, Charge, Group, Verdict, Witness};
use crate::outcome::{Cause, EndedBy, Outcome, Side};
use crate::tls::ServerName;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Counts one connection to an endpoint as long as it lives.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    terms: Arc<Terms>,
    /// It is the trial connection of an endpoint that was out, and has not been decided yet.
    on_trial: bool,
}

impl Lease {
    pub(super) fn new(member: &Member, now: std::time::Instant) -> Self {
        let endpoint = Arc::clone(&member.endpoint);
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        let mut standing = endpoint.standing();
        let on_trial = standing.availability(now) == Availability::Trial;
        if on_trial {
            standing.begin_trial();
        }
        drop(standing);
        Self { endpoint, terms: Arc::clone(&member.terms), on_trial }
    }

    /// Returns the endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether the endpoint is a backup.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.terms.backup
    }

    /// Returns the name that its certificate must match. `None` means no TLS name.
    pub(super) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.terms.name.as_ref()
    }

    /// Records that the endpoint answered.
    pub fn succeeded(&mut self) {
        self.on_trial = false;
        let is_back = self.endpoint.standing().succeeded(Instant::now().into_std());
        if is_back {
            let Endpoint { upstream, address, .. } = &*self.endpoint;
            tracing::info!(%upstream, endpoint = %address, "endpoint is back in use");
        }
    }

    /// Charges the endpoint with a failure that no client can cause.
    pub fn failed(&mut self, error: &dyn Display) {
        self.on_trial = false;
        charge(&self.endpoint, &self.terms, Charge::Certain, error);
    }

    /// Records a failure that the request may have caused. Nothing is charged yet.
    #[must_use]
    pub fn pending_charge(&mut self, error: &dyn Display) -> PendingCharge {
        let on_trial = std::mem::take(&mut self.on_trial);
        let (endpoint, terms) = (Arc::clone(&self.endpoint), Arc::clone(&self.terms));
        PendingCharge { endpoint, terms, on_trial, error: error.to_string() }
    }

    /// Records the end of a tunnel. If the endpoint closed it early, Holdline charges the endpoint once
    /// several clients have seen that.
    pub fn ended(&mut self, outcome: &Outcome, witness: impl FnOnce() -> Witness) {
        self.endpoint.ends.add(&outcome.ending);
        let Some(early) = self.terms.rules.early_end else { return };
        if was_broken_off(outcome, early.within) {
            let now = Instant::now().into_std();
            let verdict = with_group(&self.endpoint, &self.terms, |group| {
                self.endpoint.standing().ended_early(witness(), group, &self.terms.rules, now)
            });
            let ended = format!(
                "tunnels were broken off within early_end.within, the last by {}",
                outcome.ending.cause
            );
            record_verdict(&self.endpoint, &self.terms, verdict, &ended);
        } else if outcome.duration >= early.within || outcome.ending.cause == Cause::Close {
            self.endpoint.standing().lasted();
        }
    }
}

/// Whether an endpoint accepted a tunnel only to end it. An endpoint that received a whole message and then
/// closed in order may have ended the session for good reason, as with MQTT.
fn was_broken_off(outcome: &Outcome, within: std::time::Duration) -> bool {
    let heard = outcome.duration.saturating_sub(outcome.idle[Side::Upstream]);
    let by_upstream = outcome.ending.ended_by == EndedBy::Upstream && outcome.blind.is_none();
    by_upstream
        && match outcome.ending.cause {
            Cause::Eof => outcome.duration < within && outcome.traffic[Side::Client].messages == 0,
            Cause::Reset => outcome.duration < within,
            // Holdline learns of a silent endpoint only one ping later.
            Cause::Unresponsive | Cause::TcpTimeout => heard < within,
            _ => false,
        }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
        if self.on_trial {
            self.endpoint.standing().cancel_trial();
        }
    }
}

/// A charge against an endpoint, until Holdline knows whether the request was at fault. Dropping it charges
/// nothing.
#[derive(Debug)]
pub struct PendingCharge {
    endpoint: Arc<Endpoint>,
    terms: Arc<Terms>,
    on_trial: bool,
    error: String,
}

impl PendingCharge {
    /// Charges the endpoint. It counts if other clients agree.
    pub fn charge(mut self, witness: Witness) {
        self.on_trial = false;
        charge(&self.endpoint, &self.terms, Charge::Doubtful(witness), &self.error);
    }
}

impl Drop for PendingCharge {
    fn drop(&mut self) {
        if self.on_trial {
            self.endpoint.standing().cancel_trial();
        }
    }
}

fn charge(endpoint: &Endpoint, terms: &Terms, charge: Charge, error: &dyn Display) {
    let now = Instant::now().into_std();
    let rules = &terms.rules;
    let verdict = match charge {
        // A certain failure does not depend on the other endpoints.
        Charge::Certain => endpoint.standing().failed(charge, Group::default(), rules, now),
        Charge::Doubtful(_) => {
            with_group(endpoint, terms, |group| endpoint.standing().failed(charge, group, rules, now))
        }
    };
    record_verdict(endpoint, terms, verdict, error);
}

/// Runs `judge` while no other endpoint can be taken out.
fn with_group(endpoint: &Endpoint, terms: &Terms, judge: impl FnOnce(Group) -> Verdict) -> Verdict {
    // An endpoint whose configuration is gone is alone.
    let Some(members) = terms.members.upgrade() else { return judge(Group::default()) };
    let _choosing = members.choosing();
    judge(members.group(endpoint))
}

/// Counts and logs the result of a charge.
fn record_verdict(endpoint: &Endpoint, terms: &Terms, verdict: Verdict, error: &dyn Display) {
    if verdict != Verdict::Remembered {
        endpoint.failures.fetch_add(1, Ordering::Relaxed);
    }
    if verdict == Verdict::TakenOut {
        let Endpoint { upstream, address, .. } = endpoint;
        let fail_timeout = terms.rules.fail_timeout;
        tracing::warn!(%upstream, endpoint = %address, ?fail_timeout, %error, "endpoint taken out after failures");
    }
}
