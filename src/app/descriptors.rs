//! Owns the limit of open files: raised as far as the system allows, and told in connections.

use crate::config::Process;
use crate::slots::Slots;
use crate::tunnel::Driver;
use crate::tunnel::engine::Engine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one, as every connection takes two of them
/// (nginx, `worker_rlimit_nofile`; systemd, `LimitNOFILE=`).
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// How many files may be open; as many as numbers go where there is no limit.
#[must_use]
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Room for the connections that the limit allows such a process.
#[must_use]
pub fn slots(process: &Process) -> Slots {
    let taken = match process.engine {
        Driver::Epoll => Engine::descriptors(process.workers),
        Driver::Tokio => 0,
    };
    Slots::within(open_files().saturating_sub(taken))
}
