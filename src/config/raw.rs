//! Owns the file as the operator wrote it: its tables and values with their places, and the mistakes in them. It
//! must not know defaults, or what a key means.
//!
//! A key is known if the reader asks for it, and unknown if the file has it but the reader never asks. So the
//! source names each key once, where it is read, and one mistake does not hide the next.

mod node;
mod unknown;

use super::error::{Error, Errors, Place, Warning, any_of};
use super::foreign;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use unknown::Unknown;

/// A file that is being read.
pub(super) struct File<'a> {
    source: Arc<str>,
    text: &'a str,
    /// The offsets of all line ends.
    line_ends: Vec<usize>,
    errors: RefCell<Vec<Error>>,
    warnings: RefCell<Vec<Warning>>,
    /// Keys that were written and never asked for.
    unknown: RefCell<Vec<Unknown>>,
    /// Files that values name.
    files: RefCell<Vec<(Place, PathBuf)>>,
    /// Each key that was asked for, by its shape, like `route[].ping.client`, and whether it was written.
    keys: RefCell<BTreeMap<String, bool>>,
    /// The paths of keys and tables that could be left out, like `route[0].ping.client`.
    defaults: RefCell<BTreeSet<String>>,
}

/// What reading a file has found.
pub(super) struct Reading<T> {
    /// The value, or all the mistakes.
    pub(super) result: Result<T, Errors>,
    /// What is valid but probably a mistake.
    pub(super) warnings: Vec<Warning>,
    /// Keys that were asked for and never written, by their shape.
    pub(super) absent: Vec<String>,
    /// The files that values name, each with its place.
    pub(super) files: Vec<(Place, PathBuf)>,
    /// The paths of keys and tables that could be left out, because they hold their defaults.
    pub(super) defaults: BTreeSet<String>,
}

/// A table, which may be absent.
pub(super) struct Table<'a> {
    file: &'a File<'a>,
    place: Place,
    shape: String,
    entries: Option<&'a DeTable<'a>>,
    known: RefCell<Vec<&'static str>>,
}

/// A value.
#[derive(Clone)]
pub(super) struct Value<'a> {
    file: &'a File<'a>,
    pub(super) place: Place,
    shape: String,
    node: &'a DeValue<'a>,
    /// Whether "off" is valid too.
    or_off: bool,
}

// === impl File ===

impl<'a> File<'a> {
    pub(super) fn new(source: &str, text: &'a str) -> Self {
        Self {
            source: source.into(),
            text,
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
            unknown: RefCell::default(),
            files: RefCell::default(),
            keys: RefCell::default(),
            defaults: RefCell::default(),
        }
    }

