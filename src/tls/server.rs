//! Owns the server side of TLS: the certificates and rules for the handshakes of a listener. It must not know
//! sockets, HTTP or routes.

mod accept;
mod choice;
mod clients;

pub use accept::{HandshakeError, NotTls, accept};

use super::certs::load::read_pair;
use super::certs::{Certificate, Pair, RevocationList};
use super::problem::Problem;
use super::sources::Sources;
use super::{Alpn, MinVersion, provider};
use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use choice::Choice;
use clients::Clients;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use std::path::PathBuf;
use std::sync::Arc;

/// How a listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The certificate for clients that send no host name, or one that no certificate has (nginx: that of the
    /// `default_server`).
    pub default: Pair,
    /// Certificates that Holdline chooses by the host name of the client (SNI, RFC 6066 section 3). An exact
    /// name wins over a wildcard, which stands for one label. Of several for the same name, ECDSA wins over
    /// RSA if the client can verify it; otherwise the first counts.
    pub others: Vec<Pair>,
    /// Whether Holdline asks clients for a certificate.
    pub client_auth: ClientAuth,
    /// The lowest version.
    pub min_version: MinVersion,
    /// The protocols to offer, the preferred one first. Empty means that Holdline ignores ALPN.
    pub alpn: Vec<Alpn>,
}

/// Whether Holdline asks clients for a certificate (nginx, `ssl_verify_client`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// It does not ask.
    #[default]
    Off,
    /// A client may show one. Unlike in nginx, a bad one ends the handshake.
    Optional(ClientCa),
    /// A client must show one.
    Required(ClientCa),
}

/// How certificates of clients are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// PEM: the authorities (nginx, `ssl_client_certificate`). Holdline sends their names to clients.
    pub ca: PathBuf,
    /// PEM: revocation lists (nginx, `ssl_crl`). If there are any, each authority of a chain except the root
    /// needs one, and none may be overdue.
    pub crls: Vec<PathBuf>,
}

/// A listener's TLS, ready for handshakes.
#[derive(Debug)]
pub struct Config {
    rustls: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    certificates: Vec<Certificate>,
    crls: Vec<RevocationList>,
    sources: Sources,
    resumption: Resumption,
}

/// A [`Config`] that can be swapped. A connection keeps the one with which it began.
#[derive(Debug)]
pub struct Server(ArcSwap<Config>);

/// What lets clients resume sessions.
#[derive(Clone, Debug)]
struct Resumption {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
    /// A digest of how clients are verified. A resumed session asks for no certificate, so sessions survive a
    /// reload only if this has not changed.
    verification: digest::Digest,
}

// === impl Settings ===

impl Settings {
    /// The state of all files now.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let pairs = self.pairs().flat_map(|pair| [pair.cert.as_path(), pair.key.as_path()]);
        let clients = self.client_auth.ca().into_iter();
        let clients = clients.flat_map(|ca| std::iter::once(&ca.ca).chain(&ca.crls)).map(PathBuf::as_path);
        Sources::of(pairs.chain(clients))
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        std::iter::once(&self.default).chain(&self.others)
    }
}

impl ClientAuth {
    fn ca(&self) -> Option<&ClientCa> {
        match self {
            Self::Off => None,
            Self::Optional(ca) | Self::Required(ca) => Some(ca),
        }
    }
}

// === impl Config ===

impl Config {
    /// Reads all files and checks them. It blocks while it reads. Accepts certificates that are expired or
    /// not yet valid; [`Certificate::warning`] reports them.
    ///
    /// With `previous`, clients can resume their earlier sessions. If clients are verified in another way
    /// now, they need full handshakes, so that a client that would be refused cannot stay.
    ///
    /// # Errors
    /// All the files that cannot be used.
    pub fn load(settings: &Settings, previous: Option<&Self>) -> Result<Self, Vec<Problem>> {
        let mut sources = Sources::default();
        let mut problems = Vec::new();
        let mut pairs = Vec::new();
        for (index, pair) in settings.pairs().enumerate() {
            match read_pair(pair, index, &mut sources) {
                Ok(pair) => pairs.push(pair),
                Err(found) => problems.extend(found),
            }
        }
        let clients = Clients::read(&settings.client_auth, &mut sources);
        let clients = clients.map_err(|found| problems.extend(found));
        let (Ok(clients), true) = (clients, problems.is_empty()) else { return Err(problems) };
        let resumption = Resumption::after(previous, clients.verification);
        let (certificates, keys): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let choice = Choice::new(certificates.iter().zip(keys));
        let Clients { verifier, crls, .. } = clients;
        let rustls = Arc::new(assemble(settings, Arc::clone(&verifier), choice, &resumption));
        Ok(Self { rustls, verifier, certificates, crls, sources, resumption })
    }

    /// The certificates, the default one first.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The revocation lists for certificates of clients.
    #[must_use]
    pub fn revocation_lists(&self) -> &[RevocationList] {
        &self.crls
    }

    /// The state of the files when they were read.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }
}

fn assemble(
    settings: &Settings,
    verifier: Arc<dyn ClientCertVerifier>,
    choice: Choice,
    resumption: &Resumption,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(settings.min_version.versions())
        .expect("the provider has cipher suites for every version")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(choice));
    config.alpn_protocols = Alpn::names(&settings.alpn);
    config.ticketer = Arc::clone(&resumption.ticketer);
    config.session_storage = Arc::clone(&resumption.sessions);
    // Early data can be replayed (RFC 8446 section 8). Data before the client's Finished would go to a client
    // that has not yet proved anything.
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config
}

// === impl Server ===

impl Server {
    /// A server with this config.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(ArcSwap::from_pointee(config))
    }

    /// The config for handshakes that begin now.
    #[must_use]
    pub fn current(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Makes the next config. The current one stays until [`Server::swap`].
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load(&self, settings: &Settings) -> Result<Config, Vec<Problem>> {
        Config::load(settings, Some(&self.current()))
    }

    /// Uses this config for handshakes that begin from now on.
    pub fn swap(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}

// === impl Resumption ===

impl Resumption {
    fn after(previous: Option<&Config>, verification: digest::Digest) -> Self {
        let same = previous.map(|previous| &previous.resumption);
        let same = same.filter(|resumption| resumption.verification.as_ref() == verification.as_ref());
        same.cloned().unwrap_or_else(|| Self {
            // The keys change every 6 hours, and tickets are valid for at most 12.
            ticketer: Ticketer::new().expect("the system gives random numbers"),
            // For clients of TLS 1.2 that do not support tickets.
            sessions: ServerSessionMemoryCache::new(SESSIONS),
            verification,
        })
    }
}

/// How many sessions of TLS 1.2 to remember for clients without tickets. Each takes less than 1 KiB, plus the
/// client's certificates.
const SESSIONS: usize = 256;

#[cfg(test)]
mod tests;
