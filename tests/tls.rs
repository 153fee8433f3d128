//! TLS from the client through the whole proxy: WebSockets over it, HTTP/2 by ALPN, certificates that
//! change, clients with certificates.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::app::PrepareError;
use holdline::testing::capacity::EVICT_AFTER;
use holdline::testing::config::Config;
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::telemetry::metrics::Format;
use holdline::testing::tls::certs::Pair;
use http::Request;
use std::sync::Arc;
use support::certificates::{Authority, Folder, Issued, of, provider};
use support::http2::Http2;
use support::{Proxy, Puppet, Raw, echo, route, upstream, ws_request};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection};

/// A proxy with a certificate for `a.test`, and whoever vouches for it.
struct Site {
    ca: Authority,
    folder: Folder,
    pair: Pair,
    rest: String,
    proxy: Proxy,
}

impl Site {
    /// `tls` and `settings` are more of the listener's table and the route's.
    async fn new(tls: &str, settings: &str, server: std::net::SocketAddr) -> Self {
        let (ca, folder) = (Authority::new("Test CA"), Folder::new());
        folder.write("ca.pem", ca.pem());
        let pair = folder.pair("a", &ca.issue(of(&["a.test"])));
        let rest = format!("{}\n{}", route(settings), upstream(&[server], ""));
        let tls = tls.replace("FOLDER", &folder.path("").display().to_string());
        let proxy = Proxy::with(&text("127.0.0.1:0", &pair, &tls, &rest)).await;
        Self { ca, folder, pair, rest, proxy }
    }

    async fn connect(&self, client: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.proxy.address).await?;
        let name = ServerName::try_from("a.test").unwrap();
        TlsConnector::from(Arc::new(client)).connect(name, stream).await
    }

    /// A WebSocket over HTTP/1.1.
    async fn open(&self) -> Raw<TlsStream<TcpStream>> {
        let mut raw = Raw::new(self.connect(self.ca.client()).await.unwrap());
        let head = raw.ask(&ws_request("/", "")).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        raw
    }
}

fn text(address: &str, pair: &Pair, tls: &str, rest: &str) -> String {
    let (cert, key) = (pair.cert.display(), pair.key.display());
    format!(
        "[log]\naccess = \"off\"\n[[listen]]\naddress = \"{address}\"\n[listen.tls]\n\
         certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n{tls}\n{rest}"
    )
}

fn showing(ca: &Authority, issued: &Issued) -> ClientConfig {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    builder.with_root_certificates(ca.roots()).with_client_auth_cert(vec![issued.der()], key).unwrap()
}

