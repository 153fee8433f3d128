//! Owns the local ports of connections to one endpoint. Each source address has as many for an endpoint as
//! `net.ipv4.ip_local_port_range` holds, 28,232 by default.

use super::Settings;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the connections to an endpoint by source address.
#[derive(Debug, Default)]
pub(super) struct Ports {
    sources: Mutex<Vec<Arc<Source>>>,
    /// Whether the log has warned that few are left.
    told: AtomicBool,
}

#[derive(Debug)]
struct Source {
    /// `None` means the address that the kernel chooses.
    address: Option<IpAddr>,
    open: AtomicU32,
}

/// Counts a connection's port until it is dropped.
#[derive(Debug)]
pub struct Port(Arc<Source>);

/// The ports to an endpoint: those in use by this process, and all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Ports in use, including those of idle connections and of connections being opened.
    pub taken: u32,
    /// Ports of all source addresses together. Other processes may use some.
    pub all: u32,
}

/// A source address that Holdline cannot use.
#[derive(Debug, thiserror::Error)]
#[error("upstream {upstream}: source {address}: {error}{}", remedy(.error))]
pub struct SourceError {
    upstream: Arc<str>,
    address: IpAddr,
    error: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has it: `ip address` names those there are"
        }
        _ => "",
    }
}

impl Settings {
    /// Checks that this machine has each source address.
    ///
    /// # Errors
    /// Returns the first that cannot be bound.
    pub fn check_sources(&self) -> Result<(), SourceError> {
        self.source.iter().try_for_each(|&address| {
            let bound = UdpSocket::bind((address, 0));
            bound.map(drop).map_err(|error| SourceError { upstream: Arc::clone(&self.name), address, error })
        })
    }

    /// Returns the source addresses for an endpoint. Without any, the kernel chooses.
    pub(super) fn sources_to(&self, endpoint: SocketAddr) -> impl Iterator<Item = IpAddr> {
        self.source.iter().copied().filter(move |source| source.is_ipv4() == endpoint.is_ipv4())
    }
}

impl Ports {
    /// Takes a port of the source address with the most free ports that is not in `tried`.
    pub(super) fn take(&self, sources: &[Option<IpAddr>], tried: &[Option<IpAddr>]) -> Option<Port> {
        let mut known = self.lock();
        let mut chosen: Option<Arc<Source>> = None;
        for address in sources.iter().filter(|address| !tried.contains(address)) {
            let source = match known.iter().find(|source| source.address == *address) {
                Some(source) => Arc::clone(source),
                None => {
                    known.push(Arc::new(Source { address: *address, open: AtomicU32::new(0) }));
                    Arc::clone(&known[known.len() - 1])
                }
            };
            if chosen.as_ref().is_none_or(|chosen| source.open() < chosen.open()) {
                chosen = Some(source);
            }
        }
        let chosen = chosen?;
        chosen.open.fetch_add(1, Ordering::Relaxed);
        Some(Port(chosen))
    }

    pub(super) fn usage(&self, sources: &[Option<IpAddr>], ports_per_source: u32) -> Usage {
        let known = self.lock();
        let taken =
            known.iter().filter(|source| sources.contains(&source.address)).map(|source| source.open());
        let all = ports_per_source.saturating_mul(u32::try_from(sources.len()).unwrap_or(u32::MAX));
        Usage { taken: taken.sum(), all }
    }

    /// Returns the usage when it is worth a warning: at four fifths, and again only after it fell below three
    /// fifths.
    pub(super) fn running_out(&self, sources: &[Option<IpAddr>], ports_per_source: u32) -> Option<Usage> {
        let usage = self.usage(sources, ports_per_source);
        let fifths = u64::from(usage.taken) * 5;
        let all = u64::from(usage.all);
        if fifths < all * 3 {
            self.told.store(false, Ordering::Relaxed);
        }
        (fifths >= all * 4 && !self.told.swap(true, Ordering::Relaxed)).then_some(usage)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Source>>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}

impl Port {
    /// Returns its source address. `None` means the one that the kernel chooses.
    pub(super) fn source(&self) -> Option<IpAddr> {
        self.0.address
    }

    /// Returns how many connections share its source address and endpoint.
    pub(super) fn beside(&self) -> u32 {
        self.0.open()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the sources, or one that the kernel chooses if there is none.
pub(super) fn or_any(sources: Vec<Option<IpAddr>>) -> Vec<Option<IpAddr>> {
    if sources.is_empty() { vec![None] } else { sources }
}

/// Returns how many ports the kernel currently has for connections from one address to another (Linux,
/// `ip-sysctl`: `ip_local_port_range`, `ip_local_reserved_ports`).
#[must_use]
pub fn ports_per_source() -> u32 {
    let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    count(&read("ip_local_port_range"), &read("ip_local_reserved_ports")).unwrap_or(LINUX_DEFAULT)
}

/// 32768 to 60999.
const LINUX_DEFAULT: u32 = 28_232;

/// Ports from the first to the last, "32768 60999", without those reserved, "8080,9000-9010".
fn count(range: &str, reserved: &str) -> Option<u32> {
    let (first, last) = range.trim().split_once(char::is_whitespace)?;
    let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let within = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        Some((to.min(last) + 1).saturating_sub(from.max(first)))
    };
    let reserved: u32 = reserved.split(',').filter_map(within).sum();
    Some((last + 1).saturating_sub(first).saturating_sub(reserved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_none_to_connect_from() {
        assert_eq!(count("32768\t60999\n", "\n"), Some(LINUX_DEFAULT));
        assert_eq!(count("1024 2047", "80,1024-1033,2000,2040-3000"), Some(1024 - 10 - 1 - 8));
        assert_eq!(count("", ""), None);
        assert!(ports_per_source() > 0);
    }

    #[test]
    fn the_source_with_most_left_is_next() {
        let ports = Ports::default();
        let sources = [1, 2, 3].map(|last| Some(IpAddr::from([127, 0, 0, last])));
        let mut open: Vec<Port> = (0..6).map(|_| ports.take(&sources, &[]).unwrap()).collect();
        assert_eq!(open.iter().filter(|port| port.source() == sources[1]).count(), 2);
        open.retain(|port| port.source() != sources[2]);
        assert_eq!(ports.take(&sources, &[]).unwrap().source(), sources[2]);
        assert_eq!(ports.take(&sources, &sources[2..]).unwrap().source(), sources[0]);
        assert!(ports.take(&sources, &sources).is_none());
        assert_eq!(ports.usage(&sources, 10), Usage { taken: 4, all: 30 });
        assert_eq!(ports.usage(&[None], 10), Usage { taken: 0, all: 10 });
    }

    #[test]
    fn the_log_is_told_once_that_few_are_left() {
        let ports = Ports::default();
        let told = |open: &mut Vec<Port>, many: usize| {
            let mut told = Vec::new();
            while open.len() < many {
                open.push(ports.take(&[None], &[]).unwrap());
                told.extend(ports.running_out(&[None], 10).map(|usage| usage.taken));
            }
            told
        };
        let mut open = Vec::new();
        assert_eq!(told(&mut open, 10), [8]);
        open.truncate(7);
        assert_eq!(told(&mut open, 9), [0; 0], "it has hardly changed");
        open.truncate(4);
        assert_eq!(told(&mut open, 9), [8]);
    }
}
