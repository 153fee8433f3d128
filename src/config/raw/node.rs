//! Owns the reading of one value as it was written. It must not know defaults or what it means.

use super::{Table, Value, join};
use std::fmt::Display;
use std::path::Path;
use toml::de::{DeTable, DeValue};

impl<'a> Value<'a> {
    /// The same value, where "off" is allowed too.
    pub(in crate::config) fn or_off(mut self) -> Self {
        self.or_off = true;
        self
    }

    /// Whether it is "off".
    pub(in crate::config) fn is_off(&self) -> bool {
        self.node.as_str() == Some("off")
    }

    /// Notes that something else is expected.
    pub(in crate::config) fn wrong<T>(&self, remedy: impl Display) -> Option<T> {
        let off = if self.or_off { ", or \"off\"" } else { "" };
        self.refuse(&format!("found {}", describe(self.node)), format!("{remedy}{off}"))
    }

    /// Notes that it is refused for what is said of it.
    pub(in crate::config) fn refuse<T>(&self, found: &str, remedy: impl Into<String>) -> Option<T> {
        self.file.error(self.place.clone(), found, remedy);
        None
    }

    /// Notes that it names a file.
    pub(in crate::config) fn is_file(&self, path: &Path) {
        self.file.files.borrow_mut().push((self.place.clone(), path.to_owned()));
    }

    /// Whether it is a list of tables, as `[[...]]` makes it.
    pub(in crate::config) fn is_list(&self) -> bool {
        matches!(self.node, DeValue::Array(_))
    }

    /// The text, if it is one.
    pub(in crate::config) fn as_str(&self) -> Option<&'a str> {
        self.node.as_str()
    }

    /// The number, if it is a whole one.
    pub(in crate::config) fn as_integer(&self) -> Option<i128> {
        let number = self.node.as_integer()?;
        i128::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// The text.
    pub(in crate::config) fn text(&self, remedy: &str) -> Option<&'a str> {
        self.as_str().or_else(|| self.wrong(remedy))
    }

    /// True or false.
    pub(in crate::config) fn boolean(&self) -> Option<bool> {
        self.node.as_bool().or_else(|| self.wrong("expected true or false"))
    }

    /// The elements of a list.
    pub(in crate::config) fn list(&self, remedy: &str) -> Option<Vec<Self>> {
        let DeValue::Array(items) = self.node else { return self.wrong(remedy) };
        let each = items.iter().enumerate().map(|(index, node)| {
            let place = self.file.place(format!("{}[{index}]", self.place.path), Some(node.span().start));
            let shape = format!("{}[]", self.shape);
            Self { file: self.file, place, shape, node: node.get_ref(), or_off: false }
        });
        Some(each.collect())
    }

    /// Whether it is a table.
    pub(in crate::config) fn is_table(&self) -> bool {
        matches!(self.node, DeValue::Table(_))
    }

    /// Whether it is a table with this key, in any case of its letters, however wrong its value.
    pub(in crate::config) fn names(&self, key: &str) -> bool {
        let entries = self.node.as_table();
        entries.is_some_and(|entries| entries.keys().any(|known| known.get_ref().eq_ignore_ascii_case(key)))
    }

    /// A table, read.
    pub(in crate::config) fn table<T>(&self, read: impl FnOnce(&Table<'a>) -> T) -> Option<T> {
        let entries = self.entries_of_table()?;
        Some(Table::new(self.file, self.place.clone(), self.shape.clone(), Some(entries)).read(read))
    }

    /// The entries of a table whose keys are names that the operator gives.
    pub(in crate::config) fn named(&self) -> Option<Vec<(&'a str, Self)>> {
        let entries = self.entries_of_table()?;
        let each = entries.iter().map(|(key, node)| {
            let name = key.get_ref().as_ref();
            let place = self.file.place(join(&self.place.path, name), Some(node.span().start));
            let shape = join(&self.shape, "NAME");
            (name, Self { file: self.file, place, shape, node: node.get_ref(), or_off: false })
        });
        Some(each.collect())
    }

    pub(super) fn entries_of_table(&self) -> Option<&'a DeTable<'a>> {
        match self.node {
            DeValue::Table(entries) => Some(entries),
            _ => self.wrong("expected a table"),
        }
    }
}

/// A value as a message shows it.
fn describe(node: &DeValue<'_>) -> String {
    match node {
        DeValue::String(text) if text.chars().count() > LONGEST_SHOWN => {
            format!("{:?}...", text.chars().take(LONGEST_SHOWN).collect::<String>())
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Characters of a found text that a message shows: a line of a terminal holds the rest too.
const LONGEST_SHOWN: usize = 60;
