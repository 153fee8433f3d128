//! TLS with clients: which certificate, which clients, what a reload does, why handshakes fail.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::tls::certs::Expiry;
use holdline::tls::server::{ClientAuth, ClientCa, Config, HandshakeError, NotTls, Server, Settings, accept};
use holdline::tls::session::{ClientCertificate, Session};
use holdline::tls::stream::TlsStream as ServerStream;
use holdline::tls::{Alpn, Cause, MinVersion, cause};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;
use support::certificates::{Authority, Folder, Issued, of, provider};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, SignatureAlgorithm, SignatureScheme, version};

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

// === which certificate ===

#[tokio::test]
async fn sni_chooses_exact_names_then_wildcards_then_the_default() {
    let mut site = Site::new();
    let default = site.ca.issue(of(&["a.test", "10.0.0.1", "x.b.example.com", "example.com"]));
    let exact = site.ca.issue(of(&["one.example.com"]));
    let wildcard = site.ca.issue(of(&["*.example.com"]));
    site.settings.default = site.folder.pair("default", &default);
    site.settings.others = vec![site.folder.pair("wildcard", &wildcard), site.folder.pair("exact", &exact)];
    let (config, client) = (site.load(), site.client());
    for (name, expected) in [
        ("one.example.com", &exact),
        ("ONE.example.com", &exact),
        ("two.example.com", &wildcard),
        ("x.b.example.com", &default),
        ("example.com", &default),
        ("10.0.0.1", &default),
    ] {
        assert_eq!(site.shown(&config, &client, name).await, expected.der().to_vec(), "{name}");
    }
    let (_, refused) = shake(&config, &client, "unknown.test").await;
    let text = format!("{:?}", refused.unwrap_err());
    assert!(text.contains("x.b.example.com"), "the default for names that nobody has: {text}");
}

/// A client that can verify only signatures with one kind of key.
fn verifying(site: &Site, algorithm: SignatureAlgorithm) -> Arc<ClientConfig> {
    let mut provider = (*provider()).clone();
    let is_of = |scheme: &SignatureScheme| match algorithm {
        SignatureAlgorithm::RSA => format!("{scheme:?}").starts_with("RSA"),
        _ => format!("{scheme:?}").starts_with("ECDSA"),
    };
    let mapping = provider.signature_verification_algorithms.mapping;
    let mapping: Vec<_> = mapping.iter().copied().filter(|(scheme, _)| is_of(scheme)).collect();
    provider.signature_verification_algorithms.mapping = Vec::leak(mapping);
    let provider = Arc::new(provider);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(site.ca.roots()), Arc::clone(&provider)).build();
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier.unwrap());
    Arc::new(builder.with_no_client_auth())
}

#[tokio::test]
async fn of_two_keys_for_a_name_the_one_that_the_client_can_verify_is_used() {
    let mut site = Site::new();
    let rsa = site.ca.issue(of(&["a.test"]).rsa());
    let ecdsa = site.ca.issue(of(&["a.test"]));
    site.settings.default = site.folder.pair("rsa", &rsa);
    site.settings.others = vec![site.folder.pair("ecdsa", &ecdsa)];
    let config = site.load();
    let kinds: Vec<_> = config.certificates().iter().map(|certificate| certificate.key.to_string()).collect();
    assert_eq!(kinds, ["RSA", "ECDSA"]);
    assert_eq!(site.shown(&config, &site.client(), "a.test").await, ecdsa.der().to_vec());
    let old = verifying(&site, SignatureAlgorithm::RSA);
    assert_eq!(site.shown(&config, &old, "a.test").await, rsa.der().to_vec());
    let new = verifying(&site, SignatureAlgorithm::ECDSA);
    assert_eq!(site.shown(&config, &new, "a.test").await, ecdsa.der().to_vec());

    site.settings.others.clear();
    let (server, _) = shake(&site.load(), &new, "a.test").await;
    assert!(matches!(server, Err(HandshakeError::NoSharedCipher(_))), "{server:?}");
}

#[tokio::test]
async fn a_common_name_counts_only_without_alternative_names() {
    let mut site = Site::new();
    let old = site.ca.issue(of(&[]).common_name("Old.test"));
    let new = site.ca.issue(of(&["new.test"]).common_name("cn.test"));
    site.settings.others = vec![site.folder.pair("old", &old), site.folder.pair("new", &new)];
    let config = site.load();
    let names: Vec<_> = config.certificates().iter().map(|certificate| certificate.names.clone()).collect();
    assert_eq!(names, [["a.test"], ["old.test"], ["new.test"]]);
}

