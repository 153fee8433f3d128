//! Owns reload requests. It must not know how a reload works.

use std::sync::Arc;
use tokio::sync::oneshot;

/// The result of a successful reload: the warnings of the new configuration.
pub type ReloadWarnings = Vec<String>;

/// Every error of a rejected configuration. The running one stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadRejected(pub Vec<String>);

/// Who requested a reload, and why, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadOrigin {
    /// An address, a process or a signal.
    pub by: Arc<str>,
    /// The given reason.
    pub reason: Option<String>,
}

impl ReloadOrigin {
    /// A signal. Its sender is unknown.
    #[must_use]
    pub fn by_signal(name: &str) -> Self {
        Self { by: name.into(), reason: None }
    }
}

/// A request to reload the configuration.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Who requested it, and why.
    pub origin: ReloadOrigin,
    response: oneshot::Sender<Result<ReloadWarnings, ReloadRejected>>,
}

impl ReloadRequest {
    /// Creates a request, and the receiver of its result.
    #[must_use]
    pub fn new(origin: ReloadOrigin) -> (Self, oneshot::Receiver<Result<ReloadWarnings, ReloadRejected>>) {
        let (response, response_receiver) = oneshot::channel();
        (Self { origin, response }, response_receiver)
    }

    /// Sends the result.
    pub fn respond(self, result: Result<ReloadWarnings, ReloadRejected>) {
        // The requester may have left.
        let _ = self.response.send(result);
    }
}
