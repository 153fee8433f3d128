//! Owns the limit of open files: it raises the limit, and derives the connection capacity from it.

use crate::capacity::Slots;
use crate::config::Process;
use crate::tunnel::Driver;
use crate::tunnel::engine::Engine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one, because every connection takes two (nginx,
/// `worker_rlimit_nofile`; systemd, `LimitNOFILE=`).
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Returns how many files may be open. No limit is the largest number.
pub(crate) fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns the connection slots that the limit allows such a process.
pub(crate) fn capacity_for(process: &Process) -> Slots {
    let own = match process.engine {
        Driver::Epoll => Engine::descriptors(process.workers),
        Driver::Tokio => 0,
    };
    Slots::within(open_files().saturating_sub(own))
}
