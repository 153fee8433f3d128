//! Owns how a value is read as it was written. It must not know defaults, or what the value means.

use super::{Table, Value, join};
use std::fmt::Display;
use std::path::Path;
use toml::de::{DeTable, DeValue};

impl<'a> Value<'a> {
    /// The same value, for which "off" is valid too.
    pub(in crate::config) fn or_off(mut self) -> Self {
        self.or_off = true;
        self
    }

    pub(in crate::config) fn is_off(&self) -> bool {
        self.node.as_str() == Some("off")
    }

    /// Notes a mistake, and shows the value in it.
    pub(in crate::config) fn wrong<T>(&self, remedy: impl Display) -> Option<T> {
        let off = if self.or_off { ", or \"off\"" } else { "" };
        self.refuse(&format!("found {}", describe(self.node)), format!("{remedy}{off}"))
    }

    /// Notes a mistake that `found` describes.
    pub(in crate::config) fn refuse<T>(&self, found: &str, remedy: impl Into<String>) -> Option<T> {
        self.file.error(self.place.clone(), found, remedy);
        None
    }

    /// Notes that the value names a file.
    pub(in crate::config) fn is_file(&self, path: &Path) {
        self.file.files.borrow_mut().push((self.place.clone(), path.to_owned()));
    }

    /// Whether the value is a list, as `[[...]]` makes it.
    pub(in crate::config) fn is_list(&self) -> bool {
        matches!(self.node, DeValue::Array(_))
    }

    pub(in crate::config) fn as_str(&self) -> Option<&'a str> {
        self.node.as_str()
    }

    /// The number, if it is an integer of any size.
    pub(in crate::config) fn as_integer(&self) -> Option<i128> {
        let number = self.node.as_integer()?;
        i128::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// The text, or a mistake.
    pub(in crate::config) fn text(&self, remedy: &str) -> Option<&'a str> {
        self.as_str().or_else(|| self.wrong(remedy))
    }

    /// True or false, or a mistake.
    pub(in crate::config) fn boolean(&self) -> Option<bool> {
        self.node.as_bool().or_else(|| self.wrong("expected true or false"))
    }

    /// The items of a list, or a mistake.
    pub(in crate::config) fn list(&self, remedy: &str) -> Option<Vec<Self>> {
        let DeValue::Array(items) = self.node else { return self.wrong(remedy) };
        let each = items.iter().enumerate().map(|(index, node)| {
            let place = self.file.place(format!("{}[{index}]", self.place.path), Some(node.span().start));
            let shape = format!("{}[]", self.shape);
            Self { file: self.file, place, shape, node: node.get_ref(), or_off: false }
        });
        Some(each.collect())
    }

    pub(in crate::config) fn is_table(&self) -> bool {
        matches!(self.node, DeValue::Table(_))
    }

    /// Whether the value is a table with this key, in upper or lower case, and with any value.
    pub(in crate::config) fn names(&self, key: &str) -> bool {
        let entries = self.node.as_table();
        entries.is_some_and(|entries| entries.keys().any(|known| known.get_ref().eq_ignore_ascii_case(key)))
    }

    /// Reads a table, or notes a mistake.
    pub(in crate::config) fn table<T>(&self, read: impl FnOnce(&Table<'a>) -> T) -> Option<T> {
        let entries = self.entries_of_table()?;
        Some(Table::new(self.file, self.place.clone(), self.shape.clone(), Some(entries)).read(read))
    }

    /// The entries of a table whose keys are names that the operator chose, or a mistake.
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

/// How many characters of a text a message shows, so that it fits a line of a terminal.
const LONGEST_SHOWN: usize = 60;
