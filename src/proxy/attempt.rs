//! Owns the tries of one request: endpoint after endpoint, as long as nothing has reached the client
//! and the upstream's settings allow.

use super::failure::{Blame, Failure};
use super::guard::Guard;
use super::request::Inbound;
use super::snapshot::Route;
use crate::addr::{ClientAddr, EndpointAddr};
use crate::drain::Watch;
use crate::health::Witness;
use crate::http::headers::{check_framing, settle_length};
use crate::http::serve::Upgrade;
use crate::limit::ClientKey;
use crate::slots::Slot;
use crate::stall::timeout;
use crate::upstream::client::{Body, Connection, ExchangeError};
use crate::upstream::connect::ConnectError;
use crate::upstream::{Lease, Private, Suspect, Upstream};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::time::Instant;

/// The tries of one request.
pub(super) struct Attempts<'a> {
    route: &'a Route,
    upstream: &'a Arc<Upstream>,
    key: Option<u64>,
    /// What a connection begins with.
    announcement: Option<Vec<u8>>,
    /// Once it was sent, it may be sent again.
    is_repeatable: bool,
    /// By whom an endpoint is seen to fail.
    witness: Witness,
    /// Whom it is for, and the connections that are this client's alone; `None`: it may not have one.
    private: Option<(ClientAddr, Arc<Private>)>,
    /// The place of the client, which knows of descriptors.
    slot: &'a Slot,
    tried: Vec<EndpointAddr>,
    /// How many it was sent to, and how many had been tried at the last of them.
    sent: (u32, usize),
    /// Those that failed over it, as long as none has answered it.
    suspects: Vec<Suspect>,
    /// It broke where it was sent: the backups are not for it.
    spares_backups: bool,
    /// The endpoint of the next try, chosen when the last one had failed.
    next: Option<Lease>,
    /// The endpoint whose idle connection turned out to be closed.
    afresh: Option<Lease>,
    started: Instant,
}

/// What a try came to that may be tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Miss {
    /// No connection.
    NotConnected,
    /// None in time.
    ConnectTimedOut,
    /// It broke before a valid answer.
    Broken,
    /// It was sent, and not answered in time.
    NotAnswered,
    /// An answer that may be better elsewhere.
    Status(StatusCode),
}

/// What is to be done with an answer.
pub(super) enum Verdict {
    /// It is passed on.
    Pass(Lease),
    /// Another endpoint is asked.
    Retry,
}

/// How many endpoints a request may break at. Two break over it: then it is the request's own fault, most likely,
/// and the others would break as well.
const MOST_BROKEN: u32 = 2;

impl<'a> Attempts<'a> {
    /// None made yet. What was sent with a body cannot be sent again: the body is not kept.
    #[must_use]
    pub(super) fn new(
        route: &'a Route,
        upstream: &'a Arc<Upstream>,
        inbound: &'a Inbound,
        has_body: bool,
    ) -> Self {
        let key = inbound.balance_key(&upstream.settings().balance);
        let announcement = upstream.settings().proxy_protocol.map(|version| inbound.announcement(version));
        Self {
            route,
            upstream,
            key,
            announcement,
            is_repeatable: !has_body && is_idempotent(&inbound.parts.method),
            witness: Witness::new(ClientKey::from(inbound.origin.client), &inbound.path),
            private: inbound.may_use_private().then(|| (inbound.origin.client, Arc::clone(&inbound.private))),
            slot: &inbound.connection.slot,
            tried: Vec::new(),
            sent: (0, 0),
            suspects: Vec::new(),
            spares_backups: false,
            next: None,
            afresh: None,
            started: Instant::now(),
        }
    }

    /// Whether the request may be sent again once it was sent.
    #[must_use]
    pub(super) fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    /// Connects to an endpoint, to the next ones where the first fail. An idle connection may do
    /// where `reuse` says so; one that is the client's alone comes first in any case, whatever the balance.
    ///
    /// # Errors
    /// No endpoint is left, or the last failure where no other may be tried.
    pub(super) async fn connect(
        &mut self,
        guard: &mut Guard,
        reuse: bool,
        watch: &Watch,
    ) -> Result<(Lease, Connection), Failure> {
        if let Some((lease, connection)) = self.private().await {
            guard.report().tries += 1;
            guard.report().endpoint = Some(Arc::clone(lease.endpoint().shared_address()));
            return Ok((lease, connection));
        }
        loop {
            let afresh = self.afresh.take();
            let reuse = reuse && afresh.is_none();
            guard.report().tries += u32::from(afresh.is_none());
            let mut lease = match afresh.or_else(|| self.next.take()) {
                Some(lease) => lease,
                None => self.pick()?,
            };
            guard.report().endpoint = Some(Arc::clone(lease.endpoint().shared_address()));
            if let Some(connection) = reuse.then(|| lease.endpoint().pool().take()).flatten() {
                return Ok((lease, connection));
            }
            let (limit, first) = (self.route.connect_timeout, self.announcement.as_deref());
            let began = Instant::now();
            let error = match self.upstream.connect(&lease, limit, first, self.slot.files()).await {
                Ok((stream, taken)) => {
                    guard.metrics().connected(&self.upstream.settings().name, began.elapsed());
                    return Ok((lease, Connection::new(stream, taken, watch.clone()).await?));
                }
                Err(error) => error,
            };
            self.note(&lease, &error);
            let miss = match error {
                ConnectError::TimedOut(_) => Miss::ConnectTimedOut,
                _ => Miss::NotConnected,
            };
            let is_exhausted = error.is_exhausted();
            let failure = Failure::from(error);
            if failure.blame() == Blame::Endpoint {
                lease.failed(&failure);
            }
            drop(lease);
            // What one endpoint cannot be connected to for want of, no other can.
            if is_exhausted || !self.go_on(miss) {
                return Err(failure);
            }
        }
    }

