use super::*;
use http::HeaderValue;
use proptest::prelude::*;

fn settings(source: &str, recursive: bool) -> Settings {
    let trusted = ["10.0.0.0/8", "2001:db8:1::/48", "unix:"].map(|text| text.parse().unwrap());
    Settings { trusted: trusted.to_vec(), source: source.parse().unwrap(), recursive }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn tcp(address: &str) -> ClientAddr {
    ClientAddr::Tcp(address.parse().unwrap())
}

/// The client of a request from 10.0.0.1.
fn client(settings: &Settings, pairs: &[(&str, &str)]) -> String {
    settings.origin(tcp("10.0.0.1:5000"), &headers(pairs)).client.to_string()
}

#[test]
fn networks_read_and_print_alike() {
    for (text, printed) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::/0", "::/0"),
        ("unix:", "unix:"),
    ] {
        assert_eq!(text.parse::<Network>().map(|network| network.to_string()).as_deref(), Ok(printed));
    }
    for text in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "unix:/run/x", "10.0.0.0/", "[::1]"] {
        assert_eq!(text.parse::<Network>(), Err(BadNetwork), "{text}");
    }
    let all: Network = "0.0.0.0/0".parse().unwrap();
    assert!(all.contains(tcp("[::ffff:192.0.2.1]:80")) && !all.contains(tcp("[::1]:80")));
    assert!(!all.contains(ClientAddr::Unix));
}

#[test]
fn sources_read_and_print_alike() {
    for text in ["x-forwarded-for", "x-real-ip", "cf-connecting-ip", "forwarded", "proxy_protocol"] {
        assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
    }
    assert_eq!("Forwarded".parse(), Ok(Source::Forwarded));
    assert_eq!("X-Forwarded-For".parse(), Ok(Source::default()));
    assert_eq!("two words".parse::<Source>(), Err(BadSource));
}

#[test]
fn nobody_else_is_believed() {
    let pairs = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
    for peer in [tcp("203.0.113.1:5000"), tcp("[2001:db8:2::1]:5000")] {
        let origin = settings("X-Forwarded-For", true).origin(peer, &headers(&pairs));
        assert_eq!(origin, Origin::direct(peer));
    }
    assert_eq!(Settings::default().origin(ClientAddr::Unix, &headers(&pairs)).client, ClientAddr::Unix);
    for peer in [ClientAddr::Unix, tcp("[::ffff:10.0.0.1]:1"), tcp("[2001:db8:1::1]:1")] {
        let origin = settings("X-Forwarded-For", true).origin(peer, &headers(&pairs));
        assert_eq!((origin.peer, origin.client), (peer, tcp("192.0.2.1:0")));
        assert!(origin.trusted);
    }
}

