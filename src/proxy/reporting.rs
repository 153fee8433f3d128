//! Owns the guard that writes exactly one report for each request, however the request ends.

use super::Proxy;
use super::failure::{CLIENT_LEFT, Failure};
use crate::drain::{Phase, Watch};
use crate::http::conn::ConnectionEnd;
use crate::http::upload::{Progress, Upload};
use crate::limit::connections::Permit;
use crate::outcome::{Cause, EndedBy, Ending, Outcome, PerSide, Side, Traffic};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::report::{ConnectionId, Ended, Kind, Report, RequestInfo};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Writes exactly one report of a request. [`ReportGuard::finish`] writes it. If the request is dropped
/// first, the report says that its client left. The owner of a tunnel writes the tunnel's report.
#[derive(Debug)]
pub(super) struct ReportGuard {
    /// The report as known so far. Taken when it is written.
    report: Option<Report>,
    started: Instant,
    kind: Kind,
    sink: Arc<ReportSink>,
    watch: Watch,
    /// The end of the connection that the request came over.
    connection_end: Option<ConnectionEnd>,
    /// Tells whether the request's body has failed.
    upload: Progress,
    /// The permit of an upgrade request that got a plain response. It counts until that response has passed.
    permit: Option<Permit>,
}

impl ReportGuard {
    /// Starts the report of a request that has just arrived.
    #[must_use]
    pub(super) fn new(
        proxy: &Proxy,
        id: ConnectionId,
        info: &RequestInfo<'_>,
        watch: Watch,
        connection_end: Option<ConnectionEnd>,
    ) -> Self {
        let report = Report::new(id, SystemTime::now(), info);
        Self {
            report: Some(report),
            started: Instant::now(),
            kind: Kind::Http,
            sink: Arc::clone(&proxy.sink),
            watch,
            connection_end,
            upload: Progress::default(),
            permit: None,
        }
    }

    /// Returns the report's id.
    ///
    /// # Panics
    /// Never. The guard keeps its report until it is consumed.
    pub(super) fn id(&self) -> ConnectionId {
        self.report.as_ref().expect("a guard has its report until it is consumed").id
    }

    /// Returns the report, so that the caller can add to it.
    ///
    /// # Panics
    /// Never. The guard keeps its report until it is consumed.
    pub(super) fn report(&mut self) -> &mut Report {
        self.report.as_mut().expect("a guard has its report until it is consumed")
    }

    /// Marks that the bytes never became a request.
    pub(super) fn mark_no_request(&mut self) {
        self.kind = Kind::NoRequest;
    }

    /// Marks the request as an upgrade request.
    pub(super) fn mark_upgrade(&mut self) {
        self.kind = Kind::Upgrade;
    }

    /// Counts the opened tunnel and returns a copy of its report as known at the 101. The guard keeps its own copy until
    /// the tunnel has taken over.
    ///
    /// # Panics
    /// Never. The guard keeps its report until it is consumed.
    #[must_use]
    pub(super) fn open(&mut self) -> Report {
        let report = self.report.as_ref().expect("a guard has its report until it is consumed");
        self.kind = Kind::Tunnel;
        self.sink.metrics.opened(report, self.started.elapsed());
        report.clone()
    }

