//! Owns the client side of TLS: handshakes with upstreams, and why they fail. It must not know endpoints,
//! routes or HTTP.

mod error;
mod verify;

pub use error::ConnectError;

use super::certs::load::{read_pair, read_roots, system_roots};
use super::certs::{Certificate, Pair};
use super::problem::Problem;
use super::sources::Sources;
use super::{Alpn, BUFFER_LIMIT, MinVersion, ServerName, provider};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::SingleCertAndKey;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use verify::Unverified;

/// How Holdline speaks TLS with an upstream. Each [`connect`] gets the name to verify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// PEM: the authorities to trust (nginx, `proxy_ssl_trusted_certificate`). `None` means those that the
    /// system trusts.
    pub ca: Option<PathBuf>,
    /// The certificate for upstreams that ask for one (nginx, `proxy_ssl_certificate` and
    /// `proxy_ssl_certificate_key`).
    pub identity: Option<Pair>,
    /// The lowest version (nginx, `proxy_ssl_protocols`).
    pub min_version: MinVersion,
    /// The protocols to offer, the preferred one first. Empty means that none is negotiated.
    pub alpn: Vec<Alpn>,
    /// **Dangerous**: accepts any certificate, of any issuer, name and age. Anybody between Holdline and the
    /// upstream can then read and change everything. For tests. (nginx does so without `proxy_ssl_verify
    /// on`.)
    pub insecure_skip_verify: bool,
}

/// TLS to an upstream, ready for handshakes. Handshakes with the same config can resume each other's
/// sessions.
#[derive(Debug)]
pub struct Config {
    rustls: Arc<ClientConfig>,
    identity: Option<Certificate>,
    sources: Sources,
}

impl Settings {
    /// The state of all files now, without those of the system.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let pair = self.identity.iter().flat_map(|pair| [&pair.cert, &pair.key]);
        Sources::of(self.ca.iter().chain(pair).map(PathBuf::as_path))
    }
}

impl Config {
    /// Reads all files and checks them. It blocks while it reads.
    ///
    /// # Errors
    /// All the files that cannot be used.
    pub fn load(settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut sources = Sources::default();
        let mut problems = Vec::new();
        let verifier = verifier(settings, &mut sources).map_err(|problem| problems.push(problem));
        let pair = settings.identity.as_ref().map(|pair| read_pair(pair, 0, &mut sources)).transpose();
        let pair = pair.map_err(|found| problems.extend(found));
        let (Ok(verifier), Ok(pair)) = (verifier, pair) else { return Err(problems) };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(settings.min_version.versions())
            .expect("the provider has cipher suites for every version")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let (identity, key) = pair.unzip();
        let mut config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = Alpn::names(&settings.alpn);
        Ok(Self { rustls: Arc::new(config), identity, sources })
    }

    /// The certificate for upstreams that ask for one.
    #[must_use]
    pub fn identity(&self) -> Option<&Certificate> {
        self.identity.as_ref()
    }

    /// The state of the files when they were read.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }
}

fn verifier(settings: &Settings, sources: &mut Sources) -> Result<Arc<dyn ServerCertVerifier>, Problem> {
    // A wrong path is a mistake even if the authorities are not used.
    let named = settings.ca.as_deref().map(|ca| read_roots(ca, sources)).transpose()?;
    if settings.insecure_skip_verify {
        return Ok(Arc::new(Unverified::new(provider())));
    }
    let roots = named.map_or_else(system_roots, |(roots, _)| Ok(roots))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
    Ok(verifier.expect("there are authorities, and no revocation lists"))
}

/// Runs the handshake with an upstream, and verifies that it is `name`: the `server_name` of its settings
/// (nginx, `proxy_ssl_name`), or else the host of its address. A host name is sent too (SNI; nginx,
/// `proxy_ssl_server_name on`); an IP address is only verified. There is no timeout; the caller sets one.
///
/// With TLS 1.3 an upstream that refuses Holdline's certificate, or wants one, says so after this has
/// succeeded. The first read then fails, and [`cause`](super::cause) has the alert.
///
/// # Errors
/// The upstream closes, does not speak TLS, refuses, or is not `name`. The stream is dropped.
pub async fn connect<S>(
    stream: S,
    name: &ServerName<'static>,
    config: &Config,
) -> Result<TlsStream<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(Arc::clone(&config.rustls));
    let handshake =
        connector.connect_with(name.clone(), stream, |session| session.set_buffer_limit(Some(BUFFER_LIMIT)));
    Ok(handshake.await?)
}
