//! Owns what is told of an upstream's endpoints to whoever looks at them.

use super::{By, Endpoint, Server, State, Upstream};
use crate::health::Availability;
use std::sync::Arc;
use tokio::time::Instant;

/// One endpoint at a moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The server of the file that stands for it.
    pub server: Server,
    /// What is wanted of it.
    pub state: State,
    /// Who wants it.
    pub by: By,
    /// Whether it may be given connections, as far as its standing goes.
    pub availability: Availability,
    /// The part of its weight that it has now, in thousandths; less than all while it starts slowly.
    pub share: u32,
    /// Failures that count towards its `max_fails`.
    pub failures: u32,
}

impl Upstream {
    /// Its endpoints as they are now, in the order of the file.
    #[must_use]
    pub fn view(&self) -> Vec<View> {
        let now = Instant::now().into_std();
        let members = self.members.list.load();
        let orders = self.members.orders.lock();
        let view = |member: &super::Member| {
            let (state, by) = member.state(&orders);
            let standing = member.endpoint.standing();
            View {
                endpoint: Arc::clone(&member.endpoint),
                server: member.server.clone(),
                state,
                by,
                availability: standing.availability(now),
                share: standing.share(&member.terms.rules, now),
                failures: standing.counted(&member.terms.rules, now),
            }
        };
        members.iter().map(view).collect()
    }
}
