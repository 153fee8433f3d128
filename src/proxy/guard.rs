//! Owns the guard that makes one report of every request, whichever way it goes.

use super::Proxy;
use super::failure::{CLIENT_LEFT, Failure};
use crate::drain::{Phase, Watch};
use crate::http::serve::Fate;
use crate::http::upload::{Progress, Upload};
use crate::limit::connections::Permit;
use crate::outcome::{Ending, Outcome, PerSide, Side, Traffic, Who, Why};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{Kind, Metrics};
use crate::telemetry::report::{Asked, Report};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// Makes one report of a request, exactly: by [`Guard::finish_http`], or, when the request is dropped
/// before, as left by its client. That of a tunnel is left to whoever holds the tunnel.
#[derive(Debug)]
pub(super) struct Guard {
    /// What is known so far; taken when it is written.
    report: Option<Report>,
    started: Instant,
    kind: Kind,
    books: Arc<Books>,
    watch: Watch,
    /// What becomes of the connection that it came over.
    fate: Option<Fate>,
    /// Tells whether its request's body has failed.
    upload: Progress,
    /// Of an opening that got another answer than a tunnel: it counts while that lasts.
    permit: Option<Permit>,
}

impl Guard {
    /// For a request that has just arrived.
    #[must_use]
    pub(super) fn new(proxy: &Proxy, asked: &Asked<'_>, watch: Watch, fate: Option<Fate>) -> Self {
        let report = Report::new(proxy.sessions.next_id(), SystemTime::now(), asked);
        Self {
            report: Some(report),
            started: Instant::now(),
            kind: Kind::Http,
            books: Arc::clone(&proxy.books),
            watch,
            fate,
            upload: Progress::default(),
            permit: None,
        }
    }

    /// What is known, to be added to.
    ///
    /// # Panics
    /// Never: the report is there until the guard is consumed.
    pub(super) fn report(&mut self) -> &mut Report {
        self.report.as_mut().expect("a guard has its report until it is consumed")
    }

    /// It never became a request.
    pub(super) fn is_unasked(&mut self) {
        self.kind = Kind::Unasked;
    }

    /// The request is one for a tunnel.
    pub(super) fn is_opening(&mut self) {
        self.kind = Kind::Opening;
    }

    /// Its tunnel opens: what is known of it, to which nothing is added any more. The guard keeps its own
    /// until the tunnel has taken over.
    ///
    /// # Panics
    /// Never: the report is there until the guard is consumed.
    #[must_use]
    pub(super) fn open(&mut self) -> Report {
        let report = self.report.as_ref().expect("a guard has its report until it is consumed");
        self.kind = Kind::Tunnel;
        self.books.metrics.opened(report, self.started.elapsed());
        report.clone()
    }

    /// Where things are counted.
    #[must_use]
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.books.metrics
    }

    /// Whether the client left, or took nothing, before it had all of an answer that was whole.
    #[must_use]
    pub(super) fn lost_its_client(&self) -> bool {
        self.fate.as_ref().is_some_and(Fate::is_lost)
    }

    /// The end of an exchange that is dropped before its end: unless the proxy itself has run out of
    /// grace, its client has left.
    #[must_use]
    pub(super) fn broken_off(&self, by_client: &str) -> Ending {
        self.upload.look();
        if let (false, Some(ending)) = (self.watch.phase() == Phase::Expired, self.failed_upload()) {
            return ending;
        }
        let (who, why, reason) = match self.watch.phase() {
            Phase::Expired => (Who::Proxy, Why::Shutdown, "cut at the end of shutdown_grace"),
            _ if self.fate.as_ref().is_some_and(Fate::is_stalled) => {
                (Who::Client, Why::SendTimeout, "client took nothing of the response for body_timeout")
            }
            _ => (Who::Client, Why::Eof, by_client),
        };
        Ending { reason: reason.into(), ..Ending::new(who, why) }
    }

    /// Its request has this body.
    pub(super) fn follow_upload(&mut self, upload: &Upload) {
        self.upload = upload.progress();
    }

    /// Whether the client's connection must end with the answer. hyper's server keeps the end of a body with
    /// trailers to itself where the answer has ended before, until the next request comes.
    #[must_use]
    pub(super) fn ends_connection(&self) -> bool {
        self.upload.is_amid_chunks()
    }

    /// The end of an exchange that its request's body took with it. `None` means that the body has not
    /// failed.
    #[must_use]
    pub(super) fn failed_upload(&self) -> Option<Ending> {
        self.upload.failure().map(|error| Failure::Body(error.clone()).ending())
    }

    /// The opening gets another answer than a tunnel, and counts until that has passed.
    pub(super) fn keep(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// Its tunnel has taken over: [`Books::write`] is to be told of its end.
    #[must_use]
    pub(super) fn hand_over(mut self) -> (Arc<Books>, Watch) {
        self.report = None;
        (Arc::clone(&self.books), self.watch.clone())
    }

    /// Writes the report of an exchange that was no tunnel.
    pub(super) fn finish_http(mut self, ending: Ending, sent: PerSide<u64>) {
        self.write_http(ending, sent);
    }

    fn write_http(&mut self, ending: Ending, sent: PerSide<u64>) {
        let mut traffic = PerSide::default();
        for side in Side::BOTH {
            traffic[side] = Traffic { bytes: sent[side], ..Traffic::default() };
        }
        // When the end is written its place is free.
        self.permit = None;
        let duration = self.started.elapsed();
        let idle = PerSide::default();
        let outcome = Outcome { ending, traffic, duration, idle, blind: None, ended: None };
        if let Some(report) = self.report.take() {
            self.books.write(self.kind, report, outcome);
        }
    }
}

/// Where it is written down what has become of requests and tunnels.
#[derive(Debug)]
pub(super) struct Books {
    log: Arc<AccessLog>,
    metrics: Arc<Metrics>,
}

impl Books {
    pub(super) fn new(log: Arc<AccessLog>, metrics: Arc<Metrics>) -> Self {
        Self { log, metrics }
    }

    /// Writes a report.
    pub(super) fn write(&self, kind: Kind, report: Report, outcome: Outcome) {
        let end = Arc::new((report, Outcome { ended: Some(SystemTime::now()), ..outcome }));
        // Whoever reads of the end finds it counted.
        self.metrics.ended(kind, &end);
        self.log.write(kind, end);
    }
}

impl Drop for Guard {
    /// nginx's 499: the client left before there was an answer, unless its request's body says otherwise.
    fn drop(&mut self) {
        if let Some(report) = &mut self.report {
            if report.status == 0 {
                self.upload.look();
                let failed = self.upload.failure().map(|error| Failure::Body(error.clone()).logged_status());
                report.status = failed.unwrap_or(CLIENT_LEFT).as_u16();
            }
            let ending = self.broken_off("client left before the answer");
            self.write_http(ending, PerSide::default());
        }
    }
}
