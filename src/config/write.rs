//! Owns how a document is written as TOML. It must not know which settings there are.

use super::document::{Document, Entry, InlineTable, Item, Section};
use super::foreign::escape_dollars;
use super::raw::is_bare;
use super::value::{write_duration, write_size};
use crate::escape;

/// How much of a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Every entry.
    Full,
    /// Entries that are not defaults or have a comment.
    Changed,
}

/// What is written in place of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// `"***"` stands for each.
    Hidden,
    /// The secret itself.
    Shown,
}

/// Stands for a secret that is hidden.
const HIDDEN: &str = "***";

/// Characters of a list that fits on one line.
const SHORT_LIST: usize = 80;

impl Document {
    /// The document as TOML. With [`Secrets::Shown`], both forms read back as the same configuration.
    #[must_use]
    pub fn write(&self, form: Form, secrets: Secrets) -> String {
        let mut writer = Writer { text: String::new(), form, secrets };
        writer.comment(self.comment.as_deref());
        for section in &self.sections {
            writer.section("", section);
        }
        writer.text
    }
}

struct Writer {
    text: String,
    form: Form,
    secrets: Secrets,
}

impl Writer {
    /// `parent` is the header of the section that holds this one.
    fn section(&mut self, parent: &str, section: &Section) {
        if self.leaves_out(section.is_default, section.comment.as_deref()) {
            return;
        }
        let mut header = parent.to_owned();
        for name in &section.names {
            let dot = if header.is_empty() { "" } else { "." };
            header = format!("{header}{dot}{}", key(name));
        }
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.comment(section.comment.as_deref());
        self.text += &if section.is_element { format!("[[{header}]]\n") } else { format!("[{header}]\n") };
        for entry in &section.entries {
            self.entry(entry);
        }
        for section in &section.sections {
            self.section(&header, section);
        }
    }

    fn entry(&mut self, entry: &Entry) {
        if self.leaves_out(entry.is_default, entry.comment.as_deref()) {
            return;
        }
        self.comment(entry.comment.as_deref());
        for comment in self.comments_within(&entry.item) {
            self.comment(Some(comment));
        }
        let value = self.value(entry);
        self.text += &format!("{} = {value}\n", key(&entry.key));
    }

    /// A comment keeps what it is about.
    fn leaves_out(&self, is_default: bool, comment: Option<&str>) -> bool {
        self.form == Form::Changed && is_default && comment.is_none()
    }

    fn comment(&mut self, comment: Option<&str>) {
        self.text += &comment_lines(comment, "");
    }

    fn value(&self, entry: &Entry) -> String {
        let is_hidden = entry.is_secret && self.secrets == Secrets::Hidden;
        if is_hidden { quoted(HIDDEN) } else { self.item(&entry.item) }
    }

    fn item(&self, item: &Item) -> String {
        match item {
            Item::Text(text) => quoted(text),
            Item::Literal(text) => quoted(&escape_dollars(text)),
            Item::Integer(number) => toml::Value::Integer(*number).to_string(),
            Item::Float(number) => toml::Value::Float(*number).to_string(),
            Item::Boolean(value) => toml::Value::Boolean(*value).to_string(),
            Item::Duration(duration) => quoted(&write_duration(*duration)),
            Item::Size(size) => quoted(&write_size(*size)),
            Item::List(items) => {
                format!("[{}]", items.iter().map(|item| self.item(item)).collect::<Vec<_>>().join(", "))
            }
            Item::Lines(items) => self.lines(items),
            Item::Table(table) => self.table(table),
        }
    }

    fn lines(&self, items: &[Item]) -> String {
        let line = |item: &Item| {
            let comments = self.comments_within(item);
            let comments: String =
                comments.iter().map(|comment| comment_lines(Some(comment), "  ")).collect();
            (comments, self.item(item))
        };
        let lines: Vec<(String, String)> = items.iter().map(line).collect();
        let is_short = lines.iter().map(|(_, item)| item.len() + 2).sum::<usize>() <= SHORT_LIST;
        if is_short && lines.iter().all(|(comments, item)| comments.is_empty() && !item.starts_with('{')) {
            return format!("[{}]", lines.into_iter().map(|(_, item)| item).collect::<Vec<_>>().join(", "));
        }
        let lines: String = lines.iter().map(|(comments, item)| format!("{comments}  {item},\n")).collect();
        format!("[\n{lines}]")
    }

    fn table(&self, table: &InlineTable) -> String {
        let kept: Vec<&Entry> = self.kept(table).collect();
        match kept[..] {
            [] => "{}".to_owned(),
            [only] if self.form == Form::Changed && table.short == Some(&*only.key) => self.value(only),
            _ => {
                let entry = |entry: &&Entry| format!("{} = {}", key(&entry.key), self.value(entry));
                format!("{{ {} }}", kept.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn kept<'a>(&self, table: &'a InlineTable) -> impl Iterator<Item = &'a Entry> {
        let is_kept = |entry: &&Entry| !self.leaves_out(entry.is_default, entry.comment.as_deref());
        table.entries.iter().filter(is_kept)
    }

    /// The comments of the entries within an item that is written on one line. The items of [`Item::Lines`]
    /// have lines of their own.
    fn comments_within<'a>(&self, item: &'a Item) -> Vec<&'a str> {
        match item {
            Item::Table(table) => {
                let of_entry = |entry: &'a Entry| {
                    let own = entry.comment.as_deref();
                    own.into_iter().chain(self.comments_within(&entry.item))
                };
                self.kept(table).flat_map(of_entry).collect()
            }
            Item::List(items) => items.iter().flat_map(|item| self.comments_within(item)).collect(),
            _ => Vec::new(),
        }
    }
}

/// A comment, with a mark on each line. Characters that TOML refuses in a comment, or that end it, are
/// escaped.
fn comment_lines(comment: Option<&str>, indent: &str) -> String {
    let lines = comment.unwrap_or_default().lines();
    lines.map(|line| format!("{}\n", format!("{indent}# {}", escape::line(line, false)).trim_end())).collect()
}

fn key(name: &str) -> String {
    if is_bare(name) { name.to_owned() } else { quoted(name) }
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
