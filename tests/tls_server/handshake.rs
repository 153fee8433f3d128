//! What a handshake agrees on, why it fails, and how a stream ends.

use crate::support::certificates::{Authority, of, provider};
use crate::{Site, shake};
use holdline::testing::tls::server::{HandshakeError, NotTls, accept};
use holdline::testing::tls::session::Session;
use holdline::testing::tls::{Alpn, Cause, MinVersion, cause};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::{ClientConfig, version};

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
