//! Owns what is held of the log's paths: no value of a name that has a part for a secret is written, however the
//! name is spelt and wherever it stands, and values of other names are kept.
//!
//! Names are made of words, so that it is known without reading them which parts they have.

#![no_main]

use arbitrary::Arbitrary;
use holdline::testing::telemetry::report::redact;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    path: &'a str,
    before: &'a str,
    behind: &'a str,
    first: Word,
    more: Vec<(Border, Word)>,
    /// Which letters of the name are percent-encoded.
    encoded: u32,
    /// How often a value is encoded that holds the name and its value.
    times: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Word {
    number: u8,
    case: Case,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
    Title,
}

/// What parts two words.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Border {
    Mark(u8),
    /// `userToken`, `APIKey`: the second word begins with a capital, and the first is not like it.
    Case,
}

const MARKS: [&str; 6] = ["_", "-", ".", "[", "]", "7"];

/// A part like these makes a name that of a secret.
const SECRET: [&str; 24] = [
    "token",
    "secret",
    "password",
    "pass",
    "pwd",
    "pin",
    "auth",
    "jwt",
    "credential",
    "session",
    "signature",
    "apikey",
    "sig",
    "sid",
    "ticket",
    "otp",
    "bearer",
    "hmac",
    "csrf",
    "cookie",
    "nonce",
    "passcode",
    "saml",
    "userpass",
];
/// As these do, but beside one of [`OF_NONE`].
const SECRET_ALONE: [&str; 2] = ["key", "code"];
/// A part like these makes a key or a code one that all may know.
const OF_NONE: [(&str, &str); 4] =
    [("sort", "key"), ("public", "key"), ("country", "code"), ("error", "code")];
/// These say nothing, though some have a secret's name in them.
const PLAIN: [&str; 16] = [
    "room", "user", "id", "page", "v", "topic", "spinning", "keyboard", "author", "monkey", "compass",
    "design", "message", "inside", "codec", "hotkey",
];

const VALUE: &str = "0bd9~S3cr3t~77e1";
const WEB_TOKEN: &str = "eyJ0eXAiOiJKV1QifQ";

fn word(number: u8) -> &'static str {
    let of_none = OF_NONE.iter().map(|(word, _)| word);
    let all = SECRET.iter().chain(&SECRET_ALONE).chain(of_none).chain(&PLAIN);
    let count = SECRET.len() + SECRET_ALONE.len() + OF_NONE.len() + PLAIN.len();
    all.copied().nth(usize::from(number) % count).unwrap()
}

/// Whether the values of a name of these parts are secrets.
fn is_secret(parts: &[&str]) -> bool {
    let is_open = |part: &str| OF_NONE.iter().any(|(word, of)| *of == part && parts.contains(word));
    parts.iter().any(|part| SECRET.contains(part) || (SECRET_ALONE.contains(part) && !is_open(part)))
}

fn spelt(word: &str, case: Case) -> String {
    match case {
        Case::Lower => word.to_owned(),
        Case::Upper => word.to_uppercase(),
        Case::Title => word[..1].to_uppercase() + &word[1..],
    }
}

/// The name, and its parts.
fn name(first: Word, more: &[(Border, Word)]) -> (String, Vec<&'static str>) {
    let (mut name, mut parts) = (spelt(word(first.number), first.case), vec![word(first.number)]);
    let mut last = first.case;
    for (border, Word { number, case }) in more.iter().take(4) {
        let mut case = *case;
        match border {
            Border::Mark(mark) => name += MARKS[usize::from(*mark) % MARKS.len()],
            // Two words in small letters, or two in capitals, would be one.
            Border::Case if last == Case::Upper || case == Case::Lower => case = Case::Title,
            Border::Case => {}
        }
        // A word of one letter behind another in capitals is no part of its own.
        let mut word = word(*number);
        if word.len() == 1 && matches!(border, Border::Case) {
            word = "room";
        }
        name += &spelt(word, case);
        parts.push(word);
        last = if word.len() == 1 && case != Case::Lower { Case::Upper } else { case };
    }
    (name, parts)
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fuzz_target!(|input: Input<'_>| {
    let Input { path, before, behind, first, more, encoded, times } = input;
    if [path, before, behind].iter().any(|text| text.contains(VALUE) || text.contains(WEB_TOKEN)) {
        return;
    }
    let (name, parts) = name(first, &more);
    let letter = |(at, c): (usize, char)| match encoded >> (at % 32) & 1 {
        0 => c.to_string(),
        _ => encode(c.encode_utf8(&mut [0; 4])),
    };
    let written: String = name.chars().enumerate().map(letter).collect();
    let within = |text: String| (0..=times % 2).fold(text, |text, _| encode(&text));
    let pair = format!("{written}={VALUE}");
    let values = [
        format!("/x?a=1&b={}", within(format!("/x?{name}={VALUE}"))),
        format!("/x?b={}&c", within(format!("{{\"a\":1, \"{name}\": \"{VALUE}\"}}"))),
    ];
    let plain = [format!("/x?a=1&{pair}&b=2"), format!("/x;{pair}/y"), format!("/x/{written}/{VALUE}/y")];
    let targets = || plain.iter().chain(&values);
    if !is_secret(&parts) {
        targets().for_each(|target| assert_eq!(redact(target), *target, "{name} is no secret's"));
        return;
    }
    targets().for_each(|target| assert!(!redact(target).contains(VALUE), "{target:?}"));

    let segments = path.replace('?', "");
    let odd = [
        format!("{path}?{pair}{behind}"),
        format!("{path}?{before}&{pair}&{behind}"),
        format!("{path}?{before};{pair};{behind}"),
        format!("{path}?{before}?{pair}?{behind}"),
        format!("{segments};{pair}{behind}"),
        format!("{segments}/{written}/{VALUE}/{behind}"),
    ];
    for target in odd {
        let redacted = redact(&target);
        assert!(!redacted.contains(VALUE), "{target:?}");
        assert_eq!(redact(&redacted), redacted, "there is nothing left to take out");
    }
    for mark in ["/", "&", ";", "?", "=", "%20", "."] {
        for target in [format!("{path}{mark}{WEB_TOKEN}"), format!("{path}?{before}{mark}{WEB_TOKEN}")] {
            // What ends in `%20` has a digit before the token until it is decoded.
            assert!(!redact(&target).contains(WEB_TOKEN), "{target:?}");
        }
    }
});