#[test]
fn certificates_out_of_time_are_taken_and_told_of() {
    let mut site = Site::new();
    let expired = site.ca.issue(of(&["old.test"]).years(2000, 2001));
    let early = site.ca.issue(of(&["early.test"]).years(3000, 3001));
    site.settings.others = vec![site.folder.pair("expired", &expired), site.folder.pair("early", &early)];
    let config = site.load();
    let warnings = |index: usize| config.certificates()[index].warning(SystemTime::now());
    assert_eq!(warnings(0), None);
    assert!(matches!(warnings(1), Some(Expiry::Expired { .. })));
    assert!(matches!(warnings(2), Some(Expiry::NotYetValid { .. })));
    assert!(config.certificates()[1].days_left(SystemTime::now()) < -8000);
}

// === files ===

#[test]
fn all_files_that_cannot_be_used_are_told_of_at_once() {
    let mut site = Site::new();
    let one = site.ca.issue(of(&["one.test"]));
    let two = site.ca.issue(of(&["two.test"]));
    let mut swapped = site.folder.pair("swapped", &one);
    std::mem::swap(&mut swapped.cert, &mut swapped.key);
    let chain = Issued { cert: site.ca.pem() + &one.cert, key: one.key.clone() };
    let pairs = [
        swapped,
        site.folder.pair("mixed", &Issued { cert: one.cert.clone(), key: two.key.clone() }),
        site.folder.pair("order", &chain),
        site.folder.pair("empty", &Issued { cert: String::new(), key: one.key.clone() }),
        site.folder
            .pair("cut", &Issued { cert: one.cert[..one.cert.len() - 30].to_owned(), key: one.key.clone() }),
    ];
    site.settings.others = pairs.into();
    let missing =
        ClientCa { ca: site.folder.path("missing.pem"), crls: vec![site.folder.write("crl.pem", &one.cert)] };
    site.settings.client_auth = ClientAuth::Required(missing);
    let expected = [
        "swapped.key: no certificate found; it holds 1 private key: are cert and key swapped?",
        "swapped.pem: no private key found; it holds 1 certificate: are cert and key swapped?",
        "mixed.key: the private key does not belong to the certificate in mixed.pem: \
         was only one of the two files replaced?",
        "order.pem: the private key belongs to certificate 2 of the file, not to the first: \
         put the server's certificate first, below it those that issued it",
        "empty.pem: the file is empty: is it still being written, or was the disk full?",
        "cut.pem: broken PEM: the line \"-----END CERTIFICATE-----\" is missing: copy the file again, whole",
        "missing.pem: cannot be read: No such file or directory (os error 2): check the path",
        "crl.pem: no revocation list found; it holds 1 certificate: expected -----BEGIN X509 CRL-----",
    ];
    assert_eq!(site.problems(), expected);
}

#[test]
fn what_is_no_certificate_or_key_inside_is_told_of() {
    let mut site = Site::new();
    let rubbish = |label: &str| format!("-----BEGIN {label}-----\nMAMCAQA=\n-----END {label}-----\n");
    let pair = Issued { cert: rubbish("CERTIFICATE"), key: rubbish("PRIVATE KEY") };
    site.settings.default = site.folder.pair("bad", &pair);
    let problems = site.problems();
    assert!(problems[0].starts_with("bad.key: the private key is not usable"), "{problems:?}");
    let good = site.ca.issue(of(&["a.test"])).key;
    site.settings.default = site.folder.pair("bad", &Issued { key: good, ..pair });
    let problems = site.problems();
    assert!(problems[0].starts_with("bad.pem: certificate 1 of the file is not usable"), "{problems:?}");
    site.settings = Site::new().settings;
    let ca = site.folder.write("ca.pem", site.ca.pem());
    let crls = vec![site.folder.write("crl.pem", rubbish("X509 CRL"))];
    site.settings.client_auth = ClientAuth::Required(ClientCa { ca, crls });
    let problems = site.problems();
    assert!(
        problems.iter().any(|text| text.contains("crl.pem: the revocation list is not usable")),
        "{problems:?}"
    );
}

#[test]
fn the_example_of_an_encrypted_key_is_told_of() {
    let mut site = Site::new();
    let mut pair = site.ca.issue(of(&["a.test"]));
    pair.key = pair.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    site.settings.default = site.folder.pair("secret", &pair);
    let problems = site.problems();
    assert!(
        problems[0].starts_with("secret.key: the private key is encrypted: write it without"),
        "{problems:?}"
    );
}

// === reload ===

