//! TLS with clients: which certificate, which clients, what a reload does, why handshakes fail.
#![allow(clippy::unwrap_used, reason = "tests")]

mod certificate;
mod clients;
mod handshake;
mod reload;
#[path = "../support/mod.rs"]
mod support;

use holdline::testing::tls::MinVersion;
use holdline::testing::tls::server::{ClientAuth, Config, HandshakeError, Settings, accept};
use holdline::testing::tls::stream::TlsStream as ServerStream;
use std::io;
use std::sync::Arc;
use support::certificates::{Authority, Folder, Issued, of, provider};
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::{TlsConnector, client};

type AtServer = Result<ServerStream<DuplexStream>, HandshakeError>;

type AtClient = io::Result<client::TlsStream<DuplexStream>>;

async fn shake(config: &Config, client: &Arc<ClientConfig>, name: &str) -> (AtServer, AtClient) {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let server = async { accept(far, config).await.map_err(|(error, _)| error) };
    tokio::join!(server, TlsConnector::from(Arc::clone(client)).connect(name, near))
}

/// A listener with one certificate for `a.test`.
struct Site {
    ca: Authority,
    folder: Folder,
    settings: Settings,
}

impl Site {
    fn new() -> Self {
        let (ca, folder) = (Authority::new("Test CA"), Folder::new());
        let default = folder.pair("default", &ca.issue(of(&["a.test"])));
        let settings = Settings {
            default,
            others: Vec::new(),
            client_auth: ClientAuth::Off,
            min_version: MinVersion::Tls12,
            alpn: Vec::new(),
        };
        Self { ca, folder, settings }
    }

    fn load(&self) -> Config {
        Config::load(&self.settings, None).unwrap()
    }

    /// What is wrong, without the folder's name.
    fn problems(&self) -> Vec<String> {
        let problems = Config::load(&self.settings, None).unwrap_err();
        let folder = self.folder.path("").display().to_string();
        problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }

    fn client(&self) -> Arc<ClientConfig> {
        Arc::new(self.ca.client())
    }

    /// One that shows a certificate.
    fn client_with(&self, issued: &Issued) -> Arc<ClientConfig> {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let builder = builder.with_root_certificates(self.ca.roots());
        Arc::new(builder.with_client_auth_cert(vec![issued.der()], key).unwrap())
    }

    async fn shown(&self, config: &Config, client: &Arc<ClientConfig>, name: &str) -> Vec<u8> {
        let (_, client) = shake(config, client, name).await;
        client.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}