    /// The connection that is the client's alone, if it has one to an endpoint of this upstream.
    async fn private(&mut self) -> Option<(Lease, Connection)> {
        let (client, private) = self.private.take()?;
        let (lease, mut connection) = private.take(client, self.upstream)?;
        self.tried.push(lease.endpoint().address().clone());
        if connection.settle().await {
            return Some((lease, connection));
        }
        // The endpoint is still the one to ask.
        self.next = Some(lease);
        None
    }

    /// Sends a request over a connection.
    ///
    /// # Errors
    /// There is no answer, or none that can be passed on: [`Attempts::failed`] is to be told.
    pub(super) async fn exchange(
        &mut self,
        connection: &mut Connection,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        if self.sent.1 != self.tried.len() {
            self.sent = (self.sent.0 + 1, self.tried.len());
        }
        let answer = connection.exchange(request, self.route.response_timeout).await;
        let mut response = answer.map_err(Failure::of_exchange)?;
        // Behind a 101 comes no body, whatever it says (RFC 9112 6.3).
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            check_framing(response.headers(), response.version()).map_err(Failure::AnswerFraming)?;
            settle_length(response.headers_mut()).map_err(Failure::AnswerFraming)?;
        }
        Ok(response)
    }

    /// A request that was sent has failed: charges whoever is to blame. Whether it is to be tried again.
    pub(super) fn failed(&mut self, mut lease: Lease, failure: &Failure, was_used: bool) -> bool {
        self.note(&lease, failure);
        if was_used && matches!(failure, Failure::NoAnswer(ExchangeError::Http(_))) {
            // It may have been closed meanwhile: that is nobody's fault, and says nothing of the endpoint.
            self.afresh = self.is_repeatable.then_some(lease);
            return self.afresh.is_some();
        }
        let miss = match failure {
            Failure::NoAnswer(ExchangeError::TimedOut(_)) => Miss::NotAnswered,
            _ => Miss::Broken,
        };
        self.spares_backups |= !lease.is_backup();
        match failure.blame() {
            Blame::Nobody => return false,
            Blame::Endpoint => lease.failed(failure),
            Blame::Either => self.suspects.push(lease.suspect(failure)),
        }
        self.go_on(miss)
    }

    /// A request was answered with a status.
    pub(super) fn answered(&mut self, mut lease: Lease, status: StatusCode) -> Verdict {
        if !self.upstream.settings().retry.on_status.contains(&status) {
            lease.succeeded();
            // It can be answered, then: those that did not have failed.
            self.suspects.drain(..).for_each(|suspect| suspect.charge(self.witness));
            return Verdict::Pass(lease);
        }
        let error = format!("it answered {status}");
        self.note(&lease, &error);
        self.suspects.push(lease.suspect(&error));
        if self.go_on(Miss::Status(status)) { Verdict::Retry } else { Verdict::Pass(lease) }
    }

    fn note(&self, lease: &Lease, error: &dyn std::fmt::Display) {
        let upstream = &self.upstream.settings().name;
        tracing::debug!(%upstream, endpoint = %lease.endpoint().address(), %error, "try failed");
    }

    /// Whether another endpoint is to be tried; it is chosen then.
    fn go_on(&mut self, miss: Miss) -> bool {
        let retry = &self.upstream.settings().retry;
        let allowed = match miss {
            Miss::NotConnected => retry.on_connect,
            Miss::ConnectTimedOut => retry.on_timeout,
            Miss::Broken => retry.on_connect && self.may_break_again(),
            Miss::NotAnswered => retry.on_timeout && self.may_break_again(),
            Miss::Status(status) => self.is_repeatable && retry.on_status.contains(&status),
        };
        let in_time = retry.timeout.is_none_or(|limit| self.started.elapsed() < limit);
        let left = retry.tries == 0 || self.tried.len() < retry.tries as usize;
        if allowed && in_time && left {
            self.next = self.pick().ok();
        }
        self.next.is_some()
    }

    fn may_break_again(&self) -> bool {
        self.is_repeatable && self.sent.0 < MOST_BROKEN
    }

    fn pick(&mut self) -> Result<Lease, Failure> {
        let lease = match self.spares_backups {
            true => self.upstream.pick_no_backup(self.key, &self.tried)?,
            false => self.upstream.pick(self.key, &self.tried)?,
        };
        self.tried.push(lease.endpoint().address().clone());
        Ok(lease)
    }
}

impl Drop for Attempts<'_> {
    /// A request that nobody answered and that one endpoint alone failed over may speak against that one. Where
    /// several failed over it, it speaks against the request.
    fn drop(&mut self) {
        if self.suspects.len() == 1 {
            self.suspects.drain(..).for_each(|suspect| suspect.charge(self.witness));
        }
    }
}

/// Waits until there is room for a connection to an endpoint. The first request of a connection has it at once;
/// those of HTTP/2 that are under way beside it may have to wait.
///
/// # Errors
/// There was none within `connect_timeout`.
pub(super) async fn make_room(client: &Upgrade, route: &Route, inbound: &Inbound) -> Result<(), Failure> {
    let limit = route.connect_timeout;
    let room = timeout(limit, client.make_room(&inbound.connection.slot)).await;
    room.map_err(|_| ConnectError::NoRoom(limit).into())
}

/// RFC 9110 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}
