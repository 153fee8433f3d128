//! `Host`, and the origins that are allowed by it.

use crate::support::{Proxy, Puppet, ws_request};
use crate::{value, with};

#[tokio::test]
async fn pages_of_self_are_of_the_same_scheme() {
    let puppet = Puppet::new().await;
    let ask = async |proxy: &Proxy, origin: &str, lines: &str| {
        let mut client = proxy.connect().await;
        client.write(ws_request("/", &format!("Origin: {origin}\r\n{lines}"))).await;
        tokio::select! {
            head = client.head() => head,
            (server, _) = puppet.open() => {
                drop(server);
                "101".to_owned()
            }
        }
    };
    let own = "allowed_origins = [\"self\"]";
    let plain = with("", "", own, puppet.address()).await;
    assert_eq!(ask(&plain, "http://example.com", "").await, "101");
    // The claim of a client that nobody trusts.
    for origin in ["https://example.com", "ftp://example.com", "ws://example.com", "http://example.com:8080"]
    {
        let head = ask(&plain, origin, "X-Forwarded-Proto: https\r\n").await;
        assert!(head.starts_with("HTTP/1.1 403"), "{origin}: {head}");
    }
    let trusting = with("", "[real_ip]\ntrusted = [\"127.0.0.1\"]", own, puppet.address()).await;
    assert_eq!(ask(&trusting, "https://example.com", "X-Forwarded-Proto: https\r\n").await, "101");
    let head = ask(&trusting, "http://example.com", "X-Forwarded-Proto: https\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let told = format!("{own}\nheaders = {{ set = {{ X-Forwarded-Proto = \"https\" }} }}");
    let told = with("", "", &told, puppet.address()).await;
    assert_eq!(ask(&told, "https://example.com", "").await, "101");
}

#[tokio::test]
async fn a_host_that_is_none_is_refused() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    for host in ["user:secret@x", "x/ 200 route=evil", "x end=client/close", "x\ty", "\u{9b}31m", ""] {
        let mut client = proxy.connect().await;
        let head = client.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 400"), "{host}: {head}");
        let ended = proxy.ended().await;
        assert_eq!(&*ended.outcome.ending.reason, "the Host header names no host");
        assert!(!ended.report.host().escape_ascii().to_string().contains("secret"));
    }
}

#[tokio::test]
async fn a_client_that_names_no_host_gets_that_of_the_route_or_the_address() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    let mut client = proxy.connect().await;
    client.write("GET / HTTP/1.0\r\n\r\n").await;
    let head = puppet.accept().await.head().await;
    assert_eq!(value(&head, "host"), Some(&*proxy.address.to_string()), "{head}");
    assert_eq!(value(&head, "x-forwarded-host"), None, "{head}");
}
