use super::*;
use proptest::prelude::*;

fn proxied_header(source: &str, destination: &str) -> Header {
    Header::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
}

/// A header, and then the request.
fn decoded(header: &[u8]) -> Result<Header, Malformed> {
    let bytes = [header, b"GET / HTTP/1.1\r\n"].concat();
    let found = decode(&bytes)?;
    let (header, length) = found.unwrap_or_else(|| panic!("wants more than {}", bytes.escape_ascii()));
    assert_eq!(&bytes[length..], b"GET / HTTP/1.1\r\n", "{}", bytes.escape_ascii());
    Ok(header)
}

#[test]
fn lines_are_read() {
    let header = decoded(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
    assert_eq!(header, Ok(proxied_header("192.168.0.1:56324", "192.168.0.11:443")));
    let header = decoded(b"PROXY TCP6 2001:DB8::1 ::ffff:192.0.2.1 65535 0\r\n");
    assert_eq!(header, Ok(proxied_header("[2001:db8::1]:65535", "192.0.2.1:0")));
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let header = decoded(format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n").as_bytes());
    let address = format!("[{longest}]:65535");
    assert_eq!(header, Ok(proxied_header(&address, &address)));
    let worst = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!(worst.len(), 107);
    for unknown in [&worst, "PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN \u{7f}\0ä\r\n"] {
        assert_eq!(decoded(unknown.as_bytes()), Ok(Header::Local), "{unknown}");
    }
}

#[test]
fn lines_that_are_not_exact_are_refused() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    for line in [
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\rX",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 1\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
        "PROXY TCP4  192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 192.168.0.01 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 192.168.0.256 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 056324 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 +5632 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n",
        "PROXY TCP4 ::1 ::1 1 1\r\n",
        "PROXY TCP6 127.0.0.1 127.0.0.1 1 1\r\n",
        "PROXY TCP6 fe80::1%1 ::1 1 1\r\n",
        "PROXY UDP4 127.0.0.1 127.0.0.1 1 1\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN\r\r\n",
        "PROXY \r\n",
        "PROXY  UNKNOWN\r\n",
        &long,
    ] {
        assert_eq!(decode(line.as_bytes()), Err(Malformed::Line), "{line:?}");
    }
    for line in ["GET / HTTP/1.1\r\n", "proxy UNKNOWN\r\n", "PROXYX", "\r\n\r\nGET", "PROX\r\n", "\n"] {
        assert_eq!(decode(line.as_bytes()), Err(Malformed::Signature), "{line:?}");
    }
}

#[test]
fn the_earliest_byte_that_cannot_be_decides() {
    for (prefix, last) in [
        ("PROX", "y"),
        ("PROXY ", " "),
        ("PROXY TCP", "5"),
        ("PROXY TCP4 1.2.3", "x"),
        ("PROXY TCP4 1.2.3.400", " "),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 6553", "6"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 0", "1"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2", " "),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2", "\n"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1", "\r"),
        ("PROXY TCP6 ", "g"),
        ("PROXY UNKNOWN", "?"),
        ("\r\n\r\n\0\r\nQUIT", "\r"),
        ("\r\n\r\n\0\r\nQUIT\n", "\x11"),
        ("\r\n\r\n\0\r\nQUIT\n\x21", "\x41"),
    ] {
        assert_eq!(decode(prefix.as_bytes()), Ok(None), "{prefix:?}");
        assert!(decode([prefix, last].concat().as_bytes()).is_err(), "{prefix:?} {last:?}");
    }
    assert_eq!(decode(b""), Ok(None));
    assert_eq!(decode(format!("PROXY UNKNOWN {}", "x".repeat(92)).as_bytes()), Ok(None));
    assert!(decode(format!("PROXY UNKNOWN {}", "x".repeat(93)).as_bytes()).is_err());
}

#[test]
fn binary_headers_are_read_and_their_tlvs_skipped() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 7, 0x1f, 0x90, 0x01, 0xbb];
    let expected = proxied_header("192.0.2.1:8080", "198.51.100.7:443");
    assert_eq!(decoded(&v2(PROXY, TCP4, &v4)), Ok(expected));
    // A TLV, and one that is cut off: none is read.
    assert_eq!(decoded(&v2(PROXY, TCP4, &[&v4[..], b"\x04\0\x01x\x03\0"].concat())), Ok(expected));
    for (command, family) in
        [(LOCAL, 0), (LOCAL, TCP4), (LOCAL, 0xff), (PROXY, 0), (PROXY, 0x12), (PROXY, 0x31), (PROXY, 0x10)]
    {
        let header = decoded(&v2(command, family, &v4));
        assert_eq!(header, Ok(Header::Local), "{command:#04x} {family:#04x}");
    }
    assert_eq!(decoded(&v2(LOCAL, 0, b"")), Ok(Header::Local));
    let longest = v2(PROXY, TCP4, &[0; V2_MAX_REST]);
    assert_eq!(longest.len(), MAX_LENGTH);
    assert_eq!(decoded(&longest), Ok(proxied_header("0.0.0.0:0", "0.0.0.0:0")));
}

