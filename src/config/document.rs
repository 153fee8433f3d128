//! Owns the model of a configuration file: sections, entries and comments, in the order of the file. It must
//! not know which settings exist, or how TOML writes them.

use super::raw::join;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// A configuration file as data. `Document::write` makes TOML of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The comment at the top. Each of its lines becomes a line of the file.
    pub comment: Option<String>,
    /// In the order of the file.
    pub sections: Vec<Section>,
}

/// A header and what stands below it: `[process]`, `[[route]]`, `[upstream.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// The names in the header, after those of the section that holds this one.
    pub(super) names: Vec<String>,
    /// `[[name]]` rather than `[name]`.
    pub(super) is_element: bool,
    /// Written above the header.
    pub comment: Option<String>,
    /// In the order of the file, each key once.
    pub entries: Vec<Entry>,
    /// Sections whose header begins with this one's names, like `[listen.tls]`.
    pub sections: Vec<Section>,
    /// Whether it could be left out.
    pub is_default: bool,
}

/// A setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The name of the setting, without those of its sections.
    pub key: String,
    /// The value.
    pub item: Item,
    /// Written above it. The comment of an entry within an inline table goes above that table.
    pub comment: Option<String>,
    /// Whether it could be left out.
    pub is_default: bool,
    /// Whether [`Secrets::Hidden`](super::Secrets::Hidden) hides the value.
    pub is_secret: bool,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A text in which `$` has no meaning.
    Text(String),
    /// A text whose `$` the file writes as `$$`.
    Literal(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A duration: `"60s"`.
    Duration(Duration),
    /// Bytes: `"64k"`.
    Size(u64),
    /// A list on one line.
    List(Vec<Item>),
    /// A list with an item a line, unless all of them are short.
    Lines(Vec<Item>),
    /// An inline table.
    Table(InlineTable),
}

/// Entries between braces: `{ time = "1m", probes = 6 }`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InlineTable {
    /// In their order, each key once.
    pub entries: Vec<Entry>,
    /// The key whose value alone may stand for the table: `"app:80"` for `{ address = "app:80" }`.
    pub(super) short: Option<&'static str>,
}

// === impl Document ===

impl Document {
    /// Marks the entries and sections whose key paths are among `defaults`.
    pub(super) fn mark_defaults(&mut self, defaults: &BTreeSet<String>) {
        mark_sections(&mut self.sections, "", defaults);
    }
}

fn mark_sections(sections: &mut [Section], parent: &str, defaults: &BTreeSet<String>) {
    let mut elements: BTreeMap<String, usize> = BTreeMap::new();
    for section in sections {
        let mut path = section.names.iter().fold(parent.to_owned(), |path, name| join(&path, name));
        if section.is_element {
            let count = elements.entry(path.clone()).or_default();
            path = format!("{path}[{count}]");
            *count += 1;
        }
        section.is_default = defaults.contains(&path);
        mark_entries(&mut section.entries, &path, defaults);
        mark_sections(&mut section.sections, &path, defaults);
    }
}

fn mark_entries(entries: &mut [Entry], parent: &str, defaults: &BTreeSet<String>) {
    for entry in entries {
        let path = join(parent, &entry.key);
        entry.is_default = defaults.contains(&path);
        mark_item(&mut entry.item, &path, defaults);
    }
}

fn mark_item(item: &mut Item, path: &str, defaults: &BTreeSet<String>) {
    match item {
        Item::Table(table) => mark_entries(&mut table.entries, path, defaults),
        Item::List(items) | Item::Lines(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                mark_item(item, &format!("{path}[{index}]"), defaults);
            }
        }
        _ => {}
    }
}

// === impl Section ===

impl Section {
    /// `[name]`.
    #[must_use]
    pub fn table(name: &str) -> Self {
        Self::new(vec![name.to_owned()], false)
    }

    /// `[[name]]`, one of several.
    #[must_use]
    pub fn element(name: &str) -> Self {
        Self::new(vec![name.to_owned()], true)
    }

    /// `[kind.name]`, where the operator gives the name: `[upstream.chat]`.
    #[must_use]
    pub fn named(kind: &str, name: &str) -> Self {
        Self::new(vec![kind.to_owned(), name.to_owned()], false)
    }

    fn new(names: Vec<String>, is_element: bool) -> Self {
        let (entries, sections) = (Vec::new(), Vec::new());
        Self { names, is_element, comment: None, entries, sections, is_default: false }
    }

    /// Sets a key. A value that it had before is replaced.
    pub fn set(&mut self, key: &str, item: impl Into<Item>) -> &mut Entry {
        set(&mut self.entries, key, item.into())
    }
}

// === impl InlineTable ===

impl InlineTable {
    /// The same table with a key set. A value that the key had before is replaced.
    #[must_use]
    pub fn with(mut self, key: &str, item: impl Into<Item>) -> Self {
        set(&mut self.entries, key, item.into());
        self
    }

    /// The same table, for which the value of this key may stand alone.
    pub(super) fn or_short(mut self, key: &'static str) -> Self {
        self.short = Some(key);
        self
    }
}

fn set<'a>(entries: &'a mut Vec<Entry>, key: &str, item: Item) -> &'a mut Entry {
    entries.retain(|entry| entry.key != key);
    entries.push(Entry { key: key.to_owned(), item, comment: None, is_default: false, is_secret: false });
    let last = entries.len() - 1;
    &mut entries[last]
}

// === impl Item ===

impl Item {
    /// A text.
    pub(super) fn text(text: impl Display) -> Self {
        Self::Text(text.to_string())
    }

    /// `"off"` for `None`.
    pub(super) fn or_off(item: Option<impl Into<Self>>) -> Self {
        item.map_or_else(|| Self::text("off"), Into::into)
    }

    /// A list on one line.
    pub(super) fn list<T: Into<Self>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }

    /// A list of texts.
    pub(super) fn texts<T: Display>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::list(texts.into_iter().map(Self::text))
    }
}

impl From<&str> for Item {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<&Path> for Item {
    fn from(path: &Path) -> Self {
        Self::text(path.display())
    }
}

impl From<u32> for Item {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<usize> for Item {
    fn from(number: usize) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Item {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<Duration> for Item {
    fn from(duration: Duration) -> Self {
        Self::Duration(duration)
    }
}

impl From<InlineTable> for Item {
    fn from(table: InlineTable) -> Self {
        Self::Table(table)
    }
}
