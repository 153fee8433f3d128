//! Owns the redaction of values that look like secrets, which no log, page or API may show. It must not know
//! where the rest is shown.
//!
//! Browsers cannot send headers with a WebSocket handshake, so tokens travel in queries, paths and
//! subprotocols. A value is hidden by its name, by its form, or by what it holds when it is decoded. Names are
//! read by their parts, so that `userPin`, `user_pin` and `user[pin]` are one name and `spinning` is another.

mod bytes;

pub(crate) use bytes::redact_bytes;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The replacement for a secret.
pub(super) const HIDDEN: &str = "***";

/// Returns a path and query with secrets replaced by `***`.
#[must_use]
pub fn redact(target: &str) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut shown = redact_path(path);
    if let Some(query) = query {
        shown.push('?');
        let pairs: Vec<Cow<'_, str>> = query.split('&').map(without_secret).collect();
        shown.push_str(&pairs.join("&"));
    }
    shown
}

/// Redacts a subprotocol, given what the client offered. Clients pass tokens as subprotocols, and some
/// servers choose the token.
#[must_use]
pub(super) fn subprotocol<'a>(chosen: &'a str, offered: impl IntoIterator<Item = &'a str>) -> &'a str {
    let mut before = "";
    for offer in offered {
        if offer == chosen && is_secret_name(before) {
            return HIDDEN;
        }
        before = offer;
    }
    if looks_like_a_name(chosen) { chosen } else { HIDDEN }
}

/// Redacts negotiated extensions.
#[must_use]
pub(super) fn extensions(agreed: &str) -> &str {
    if holds_secret(agreed) { HIDDEN } else { agreed }
}

fn redact_path(path: &str) -> String {
    let (mut shown, mut before) = (String::with_capacity(path.len()), "");
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            shown.push('/');
        }
        let hides = announces(before, segment);
        shown.push_str(&if hides { Cow::Borrowed(HIDDEN) } else { without_secret(segment) });
        before = segment;
    }
    shown
}

/// A parameter of a query or a segment of a path, up to the value of the first secret in it. Some servers part
/// parameters at `;` too, and segments have theirs behind one (RFC 3986 3.3). A `?` begins those of a target
/// within the target.
fn without_secret(text: &str) -> Cow<'_, str> {
    let starts = text.match_indices([';', '?']).map(|(at, _)| at + 1);
    for start in std::iter::once(0).chain(starts) {
        let Some((name, value)) = text[start..].split_once('=') else { continue };
        if !value.is_empty() && is_secret_name(&decoded(name)) {
            return format!("{}={HIDDEN}", &text[..start + name.len()]).into();
        }
    }
    let (name, value) = text.split_once('=').unwrap_or(("", text));
    if holds_secret(value) || !is_plain(value) && holds_secret(&decoded(value)) {
        let end = text.len() - value.len();
        return format!("{}{HIDDEN}", &text[..end]).into();
    }
    // A name may be the secret, as in `?eyJ...=`.
    if !name.is_empty() && holds_secret(&decoded(name)) { HIDDEN.into() } else { text.into() }
}

/// Whether decoding changes nothing.
fn is_plain(text: &str) -> bool {
    !text.contains(['%', '+'])
}

/// Removes repeated percent-encoding, up to a limit. It serves only to find secrets. Bytes that are no text
/// become U+FFFD, and are never shown.
fn decoded(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MOST_ENCODINGS {
        if !text.contains('%') {
            break;
        }
        text = Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned());
    }
    if text.contains('+') { text.replace('+', " ").into() } else { text }
}

/// A target in a target in a target is more than there is.
const MOST_ENCODINGS: usize = 3;

/// Whether there is a secret in a text: a JSON Web Token, the credentials of a header, a URL with a
/// password, a named value as in queries and JSON, or a segment behind one that announces a secret.
fn holds_secret(text: &str) -> bool {
    if text.len() < SHORTEST {
        return false;
    }
    let lower = text.trim_start().to_ascii_lowercase();
    let is_header =
        SCHEMES.iter().any(|scheme| lower.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    let segments = || text.split(['/', '?', '#', '&', ';']);
    let pairs = || segments().zip(segments().skip(1));
    is_header
        || holds_web_token(text)
        || holds_password(text)
        || names_secret(text)
        || (text.contains('/') && pairs().any(|(before, segment)| announces(before, segment)))
}

/// Below it there is no room for a name, a border and a value.
const SHORTEST: usize = 5;

/// How the value of an Authorization header begins (RFC 7235, RFC 6750).
const SCHEMES: [&str; 4] = ["bearer ", "basic ", "digest ", "negotiate "];

/// A JSON object in base64url begins so, and so does each JSON Web Token (RFC 7519).
const WEB_TOKEN: &str = "eyJ";

/// `eyJ` and some more of base64url, not in the middle of a word.
fn holds_web_token(text: &str) -> bool {
    text.match_indices(WEB_TOKEN).any(|(at, _)| {
        let starts = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let of_token = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        starts && text[at..].chars().take_while(of_token).count() >= 8
    })
}

/// `scheme://user:password@host` (RFC 3986 3.2.1).
fn holds_password(text: &str) -> bool {
    text.match_indices("//").any(|(at, _)| {
        let rest = &text[at + 2..];
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| !user.is_empty())
    })
}

