//! Owns the certificates of listeners in a running proxy: read before anything else changes, taken up
//! anew when their files change, and told of before they end.

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

/// A listener's settings, its certificates read.
#[derive(Debug)]
pub struct Ready {
    /// The settings.
    pub listen: Listen,
    /// What handshakes are made with; `None`: there are none.
    pub tls: Option<Arc<server::Config>>,
    /// Places for handshakes.
    pub handshakes: Handshakes,
}

/// Certificate files of a listener or an upstream that cannot be used.
#[derive(Debug)]
pub struct CertificateError {
    /// Whose they are, as a message begins.
    owner: String,
    problems: Vec<Problem>,
    /// Where the configuration names the file of each, if that is known.
    places: Vec<Option<Place>>,
}

impl CertificateError {
    fn new(owner: String, problems: Vec<Problem>) -> Self {
        Self { owner, problems, places: Vec::new() }
    }

    /// The same, with the lines of the configuration that name the files.
    #[must_use]
    pub fn placed(mut self, config: &Config) -> Self {
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

impl Ready {
    /// Reads the certificates of a listener, if it has any. Clients resume the sessions that they had
    /// with `previous`, and handshakes under way go on counting. It blocks for as long as files take to
    /// read.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn read(listen: &Listen, previous: Option<&Self>) -> Result<Self, CertificateError> {
        let config = previous.and_then(|previous| previous.tls.as_deref());
        let tls = listen.socket.tls.as_ref().map(|tls| server::Config::load(&tls.server, config)).transpose();
        let owner = format!("listen {}", listen.socket.address);
        let tls = tls.map_err(|problems| CertificateError::new(owner, problems))?;
        let most = listen.socket.tls.as_ref().map_or(0, |tls| tls.max_handshakes as usize);
        let before = previous.map(|previous| &previous.handshakes).filter(|before| before.most() == most);
        let handshakes = before.cloned().unwrap_or_else(|| Handshakes::new(most));
        Ok(Self { listen: listen.clone(), tls: tls.map(Arc::new), handshakes })
    }

    /// The same, on a thread that may block.
    pub(super) async fn read_aside(
        listen: &Listen,
        previous: Option<Arc<Self>>,
    ) -> Result<Self, CertificateError> {
        let listen = listen.clone();
        let read = spawn_blocking(move || Self::read(&listen, previous.as_deref())).await;
        read.expect("reading certificates does not panic")
    }

    /// What there is to say of each certificate: whether it is doubtful, and the text.
    #[must_use]
    pub fn certificates(&self) -> Vec<(bool, String)> {
        let (now, tls) = (SystemTime::now(), self.tls.iter());
        let mut told = Vec::new();
        for config in tls {
            for certificate in config.certificates() {
                let (names, days) = (certificate.names.join(", "), certificate.days_left(now));
                let path = certificate.path.display();
                told.push(match certificate.warning(now) {
                    Some(expiry) => (true, format!("{path}: certificate for {names} {expiry}")),
                    None => (
                        false,
                        format!("{path}: {} certificate for {names}, {days} days left", certificate.key),
                    ),
                });
            }
            for list in config.revocation_lists() {
                let expiry = list.warning(now);
                told.extend(
                    expiry.map(|expiry| (true, format!("{}: revocation list {expiry}", list.path.display()))),
                );
            }
        }
        told
    }

    /// Says it in the log.
    pub(super) fn announce(&self) {
        for (doubtful, text) in self.certificates() {
            match doubtful {
                true => tracing::warn!(listen = %self.listen.socket.address, "{text}"),
                false => tracing::info!(listen = %self.listen.socket.address, "{text}"),
            }
        }
    }
}

/// Reads the files of all upstreams, on a thread that may block.
///
/// # Errors
/// Files that cannot be used, of the first upstream that has such.
pub(super) async fn secure_aside(
    next: &Arc<Snapshot>,
    previous: Option<&Arc<Snapshot>>,
) -> Result<(), CertificateError> {
    let (next, previous) = (Arc::clone(next), previous.cloned());
    let secured = spawn_blocking(move || secure(&next, previous.as_deref())).await;
    secured.expect("reading certificates does not panic")
}

/// The same, here. It blocks for as long as files take to read.
///
/// # Errors
/// Files that cannot be used, of the first upstream that has such.
pub fn secure(next: &Snapshot, previous: Option<&Snapshot>) -> Result<(), CertificateError> {
    for upstream in next.upstreams() {
        let name = &upstream.settings().name;
        let before = previous.and_then(|previous| previous.upstream(name));
        let owner = || format!("upstream {name}");
        upstream
            .secure(before.map(|before| &**before))
            .map_err(|problems| CertificateError::new(owner(), problems))?;
    }
    Ok(())
}

impl Running {
    /// Tells the metrics until when the certificates in use are valid.
    pub(super) fn count_certificates(&self) {
        let mut all = Vec::new();
        for active in &self.listeners {
            let ready = active.settings.load();
            for certificate in ready.tls.iter().flat_map(|tls| tls.certificates()) {
                all.push(Certificate {
                    listen: active.address.to_string(),
                    path: certificate.path.display().to_string(),
                    not_after: certificate.not_after,
                });
            }
        }
        self.proxy.metrics.set_certificates(all);
    }

    /// Takes up certificates whose files have changed. Where they cannot be used, the old ones stay,
    /// and what is wrong is said once for each change.
    pub async fn refresh_certificates(&mut self) {
        let mut refreshed = false;
        for active in &mut self.listeners {
            let ready = active.settings.load_full();
            let Some(tls) = &ready.tls else { continue };
            if !active.refused.as_ref().unwrap_or_else(|| tls.sources()).changed() {
                continue;
            }
            let files: Vec<_> = tls.sources().paths().map(ToOwned::to_owned).collect();
            let seen = Sources::of(files.iter().map(|path| path.as_path()));
            match Ready::read_aside(&ready.listen, Some(Arc::clone(&ready))).await {
                Ok(fresh) => {
                    fresh.announce();
                    active.settings.store(Arc::new(fresh));
                    active.refused = None;
                    refreshed = true;
                }
                Err(error) => {
                    tracing::error!("{error}");
                    tracing::error!(listen = %active.address, "the certificates that were read before stay in use");
                    active.refused = Some(seen);
                }
            }
        }
        if refreshed {
            self.count_certificates();
            self.tell_facts();
        }
    }
}
