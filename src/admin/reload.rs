//! Owns orders to reload. It must not know what a reload does.

use tokio::sync::oneshot;

/// What is answered to an order: the warnings of the new configuration.
pub type Done = Vec<String>;

/// Why the running configuration stays: every mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub Vec<String>);

/// An order to load the configuration anew.
#[derive(Debug)]
pub struct ReloadOrder {
    answer: oneshot::Sender<Result<Done, Refused>>,
}

impl ReloadOrder {
    /// An order, and where its answer comes out.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<Result<Done, Refused>>) {
        let (answer, answered) = oneshot::channel();
        (Self { answer }, answered)
    }

    /// Says what became of it.
    pub fn answer(self, result: Result<Done, Refused>) {
        // Whoever asked may have left.
        let _ = self.answer.send(result);
    }
}