#[test]
fn binary_headers_that_are_not_valid_are_refused() {
    assert_eq!(decode(&v2(0x22, TCP4, &[0; 12])), Err(Malformed::Command(0x22)));
    assert_eq!(decode(&v2(0x31, TCP4, &[0; 12])), Err(Malformed::Command(0x31)));
    assert_eq!(decode(&v2(PROXY, 0x41, &[0; 12])), Err(Malformed::Family(0x41)));
    assert_eq!(decode(&v2(PROXY, 0x13, &[0; 12])), Err(Malformed::Family(0x13)));
    assert_eq!(decode(&v2(PROXY, TCP4, &[0; 11])), Err(Malformed::Length(11)));
    assert_eq!(decode(&v2(PROXY, TCP6, &[0; 12])), Err(Malformed::Length(12)));
    // As soon as the length is known.
    let announced = v2(LOCAL, 0, &[0; V2_MAX_REST + 1]);
    assert_eq!(decode(&announced[..V2_HEAD]), Err(Malformed::Length(4097)));
}

#[test]
fn headers_are_written_as_haproxy_does() {
    let v4 = ("192.0.2.1:8080".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
    let v6 = ("[2001:db8::1]:8080".parse().unwrap(), "[::1]:443".parse().unwrap());
    let text = |addresses| String::from_utf8(encode(Version::V1, addresses)).unwrap();
    assert_eq!(text(Some(v4)), "PROXY TCP4 192.0.2.1 198.51.100.7 8080 443\r\n");
    assert_eq!(text(Some(v6)), "PROXY TCP6 2001:db8::1 ::1 8080 443\r\n");
    assert_eq!(text(Some((v6.0, v4.1))), "PROXY TCP6 2001:db8::1 ::ffff:198.51.100.7 8080 443\r\n");
    assert_eq!(text(None), "PROXY UNKNOWN\r\n");
    // What a dual-stack socket calls its IPv4 peers.
    let mapped = ("[::ffff:192.0.2.1]:8080".parse().unwrap(), "[::ffff:198.51.100.7]:443".parse().unwrap());
    assert_eq!(text(Some(mapped)), text(Some(v4)));
    assert_eq!(encode(Version::V2, None), b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0");
    let block = b"\xc0\x00\x02\x01\xc6\x33\x64\x07\x1f\x90\x01\xbb";
    assert_eq!(encode(Version::V2, Some(v4)), v2(0x21, 0x11, block));
    assert_eq!(encode(Version::V2, Some(v6))[12..16], [0x21, 0x21, 0, 36]);
}

fn socket_address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<(Ipv4Addr, u16)>().prop_map(SocketAddr::from);
    let v6 = any::<(Ipv6Addr, u16)>().prop_map(SocketAddr::from);
    let mapped =
        any::<(Ipv4Addr, u16)>().prop_map(|(ip, port)| SocketAddr::from((ip.to_ipv6_mapped(), port)));
    prop_oneof![v4, v6, mapped]
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V1), Just(Version::V2)]
}

/// Bytes that come near a header: a whole one, some of which are changed, and what follows.
fn near_header() -> impl Strategy<Value = Vec<u8>> {
    let whole = (version(), proptest::option::of((socket_address(), socket_address())))
        .prop_map(|(version, addresses)| encode(version, addresses));
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let behind = proptest::collection::vec(any::<u8>(), 0..40);
    (whole, changes, behind).prop_map(|(mut bytes, changes, behind)| {
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        [bytes, behind].concat()
    })
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let line = "PROXY (TCP4|TCP6|UNKNOWN)[ 0-9a-f.:]{0,110}(\r|\n|\r\n)?.{0,3}".prop_map(String::into_bytes);
    prop_oneof![near_header(), line, proptest::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        version in version(),
        addresses in proptest::option::of((socket_address(), socket_address())),
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let header = encode(version, addresses);
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let expected = addresses.map_or(Header::Local, |(source, destination)| Header::Proxied {
            source: canonical(source),
            destination: canonical(destination),
        });
        let bytes = [&header[..], &behind].concat();
        prop_assert_eq!(decode(&bytes), Ok(Some((expected, header.len()))));
    }

    #[test]
    fn a_verdict_holds_for_whatever_follows(bytes in any_bytes()) {
        let mut before = decode(&[]);
        for length in 1..=bytes.len() {
            let now = decode(&bytes[..length]);
            match before {
                Ok(None) => {}
                Ok(Some(_)) => prop_assert_eq!(now, before),
                Err(_) => prop_assert!(now.is_err()),
            }
            if let Ok(Some((_, taken))) = now {
                prop_assert!(taken <= length && taken <= MAX_LENGTH);
                prop_assert_eq!(decode(&bytes[..taken - 1]), Ok(None));
            }
            before = now;
        }
        prop_assert!(bytes.len() < MAX_LENGTH || before != Ok(None));
    }
}
