//! Owns the certificates of listeners in a running proxy: reading them, reloading changed files, and warning
//! before they expire.

use super::Running;
use crate::config::{Config, Listen, Place};
use crate::listener::handshakes::Handshakes;
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::metrics::Certificate;
use crate::tls::problem::Problem;
use crate::tls::server;
use crate::tls::sources::Sources;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::task::spawn_blocking;

pub(crate) use crate::proxy::connection::ListenerConfig;

/// Certificate files of a listener or an upstream that Holdline cannot use.
#[derive(Debug)]
pub struct CertificateError {
    /// The owner, which begins the message.
    owner: String,
    problems: Vec<Problem>,
    /// Where the configuration names each file, if known.
    places: Vec<Option<Place>>,
}

impl CertificateError {
    fn new(owner: String, problems: Vec<Problem>) -> Self {
        Self { owner, problems, places: Vec::new() }
    }

    /// Adds the lines of the configuration that name the files.
    pub(crate) fn placed(mut self, config: &Config) -> Self {
        let part = self.owner.split(' ').next().unwrap_or_default();
        let place = |problem: &Problem| config.place_of(part, &problem.path).cloned();
        self.places = self.problems.iter().map(place).collect();
        self
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let gap = if index > 0 { "\n" } else { "" };
            match self.places.get(index).and_then(Option::as_ref) {
                Some(place) => write!(f, "{gap}{place}{problem}")?,
                None => write!(f, "{gap}{}: tls: {problem}", self.owner)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for CertificateError {}

impl ListenerConfig {
    /// Reads the certificates of a listener, if it has any. TLS sessions of `previous` can be resumed, and
    /// current handshakes still count. It blocks while it reads.
    ///
    /// # Errors
    /// Returns every file that Holdline cannot use.
    pub(crate) fn read(listen: &Listen, previous: Option<&Self>) -> Result<Self, CertificateError> {
        let config = previous.and_then(|previous| previous.tls.as_deref());
        let tls = listen.socket.tls.as_ref().map(|tls| server::Config::load(&tls.server, config)).transpose();
        let owner = format!("listen {}", listen.socket.address);
        let tls = tls.map_err(|problems| CertificateError::new(owner, problems))?;
        let most = listen.socket.tls.as_ref().map_or(0, |tls| tls.max_handshakes as usize);
        let before = previous.map(|previous| &previous.handshakes).filter(|before| before.limit() == most);
        let handshakes = before.cloned().unwrap_or_else(|| Handshakes::new(most));
        let (socket, http) = (listen.socket.clone(), listen.http.clone());
        Ok(Self { socket, http, tls: tls.map(Arc::new), handshakes })
    }

    /// Like [`Self::read`], on a blocking thread.
    pub(super) async fn read_in_background(
        listen: &Listen,
        previous: Option<Arc<Self>>,
    ) -> Result<Self, CertificateError> {
        let listen = listen.clone();
        let read = spawn_blocking(move || Self::read(&listen, previous.as_deref())).await;
        read.expect("reading certificates does not panic")
    }

    /// Returns a message about each certificate, and whether it is a warning.
    pub(crate) fn certificates(&self) -> Vec<(bool, String)> {
        let (now, tls) = (SystemTime::now(), self.tls.iter());
        let mut messages = Vec::new();
        for config in tls {
            for certificate in config.certificates() {
                let (names, days) = (certificate.names.join(", "), certificate.days_left(now));
                let path = certificate.path.display();
                messages.push(match certificate.warning(now) {
                    Some(expiry) => (true, format!("{path}: certificate for {names} {expiry}")),
                    None => (
                        false,
                        format!("{path}: {} certificate for {names}, {days} days left", certificate.key),
                    ),
                });
            }
            for list in config.revocation_lists() {
                let expiry = list.warning(now);
                messages.extend(
                    expiry.map(|expiry| (true, format!("{}: revocation list {expiry}", list.path.display()))),
                );
            }
        }
        messages
    }

    /// Logs these messages.
    pub(super) fn log_certificates(&self) {
        for (is_warning, text) in self.certificates() {
            match is_warning {
                true => tracing::warn!(listen = %self.socket.address, "{text}"),
                false => tracing::info!(listen = %self.socket.address, "{text}"),
            }
        }
    }
}

/// Reads the TLS files of all upstreams, on a blocking thread.
///
/// # Errors
/// Returns the files that Holdline cannot use, of the first upstream that has any.
pub(super) async fn load_tls_in_background(
    next: &Arc<Snapshot>,
    previous: Option<&Arc<Snapshot>>,
) -> Result<(), CertificateError> {
    let (next, previous) = (Arc::clone(next), previous.cloned());
    let secured = spawn_blocking(move || load_tls(&next, previous.as_deref())).await;
    secured.expect("reading certificates does not panic")
}

/// Reads the TLS files of all upstreams. It blocks while it reads.
///
/// # Errors
/// Returns the files that Holdline cannot use, of the first upstream that has any.
pub(crate) fn load_tls(next: &Snapshot, previous: Option<&Snapshot>) -> Result<(), CertificateError> {
    for upstream in next.upstreams() {
        let name = &upstream.settings().name;
        let before = previous.and_then(|previous| previous.upstream(name));
        let owner = || format!("upstream {name}");
        upstream
            .load_tls(before.map(|before| &**before))
            .map_err(|problems| CertificateError::new(owner(), problems))?;
    }
    Ok(())
}

impl Running {
    /// Sets the expiry times of the certificates in the metrics.
    pub(super) fn count_certificates(&self) {
        let mut all = Vec::new();
        for active in &self.listeners {
            let current = active.config.load();
            for certificate in current.tls.iter().flat_map(|tls| tls.certificates()) {
                all.push(Certificate {
                    listen: active.address().to_string(),
                    path: certificate.path.display().to_string(),
                    not_after: certificate.not_after,
                });
            }
        }
        self.proxy.metrics.set_certificates(all);
    }

    /// Reloads certificates whose files have changed. If Holdline cannot use them, it keeps the old ones and
    /// logs the error once per change.
    pub async fn refresh_certificates(&mut self) {
        let mut refreshed = false;
        for active in &mut self.listeners {
            let current = active.config.load_full();
            let Some(tls) = &current.tls else { continue };
            if !active.refused.as_ref().unwrap_or_else(|| tls.sources()).changed() {
                continue;
            }
            let files: Vec<_> = tls.sources().paths().map(ToOwned::to_owned).collect();
            let seen = Sources::of(files.iter().map(|path| path.as_path()));
            let listen = Listen { socket: current.socket.clone(), http: current.http.clone() };
            match ListenerConfig::read_in_background(&listen, Some(Arc::clone(&current))).await {
                Ok(fresh) => {
                    fresh.log_certificates();
                    active.config.store(Arc::new(fresh));
                    active.refused = None;
                    refreshed = true;
                }
                Err(error) => {
                    tracing::error!("{error}");
                    tracing::error!(listen = %active.address(), "the old certificates stay in use");
                    active.refused = Some(seen);
                }
            }
        }
        if refreshed {
            self.count_certificates();
            self.update_runtime_info();
        }
    }
}
