//! Owns orders to reload. It must not know what a reload does.

use std::sync::Arc;
use tokio::sync::oneshot;

/// What is answered to an order: the warnings of the new configuration.
pub type Done = Vec<String>;

/// Why the running configuration stays: every mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub Vec<String>);

/// Who ordered something, and why, as the log says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// An address, whose process it is, or a signal.
    pub by: Arc<str>,
    /// What was given as the reason.
    pub reason: Option<String>,
}

impl Ordered {
    /// By a signal; who sent it is not known.
    #[must_use]
    pub fn by_signal(name: &str) -> Self {
        Self { by: name.into(), reason: None }
    }
}

/// An order to load the configuration anew.
#[derive(Debug)]
pub struct ReloadOrder {
    /// Who gave it.
    pub ordered: Ordered,
    answer: oneshot::Sender<Result<Done, Refused>>,
}

impl ReloadOrder {
    /// An order, and where its answer comes out.
    #[must_use]
    pub fn new(ordered: Ordered) -> (Self, oneshot::Receiver<Result<Done, Refused>>) {
        let (answer, answered) = oneshot::channel();
        (Self { ordered, answer }, answered)
    }

    /// Says what became of it.
    pub fn answer(self, result: Result<Done, Refused>) {
        // Whoever asked may have left.
        let _ = self.answer.send(result);
    }
}