    /// Reads the whole file. Reads nothing if the text is not TOML, because the parser's guesses would cause further,
    /// false mistakes.
    pub(super) fn read<T>(self, read: impl FnOnce(&Table<'_>) -> T) -> Reading<T> {
        let (root, syntax) = DeTable::parse_recoverable(self.text);
        let mut lines = Vec::new();
        for error in &syntax {
            let place = self.place(String::new(), error.span().map(|span| span.start));
            // Once the parser is lost, further mistakes on the same line follow from the first.
            if !lines.contains(&place.line) {
                lines.push(place.line);
                self.error(place, "not TOML", error.message().replace('\n', ", "));
            }
        }
        let mut errors = self.errors.take();
        if let (Some(hint), [first, ..]) = (foreign::syntax(self.text), &mut errors[..]) {
            // Each further line would repeat the same mistake.
            first.remedy = format!("{}; {hint}", first.remedy);
            errors.truncate(1);
        }
        if let Some(errors) = Errors::new(errors) {
            return Reading {
                result: Err(errors),
                warnings: Vec::new(),
                absent: Vec::new(),
                files: Vec::new(),
                defaults: BTreeSet::new(),
            };
        }
        let place = self.place(String::new(), None);
        let value = Table::new(&self, place, String::new(), Some(root.get_ref())).read(read);
        let keys = self.keys.take();
        for unknown in self.unknown.take() {
            let remedy = unknown.remedy(&keys);
            self.error(unknown.place, "unknown key", remedy);
        }
        let keys = keys.into_iter();
        let mut warnings = self.warnings.take();
        warnings.sort_by_key(|warning| warning.place.line);
        Reading {
            result: Errors::new(self.errors.take()).map_or(Ok(value), Err),
            warnings,
            absent: keys.filter(|&(_, written)| !written).map(|(shape, _)| shape).collect(),
            files: self.files.take(),
            defaults: self.defaults.take(),
        }
    }

    /// Reads a part of a text that may have mistakes elsewhere. `None` means that the part is missing or has
    /// mistakes.
    pub(super) fn read_part<T>(self, read: impl FnOnce(&Table<'_>) -> Option<T>) -> Option<T> {
        let (root, _) = DeTable::parse_recoverable(self.text);
        let place = self.place(String::new(), None);
        let value = read(&Table::new(&self, place, String::new(), Some(root.get_ref())));
        value.filter(|_| self.errors.borrow().is_empty())
    }

    fn place(&self, path: String, offset: Option<usize>) -> Place {
        let line = offset.map(|offset| self.line_ends.partition_point(|&end| end < offset) + 1);
        Place { source: Arc::clone(&self.source), line, path }
    }

    fn error(&self, place: Place, found: impl Into<String>, remedy: impl Into<String>) {
        self.errors.borrow_mut().push(Error { place, found: found.into(), remedy: remedy.into() });
    }
}

// === impl Table ===

impl<'a> Table<'a> {
    fn new(file: &'a File<'a>, place: Place, shape: String, entries: Option<&'a DeTable<'a>>) -> Self {
        Self { file, place, shape, entries, known: RefCell::default() }
    }

    /// Reads the keys, and notes those that `read` did not ask for.
    fn read<T>(self, read: impl FnOnce(&Self) -> T) -> T {
        let value = read(&self);
        let known = self.known.borrow();
        for (key, _) in self.entries.into_iter().flatten() {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            if known.contains(&name) {
                continue;
            }
            let place = self.file.place(join(&self.place.path, name), Some(at));
            let (name, shape, known) = (name.to_owned(), self.shape.clone(), known.clone());
            self.file.unknown.borrow_mut().push(Unknown { place, name, shape, known });
        }
        value
    }

    /// Asks for a key. `None` means that it was not written.
    pub(super) fn take(&self, key: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(key);
        let shape = join(&self.shape, key);
        let found = self.entries.and_then(|entries| entries.get(key));
        *self.file.keys.borrow_mut().entry(shape.clone()).or_default() |= found.is_some();
        found.map(|node| self.child(key, shape, node))
    }

    fn child(&self, key: &str, shape: String, node: &'a Spanned<DeValue<'a>>) -> Value<'a> {
        let place = self.file.place(join(&self.place.path, key), Some(node.span().start));
        Value { file: self.file, place, shape, node: node.get_ref(), or_off: false }
    }

    /// Reads a key that may be left out. `None` means that it was not written or is wrong.
    pub(super) fn get<T>(&self, key: &'static str, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        self.take(key).and_then(|value| read(&value))
    }

    /// Like [`Self::get`], with a default for a value that is absent or wrong.
    pub(super) fn get_or<T: PartialEq>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
        default: T,
    ) -> T {
        self.or_default(key, self.get(key, read), default)
    }

    /// What was found at a key, or its default, which may depend on other keys. Notes a value that equals its
    /// default.
    pub(super) fn or_default<T: PartialEq>(&self, key: &str, found: Option<T>, default: T) -> T {
        if found.as_ref() == Some(&default) {
            self.file.defaults.borrow_mut().insert(join(&self.place.path, key));
        }
        found.unwrap_or(default)
    }

    /// Reads a key that must be there.
    pub(super) fn require<T>(
        &self,
        key: &'static str,
        remedy: &str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(key);
        if value.is_none() {
            self.file.error(self.place_of(key), "missing", remedy);
        }
        value.and_then(|value| read(&value))
    }

    /// Reads a table that may be left out. An absent one is read as an empty one, so that each default stands
    /// in one place.
    pub(super) fn section<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> T {
        self.section_of(key, self.take(key), read)
    }