/// `name=value`, `"name":"value"`, `name: value`.
fn names_secret(text: &str) -> bool {
    text.match_indices(['=', ':']).any(|(at, _)| {
        let around = |c: char| c == '"' || c == '\'' || c == '\\' || c.is_ascii_whitespace();
        let before = text[..at].trim_end_matches(around);
        let of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '[' | ']' | '$');
        let start = before.char_indices().rev().take_while(|&(_, c)| of_name(c)).last();
        let name = start.map_or("", |(start, _)| &before[start..]);
        let value = text[at + 1..].trim_start_matches(around);
        !value.is_empty() && !value.starts_with([',', '}', '&', ';']) && is_secret_name(name)
    })
}

/// Whether one segment of a path says that the next is a secret: `/token/S`. Words that name actions as well,
/// as in `/auth/login`, do so only before what looks random.
fn announces(before: &str, segment: &str) -> bool {
    if before.is_empty() || segment.is_empty() || segment == HIDDEN {
        return false;
    }
    let name = decoded(before);
    // `/login?token` is one segment here, and `a=b` has been looked at.
    if name.contains(['=', '?'])
        || !is_secret_name(&name)
        || ACTIONS.contains(&&*segment.to_ascii_lowercase())
    {
        return false;
    }
    let parts = parts(&name);
    !parts.iter().all(|part| WEAK_IN_PATHS.contains(&part.as_str())) || looks_random(segment)
}

/// Parts of names that are ordinary words in paths.
const WEAK_IN_PATHS: [&str; 14] = [
    "auth", "oauth", "oauth2", "code", "codes", "key", "keys", "cookie", "cookies", "pin", "pass", "session",
    "sessions", "tokens",
];

/// What is done with tokens and the like: `/token/refresh`.
const ACTIONS: [&str; 22] = [
    "refresh",
    "new",
    "list",
    "login",
    "logout",
    "verify",
    "validate",
    "info",
    "status",
    "create",
    "revoke",
    "introspect",
    "delete",
    "check",
    "exchange",
    "renew",
    "reset",
    "edit",
    "all",
    "me",
    "callback",
    "ws",
];

/// Long, or of letters and digits mixed: no word that a person chose.
fn looks_random(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
    text.len() >= 20 || (text.len() >= 6 && digits > 0 && letters > 0) || digits >= 8
}

/// Short, and of parts that are words, perhaps with a number behind or an abbreviation: `v12.stomp`,
/// `base64.binary.k8s.io`, `graphql-transport-ws`.
fn looks_like_a_name(text: &str) -> bool {
    let is_word = |part: &str| {
        let digits = part.bytes().rev().take_while(u8::is_ascii_digit).count();
        let stem = &part[..part.len() - digits];
        let is_stem = stem.bytes().all(|byte| byte.is_ascii_alphabetic());
        part.len() <= SHORT_PART
            || (part.len() <= LONGEST_PART && digits <= 4 && is_stem && has_one_case(stem))
    };
    let of_name = |c: char| c.is_ascii_alphanumeric() || "-._:/+".contains(c);
    text.len() <= LONGEST_NAME
        && text.chars().all(of_name)
        && text.split(|c: char| !c.is_ascii_alphanumeric()).all(is_word)
        && !is_secret_name(text)
        && !holds_web_token(text)
}

/// No letter is larger than the one before, but where a word begins: `myProtocol` is a name, `aQzRtY` is none.
fn has_one_case(stem: &str) -> bool {
    let borders =
        stem.as_bytes().windows(2).filter(|two| two[0].is_ascii_lowercase() && two[1].is_ascii_uppercase());
    borders.count() * 4 <= stem.len()
}

/// The longest subprotocols in use have some 40 characters.
const LONGEST_NAME: usize = 48;
/// "authorization", "servicebus", "notifications" and the like.
const LONGEST_PART: usize = 16;
/// "k8s", "mp3", "a1".
const SHORT_PART: usize = 3;

