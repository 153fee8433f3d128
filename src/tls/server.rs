//! Owns the server side of TLS: what one listener's handshakes are made with. It must not know
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

/// What a listener's TLS is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For clients that name no host, or one that no certificate is for (nginx: that of the
    /// `default_server`).
    pub default: Pair,
    /// For clients that name a host of theirs (SNI, RFC 6066 section 3). An exact name goes before a
    /// wildcard, which stands for one label. Of several for one name, ECDSA goes before RSA where the
    /// client can verify it; else the first counts.
    pub others: Vec<Pair>,
    /// Whether clients are asked for a certificate.
    pub client_auth: ClientAuth,
    /// The least version.
    pub min_version: MinVersion,
    /// The protocols that are offered, the preferred one first; empty: ALPN is passed over.
    pub alpn: Vec<Alpn>,
}

/// Whether clients are asked for a certificate (nginx, `ssl_verify_client`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not.
    #[default]
    Off,
    /// They may show one. A bad one ends the handshake all the same, unlike with nginx.
    Optional(ClientCa),
    /// They have to show one.
    Required(ClientCa),
}

/// Who vouches for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// PEM: the authorities (nginx, `ssl_client_certificate`). Their names are sent to clients.
    pub ca: PathBuf,
    /// PEM: revocation lists (nginx, `ssl_crl`). If there are any, there has to be one for every
    /// authority of a chain but the root, and none may be overdue.
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

/// A [`Config`] that is swapped whole. Connections keep the one that they began with.
#[derive(Debug)]
pub struct Server(ArcSwap<Config>);

/// What lets clients resume sessions.
#[derive(Clone, Debug)]
struct Resumption {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
    /// A digest of how clients are verified. A session that is resumed asks for no certificate, so that
    /// sessions may only outlive a reload that leaves this as it was.
    verification: digest::Digest,
}

// === impl Settings ===

impl Settings {
    /// All files, as they look now.
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
    /// Reads all files and checks them. Certificates that are expired or not yet valid are taken:
    /// [`Certificate::warning`] tells of them. It blocks for as long as files take to read.
    ///
    /// With `previous`, clients can resume the sessions they had with that, unless clients are
    /// verified otherwise now: then all have to shake hands anew, so that nobody stays in who would
    /// not come in.
    ///
    /// # Errors
    /// All files that cannot be used.
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

    /// The revocation lists.
    #[must_use]
    pub fn revocation_lists(&self) -> &[RevocationList] {
        &self.crls
    }

    /// How the files looked when they were read.
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
    // Early data can be replayed (RFC 8446 section 8), and data before the client's Finished goes to
    // who has not yet proved anything.
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config
}

// === impl Server ===

impl Server {
    /// Begins with this.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(ArcSwap::from_pointee(config))
    }

    /// What handshakes are made with now.
    #[must_use]
    pub fn current(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Makes what shall follow the current one; that one stays until [`Server::swap`].
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load(&self, settings: &Settings) -> Result<Config, Vec<Problem>> {
        Config::load(settings, Some(&self.current()))
    }

    /// Handshakes that begin from now on are made with this. It cannot fail.
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
            // Keys change every 6 hours; tickets are good for 12 at most.
            ticketer: Ticketer::new().expect("the system gives random numbers"),
            // For clients of TLS 1.2 that know no tickets.
            sessions: ServerSessionMemoryCache::new(SESSIONS),
            verification,
        })
    }
}

/// Sessions of TLS 1.2 that are remembered for clients without tickets; each takes less than 1 KiB,
/// and a client's certificates.
const SESSIONS: usize = 256;

#[cfg(test)]
mod tests;
