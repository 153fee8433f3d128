//! Owns what is held of the PROXY protocol's header: what is said of some bytes holds for whatever
//! follows them, a bounded number of bytes is enough, and what was read is written and read alike.

#![no_main]

use holdline::testing::proxy_protocol::{Header, MAX_LENGTH, Version, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut before = decode(&[]);
    assert_eq!(before, Ok(None), "nothing is the beginning of a header");
    // Prefixes of all lengths up to the longest line, then the whole: the rest of a binary header
    // is not looked at before it is there.
    let lengths = (1..=bytes.len().min(300)).chain(Some(bytes.len()));
    for length in lengths {
        let now = decode(&bytes[..length]);
        match before {
            Ok(None) => {}
            Ok(Some(_)) => assert_eq!(now, before, "at {length}"),
            Err(_) => assert!(now.is_err(), "at {length}"),
        }
        before = now;
    }
    assert!(bytes.len() < MAX_LENGTH || before != Ok(None), "{MAX_LENGTH} bytes are enough");

    let Ok(Some((header, taken))) = before else { return };
    assert!(taken <= bytes.len().min(MAX_LENGTH));
    assert_eq!(decode(&bytes[..taken - 1]), Ok(None), "all bytes of a header are needed");
    let addresses = match header {
        Header::Local => None,
        Header::Proxied { source, destination } => Some((source, destination)),
    };
    for version in [Version::V1, Version::V2] {
        let written = encode(version, addresses);
        assert_eq!(decode(&written), Ok(Some((header, written.len()))), "{version:?}");
    }
});
