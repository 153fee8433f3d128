//! Owns what is held of the search for the client: whatever a client sends in the header, what the
//! trusted proxies append to it decides.
//!
//! The first byte of an input chooses the client, whether each proxy writes a line of its own, and
//! how many of them there are; what is left is what the client sent, a line each.

#![no_main]

use holdline::testing::addr::ClientAddr;
use holdline::testing::real_ip::{Settings, Source};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, SocketAddr};

const CLIENTS: [&str; 4] = ["192.0.2.1", "2001:db8::1", "::1", "203.0.113.255"];

fn at(ip: IpAddr) -> ClientAddr {
    ClientAddr::Tcp(SocketAddr::new(ip, 0))
}

fn appended(source: &Source, ip: IpAddr) -> String {
    match (source, ip) {
        (Source::Forwarded, IpAddr::V4(v4)) => format!("for={v4};proto=https"),
        (Source::Forwarded, IpAddr::V6(v6)) => format!("for=\"[{v6}]\";proto=https"),
        _ => ip.to_string(),
    }
}

fn header(lines: &[Vec<u8>], name: &str) -> Option<HeaderMap> {
    let name: HeaderName = name.parse().ok()?;
    lines.iter().map(|line| Some((name.clone(), HeaderValue::from_bytes(line).ok()?))).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, sent)) = input.split_first() else { return };
    let client: IpAddr = CLIENTS[usize::from(choice & 3)].parse().expect("an address");
    let own_lines = choice & 4 != 0;
    let hops = (choice >> 3) & 3;
    for (name, recursive) in
        [("x-forwarded-for", true), ("x-forwarded-for", false), ("forwarded", true), ("forwarded", false)]
    {
        let source: Source = name.parse().expect("a header's name");
        let trusted = vec!["10.0.0.0/8".parse().expect("a network")];
        let settings = Settings { trusted, source, recursive };
        let peer = at(IpAddr::from([10, 9, 9, 9]));
        let mut lines: Vec<Vec<u8>> = sent.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        let Some(alone) = header(&lines, name) else { return };
        assert_eq!(settings.origin(at(client), &alone).client, at(client), "nobody trusts the client");
        assert!(settings.origin(peer, &alone).trusted);

        let proxies: Vec<IpAddr> = (0..hops).map(|hop| IpAddr::from([10, 0, 0, hop])).collect();
        for &ip in std::iter::once(&client).chain(&proxies) {
            let element = appended(&settings.source, ip).into_bytes();
            match lines.last_mut().filter(|_| !own_lines) {
                Some(last) => last.extend([&b", "[..], &element].concat()),
                None => lines.push(element),
            }
        }
        let headers = header(&lines, name).expect("what is appended is text");
        let expected = if recursive { client } else { proxies.last().copied().unwrap_or(client) };
        let origin = settings.origin(peer, &headers);
        assert_eq!((origin.client, origin.peer), (at(expected), peer), "{headers:?}");
        if settings.source == Source::Forwarded {
            assert_eq!(origin.proto.as_ref().map(http::uri::Scheme::as_str), Some("https"));
        }
    }
});