/// Whether values of this name are secrets.
pub(super) fn is_secret_name(name: &str) -> bool {
    let parts = parts(name);
    let with = |words: &[&str]| parts.iter().any(|part| words.contains(&part.as_str()));
    // `SAMLart` and `passWd` are one word, however it is spelt.
    let words = || name.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase);
    parts.iter().any(|part| is_secret_part(part))
        || words().any(|word| holds_secret_word(&word))
        || (with(&["code", "codes"]) && !with(&PLAIN_CODES))
        || (parts.iter().any(|part| is_key(part)) && !with(&PLAIN_KEYS))
}

fn is_secret_part(part: &str) -> bool {
    let is_author = part.starts_with("author") && !part.starts_with("authori");
    let is_authority = part.starts_with("authorit");
    SECRET_PARTS.contains(&part)
        || holds_secret_word(part)
        || (part.contains("auth") && !is_author && !is_authority)
        || (part.ends_with("pass") && !PLAIN_PASS.contains(&part))
}

fn holds_secret_word(part: &str) -> bool {
    SECRET_IN.iter().any(|word| part.contains(word)) || SECRET_START.iter().any(|word| part.starts_with(word))
}

fn is_key(part: &str) -> bool {
    part == "key" || part == "keys" || (part.ends_with("key") && !PLAIN_WORDS.contains(&part))
}

/// Parts that are secrets as a whole.
const SECRET_PARTS: [&str; 30] = [
    "pw", "pin", "sess", "sid", "hmac", "otp", "totp", "hotp", "mfa", "tfa", "sig", "sign", "sas", "jwt",
    "jws", "jwe", "saml", "ticket", "tickets", "cookie", "cookies", "bearer", "nonce", "cred", "creds",
    "passcode", "passkey", "pat", "pass", "psk",
];

/// They are secrets wherever they stand in a part.
const SECRET_IN: [&str; 14] = [
    "token",
    "secret",
    "passw",
    "passphrase",
    "pwd",
    "jwt",
    "credential",
    "session",
    "sessid",
    "signature",
    "assertion",
    "csrf",
    "xsrf",
    "apikey",
];

/// They are secrets where a part begins with them: `hmacsha`, `samlresponse`.
const SECRET_START: [&str; 6] = ["hmac", "saml", "passcode", "otpcode", "pincode", "bearer"];

/// Codes that are known to all.
const PLAIN_CODES: [&str; 30] = [
    "country", "error", "status", "lang", "language", "locale", "zip", "postal", "post", "area", "region",
    "state", "city", "currency", "product", "item", "color", "colour", "airport", "bar", "qr", "exit",
    "response", "http", "close", "reason", "type", "site", "store", "source",
];

/// Keys that open nothing.
const PLAIN_KEYS: [&str; 18] = [
    "sort",
    "order",
    "group",
    "cache",
    "primary",
    "foreign",
    "partition",
    "row",
    "map",
    "hot",
    "routing",
    "public",
    "i18n",
    "translation",
    "event",
    "press",
    "down",
    "up",
];

/// Words with "key" at their end, and names that are written as one.
const PLAIN_WORDS: [&str; 17] = [
    "monkey",
    "donkey",
    "turkey",
    "hockey",
    "jockey",
    "whiskey",
    "hotkey",
    "lackey",
    "mickey",
    "disckey",
    "pubkey",
    "publickey",
    "sortkey",
    "cachekey",
    "primarykey",
    "foreignkey",
    "rowkey",
];

/// Words with "pass" at their end.
const PLAIN_PASS: [&str; 13] = [
    "bypass",
    "compass",
    "overpass",
    "underpass",
    "trespass",
    "encompass",
    "surpass",
    "lowpass",
    "highpass",
    "bandpass",
    "allpass",
    "multipass",
    "renderpass",
];

/// The parts of a name in small letters: what punctuation, a change of case or a number parts. `APIKey2` is
/// `api` and `key`.
fn parts(name: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let letters: Vec<char> = name.chars().collect();
    for (at, &c) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| letters[before]);
        let after = letters.get(at + 1);
        let starts = c.is_uppercase()
            && (before.is_some_and(char::is_lowercase)
                || (before.is_some_and(char::is_uppercase) && after.is_some_and(|c| c.is_lowercase())));
        if (starts || !c.is_alphabetic()) && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
        }
        if c.is_alphabetic() {
            part.extend(c.to_lowercase());
        }
    }
    parts.extend(Some(part).filter(|part| !part.is_empty()));
    parts
}

#[cfg(test)]
mod tests;
