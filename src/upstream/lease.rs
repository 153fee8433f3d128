//! Owns the lease that counts one connection to an endpoint, and what is charged to the endpoint for what came of it.

use super::endpoint::{Endpoint, Member, Terms};
use crate::health::{Availability, Charge, Group, Verdict, Witness};
use crate::outcome::{Outcome, Side, Who, Why};
use crate::tls::ServerName;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// One connection to an endpoint: it is counted as long as this lives.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    terms: Arc<Terms>,
    /// It is the one that decides, and it has not yet.
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

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether the endpoint serves only when no other can.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.terms.backup
    }

    /// Who its certificate must be of; `None`: it has none.
    pub(super) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.terms.name.as_ref()
    }

    /// The endpoint answered.
    pub fn succeeded(&mut self) {
        self.on_trial = false;
        let is_back = self.endpoint.standing().succeeded(Instant::now().into_std());
        if is_back {
            let Endpoint { upstream, address, .. } = &*self.endpoint;
            tracing::info!(%upstream, endpoint = %address, "endpoint is back in use");
        }
    }

    /// The endpoint failed in a way that no client can cause.
    pub fn failed(&mut self, error: &dyn Display) {
        self.on_trial = false;
        charge(&self.endpoint, &self.terms, Charge::Certain, error);
    }

    /// The endpoint failed, and the request may have caused it.
    #[must_use]
    pub fn suspect(&mut self, error: &dyn Display) -> Suspect {
        let on_trial = std::mem::take(&mut self.on_trial);
        let (endpoint, terms) = (Arc::clone(&self.endpoint), Arc::clone(&self.terms));
        Suspect { endpoint, terms, on_trial, error: error.to_string() }
    }

    /// A tunnel to the endpoint ended; one that the endpoint broke off early counts against it, if several clients
    /// met that.
    pub fn ended(&mut self, outcome: &Outcome, witness: impl FnOnce() -> Witness) {
        self.endpoint.ends.add(&outcome.ending);
        let Some(early) = self.terms.rules.early_end else { return };
        if broke_off(outcome, early.within) {
            let now = Instant::now().into_std();
            let verdict = with_group(&self.endpoint, &self.terms, |group| {
                self.endpoint.standing().ended_early(witness(), group, &self.terms.rules, now)
            });
            let ended = format!(
                "tunnels were broken off within early_end.within, the last by {}",
                outcome.ending.why
            );
            follow(&self.endpoint, &self.terms, verdict, &ended);
        } else if outcome.duration >= early.within || outcome.ending.why == Why::Close {
            self.endpoint.standing().lasted();
        }
    }
}

/// Whether an endpoint accepted a tunnel only to break it off. One that had a whole message and then closed its
/// side in order may have said its goodbye in that message, as MQTT does.
fn broke_off(outcome: &Outcome, within: std::time::Duration) -> bool {
    let heard = outcome.duration.saturating_sub(outcome.idle[Side::Upstream]);
    let by_upstream = outcome.ending.who == Who::Upstream && outcome.blind.is_none();
    by_upstream
        && match outcome.ending.why {
            Why::Eof => outcome.duration < within && outcome.traffic[Side::Client].messages == 0,
            Why::Reset => outcome.duration < within,
            // It can be known only a ping later that the endpoint had fallen silent.
            Why::Unresponsive | Why::TcpTimeout => heard < within,
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

/// An endpoint that failed over a request, until it is known whether the request was at fault. Dropped, nothing is
/// charged.
#[derive(Debug)]
pub struct Suspect {
    endpoint: Arc<Endpoint>,
    terms: Arc<Terms>,
    on_trial: bool,
    error: String,
}

impl Suspect {
    /// Charges the endpoint, as far as others agree.
    pub fn charge(mut self, witness: Witness) {
        self.on_trial = false;
        charge(&self.endpoint, &self.terms, Charge::Doubtful(witness), &self.error);
    }
}

impl Drop for Suspect {
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
        // Where nobody else counts, the others need not be asked.
        Charge::Certain => endpoint.standing().failed(charge, Group::default(), rules, now),
        Charge::Doubtful(_) => {
            with_group(endpoint, terms, |group| endpoint.standing().failed(charge, group, rules, now))
        }
    };
    follow(endpoint, terms, verdict, error);
}

/// Judges while no other endpoint is taken out.
fn with_group(endpoint: &Endpoint, terms: &Terms, judge: impl FnOnce(Group) -> Verdict) -> Verdict {
    // Without its configuration an endpoint has nobody beside it.
    let Some(members) = terms.members.upgrade() else { return judge(Group::default()) };
    let _choosing = members.choosing();
    judge(members.group(endpoint))
}

/// Counts, and tells, what came of a charge.
fn follow(endpoint: &Endpoint, terms: &Terms, verdict: Verdict, error: &dyn Display) {
    if verdict != Verdict::Remembered {
        endpoint.failures.fetch_add(1, Ordering::Relaxed);
    }
    if verdict == Verdict::TakenOut {
        let Endpoint { upstream, address, .. } = endpoint;
        let fail_timeout = terms.rules.fail_timeout;
        tracing::warn!(%upstream, endpoint = %address, ?fail_timeout, %error, "endpoint taken out after failures");
    }
}
