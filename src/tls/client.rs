//! Owns the client side of TLS: what handshakes with an upstream are made with, and why they fail.
//! It must not know endpoints, routes or HTTP.

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

/// What TLS to an upstream is to be. The name to verify is given to each [`connect`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// PEM: the authorities that vouch for the upstream (nginx, `proxy_ssl_trusted_certificate`);
    /// `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// What the proxy shows to an upstream that asks for it (nginx, `proxy_ssl_certificate` and
    /// `proxy_ssl_certificate_key`).
    pub identity: Option<Pair>,
    /// The least version (nginx, `proxy_ssl_protocols`).
    pub min_version: MinVersion,
    /// The protocols that are offered, the preferred one first; empty: none is negotiated.
    pub alpn: Vec<Alpn>,
    /// **Dangerous**: accept whatever certificate the upstream shows: of anybody, for any name, of any
    /// age. Whoever gets in between the proxy and the upstream can then read and alter all there
    /// is. (That is what nginx does unless `proxy_ssl_verify on` is said.) For tests.
    pub insecure_skip_verify: bool,
}

/// TLS to an upstream, ready for handshakes. Those with one config can resume each other's sessions.
#[derive(Debug)]
pub struct Config {
    rustls: Arc<ClientConfig>,
    identity: Option<Certificate>,
    sources: Sources,
}

impl Settings {
    /// All files, as they look now. What the system trusts is not among them.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let pair = self.identity.iter().flat_map(|pair| [&pair.cert, &pair.key]);
        Sources::of(self.ca.iter().chain(pair).map(PathBuf::as_path))
    }
}

impl Config {
    /// Reads all files and checks them. It blocks for as long as files take to read.
    ///
    /// # Errors
    /// All files that cannot be used.
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

    /// What the proxy shows to an upstream that asks for it.
    #[must_use]
    pub fn identity(&self) -> Option<&Certificate> {
        self.identity.as_ref()
    }

    /// How the files looked when they were read.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }
}

fn verifier(settings: &Settings, sources: &mut Sources) -> Result<Arc<dyn ServerCertVerifier>, Problem> {
    // Authorities that are named are read even if nothing is made of them: a wrong path is a mistake.
    let named = settings.ca.as_deref().map(|ca| read_roots(ca, sources)).transpose()?;
    if settings.insecure_skip_verify {
        return Ok(Arc::new(Unverified::new(provider())));
    }
    let roots = named.map_or_else(system_roots, |(roots, _)| Ok(roots))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
    Ok(verifier.expect("there are authorities, and no revocation lists"))
}

/// Shakes hands with an upstream, which has to be `name`: the `server_name` of its settings (nginx,
/// `proxy_ssl_name`), else the host that its address was given with. A host name is sent along (SNI;
/// nginx, `proxy_ssl_server_name on`), an IP address is only verified. How long it may take is the
/// caller's affair.
///
/// With TLS 1.3 an upstream that refuses the proxy's certificate, or misses it, says so after this has
/// succeeded: [`cause`](super::cause) of the first read tells.
///
/// # Errors
/// The upstream goes away, speaks something else, refuses, or is not who it has to be.
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