#[tokio::test]
async fn a_swap_changes_new_connections_and_leaves_open_ones() {
    let site = Site::new();
    let server = Server::new(site.load());
    let (open, client) = shake(&server.current(), &site.client(), "a.test").await;
    let (mut open, mut client) = (open.unwrap(), client.unwrap());
    assert!(!server.current().sources().changed());

    let renewed = site.ca.issue(of(&["a.test"]));
    site.folder.pair("default", &renewed);
    assert!(server.current().sources().changed());
    server.swap(server.load(&site.settings).unwrap());
    assert!(!server.current().sources().changed());
    assert_eq!(site.shown(&server.current(), &site.client(), "a.test").await, renewed.der().to_vec());

    client.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    open.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test]
async fn a_broken_file_leaves_what_was_and_is_tried_again_when_it_changes() {
    let site = Site::new();
    let server = Server::new(site.load());
    // The certificate is replaced, its key comes a moment later.
    let renewed = site.ca.issue(of(&["a.test"]));
    site.folder.write("default.pem", &renewed.cert);
    assert!(server.current().sources().changed());
    let tried = site.settings.sources();
    assert_eq!(server.load(&site.settings).unwrap_err().len(), 1);
    assert!(!tried.changed(), "nothing new to complain of");
    let (still, _) = shake(&server.current(), &site.client(), "a.test").await;
    still.unwrap();
    site.folder.write("default.key", &renewed.key);
    assert!(tried.changed());
    server.swap(server.load(&site.settings).unwrap());
    assert_eq!(site.shown(&server.current(), &site.client(), "a.test").await, renewed.der().to_vec());
}

/// Whether the second connection of a client, after a swap, resumes the session of the first.
async fn resumes(site: &mut Site, client: &Arc<ClientConfig>, change: impl FnOnce(&mut Site)) -> bool {
    let server = Server::new(site.load());
    let (first, near) = shake(&server.current(), client, "a.test").await;
    let (mut first, mut near) = (first.unwrap(), near.unwrap());
    assert!(!Session::of_client(&first).resumed);
    // Tickets of TLS 1.3 come with the first bytes.
    first.write_all(b"x").await.unwrap();
    near.read_u8().await.unwrap();
    change(site);
    server.swap(server.load(&site.settings).unwrap());
    let (second, near) = shake(&server.current(), client, "a.test").await;
    let session = Session::of_client(&second.unwrap());
    assert_eq!(Session::of_upstream(&near.unwrap()).resumed, session.resumed);
    session.resumed
}

#[tokio::test]
async fn sessions_are_resumed_across_a_swap() {
    for versions in [[&version::TLS13], [&version::TLS12]] {
        let mut site = Site::new();
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(&versions).unwrap();
        let client = builder.with_root_certificates(site.ca.roots()).with_no_client_auth();
        let renew = |site: &mut Site| {
            site.folder.pair("default", &site.ca.issue(of(&["a.test"])));
        };
        assert!(resumes(&mut site, &Arc::new(client), renew).await, "{versions:?}");
    }
}

#[tokio::test]
async fn sessions_are_not_resumed_when_clients_are_verified_otherwise() {
    let mut site = Site::new();
    let client = site.ca.issue(of(&[]).common_name("joe").serial(7));
    let client = site.client_with(&client);
    let ca = site.folder.write("ca.pem", site.ca.pem());
    site.settings.client_auth = ClientAuth::Required(ClientCa { ca: ca.clone(), crls: Vec::new() });
    let renew = |site: &mut Site| drop(site.folder.pair("default", &site.ca.issue(of(&["a.test"]))));
    assert!(resumes(&mut site, &client, renew).await, "the same verification");
    let revoke = |site: &mut Site| {
        let crls = vec![site.folder.write("crl.pem", site.ca.revoke(&[1], 2100))];
        site.settings.client_auth = ClientAuth::Required(ClientCa { ca, crls });
    };
    assert!(!resumes(&mut site, &client, revoke).await, "another list");
}

// === clients ===

