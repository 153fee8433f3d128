//! Owns what is held of the log's paths: no value of a key that names a secret is written, however
//! the key is spelt and whatever stands around it, and nothing else is lost.

#![no_main]

use arbitrary::Arbitrary;
use holdline::telemetry::report::redact;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    path: &'a str,
    before: &'a str,
    key: u8,
    /// Two bits a letter: in capitals, percent-encoded.
    spelling: u64,
    /// In front of a name that is known by its part.
    prefix: &'a str,
    behind: Option<(Separator, &'a str)>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Separator {
    And,
    Semicolon,
    Fragment,
}

const PARTS: [&str; 9] =
    ["token", "secret", "passw", "pwd", "auth", "jwt", "credential", "session", "signature"];
const NAMES: [&str; 10] =
    ["key", "apikey", "api_key", "api-key", "sig", "sid", "ticket", "code", "otp", "bearer"];
const SECRET: &str = "0bd9~S3cr3t~77e1";

fn spelt(name: &str, mut spelling: u64) -> String {
    let mut spelt = String::new();
    for letter in name.chars() {
        let letter = if spelling & 1 != 0 { letter.to_ascii_uppercase() } else { letter };
        if spelling & 2 != 0 {
            spelt += &format!("%{:02x}", letter as u32);
        } else {
            spelt.push(letter);
        }
        spelling >>= 2;
    }
    spelt
}

fuzz_target!(|input: Input<'_>| {
    let Input { path, before, key, spelling, prefix, behind } = input;
    let around = [path, before, prefix, behind.map_or("", |(_, text)| text)];
    if around.iter().any(|text| text.contains(SECRET)) {
        return;
    }
    let key = usize::from(key) % (PARTS.len() + NAMES.len());
    let by_part = PARTS.get(key).filter(|_| !prefix.contains(['=', '&', ';', '#', '%']));
    let key = match by_part {
        Some(part) => format!("{prefix}{}", spelt(part, spelling)),
        None => spelt(PARTS.get(key).unwrap_or_else(|| &NAMES[key - PARTS.len()]), spelling),
    };
    let behind = behind.map_or(String::new(), |(separator, text)| {
        let separator = match separator {
            Separator::And => '&',
            Separator::Semicolon => ';',
            Separator::Fragment => '#',
        };
        format!("{separator}{text}")
    });
    for between in ["&", ";"] {
        let target = format!("{path}?{before}{between}{key}={SECRET}{behind}");
        assert!(!redact(&target).contains(SECRET), "{target:?}");
    }
    let target = format!("{path}?{key}={SECRET}{behind}");
    let redacted = redact(&target);
    assert!(!redacted.contains(SECRET), "{target:?}");
    assert_eq!(redact(&redacted), redacted, "there is nothing left to take out");
    // A line of the log stays one line, and a path without a query stays as it is.
    assert_eq!(redact("/room/1"), "/room/1");
    let plain = path.replace('?', "");
    if !plain.contains('=') {
        assert_eq!(redact(&plain), plain);
    }
});
