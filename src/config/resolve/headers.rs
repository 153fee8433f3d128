//! Owns the settings `headers` and `response_headers`. It must not know the rest of a route.

use crate::config::document::{InlineTable, Item};
use crate::config::raw::{Table, Value};
use crate::config::{foreign, value};
use crate::http::names::is_alike;
use http::{HeaderName, HeaderValue};

/// The headers that a route sets, and those that it removes; both sorted by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers {
    pub(super) set: Fields,
    pub(super) remove: Vec<HeaderName>,
}

/// Names with their values, sorted by name; each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields(pub(super) Vec<(HeaderName, HeaderValue)>);

/// Reads `headers` and adds them to `base`. A name that was written replaces the same name of `base`.
pub(super) fn request(table: &Table<'_>, base: &Headers) -> Headers {
    let set = table.get_or("set", |value| fields(value, foreign::instead_of), Fields::default());
    let removed = table.get_or("remove", removed, Vec::new());
    for (name, _) in set.0.iter().filter(|(name, _)| names(&removed, name)) {
        table.error(
            table.place(),
            format!("found {name} in set and in remove"),
            "expected it in one of them",
        );
    }
    let mut headers = Headers { set: base.set.with(&set), remove: base.remove.clone() };
    headers.remove.retain(|name| set.0.iter().all(|(set, _)| !is_alike(set, name)));
    headers.set.0.retain(|(name, _)| !names(&removed, name));
    headers.remove.extend(removed);
    headers.remove.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    headers.remove.dedup();
    headers
}

/// Whether a list has a name, in any spelling: `-` and `_` are the same.
fn names(list: &[HeaderName], name: &HeaderName) -> bool {
    list.iter().any(|listed| is_alike(listed, name))
}

impl Fields {
    /// Adds `more`, which wins if both have a name.
    pub(super) fn with(&self, more: &Self) -> Self {
        let kept = self.0.iter().filter(|(name, _)| more.0.iter().all(|(new, _)| !is_alike(new, name)));
        let mut all: Vec<_> = kept.chain(&more.0).cloned().collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        Self(all)
    }
}

/// Reads `response_headers`.
pub(super) fn response(value: &Value<'_>) -> Option<Fields> {
    fields(value, |_| None)
}

/// Reads `{ Name = "value" }`. `hint` says what to write instead of a variable.
fn fields(value: &Value<'_>, hint: impl Fn(&str) -> Option<&'static str>) -> Option<Fields> {
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in value.named()? {
        let text = value::literal(&value, "expected a text", &hint);
        let Some(name) = header_name(name, &value) else { continue };
        let Some(content) = text.and_then(|text| header_value(&text, &value)) else { continue };
        if fields.iter().any(|(known, _)| is_alike(known, &name)) {
            value.refuse::<()>("found a second time", "expected each name once, in upper or lower case");
        } else {
            fields.push((name, content));
        }
    }
    Some(Fields::default().with(&Fields(fields)))
}

fn removed(value: &Value<'_>) -> Option<Vec<HeaderName>> {
    let names = value.list("expected a list of header names")?;
    let read = |value: &Value<'_>| {
        let name = header_name(value.text("expected a header name")?, value)?;
        if is_alike(&name, &http::header::HOST) {
            return value.wrong("expected another header: every request has a Host");
        }
        Some(name)
    };
    Some(names.iter().filter_map(read).collect())
}

fn header_name(text: &str, value: &Value<'_>) -> Option<HeaderName> {
    let Ok(name) = text.parse::<HeaderName>() else {
        return value.refuse(&format!("found {text:?}"), "expected a header name");
    };
    if is_reserved(&name) {
        return value
            .refuse(&format!("found {text}"), "expected a header that Holdline does not control itself");
    }
    Some(name)
}

fn header_value(text: &str, value: &Value<'_>) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok().or_else(|| value.wrong("expected visible ASCII characters and spaces"))
}

/// The value of `headers`.
pub(super) fn write(set: &[(HeaderName, HeaderValue)], remove: &[HeaderName]) -> InlineTable {
    InlineTable::default().with("set", write_fields(set)).with("remove", Item::texts(remove))
}

/// The value of `response_headers`.
pub(super) fn write_fields(fields: &[(HeaderName, HeaderValue)]) -> InlineTable {
    fields.iter().fold(InlineTable::default(), |table, (name, value)| {
        // `header_value` accepts ASCII only.
        table.with(name.as_str(), Item::Literal(value.to_str().unwrap_or_default().to_owned()))
    })
}

/// Whether Holdline controls a header itself: those of one hop (RFC 9110 7.6.1), of message framing (RFC 9112
/// 6) and of the WebSocket handshake (RFC 6455 11.3).
fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with("sec-websocket-") || RESERVED.contains(&name.as_str())
}

const RESERVED: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
