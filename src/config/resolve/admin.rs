//! Owns the settings of `[admin]`. It must not know what the admin endpoint answers.

use crate::addr::ListenAddr;
use crate::admin::{Secret, Settings, is_local};
use crate::config::document::{Item, Section};
use crate::config::raw::{Table, Value};
use crate::config::value::{self, off_or};
use crate::config::{Listen, defaults, hint};

/// Reads `[admin]`. Its address must differ from those of `listeners`.
pub(super) fn admin(table: &Table<'_>, listeners: &[Listen]) -> Option<Settings> {
    let (token, file) = (table.take("token"), table.take("token_file"));
    let is_given = |value: &Option<Value<'_>>| value.as_ref().is_some_and(|value| !value.is_off());
    let (has_token, has_file) = (is_given(&token), is_given(&file));
    if has_token && has_file {
        table.error(
            table.place_of("token_file"),
            "found beside token",
            "expected only one of token, token_file",
        );
    }
    let token = token.and_then(|value| off_or(value::parsed)(&value));
    let token = table.or_default("token", token, None).map(Secret::Given);
    let file = file.and_then(|value| off_or(value::path)(&value));
    let file = table.or_default("token_file", file, None).map(Secret::File);
    let address = match table.take("address") {
        Some(value) => Some(value::parsed_or_hint(hint::listen)(&value)?),
        None => None,
    };
    let address = table.or_default("address", address, ListenAddr::Tcp(defaults::ADMIN_ADDRESS));
    if !has_token && !has_file && !is_local(&address) {
        let found = format!("missing, although other hosts may reach \"{address}\"");
        table.error(table.place_of("token"), found, "expected a token, a token_file or a loopback address");
    }
    let is_any_port = matches!(address, ListenAddr::Tcp(address) if address.port() == 0);
    if !is_any_port && listeners.iter().any(|listen| listen.socket.address == address) {
        let found = format!("found \"{address}\", which a [[listen]] has too");
        table.error(table.place_of("address"), found, "expected an address of its own");
    }
    Some(Settings { address, token: token.or(file) })
}

/// The section for `[admin]`.
pub(super) fn section(admin: &Settings) -> Section {
    let mut section = Section::table("admin");
    let (token, file) = match &admin.token {
        Some(Secret::Given(token)) => (Some(token.expose()), None),
        Some(Secret::File(file)) => (None, Some(&**file)),
        None => (None, None),
    };
    section.set("address", Item::text(&admin.address));
    section.set("token", Item::or_off(token)).is_secret = token.is_some();
    section.set("token_file", Item::or_off(file));
    section
}
