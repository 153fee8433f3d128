//! TLS to upstreams through the whole proxy: who is trusted, and what is said where nobody is.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use holdline::testing::app::{PrepareError, Startup};
use holdline::testing::config::Config;
use holdline::testing::listener::socket::Inherited;
use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::ws::frame::OpCode;
use std::net::SocketAddr;
use std::sync::Arc;
use support::certificates::{Authority, Folder, Issued, of, provider};
use support::{Proxy, Raw, accepted, route, ws_request};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// An upstream with a certificate: it accepts each handshake and echoes one text.
async fn secured(issued: &Issued) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![issued.der()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let mut raw = Raw::new(stream);
            raw.head().await;
            raw.write(accepted("")).await;
            let (opcode, payload) = raw.frame().await;
            raw.write(support::frame(opcode, &payload, None)).await;
            assert_eq!(raw.close().await.code.0, 1001);
        }
    });
    address
}

fn config(server: SocketAddr, tls: &str) -> String {
    format!(
        "{}\n[upstream.up]\nservers = [\"localhost:{}\"]\n[upstream.up.tls]\n{tls}",
        route(""),
        server.port()
    )
}

#[tokio::test]
async fn an_upstream_is_verified_and_then_spoken_to() {
    let (ca, folder) = (Authority::new("Test CA"), Folder::new());
    let ca_file = folder.write("ca.pem", ca.pem());
    for (name, tls) in [("localhost", ""), ("up.example", "server_name = \"up.example\"")] {
        let server = secured(&ca.issue(of(&[name]))).await;
        let tls = format!("ca = \"{}\"\n{tls}", ca_file.display());
        let mut proxy = Proxy::start(&config(server, &tls)).await;
        let mut client = proxy.open("/").await;
        client.send(OpCode::Text, b"over TLS").await;
        assert_eq!(client.frame().await, (OpCode::Text, b"over TLS".to_vec()));
        drop(client);
        assert_eq!(proxy.ended().await.outcome.ending.ended_by, EndedBy::Client);
    }
}

#[tokio::test]
async fn whoever_is_not_trusted_is_told_apart_in_the_log_and_is_502_to_clients() {
    let (ca, other, folder) = (Authority::new("Test CA"), Authority::new("Another CA"), Folder::new());
    let ca_file = folder.write("ca.pem", ca.pem());
    let trusted = format!("ca = \"{}\"", ca_file.display());
    let cases = [
        (other.issue(of(&["localhost"])), "unknown"),
        (ca.issue(of(&["elsewhere.test"])), "elsewhere.test"),
        (ca.issue(of(&["localhost"]).years(2001, 2002)), "expired"),
    ];
    for (issued, reason) in cases {
        let mut proxy = Proxy::start(&config(secured(&issued).await, &trusted)).await;
        let mut client = proxy.connect().await;
        let head = client.ask(&ws_request("/", "")).await;
        assert!(head.starts_with("HTTP/1.1 502"), "{head}");
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (EndedBy::Upstream, Cause::Unreachable)
        );
        assert!(ended.outcome.ending.reason.contains(reason), "{reason}: {}", ended.outcome.ending.reason);
        let text = config(secured(&issued).await, "insecure_skip_verify = true");
        let warned = Config::parse(&support::with_listen(&text), "test").unwrap().warnings;
        assert!(warned[0].to_string().contains("accepts any certificate"), "{}", warned[0]);
        Proxy::start(&text).await.open("/").await;
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_keep_the_running_configuration() {
    let (ca, folder) = (Authority::new("Test CA"), Folder::new());
    let ca_file = folder.write("ca.pem", ca.pem());
    let server = secured(&ca.issue(of(&["localhost"]))).await;
    let good = config(server, &format!("ca = \"{}\"", ca_file.display()));
    let bad = config(server, "ca = \"/no/such/ca.pem\"");
    let parse = |text: &str| Config::parse(&support::with_listen(text), "test").unwrap();
    let error = Startup::prepare(parse(&bad), Inherited::default()).await.unwrap_err();
    assert!(matches!(error, PrepareError::Certificates(_)), "{error}");
    assert!(error.to_string().contains("upstream.up.tls.ca: /no/such/ca.pem: "), "{error}");
    let mut proxy = Proxy::start(&good).await;
    assert!(proxy.running.reload(parse(&bad)).await.is_err());
    proxy.open("/").await;
}
