//! TLS with upstreams: who is trusted, and what is said of those who are not.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::tls::client::{Config, ConnectError, Settings, connect};
use holdline::testing::tls::session::{ClientCertificate, Session};
use holdline::testing::tls::stream::TlsStream as ServerStream;
use holdline::testing::tls::{Alpn, Cause, MinVersion, ServerName, cause, server};
use std::io;
use support::certificates::{Authority, Folder, Issued, of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::client::TlsStream;

/// An upstream for `up.test`, and the proxy's settings for it.
struct Upstream {
    ca: Authority,
    folder: Folder,
    at_upstream: server::Settings,
    settings: Settings,
}

type Connected = Result<TlsStream<DuplexStream>, ConnectError>;
type Accepted = Result<ServerStream<DuplexStream>, server::HandshakeError>;

fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

impl Upstream {
    fn new() -> Self {
        let ca = Authority::new("Test CA");
        let shown = ca.issue(of(&["up.test", "*.up.test", "10.0.0.1"]));
        Self::showing(ca, &shown)
    }

    fn showing(ca: Authority, shown: &Issued) -> Self {
        let folder = Folder::new();
        let at_upstream = server::Settings {
            default: folder.pair("upstream", shown),
            others: Vec::new(),
            client_auth: server::ClientAuth::Off,
            min_version: MinVersion::Tls12,
            alpn: vec![Alpn::Http1],
        };
        let settings = Settings {
            ca: Some(folder.write("ca.pem", ca.pem())),
            alpn: vec![Alpn::Http1],
            ..Settings::default()
        };
        Self { ca, folder, at_upstream, settings }
    }

    async fn connect(&self, to: &str) -> (Connected, Accepted) {
        let config = Config::load(&self.settings).unwrap();
        self.connect_with(&config, to).await
    }

    async fn connect_with(&self, config: &Config, to: &str) -> (Connected, Accepted) {
        let upstream = server::Config::load(&self.at_upstream, None).unwrap();
        let (near, far) = duplex(64 * 1024);
        let accept = async { server::accept(far, &upstream).await.map_err(|(error, _)| error) };
        let to = name(to);
        tokio::join!(connect(near, &to, config), accept)
    }
}

#[tokio::test]
async fn an_upstream_is_verified_by_name_or_address() {
    let upstream = Upstream::new();
    for (to, server_name) in
        [("up.test", Some("up.test")), ("a.up.test", Some("a.up.test")), ("10.0.0.1", None)]
    {
        let (near, far) = upstream.connect(to).await;
        let session = Session::of_upstream(&near.unwrap());
        assert_eq!((session.version, session.alpn), ("TLSv1.3", Some(Alpn::Http1)));
        assert_eq!(Session::of_client(&far.unwrap()).server_name.as_deref(), server_name);
    }
}

#[tokio::test]
async fn another_name_is_refused_with_both() {
    let (near, far) = Upstream::new().connect("other.test").await;
    let error = near.unwrap_err();
    let expected =
        "TLS: wanted other.test, the certificate is for up.test, *.up.test, 10.0.0.1: set `server_name`";
    assert_eq!(error.to_string(), expected);
    assert_eq!(far.unwrap_err().to_string(), "alert of the client: bad_certificate (42)");
}

#[tokio::test]
async fn an_unknown_issuer_is_refused() {
    let mut upstream = Upstream::new();
    upstream.settings.ca = Some(upstream.folder.write("other.pem", Authority::new("Other CA").pem()));
    let (near, _) = upstream.connect("up.test").await;
    assert!(matches!(near, Err(ConnectError::UnknownIssuer)), "{near:?}");
}

#[tokio::test]
async fn a_certificate_out_of_time_is_refused_with_the_date() {
    let ca = Authority::new("Test CA");
    let expired = ca.issue(of(&["up.test"]).years(2000, 2001));
    let upstream = Upstream::showing(ca, &expired);
    let (near, _) = upstream.connect("up.test").await;
    assert_eq!(near.unwrap_err().to_string(), "TLS: the certificate expired on 2001-01-01T00:00:00Z");
    let early = upstream.ca.issue(of(&["up.test"]).years(3000, 3001));
    let (near, _) = Upstream::showing(upstream.ca, &early).connect("up.test").await;
    let text = near.unwrap_err().to_string();
    assert_eq!(text, "TLS: the certificate is not valid before 3000-01-01T00:00:00Z: is the clock right?");
}

#[tokio::test]
async fn an_authoritys_certificate_as_a_servers_own_is_explained() {
    // What `openssl req -x509` makes.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = of(&["up.test"]).params;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own = Issued { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    let mut upstream = Upstream::showing(Authority::new("Test CA"), &own);
    upstream.settings.ca = Some(upstream.folder.write("own.pem", &own.cert));
    let (near, _) = upstream.connect("up.test").await;
    assert!(matches!(near, Err(ConnectError::CaAsServer)), "{near:?}");
    // As the remedy has it.
    let mut params = of(&["up.test"]).params;
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let own = Issued { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    let mut upstream = Upstream::showing(Authority::new("Test CA"), &own);
    upstream.settings.ca = Some(upstream.folder.write("own.pem", &own.cert));
    let (near, _) = upstream.connect("up.test").await;
    near.unwrap();
}

#[tokio::test]
async fn verification_can_be_skipped() {
    let ca = Authority::new("Test CA");
    let expired = ca.issue(of(&["up.test"]).years(2000, 2001));
    let mut upstream = Upstream::showing(ca, &expired);
    upstream.settings.ca = None;
    upstream.settings.insecure_skip_verify = true;
    for min_version in [MinVersion::Tls12, MinVersion::Tls13] {
        upstream.settings.min_version = min_version;
        let (near, _) = upstream.connect("other.test").await;
        near.unwrap();
    }
}

#[tokio::test]
async fn the_proxy_shows_its_certificate_where_it_is_asked_for() {
    let mut upstream = Upstream::new();
    let ca = server::ClientCa { ca: upstream.settings.ca.clone().unwrap(), crls: Vec::new() };
    upstream.at_upstream.client_auth = server::ClientAuth::Required(ca);
    // With TLS 1.3 the refusal comes after the proxy's side of the handshake.
    let (near, _) = upstream.connect("up.test").await;
    let error = near.unwrap().read_u8().await.unwrap_err();
    let Some(Cause::Alert(alert)) = cause(&error) else { panic!("{error}") };
    assert_eq!(alert.name(), Some("certificate_required"));
    let shown = upstream.ca.issue(of(&[]).common_name("proxy"));
    upstream.settings.identity = Some(upstream.folder.pair("proxy", &shown));
    let config = Config::load(&upstream.settings).unwrap();
    assert_eq!(config.identity().unwrap().subject, "CN=proxy");
    let (near, far) = upstream.connect_with(&config, "up.test").await;
    near.unwrap();
    assert_eq!(ClientCertificate::of(&far.unwrap()).unwrap().subject, "CN=proxy");
}

#[tokio::test]
async fn connections_of_one_upstream_resume() {
    let upstream = Upstream::new();
    let config = Config::load(&upstream.settings).unwrap();
    let at_upstream = server::Config::load(&upstream.at_upstream, None).unwrap();
    for resumed in [false, true] {
        let (near, far) = duplex(64 * 1024);
        let to = name("up.test");
        let (near, far) = tokio::join!(connect(near, &to, &config), server::accept(far, &at_upstream));
        let (mut near, Ok(mut far)) = (near.unwrap(), far) else { panic!("accepted") };
        assert_eq!(Session::of_upstream(&near).resumed, resumed);
        far.write_all(b"x").await.unwrap();
        near.read_u8().await.unwrap();
    }
}

#[tokio::test]
async fn upstreams_that_speak_no_tls_or_nothing_are_told_apart() {
    let config = Config::load(&Upstream::new().settings).unwrap();
    let (near, mut far) = duplex(4096);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let failed = connect(near, &name("up.test"), &config).await;
    assert!(matches!(failed, Err(ConnectError::NotTls)), "{failed:?}");
    let (near, far) = duplex(4096);
    drop(far);
    let failed = connect(near, &name("up.test"), &config).await;
    assert!(matches!(failed, Err(ConnectError::Closed)), "{failed:?}");
}

#[tokio::test]
async fn no_shared_version_is_told() {
    let mut upstream = Upstream::new();
    upstream.settings.min_version = MinVersion::Tls13;
    let config = Config::load(&upstream.settings).unwrap();
    let (near, mut far) = duplex(4096);
    // A fatal alert: protocol_version.
    far.write_all(&[0x15, 3, 3, 0, 2, 2, 70]).await.unwrap();
    let failed = connect(near, &name("up.test"), &config).await;
    assert_eq!(failed.unwrap_err().to_string(), "TLS: alert of the upstream: protocol_version (70)");
}

#[test]
fn all_files_that_cannot_be_used_are_told_of_at_once() {
    let mut upstream = Upstream::new();
    let folder = &upstream.folder;
    let pair = folder.pair("proxy", &Issued { cert: String::new(), key: "x".to_owned() });
    upstream.settings.ca = Some(folder.path("missing.pem"));
    upstream.settings.identity = Some(pair);
    let problems = Config::load(&upstream.settings).unwrap_err();
    let files: Vec<_> = problems.iter().map(|problem| problem.path.file_name().unwrap().to_owned()).collect();
    assert_eq!(files, ["missing.pem", "proxy.pem", "proxy.key"]);
    assert_eq!(upstream.settings.sources().paths().count(), 3);
}

#[test]
fn without_an_authority_the_systems_count() {
    match Config::load(&Settings::default()) {
        Ok(config) => assert!(!config.sources().changed()),
        // This machine has none.
        Err(problems) => assert!(problems[0].to_string().contains("ca-certificates"), "{}", problems[0]),
    }
}

#[test]
fn errors_of_the_connection_stay_what_they_are() {
    let error = ConnectError::from(io::Error::from(io::ErrorKind::TimedOut));
    assert!(matches!(error, ConnectError::Io(error) if error.kind() == io::ErrorKind::TimedOut));
}