    /// Like [`Self::section`]. `None` means that the table is "off".
    pub(super) fn section_or_off<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> T) -> Option<T> {
        let value = self.take(key).map(Value::or_off);
        if value.as_ref().is_some_and(Value::is_off) {
            // Its keys stay known though it is off.
            self.section_of(key, None, read);
            return None;
        }
        Some(self.section_of(key, value, read))
    }

    fn section_of<T>(&self, key: &str, value: Option<Value<'a>>, read: impl FnOnce(&Self) -> T) -> T {
        let entries = value.as_ref().and_then(Value::entries_of_table);
        let place = value.map_or_else(|| self.place_of(key), |value| value.place);
        let path = place.path.clone();
        let value = Self::new(self.file, place, join(&self.shape, key), entries).read(read);
        if let Some(entries) = entries {
            let mut defaults = self.file.defaults.borrow_mut();
            // An absent table is read as an empty one, so a table of defaults changes nothing.
            if entries.keys().all(|key| defaults.contains(&join(&path, key.get_ref()))) {
                defaults.insert(path);
            }
        }
        value
    }

    /// Reads each table of a `[[key]]`. There must be at least one.
    pub(super) fn each<T>(&self, key: &'static str, mut read: impl FnMut(&Self) -> Option<T>) -> Vec<T> {
        let value = self.take(key);
        let is_list = value.as_ref().is_none_or(|value| matches!(value.node, DeValue::Array(_)));
        if !is_list {
            value.and_then(|value| value.wrong::<()>(format!("expected [[{key}]], in double brackets")));
            return Vec::new();
        }
        let all = value.and_then(|value| value.list("")).unwrap_or_default();
        if all.is_empty() {
            self.file.error(self.place_of(key), "missing", format!("expected one [[{key}]] at least"));
        }
        all.iter().filter_map(|value| value.table(&mut read).flatten()).collect()
    }

    /// The index and the value of the one key that was written, of several that exclude each other.
    pub(super) fn one_of(&self, keys: &[&'static str]) -> Option<(usize, Value<'a>)> {
        let written = keys.iter().enumerate().filter_map(|(index, key)| Some((index, self.take(key)?)));
        let written: Vec<_> = written.collect();
        let Some((first, rest)) = written.split_first() else {
            self.file.error(
                self.place.clone(),
                "missing",
                format!("expected {}", any_of(keys.iter().copied())),
            );
            return None;
        };
        for (_, more) in rest {
            let remedy = format!("expected only one of {}", keys.join(", "));
            self.file.error(more.place.clone(), format!("found beside {}", keys[first.0]), remedy);
        }
        Some(first.clone())
    }

    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    /// The place of a key. One that was not written has the line of its table.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let written = self.entries.and_then(|entries| entries.get(key));
        let path = join(&self.place.path, key);
        written.map_or_else(
            || Place { path: path.clone(), ..self.place.clone() },
            |node| self.file.place(path.clone(), Some(node.span().start)),
        )
    }

    /// Notes a mistake of the table, or of one of its keys.
    pub(super) fn error(&self, place: Place, found: impl Into<String>, remedy: impl Into<String>) {
        self.file.error(place, found, remedy);
    }

    /// Notes something valid that is probably a mistake.
    pub(super) fn warn(&self, place: Place, text: impl Into<String>) {
        self.file.warnings.borrow_mut().push(Warning { place, text: text.into() });
    }
}

/// The path of a key in a table. A name that TOML would quote is quoted.
pub(super) fn join(path: &str, key: &str) -> String {
    let dot = if path.is_empty() { "" } else { "." };
    if is_bare(key) { format!("{path}{dot}{key}") } else { format!("{path}{dot}{key:?}") }
}

/// Whether a key needs no quotes in TOML.
pub(super) fn is_bare(key: &str) -> bool {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    !key.is_empty() && key.chars().all(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str, read: impl FnOnce(&Table<'_>)) -> Vec<String> {
        let reading = File::new("f", text).read(read);
        reading
            .result
            .err()
            .into_iter()
            .flat_map(|errors| errors.iter().map(Error::to_string).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn what_nobody_asked_for_is_unknown() {
        let found = messages("a = 1\nworker = 2\n\n[b]\nd = 3\n", |table| {
            table.take("a");
            table.take("workers");
            table.section("b", |table| table.take("c").is_some());
        });
        assert_eq!(
            found,
            ["f:2: worker: unknown key, did you mean \"workers\"?", "f:5: b.d: unknown key, expected c"]
        );
    }

    #[test]
    fn a_table_that_is_left_out_or_off_is_asked_all_the_same() {
        let ask = |table: &Table<'_>| {
            table.take("x");
        };
        let reading = File::new("f", "b = \"off\"").read(|table| {
            assert_eq!(table.section_or_off("a", ask), Some(()));
            assert_eq!(table.section_or_off("b", ask), None);
            assert_eq!(table.section_or_off("c", ask), Some(()));
        });
        assert_eq!(reading.result, Ok(()));
        assert_eq!(reading.absent, ["a", "a.x", "b.x", "c", "c.x"]);
    }

    #[test]
    fn places_are_lines_and_key_paths() {
        let text = "[up.\"a.b\"]\nlist = [\n  1,\n  2,\n]\n";
        let found = messages(text, |table| {
            let named = table.get("up", Value::named).unwrap();
            named[0].1.table(|table| {
                let list = table.get("list", |value| value.list("")).unwrap();
                list[1].wrong::<()>("expected 3");
            });
        });
        assert_eq!(found, ["f:4: up.\"a.b\".list[1]: found 2, expected 3"]);
    }

    #[test]
    fn a_line_that_is_no_toml_is_one_mistake() {
        let found = messages("a = tru\n[b]\nx = [1,\nc = y = 2\n", |_| unreachable!("nothing is read"));
        let lines: Vec<&str> = found.iter().map(|message| &message[..14]).collect();
        assert_eq!(lines, ["f:1: not TOML,", "f:4: not TOML,"]);
    }
}
