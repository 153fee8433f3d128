//! Who the client is, behind other proxies: the PROXY protocol and `[real_ip]`.

mod support;

use holdline::testing::outcome::{Cause, EndedBy};
use holdline::testing::proxy_protocol::{Version, encode};
use support::{Proxy, Puppet, echo, route, upstream, with_listen, ws_request};

const TRUST_US: &str = "[real_ip]\ntrusted = [\"127.0.0.1\", \"203.0.113.0/24\"]\n";

/// A proxy that takes the PROXY protocol.
async fn accepting(real_ip: &str, server: std::net::SocketAddr) -> Proxy {
    let rest = format!("{real_ip}\n{}\n{}", route(""), upstream(&[server], ""));
    let listen = "address = \"127.0.0.1:0\"\nproxy_protocol = \"accept\"\nheader_timeout = \"200ms\"";
    Proxy::with(&with_listen(&rest).replace("address = \"127.0.0.1:0\"", listen)).await
}

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let puppet = Puppet::new().await;
    let mut proxy = accepting(TRUST_US, puppet.address()).await;
    let addresses = ("198.51.100.7:4711".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    for version in [Version::V1, Version::V2] {
        let mut client = proxy.connect().await;
        let header = encode(version, Some(addresses));
        // In pieces, and with the request in the same packet as its end.
        let (first, rest) = header.split_at(9);
        client.write(first).await;
        client.write([rest, ws_request("/", "X-Forwarded-For: 1.2.3.4\r\n").as_bytes()].concat()).await;
        let (server, head) = puppet.open().await;
        assert!(client.head().await.starts_with("HTTP/1.1 101"));
        let head = head.to_ascii_lowercase();
        assert!(head.contains("x-real-ip: 198.51.100.7\r\n"), "{head}");
        assert!(head.contains("x-forwarded-for: 1.2.3.4, 198.51.100.7\r\n"), "{head}");
        drop((client, server));
        let ended = proxy.ended().await;
        assert_eq!(ended.report.client().to_string(), "198.51.100.7:4711");
        assert_eq!(ended.report.peer(), ended.report.client(), "the proxy in front writes no HTTP");
    }
}

#[tokio::test]
async fn a_health_check_of_the_proxy_in_front_is_its_own() {
    let mut proxy = accepting(TRUST_US, echo().await).await;
    for header in ["PROXY UNKNOWN\r\n".into(), encode(Version::V2, None)] {
        let mut client = proxy.connect().await;
        let local = client.stream.local_addr().unwrap();
        client.write([&header, ws_request("/", "").as_bytes()].concat()).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101"));
        drop(client);
        assert_eq!(proxy.ended().await.report.client().to_string(), local.to_string());
    }
}

#[tokio::test]
async fn what_is_no_proxy_header_is_closed_and_reported() {
    let mut proxy = accepting(TRUST_US, echo().await).await;
    let cases = [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "no PROXY protocol header"),
        (b"PROXY TCP4 1.2.3.4 nonsense 1 2\r\n", "a PROXY protocol line that is not valid"),
        (b"PROXY TCP4 1.2.3.4", "PROXY header not complete within header_timeout"),
    ];
    for (bytes, reason) in cases {
        let mut client = proxy.connect().await;
        client.write(bytes).await;
        assert_eq!(client.rest().await, b"");
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.outcome.ending.ended_by, ended.outcome.ending.cause),
            (EndedBy::Proxy, Cause::Refused)
        );
        assert_eq!(&*ended.outcome.ending.reason, reason);
    }
}

#[tokio::test]
async fn nobody_else_may_speak_for_others() {
    let mut proxy = accepting("[real_ip]\ntrusted = [\"10.0.0.0/8\"]", echo().await).await;
    let mut client = proxy.connect().await;
    client.write("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n").await;
    assert_eq!(client.rest().await, b"");
    assert!(proxy.ended().await.outcome.ending.reason.contains("real_ip.trusted does not name it"));
}

#[tokio::test]
async fn the_client_is_found_behind_trusted_proxies() {
    let puppet = Puppet::new().await;
    let rest = format!("{TRUST_US}{}\n{}", route(""), upstream(&[puppet.address()], ""));
    let mut proxy = Proxy::start(&rest).await;
    let mut client = proxy.connect().await;
    let peer = client.stream.local_addr().unwrap().to_string();
    let lines = "X-Forwarded-For: 192.0.2.9, 198.51.100.7:4711, 203.0.113.5\r\nX-Forwarded-Proto: https\r\n";
    client.write(ws_request("/", lines)).await;
    let (server, head) = puppet.open().await;
    let head = head.to_ascii_lowercase();
    for line in [
        "x-real-ip: 198.51.100.7",
        "x-forwarded-proto: https",
        "x-forwarded-for: 192.0.2.9, 198.51.100.7:4711, 203.0.113.5, 127.0.0.1",
    ] {
        assert!(head.contains(&format!("{line}\r\n")), "{line} in {head}");
    }
    client.head().await;
    drop((client, server));
    let ended = proxy.ended().await;
    assert_eq!(
        (ended.report.client().to_string(), ended.report.peer().to_string()),
        ("198.51.100.7:4711".into(), peer)
    );
}

#[tokio::test]
async fn an_upstream_is_told_the_client_by_a_proxy_header() {
    for (word, version) in [("v1", Version::V1), ("v2", Version::V2)] {
        let puppet = Puppet::new().await;
        let servers = upstream(&[puppet.address()], &format!("proxy_protocol = \"{word}\"\n"));
        let proxy = Proxy::start(&format!("{}\n{servers}", route(""))).await;
        let mut client = proxy.connect().await;
        let addresses = (client.stream.local_addr().unwrap(), proxy.address);
        // A connection that is one client's is not kept for another.
        for _ in 0..2 {
            client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let mut server = puppet.accept().await;
            let header = encode(version, Some(addresses));
            assert_eq!(server.bytes(header.len()).await, header);
            assert!(server.head().await.starts_with("GET / HTTP/1.1"));
            server.write("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert!(client.head().await.starts_with("HTTP/1.1 204"));
        }
    }
}