/// The certificate that a connection was shown.
fn shown(raw: &Raw<TlsStream<TcpStream>>) -> Vec<u8> {
    raw.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_websocket_over_tls() {
    let puppet = Puppet::new().await;
    let mut site = Site::new("", "", puppet.address()).await;
    let mut client = Raw::new(site.connect(site.ca.client()).await.unwrap());
    client.write(ws_request("/", "X-SSL-Client-S-DN: CN=forged\r\n")).await;
    let (mut server, head) = puppet.open().await;
    let head = head.to_ascii_lowercase();
    assert!(head.contains("x-forwarded-proto: https\r\n") && !head.contains("forged"), "{head}");
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    // More than fits into what is on the way: it waits, and comes whole.
    let large = support::frame(holdline::testing::ws::frame::OpCode::Binary, &[7; 3_000_000], None);
    let send = async { server.write(&large).await };
    let (_, (_, received)) = tokio::join!(send, client.frame());
    assert_eq!(received.len(), 3_000_000);
    drop(client);
    assert_eq!(server.close().await.code.0, 1001);
    drop(server);
    let ended = site.proxy.ended().await;
    assert_eq!(
        (ended.report.tls(), ended.report.protocol(), ended.outcome.ending.ended_by),
        (Some("TLSv1.3"), "h1", EndedBy::Client)
    );
}

#[tokio::test]
async fn http_2_is_chosen_by_alpn() {
    let mut site = Site::new("", "", echo().await).await;
    let mut client = site.ca.client();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = site.connect(client).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = Http2::over(stream).await;
    let mut sockets = [client.open("/1").await, client.open("/2").await];
    for socket in &mut sockets {
        socket.echo("over both").await;
    }
    drop((sockets, client));
    let ended = site.proxy.ended().await;
    assert_eq!((ended.report.tls(), ended.report.protocol()), (Some("TLSv1.3"), "h2"));
}

#[tokio::test]
async fn plain_http_is_told_where_it_is() {
    let mut site = Site::new("handshake_timeout = \"200ms\"", "", echo().await).await;
    let mut plain = site.proxy.connect().await;
    let head = plain.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let body = String::from_utf8(plain.rest().await).unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}{body}");
    let ended = site.proxy.ended().await;
    assert_eq!((ended.outcome.ending.cause, ended.report.status), (Cause::Refused, 400));

    let mut slow = site.proxy.connect().await;
    slow.write([0x16, 3, 1]).await;
    assert_eq!(slow.rest().await, b"");
    let ended = site.proxy.ended().await;
    assert_eq!(&*ended.outcome.ending.reason, "TLS handshake not complete within handshake_timeout");
    // Whoever says nothing is a port check, and no line.
    drop(site.proxy.connect().await);
    let stranger = Authority::new("Another CA");
    assert!(site.connect(stranger.client()).await.is_err());
    let reason = site.proxy.ended().await.outcome.ending.reason.to_string();
    assert!(reason.contains("unknown_ca"), "{reason}");
}

#[tokio::test]
async fn certificates_change_under_open_connections() {
    let mut site = Site::new("", "", echo().await).await;
    let mut first = site.open().await;
    let before = shown(&first);
    let config =
        |site: &Site| Config::parse(&text("127.0.0.1:0", &site.pair, "", &site.rest), "test").unwrap();

    // A reload takes up the new one, and no connection notices.
    site.folder.pair("a", &site.ca.issue(of(&["a.test"]).serial(2)));
    let next = config(&site);
    site.proxy.running.reload(next).await.unwrap();
    let mut second = site.open().await;
    assert_ne!(shown(&second), before);

    // A broken file keeps what there is, whoever comes upon it.
    let now = shown(&second);
    site.folder.write("a.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n");
    let next = config(&site);
    let error = site.proxy.running.reload(next).await.unwrap_err();
    assert!(matches!(error, PrepareError::Certificates(_)) && error.to_string().contains("a.pem"), "{error}");
    site.proxy.running.refresh_certificates().await;
    assert_eq!(shown(&site.open().await), now);

    // Files that change are taken up without a reload.
    site.folder.pair("a", &site.ca.issue(of(&["a.test"]).serial(3)));
    site.proxy.running.refresh_certificates().await;
    assert_ne!(shown(&site.open().await), now);
    for socket in [&mut first, &mut second] {
        socket.echo("not touched").await;
    }
}

#[tokio::test]
async fn clients_show_who_they_are() {
    let puppet = Puppet::new().await;
    let tls = "client_auth = \"required\"\nclient_ca = \"FOLDER/ca.pem\"";
    let site = Site::new(tls, "", puppet.address()).await;
    let issued = site.ca.issue(of(&["client.test"]).common_name("Alice").serial(0xab));
    let mut client = Raw::new(site.connect(showing(&site.ca, &issued)).await.unwrap());
    client
        .write(ws_request("/", "X-SSL-Client-S-DN: CN=Mallory\r\nConnection: X-SSL-Client-Serial\r\n"))
        .await;
    let (_server, head) = puppet.open().await;
    let lower = head.to_ascii_lowercase();
    assert!(lower.contains("x-ssl-client-s-dn: cn=alice\r\n"), "{head}");
    assert!(lower.contains("x-ssl-client-serial: ab\r\n") && !lower.contains("mallory"), "{head}");
    assert!(lower.contains("x-ssl-client-fingerprint: "), "{head}");

    // With TLS 1.3 whoever shows nothing learns it as soon as it reads.
    let mut nobody = Raw::new(site.connect(site.ca.client()).await.unwrap());
    assert_eq!(nobody.rest().await, b"");
}

