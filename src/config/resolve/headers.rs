//! Owns the meaning of `headers` and `response_headers`. It must not know the rest of a route.

use crate::config::document::{InlineTable, Item};
use crate::config::raw::{Table, Value};
use crate::config::{foreign, value};
use crate::http::names::is_alike;
use http::{HeaderName, HeaderValue};

/// What is set, sorted by name, and what is removed.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers {
    pub(super) set: Fields,
    pub(super) remove: Vec<HeaderName>,
}

/// Names with their values, sorted by name, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields(pub(super) Vec<(HeaderName, HeaderValue)>);

/// `headers`: adds to `base`; what is written of a name replaces what `base` says of it.
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

/// A header is the same in every spelling, with `-` and with `_`.
fn names(list: &[HeaderName], name: &HeaderName) -> bool {
    list.iter().any(|listed| is_alike(listed, name))
}

impl Fields {
    /// These and `more`, which wins where both have a name.
    pub(super) fn with(&self, more: &Self) -> Self {
        let kept = self.0.iter().filter(|(name, _)| more.0.iter().all(|(new, _)| !is_alike(new, name)));
        let mut all: Vec<_> = kept.chain(&more.0).cloned().collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        Self(all)
    }
}

/// `response_headers`.
pub(super) fn response(value: &Value<'_>) -> Option<Fields> {
    fields(value, |_| None)
}

/// `{ Name = "value" }`. `hint` says what to write instead of a variable.
fn fields(value: &Value<'_>, hint: impl Fn(&str) -> Option<&'static str>) -> Option<Fields> {
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in value.named()? {
        let text = value::literal(&value, "expected a text", &hint);
        let Some(name) = header_name(name, &value) else { continue };
        let Some(content) = text.and_then(|text| header_value(&text, &value)) else { continue };
        if fields.iter().any(|(known, _)| is_alike(known, &name)) {
            value.refuse::<()>("found a second time", "expected each name once, in any case of its letters");
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
    if is_ruled(&name) {
        return value
            .refuse(&format!("found {text}"), "expected a header that the proxy does not rule itself");
    }
    Some(name)
}

fn header_value(text: &str, value: &Value<'_>) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok().or_else(|| value.wrong("expected visible ASCII characters and spaces"))
}

/// `headers` as it is written.
pub(super) fn write(set: &[(HeaderName, HeaderValue)], remove: &[HeaderName]) -> InlineTable {
    InlineTable::default().with("set", write_fields(set)).with("remove", Item::texts(remove))
}

/// Names with their values as they are written.
pub(super) fn write_fields(fields: &[(HeaderName, HeaderValue)]) -> InlineTable {
    fields.iter().fold(InlineTable::default(), |table, (name, value)| {
        // Values come from TOML, where only ASCII was let in.
        table.with(name.as_str(), Item::Literal(value.to_str().unwrap_or_default().to_owned()))
    })
}

/// Whether the proxy rules a header itself: those of one hop (RFC 9110 7.6.1), of the framing of
/// messages (RFC 9112 6) and of the WebSocket handshake (RFC 6455 11.3).
fn is_ruled(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with("sec-websocket-") || RULED.contains(&name.as_str())
}

const RULED: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