#[test]
fn the_walk_is_nginx_s() {
    let (last, walk) = (settings("X-Forwarded-For", false), settings("X-Forwarded-For", true));
    for (list, of_last, of_walk) in [
        ("192.0.2.1", "192.0.2.1:0", "192.0.2.1:0"),
        ("198.51.100.1, 192.0.2.1", "192.0.2.1:0", "192.0.2.1:0"),
        ("198.51.100.1,192.0.2.1 ,10.0.0.7", "10.0.0.7:0", "192.0.2.1:0"),
        ("198.51.100.1 192.0.2.1\t10.0.0.7,, ", "10.0.0.7:0", "192.0.2.1:0"),
        // All are trusted: the first.
        ("10.0.0.9, 10.0.0.8", "10.0.0.8:0", "10.0.0.9:0"),
        // A bad address ends the walk at what was found.
        ("192.0.2.1, unknown, 10.0.0.8", "10.0.0.8:0", "10.0.0.8:0"),
        ("192.0.2.1, 10.0.0.8, unknown", "10.0.0.1:5000", "10.0.0.1:5000"),
        ("unix:", "10.0.0.1:5000", "10.0.0.1:5000"),
        ("", "10.0.0.1:5000", "10.0.0.1:5000"),
        ("192.0.2.1:4711", "192.0.2.1:4711", "192.0.2.1:4711"),
        ("192.0.2.1:0", "10.0.0.1:5000", "10.0.0.1:5000"),
        ("192.0.2.1:_p", "10.0.0.1:5000", "10.0.0.1:5000"),
        ("2001:db8::1", "[2001:db8::1]:0", "[2001:db8::1]:0"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("192.0.2.1, ::ffff:10.0.0.8", "10.0.0.8:0", "192.0.2.1:0"),
    ] {
        let pairs = [("x-forwarded-for", list)];
        assert_eq!(
            (client(&last, &pairs), client(&walk, &pairs)),
            (of_last.into(), of_walk.into()),
            "{list}"
        );
    }
    let lines = [("x-forwarded-for", "192.0.2.1, 10.0.0.9"), ("x-forwarded-for", "10.0.0.8")];
    assert_eq!((client(&last, &lines), client(&walk, &lines)), ("10.0.0.8:0".into(), "192.0.2.1:0".into()));
    let field = settings("CF-Connecting-IP", false);
    assert_eq!(client(&field, &[("cf-connecting-ip", "192.0.2.1")]), "192.0.2.1:0");
    assert_eq!(client(&field, &lines), "10.0.0.1:5000");
}

#[test]
fn forwarded_is_walked_alike() {
    let (last, walk) = (settings("Forwarded", false), settings("Forwarded", true));
    for (list, of_last, of_walk) in [
        ("for=192.0.2.1, for=\"10.0.0.7:80\"", "10.0.0.7:80", "192.0.2.1:0"),
        ("for=\"[2001:db8::1]:80\",for=\"[2001:db8:1::1]\"", "[2001:db8:1::1]:0", "[2001:db8::1]:80"),
        ("for=192.0.2.1, for=unknown", "10.0.0.1:5000", "10.0.0.1:5000"),
        ("for=192.0.2.1, for=_x, for=10.0.0.7", "10.0.0.7:0", "10.0.0.7:0"),
        ("for=192.0.2.1, proto=http, for=10.0.0.7", "10.0.0.7:0", "10.0.0.7:0"),
        ("for=\", for=192.0.2.1", "192.0.2.1:0", "192.0.2.1:0"),
    ] {
        let pairs = [("forwarded", list)];
        assert_eq!(
            (client(&last, &pairs), client(&walk, &pairs)),
            (of_last.into(), of_walk.into()),
            "{list}"
        );
    }
}

#[test]
fn proto_and_host_are_those_of_the_hop() {
    let told = |settings: &Settings, pairs: &[(&str, &str)]| {
        let origin = settings.origin(tcp("10.0.0.1:5000"), &headers(pairs));
        let told = (origin.proto.map(|proto| proto.to_string()), origin.host.map(|host| host.to_string()));
        (told.0.unwrap_or_default(), told.1.unwrap_or_default())
    };
    let (last, walk) = (settings("X-Forwarded-For", false), settings("X-Forwarded-For", true));
    let one = ("x-forwarded-for", "192.0.2.1, 10.0.0.7");
    let set = [one, ("x-forwarded-proto", "https"), ("x-forwarded-host", "example.com:8080")];
    assert_eq!(told(&walk, &set), ("https".into(), "example.com:8080".into()));
    let appended = [one, ("x-forwarded-proto", "ftp, https"), ("x-forwarded-proto", "http")];
    assert_eq!((told(&walk, &appended).0, told(&last, &appended).0), ("https".into(), "http".into()));
    let bad = [one, ("x-forwarded-proto", "<script>"), ("x-forwarded-host", "a@b")];
    assert_eq!(told(&walk, &bad), (String::new(), String::new()));

    let forwarded = "for=192.0.2.1;proto=https;host=example.com, for=10.0.0.7;proto=http";
    // Who manages one of them may let the other pass as the client sent it.
    let both = [("forwarded", forwarded), ("x-forwarded-proto", "ftp")];
    let (last, walk) = (settings("Forwarded", false), settings("Forwarded", true));
    assert_eq!(told(&walk, &both), ("https".into(), "example.com".into()));
    assert_eq!(told(&last, &both), ("http".into(), String::new()));
    assert_eq!(told(&walk, &[("forwarded", "for=_hidden;proto=https")]).0, "https");
}

#[test]
fn the_proxy_protocol_names_the_peer() {
    let settings = settings("proxy_protocol", true);
    let announced = Some("[::ffff:192.0.2.1]:4711".parse().unwrap());
    assert_eq!(settings.peer(tcp("10.0.0.1:5000"), announced), tcp("192.0.2.1:4711"));
    assert_eq!(settings.peer(ClientAddr::Unix, announced), tcp("192.0.2.1:4711"));
    assert_eq!(settings.peer(tcp("10.0.0.1:5000"), None), tcp("10.0.0.1:5000"));
    assert_eq!(settings.peer(tcp("203.0.113.1:5000"), announced), tcp("203.0.113.1:5000"));
    let elsewhere = Settings { source: Source::default(), ..settings.clone() };
    assert_eq!(elsewhere.peer(tcp("10.0.0.1:5000"), announced), tcp("192.0.2.1:4711"));
    // Whoever wrote it does not touch HTTP.
    let headers = headers(&[("x-forwarded-for", "192.0.2.9"), ("x-forwarded-proto", "https")]);
    for peer in [tcp("10.0.0.1:5000"), tcp("192.0.2.1:4711")] {
        assert_eq!(settings.origin(peer, &headers), Origin::direct(peer));
    }
}

/// A line that a client may send: bytes that a header may have, the grammar's among them often.
fn line() -> impl Strategy<Value = HeaderValue> {
    let near = r#"((for|proto|host|unknown|10\.0\.0\.7|192\.0\.2\.1)|[,;="\\ \[\]:_1a])*"#;
    let bytes = proptest::collection::vec(prop_oneof![Just(b'\t'), 32..127_u8, 128..=255_u8], 0..40);
    let near = near.prop_map(String::into_bytes);
    prop_oneof![near, bytes].prop_filter_map("a header value", |bytes| HeaderValue::from_bytes(&bytes).ok())
}

fn public_ip() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
    prop_oneof![v4, v6].prop_filter("not trusted", |ip| {
        !settings("X-Forwarded-For", true).trusts(ClientAddr::Tcp(SocketAddr::new(*ip, 0)))
    })
}