#[tokio::test]
async fn a_plain_request_over_tls() {
    let site = Site::new("", "", echo().await).await;
    let rest = "[[route]]\npath = \"/\"\nrespond = { status = 200, body = \"here\" }";
    let proxy = Proxy::with(&text("127.0.0.1:0", &site.pair, "min_version = \"1.3\"", rest)).await;
    let site = Site { proxy, ..site };
    let mut client = site.ca.client();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = Http2::over(site.connect(client).await.unwrap()).await;
    let response = client.ask(Request::get("https://a.test/").body(()).unwrap()).await;
    assert_eq!(response.status(), 200);
}

/// The first message of a client, whole.
fn hello(site: &Site) -> Vec<u8> {
    let name = ServerName::try_from("a.test").unwrap();
    let mut client = ClientConnection::new(Arc::new(site.ca.client()), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn half_a_first_message_takes_no_place_among_handshakes() {
    let site = Site::new("max_handshakes = 1", "", echo().await).await;
    let hello = hello(&site);
    let mut halves = Vec::new();
    for length in [0, 1, 5, 100, hello.len() - 1] {
        let mut half = site.proxy.connect().await;
        half.write(&hello[..length]).await;
        halves.push(half);
    }
    // Nobody has to give way: that would take 2 s.
    let began = Instant::now();
    for _ in 0..3 {
        site.open().await.echo("past all of them").await;
    }
    assert!(began.elapsed() < EVICT_AFTER);
    // They are good for what they have begun.
    let mut last = halves.pop().unwrap();
    last.write(&hello[hello.len() - 1..]).await;
    assert_eq!(last.bytes(1).await, [0x16], "a ServerHello");
}

#[tokio::test]
async fn a_handshake_that_stalls_gives_its_place_to_others() {
    let mut site = Site::new("max_handshakes = 1", "", echo().await).await;
    let mut stalled = site.proxy.connect().await;
    stalled.write(hello(&site)).await;
    assert_eq!(stalled.bytes(1).await, [0x16], "it has the place");
    site.open().await.echo("in its place").await;
    stalled.rest().await;
    let reason = site.proxy.ended().await.outcome.ending.reason.to_string();
    assert_eq!(reason, "idle while another connection needed its slot");
}

#[tokio::test]
async fn who_shakes_hands_and_asks_nothing_is_sent_away() {
    let site = Site::new("", "", echo().await).await;
    let address = "127.0.0.1:0\"\nheader_timeout = \"200ms\"\nkeepalive_timeout = \"600s";
    let proxy = Proxy::with(&text(address, &site.pair, "", &site.rest)).await;
    let site = Site { proxy, ..site };
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let mut client = site.ca.client();
        client.alpn_protocols = vec![alpn.to_vec()];
        Raw::new(site.connect(client).await.unwrap()).rest().await;
    }
}

#[tokio::test]
async fn handshakes_and_the_certificates_end_are_counted() {
    let mut site = Site::new("", "", echo().await).await;
    let _client = site.open().await;
    let mut plain = Raw::new(TcpStream::connect(site.proxy.address).await.unwrap());
    plain.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    site.proxy.ended().await;
    let text = site.proxy.running.proxy.metrics_text(Format::Prometheus);
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line} in {text}");
    has("holdline_tls_handshake_duration_seconds_count 1");
    has("holdline_tls_handshake_failures_total 1.0");
    let expiry = text.lines().find(|line| line.starts_with("holdline_certificate_expiry_timestamp_seconds{"));
    let (labels, expiry) = expiry.unwrap().rsplit_once(' ').unwrap();
    assert!(labels.contains(&format!("path=\"{}\"", site.pair.cert.display())), "{labels}");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(expiry.parse::<f64>().unwrap() > now, "{expiry}");
}
