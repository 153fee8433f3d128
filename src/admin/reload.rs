//! Owns reload requests, and the path that makes one. It must not know how a reload works.

use super::request::{AdminRequest, Reason};
use super::response::{AdminResponse, Problem, json};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The result of a successful reload: the warnings of the new configuration.
pub(crate) type ReloadWarnings = Vec<String>;

/// Every error of a rejected configuration. The running one stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReloadRejected(pub Vec<String>);

/// Who requested a reload, and why, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReloadOrigin {
    /// An address, a process or a signal.
    pub by: Arc<str>,
    /// The given reason.
    pub reason: Option<String>,
}

impl ReloadOrigin {
    /// A signal. Its sender is unknown.
    #[must_use]
    pub(crate) fn by_signal(name: &str) -> Self {
        Self { by: name.into(), reason: None }
    }
}

/// A request to reload the configuration.
#[derive(Debug)]
pub(crate) struct ReloadRequest {
    /// Who requested it, and why.
    pub origin: ReloadOrigin,
    response: oneshot::Sender<Result<ReloadWarnings, ReloadRejected>>,
}

impl ReloadRequest {
    /// Creates a request, and the receiver of its result.
    #[must_use]
    pub(crate) fn new(
        origin: ReloadOrigin,
    ) -> (Self, oneshot::Receiver<Result<ReloadWarnings, ReloadRejected>>) {
        let (response, response_receiver) = oneshot::channel();
        (Self { origin, response }, response_receiver)
    }

    /// Sends the result.
    pub(crate) fn respond(self, result: Result<ReloadWarnings, ReloadRejected>) {
        // The requester may have left.
        let _ = self.response.send(result);
    }
}

/// `POST /api/reload`. Requests a reload of the configuration and waits for the result.
pub(super) async fn answer(request: &AdminRequest) -> Result<AdminResponse, Problem> {
    let Reason { reason } = request.parse_body()?;
    let gone = || Problem::unavailable("the proxy is stopping and accepts no reload; start it again");
    let (reload, answered) = ReloadRequest::new(ReloadOrigin { by: Arc::clone(&request.by), reason });
    request.admin.reloads.send(reload).await.map_err(|_| gone())?;
    match answered.await.map_err(|_| gone())? {
        Ok(warnings) => Ok(json(&json!({ "warnings": warnings }))),
        Err(ReloadRejected(errors)) => {
            let error = "the running configuration stays; mend what errors tell and reload again";
            Err(Problem::refused(error).with_errors(errors))
        }
    }
}