proptest! {
    #[test]
    fn nothing_that_a_client_sends_changes_what_proxies_append(
        sent in proptest::collection::vec(line(), 0..3),
        ip in public_ip(),
        hops in 0..3_usize,
        on_a_line_of_its_own: bool,
    ) {
        for (name, is_forwarded) in [("x-forwarded-for", false), ("forwarded", true)] {
            let quoted = |ip: IpAddr| match ip {
                _ if !is_forwarded => ip.to_string(),
                IpAddr::V4(v4) => format!("for={v4}"),
                IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
            };
            let mut headers = HeaderMap::new();
            for value in &sent {
                headers.append(name, value.clone());
            }
            let proxies = (0..hops).map(|hop| IpAddr::from([10, 0, 0, hop as u8]));
            for appended in std::iter::once(ip).chain(proxies).map(quoted) {
                let last = headers.get_all(name).iter().next_back().cloned();
                let Some(last) = last.filter(|_| !on_a_line_of_its_own) else {
                    headers.append(name, HeaderValue::from_str(&appended).unwrap());
                    continue;
                };
                let mut all: Vec<_> = headers.get_all(name).iter().cloned().collect();
                all.pop();
                let joined = [last.as_bytes(), b", ", appended.as_bytes()].concat();
                all.push(HeaderValue::from_bytes(&joined).unwrap());
                headers.remove(name);
                headers.extend(all.into_iter().map(|value| (HeaderName::from_static(name), value)));
            }
            let origin = settings(name, true).origin(tcp("10.0.0.1:5000"), &headers);
            let expected = ClientAddr::Tcp(SocketAddr::new(ip.to_canonical(), 0));
            prop_assert_eq!(origin.client, expected, "{:?}", headers);
        }
    }

    #[test]
    fn no_header_breaks_it(sent in proptest::collection::vec(line(), 0..4), recursive: bool) {
        for name in ["x-forwarded-for", "forwarded"] {
            let lines = sent.iter().map(|value| (HeaderName::from_static(name), value.clone()));
            let headers: HeaderMap = lines.collect();
            let origin = settings(name, recursive).origin(ClientAddr::Unix, &headers);
            prop_assert!(origin.trusted && origin.peer == ClientAddr::Unix);
        }
    }
}
