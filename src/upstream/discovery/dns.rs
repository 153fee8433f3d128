//! Owns the repeated look-up of server names. A failed look-up keeps the last result.

use super::Discovered;
use crate::addr::{EndpointAddr, ServerAddr};
use crate::drain::Watch;
use crate::upstream::Upstream;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep_until, timeout};

/// Time limit of a look-up.
const LOOK_UP: Duration = Duration::from_secs(5);
/// Interval at which Holdline retries a name that has never resolved.
const RETRY: Duration = Duration::from_secs(1);

/// Looks up all names once. Returns the names that failed, with the reason. Their last results stay.
pub(crate) async fn refresh(upstream: &Upstream) -> Vec<(ServerAddr, String)> {
    *upstream.looked_up() = Some(Instant::now());
    let mut found = HashMap::new();
    let mut failed = Vec::new();
    for server in &upstream.settings().servers {
        let ServerAddr::Name(name, port) = &server.address else { continue };
        match timeout(LOOK_UP, lookup_host((name.as_str(), *port))).await {
            Ok(Ok(addresses)) => {
                let mut addresses: Vec<_> = addresses.map(EndpointAddr::Tcp).collect();
                // Resolvers shuffle. Keep the order of endpoints stable.
                addresses.sort();
                addresses.dedup();
                let addresses = addresses.into_iter().map(|address| Discovered::of(server, address));
                found.insert(server.address.clone(), addresses.collect());
            }
            Ok(Err(error)) => failed.push((server.address.clone(), error.to_string())),
            Err(_) => failed.push((server.address.clone(), format!("no answer within {LOOK_UP:?}"))),
        }
    }
    for (address, _) in &failed {
        found.insert(address.clone(), upstream.discovered(address));
    }
    if found.values().any(|found: &Vec<Discovered>| !found.is_empty()) {
        upstream.set_discovered(&found);
    }
    failed
}

/// Whether the upstream has names to look up.
#[must_use]
pub(crate) fn has_names(upstream: &Upstream) -> bool {
    upstream.settings().servers.iter().any(|server| matches!(server.address, ServerAddr::Name(..)))
}

/// Whether a name has never resolved.
#[must_use]
pub(crate) fn is_missing_names(upstream: &Upstream) -> bool {
    upstream.settings().servers.iter().any(|server| {
        matches!(server.address, ServerAddr::Name(..)) && upstream.discovered(&server.address).is_empty()
    })
}

/// Looks up an upstream's names at its interval, until the upstream is gone or the proxy drains.
pub(crate) async fn keep_fresh(upstream: Weak<Upstream>, mut watch: Watch) {
    let mut failing = false;
    loop {
        let Some(due) = upstream.upgrade().and_then(|upstream| due(&upstream)) else { return };
        tokio::select! {
            () = sleep_until(due) => {}
            () = watch.draining() => return,
        }
        let Some(upstream) = upstream.upgrade() else { return };
        let failed = refresh(&upstream).await;
        report(&upstream, &failed, &mut failing);
    }
}

/// Logs when look-ups begin to fail, and when they work again.
fn report(upstream: &Arc<Upstream>, failed: &[(ServerAddr, String)], failing: &mut bool) {
    let name = &upstream.settings().name;
    if let (Some((server, error)), false) = (failed.first(), *failing) {
        tracing::warn!(upstream = %name, %server, error, "look-up failed, the last answer stays in use");
    } else if failed.is_empty() && *failing {
        tracing::info!(upstream = %name, "look-up works again");
    }
    *failing = !failed.is_empty();
}

/// Returns when the next look-up is due. `None` means never.
fn due(upstream: &Upstream) -> Option<Instant> {
    let Some(last) = *upstream.looked_up() else { return Some(Instant::now()) };
    let interval = upstream.settings().resolve_interval;
    let interval = if is_missing_names(upstream) {
        Some(interval.map_or(RETRY, |interval| interval.min(RETRY)))
    } else {
        interval
    };
    interval.map(|interval| last + interval)
}
