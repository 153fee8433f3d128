//! Owns the kernel's figures of this process (proc(5)), under the names that Prometheus clients share.

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use std::fs;

/// The kernel's figures of this process. `None` means that the kernel does not provide one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// Processor time used, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// Address space, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Its threads.
    pub threads: Option<u64>,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// Maximum number of open descriptors.
    pub max_fds: Option<u64>,
}

impl Process {
    /// Reads the current figures.
    #[must_use]
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| rest.split_ascii_whitespace().collect());
        // proc_pid_stat(5) numbers fields from 1. The first field here is the third.
        let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok());
        let ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
        Self {
            cpu_seconds: ticks.map(|ticks| ticks as f64 / clock_ticks_per_second() as f64),
            resident_bytes: field(24).map(|pages| pages * page_size() as u64),
            virtual_bytes: field(23),
            threads: field(20),
            open_fds: open_fds(),
            max_fds: getrlimit(Resource::Nofile).current,
        }
    }
}

/// Kernels from 6.2 on report the count as the directory's size. Otherwise read the directory.
fn open_fds() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    let told = fs::metadata(FOLDER).ok()?.len();
    // Reading the directory opens one itself.
    if told > 0 { Some(told) } else { fs::read_dir(FOLDER).ok().map(|all| all.count() as u64 - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process() {
        let process = Process::now();
        assert!(process.resident_bytes.unwrap() > 1 << 20, "{process:?}");
        assert!(process.virtual_bytes > process.resident_bytes);
        assert!(process.threads.unwrap() >= 1 && process.cpu_seconds.unwrap() >= 0.0);
        let before = process.open_fds.unwrap();
        let held: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(Process::now().open_fds.unwrap() >= before.saturating_sub(20) + held.len() as u64 - 20);
        assert!(process.max_fds.unwrap() >= before);
    }
}
