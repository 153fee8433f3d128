//! Owns the lease that counts one connection to an endpoint, and charges the endpoint for failures.

use super::endpoint::Endpoint;
use super::members::{Member, Terms};
use crate::health::{Availability, Evidence, Group, Verdict, Witness};
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
        record(&self.endpoint, &self.terms, Evidence::Answered, &"");
    }

    /// Charges the endpoint with a failure that no client can cause.
    pub fn failed(&mut self, error: &dyn Display) {
        self.on_trial = false;
        record(&self.endpoint, &self.terms, Evidence::Failed, error);
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
            let ended = format!(
                "tunnels were broken off within early_end.within, the last by {}",
                outcome.ending.cause
            );
            record(&self.endpoint, &self.terms, Evidence::EndedEarly(witness()), &ended);
        } else if outcome.duration >= early.within || outcome.ending.cause == Cause::Close {
            record(&self.endpoint, &self.terms, Evidence::Lasted, &"");
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
        record(&self.endpoint, &self.terms, Evidence::FailedOver(witness), &self.error);
    }
}

impl Drop for PendingCharge {
    fn drop(&mut self) {
        if self.on_trial {
            self.endpoint.standing().cancel_trial();
        }
    }
}

/// Records evidence about an endpoint, and counts and logs what follows from it. `error` says what was seen, if that was
/// a failure.
fn record(endpoint: &Endpoint, terms: &Terms, evidence: Evidence, error: &dyn Display) {
    let now = Instant::now().into_std();
    let judge = |group| endpoint.standing().record(evidence, group, &terms.rules, now);
    let needs_group = matches!(evidence, Evidence::FailedOver(_) | Evidence::EndedEarly(_));
    let verdict = match needs_group.then(|| terms.members.upgrade()).flatten() {
        Some(members) => {
            // Meanwhile no other endpoint can be taken out.
            let _choosing = members.choosing();
            judge(members.group(endpoint))
        }
        // An endpoint whose configuration is gone is alone.
        None => judge(Group::default()),
    };
    let Endpoint { upstream, address, .. } = endpoint;
    match verdict {
        Verdict::Remembered => {}
        Verdict::Counted | Verdict::TakenOut => {
            endpoint.failures.fetch_add(1, Ordering::Relaxed);
        }
        Verdict::Back => tracing::info!(%upstream, endpoint = %address, "endpoint is back in use"),
    }
    if verdict == Verdict::TakenOut {
        let fail_timeout = terms.rules.fail_timeout;
        tracing::warn!(%upstream, endpoint = %address, ?fail_timeout, %error, "endpoint taken out after failures");
    }
}