    /// Returns the metrics that count this request.
    #[must_use]
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.sink.metrics
    }

    /// Records a new connection to an endpoint of the route's upstream.
    pub(super) fn connected(&self, took: Duration) {
        if let Some(names) = self.report.as_ref().and_then(|report| report.names.as_ref()) {
            self.sink.metrics.connected(names, took);
        }
    }

    /// Whether the client left or stalled before it had accepted all of a complete response.
    #[must_use]
    pub(super) fn lost_its_client(&self) -> bool {
        self.connection_end.as_ref().is_some_and(ConnectionEnd::is_lost)
    }

    /// Returns the ending of an exchange that is dropped before its end. Its client has left, unless the
    /// proxy's own shutdown grace has expired.
    #[must_use]
    pub(super) fn aborted_ending(&self, by_client: &str) -> Ending {
        self.upload.look();
        if let (false, Some(ending)) = (self.watch.phase() == Phase::Expired, self.failed_upload()) {
            return ending;
        }
        let (ended_by, cause, reason) = match self.watch.phase() {
            Phase::Expired => (EndedBy::Proxy, Cause::Shutdown, "cut at the end of shutdown_grace"),
            _ if self.connection_end.as_ref().is_some_and(ConnectionEnd::is_stalled) => {
                (EndedBy::Client, Cause::SendTimeout, "client took nothing of the response for body_timeout")
            }
            _ => (EndedBy::Client, Cause::Eof, by_client),
        };
        Ending { reason: reason.into(), ..Ending::new(ended_by, cause) }
    }

    /// Watches the request's body.
    pub(super) fn watch_upload(&mut self, upload: &Upload) {
        self.upload = upload.progress();
    }

    /// Whether Holdline must close the client's connection after the response. If a response ends before a
    /// chunked request body does, hyper's server withholds the end of a body with trailers until the next
    /// request comes.
    #[must_use]
    pub(super) fn ends_connection(&self) -> bool {
        self.upload.is_amid_chunks()
    }

    /// Returns the ending of an exchange whose request body failed. `None` means that the body has not
    /// failed.
    #[must_use]
    pub(super) fn failed_upload(&self) -> Option<Ending> {
        self.upload.failure().map(|error| Failure::Body(error.clone()).ending())
    }

    /// Keeps the permit of an upgrade request that got a plain response, until that response has passed.
    pub(super) fn hold_permit(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// Gives up the report, because the tunnel has its own. The caller must pass the tunnel's end to
    /// [`ReportSink::write`].
    #[must_use]
    pub(super) fn into_sink(mut self) -> (Arc<ReportSink>, Watch) {
        self.report = None;
        (Arc::clone(&self.sink), self.watch.clone())
    }

    /// Writes the report of a plain exchange.
    pub(super) fn finish(mut self, ending: Ending, sent: PerSide<u64>) {
        self.write(ending, sent);
    }

    fn write(&mut self, ending: Ending, sent: PerSide<u64>) {
        let mut traffic = PerSide::default();
        for side in Side::BOTH {
            traffic[side] = Traffic { bytes: sent[side], ..Traffic::default() };
        }
        // The permit is free before the report is written.
        self.permit = None;
        let duration = self.started.elapsed();
        let idle = PerSide::default();
        let outcome = Outcome { ending, traffic, duration, idle, blind: None, ended: None };
        if let Some(report) = self.report.take() {
            self.sink.write(self.kind, report, outcome);
        }
    }
}

/// Writes the reports of requests and tunnels.
#[derive(Debug)]
pub(super) struct ReportSink {
    log: Arc<AccessLog>,
    metrics: Arc<Metrics>,
}

impl ReportSink {
    pub(super) fn new(log: Arc<AccessLog>, metrics: Arc<Metrics>) -> Self {
        Self { log, metrics }
    }

    /// Writes a report.
    pub(super) fn write(&self, kind: Kind, report: Report, outcome: Outcome) {
        let (ended_by, cause) = (outcome.ending.ended_by.as_str(), outcome.ending.cause.as_str());
        tracing::debug!(id = %report.id, status = report.status, ended_by, cause, "ended");
        let end = Arc::new(Ended { report, outcome: Outcome { ended: Some(SystemTime::now()), ..outcome } });
        // Count first: a reader of the log then finds the end in the metrics.
        self.metrics.ended(kind, &end);
        self.log.write(kind, end);
    }
}

impl Drop for ReportGuard {
    /// Reports nginx's status 499: the client left before the response. A failed request body overrides that.
    fn drop(&mut self) {
        if let Some(report) = &mut self.report {
            if report.status == 0 {
                self.upload.look();
                let failed = self.upload.failure().map(|error| Failure::Body(error.clone()).logged_status());
                report.status = failed.unwrap_or(CLIENT_LEFT).as_u16();
            }
            let ending = self.aborted_ending("client left before the answer");
            self.write(ending, PerSide::default());
        }
    }
}