#[tokio::test]
async fn clients_are_asked_for_a_certificate_as_configured() {
    let mut site = Site::new();
    let ca = ClientCa { ca: site.folder.write("ca.pem", site.ca.pem()), crls: Vec::new() };
    let joe = site.ca.issue(of(&["joe.test"]).common_name("joe").serial(0xab));
    let (anonymous, joe) = (site.client(), site.client_with(&joe));
    let stranger = Authority::new("Other CA").issue(of(&[]).common_name("joe"));
    let stranger = site.client_with(&stranger);

    let (server, _) = shake(&site.load(), &joe, "a.test").await;
    assert_eq!(ClientCertificate::of(&server.unwrap()), None, "off: nobody asks");

    for (auth, missing_is_fine) in
        [(ClientAuth::Optional(ca.clone()), true), (ClientAuth::Required(ca), false)]
    {
        site.settings.client_auth = auth;
        let config = site.load();
        let (server, client) = shake(&config, &anonymous, "a.test").await;
        match server {
            Ok(server) => assert!(missing_is_fine && ClientCertificate::of(&server).is_none()),
            Err(error) => {
                assert!(
                    !missing_is_fine && matches!(error, HandshakeError::ClientCertificateMissing),
                    "{error}"
                );
                let error = client.unwrap().read_u8().await.unwrap_err();
                let Some(Cause::Alert(alert)) = cause(&error) else { panic!("{error}") };
                assert_eq!(alert.to_string(), "certificate_required (116)");
            }
        }
        let (server, _) = shake(&config, &joe, "a.test").await;
        let shown = ClientCertificate::of(&server.unwrap()).unwrap();
        assert_eq!((shown.subject.as_str(), shown.issuer.as_str()), ("CN=joe", "CN=Test CA"));
        assert_eq!(shown.serial, "AB");
        assert_eq!(shown.names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["DNS:joe.test"]);
        assert_eq!((shown.sha256.len(), shown.sha1.len()), (64, 40));
        let (server, _) = shake(&config, &stranger, "a.test").await;
        let error = server.unwrap_err();
        assert_eq!(error.as_str(), "client_certificate_refused");
        assert_eq!(
            error.to_string(),
            "the client's certificate is refused: invalid peer certificate: UnknownIssuer"
        );
    }
}

#[tokio::test]
async fn revoked_clients_are_refused_and_so_are_all_with_an_overdue_list() {
    let mut site = Site::new();
    let ca = site.folder.write("ca.pem", site.ca.pem());
    let client = |serial| site.client_with(&site.ca.issue(of(&[]).common_name("joe").serial(serial)));
    let (one, two) = (client(1), client(2));
    let crls = vec![site.folder.write("crl.pem", site.ca.revoke(&[1], 2100))];
    site.settings.client_auth = ClientAuth::Required(ClientCa { ca, crls });
    let config = site.load();
    assert_eq!(config.revocation_lists()[0].warning(SystemTime::now()), None);
    let (server, _) = shake(&config, &one, "a.test").await;
    assert!(server.unwrap_err().to_string().contains("Revoked"));
    let (server, _) = shake(&config, &two, "a.test").await;
    server.unwrap();

    site.folder.write("crl.pem", site.ca.revoke(&[], 2021));
    assert!(config.sources().changed());
    let config = site.load();
    assert!(config.revocation_lists()[0].warning(SystemTime::now()).is_some());
    let (server, _) = shake(&config, &two, "a.test").await;
    let error = server.unwrap_err();
    assert!(matches!(error, HandshakeError::ClientCertificateRefused(_)), "{error}");
}

// === what is negotiated, and what is not ===

#[tokio::test]
async fn versions_below_the_minimum_are_refused() {
    let mut site = Site::new();
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&version::TLS12]).unwrap();
    let old = Arc::new(builder.with_root_certificates(site.ca.roots()).with_no_client_auth());
    let (server, _) = shake(&site.load(), &old, "a.test").await;
    let session = Session::of_client(&server.unwrap());
    assert_eq!(session.version, "TLSv1.2");
    assert!(session.cipher.to_string().starts_with("TLS_ECDHE_ECDSA_WITH_"), "{}", session.cipher);

    site.settings.min_version = MinVersion::Tls13;
    let config = site.load();
    let (server, client) = shake(&config, &old, "a.test").await;
    assert!(matches!(server, Err(HandshakeError::NoSharedVersion(_))), "{server:?}");
    let Some(Cause::Alert(alert)) = cause(&client.unwrap_err()) else { panic!("an alert") };
    assert_eq!(alert.name(), Some("protocol_version"));
    let (server, _) = shake(&config, &site.client(), "A.test").await;
    let session = Session::of_client(&server.unwrap());
    assert_eq!((session.version, session.server_name.as_deref()), ("TLSv1.3", Some("a.test")));
    assert!(session.cipher.to_string().starts_with("TLS_AES_"), "{}", session.cipher);
}

