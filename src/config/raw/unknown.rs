//! Owns what a message says about an unknown key. It must not know what any key means.

use crate::config::error::{Place, any_of, nearest};
use crate::config::foreign;
use std::collections::BTreeMap;

/// A key that was written and never asked for.
pub(super) struct Unknown {
    pub(super) place: Place,
    pub(super) name: String,
    /// The shape of its table.
    pub(super) shape: String,
    pub(super) known: Vec<&'static str>,
}

impl Unknown {
    /// What to write instead. `keys` are those of all tables, by their shape.
    pub(super) fn remedy(&self, keys: &BTreeMap<String, bool>) -> String {
        let (name, known) = (&*self.name, &self.known);
        let has_few = known.len() <= FEW_KEYS;
        let leaf =
            |shape: &str| shape.rsplit_once('.').map(|(table, leaf)| (table.to_owned(), leaf.to_owned()));
        let elsewhere: Vec<(String, String)> = keys.keys().filter_map(|shape| leaf(shape)).collect();
        let tables = |key: &str| {
            let tables = elsewhere.iter().filter(|(_, leaf)| leaf == key);
            let mut tables: Vec<String> = tables.map(|(table, _)| table_name(table)).collect();
            // Operators who write a key in the wrong place mostly mean a table at the top.
            tables.sort_by_key(|table| table.matches('.').count());
            tables.dedup();
            any_of(tables.iter().map(String::as_str).take(MOST_TABLES))
        };
        let is_elsewhere = elsewhere.iter().any(|(_, leaf)| leaf == name);
        match foreign::word(name) {
            // The operator may have meant either.
            Some(text) if is_elsewhere => return format!("{text}; here it is a key of {}", tables(name)),
            Some(text) => return text,
            None if is_elsewhere && !has_few => return format!("it is a key of {}", tables(name)),
            None => {}
        }
        if let Some(near) = nearest(name, known) {
            return format!("did you mean \"{near}\"?");
        }
        if has_few {
            return format!("expected {}", any_of(known.iter().copied()));
        }
        let leaves: Vec<&str> = elsewhere.iter().map(|(_, leaf)| &**leaf).collect();
        match nearest(name, &leaves) {
            Some(near) => format!("did you mean \"{near}\" of {}?", tables(near)),
            None => format!(
                "{} has no such key; `holdline check --show` prints all there are",
                table_name(&self.shape)
            ),
        }
    }
}

/// A table as its header is written: `[[route]]`, `[listen.tls]`.
fn table_name(shape: &str) -> String {
    match shape.strip_suffix("[]").filter(|name| !name.contains('.')) {
        Some(list) => format!("[[{list}]]"),
        None if shape.is_empty() => "the file outside of tables".to_owned(),
        None => format!("[{}]", shape.replace("[]", "")),
    }
}

/// How many keys a message names at most.
const FEW_KEYS: usize = 8;
/// How many tables a message names at most.
const MOST_TABLES: usize = 3;