#[tokio::test]
async fn the_listeners_order_of_protocols_counts() {
    let mut site = Site::new();
    site.settings.alpn = vec![Alpn::H2, Alpn::Http1];
    let config = site.load();
    for (offered, expected) in [
        (vec!["http/1.1", "h2"], Some(Alpn::H2)),
        (vec!["http/1.1", "spdy/3"], Some(Alpn::Http1)),
        (vec![], None),
    ] {
        let mut client = site.ca.client();
        client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (server, _) = shake(&config, &Arc::new(client), "a.test").await;
        assert_eq!(Session::of_client(&server.unwrap()).alpn, expected);
    }
    let mut client = site.ca.client();
    client.alpn_protocols = vec![b"ftp".to_vec()];
    let (server, _) = shake(&config, &Arc::new(client), "a.test").await;
    assert!(matches!(server, Err(HandshakeError::NoSharedProtocol)), "{server:?}");
}

// === how it fails ===

#[tokio::test]
async fn what_is_no_tls_is_named_and_gets_no_alert() {
    let site = Site::new();
    let config = site.load();
    for (said, expected, word) in [
        ("GET / HTTP/1.1\r\n\r\n", NotTls::Http, "plain_http"),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", NotTls::ProxyHeader, "proxy_header"),
        ("SSH-2.0-x\r\n", NotTls::Other(b'S'), "not_tls"),
    ] {
        let (mut near, far) = duplex(1024);
        let talk = async {
            // In two pieces: the first is too short to tell.
            near.write_all(&said.as_bytes()[..3]).await.unwrap();
            tokio::task::yield_now().await;
            near.write_all(&said.as_bytes()[3..]).await.unwrap();
        };
        let (failed, ()) = tokio::join!(accept(far, &config), talk);
        let (error, mut far) = failed.unwrap_err();
        assert!(matches!(error, HandshakeError::NotTls(what) if what == expected), "{error}");
        assert_eq!(error.as_str(), word);
        // The stream is there for an answer, and nothing was said on it.
        far.write_all(b"HTTP/1.1 400").await.unwrap();
        drop(far);
        let mut heard = String::new();
        near.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "HTTP/1.1 400");
    }
}

#[tokio::test]
async fn clients_that_go_away_are_told_apart() {
    let site = Site::new();
    let config = site.load();
    let (near, far) = duplex(1024);
    drop(near);
    assert!(matches!(accept(far, &config).await, Err((HandshakeError::Silent, _))));
    let (mut near, far) = duplex(1024);
    near.write_all(&[0x16, 3, 1]).await.unwrap();
    drop(near);
    assert!(matches!(accept(far, &config).await, Err((HandshakeError::Closed, _))));
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_says_so() {
    let site = Site::new();
    let stranger = Arc::new(Authority::new("Other CA").client());
    let (server, _) = shake(&site.load(), &stranger, "a.test").await;
    assert_eq!(server.unwrap_err().to_string(), "alert of the client: unknown_ca (48)");
    let expired = site.ca.issue(of(&["a.test"]).years(2000, 2001));
    site.folder.pair("default", &expired);
    let (server, _) = shake(&site.load(), &site.client(), "a.test").await;
    assert_eq!(server.unwrap_err().to_string(), "alert of the client: certificate_expired (45)");
}

#[tokio::test]
async fn the_ends_of_a_stream_are_told_apart() {
    let site = Site::new();
    let config = site.load();
    let open = async || {
        let (server, client) = shake(&config, &site.client(), "a.test").await;
        (server.unwrap(), client.unwrap())
    };
    let mut byte = [0];
    let (mut server, mut client) = open().await;
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut byte).await.unwrap(), 0, "close_notify");

    let (mut server, client) = open().await;
    drop(client);
    let error = server.read(&mut byte).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(cause(&error), Some(Cause::Truncated));

    let (mut server, client) = open().await;
    let (mut raw, _) = client.into_inner();
    raw.write_all(b"\x17\x03\x03\x00\x20this is not what was agreed upon").await.unwrap();
    let error = server.read(&mut byte).await.unwrap_err();
    assert!(matches!(cause(&error), Some(Cause::Protocol(_))), "{error}");
}

#[tokio::test]
async fn no_early_data_is_promised() {
    // A ticket that allowed it would make this client try.
    let site = Site::new();
    let config = site.load();
    let mut client = site.ca.client();
    client.enable_early_data = true;
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    for resumed in [false, true] {
        let (server, near) = shake(&config, &client, "a.test").await;
        let (mut server, mut near) = (server.unwrap(), near.unwrap());
        assert_eq!(Session::of_client(&server).resumed, resumed);
        assert!(!near.get_ref().1.is_early_data_accepted());
        server.write_all(b"x").await.unwrap();
        near.read_u8().await.unwrap();
    }
}
