//! A page of Markdown: its tables, headings, links and blocks of code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The front door, the manual and what else is written for readers, by their paths in the source.
pub(crate) fn all() -> Vec<Page> {
    let others = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "benches/README.md",
        "fuzz/README.md",
        "systemd/README.md",
        "tests/interop/README.md",
        "tests/soak/README.md",
    ];
    manual().into_iter().chain(others.map(Page::read)).collect()
}

/// The pages of the manual.
pub(crate) fn manual() -> Vec<Page> {
    let files = std::fs::read_dir(root().join("docs")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    names.iter().map(|name| Page::read(&format!("docs/{name}"))).collect()
}

/// Where the source is.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One file of Markdown.
#[derive(Clone)]
pub(crate) struct Page {
    /// Its path in the source.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A fenced block of code.
pub(crate) struct Block {
    /// Its first line's.
    pub(crate) line: usize,
    /// What stands behind the fence.
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn read(path: &str) -> Self {
        let text =
            std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text }
    }

    /// Its folder in the source.
    pub(crate) fn folder(&self) -> PathBuf {
        Path::new(&self.path).parent().unwrap().to_path_buf()
    }

    /// The rows of the first table below a heading, by their cells, without the table's head.
    pub(crate) fn table(&self, heading: &str) -> Vec<Vec<String>> {
        rows(self.below(heading)).skip(2).map(cells).collect()
    }

    /// The first table below a heading, with its head.
    pub(crate) fn whole_table(&self, heading: &str) -> Vec<Vec<String>> {
        rows(self.below(heading))
            .enumerate()
            .filter(|(index, _)| *index != 1)
            .map(|(_, row)| cells(row))
            .collect()
    }

    /// What stands below a line.
    fn below(&self, line: &str) -> &str {
        let first = self.text.strip_prefix(&format!("{line}\n"));
        let below = first.or_else(|| Some(self.text.split_once(&format!("\n{line}\n"))?.1));
        below.unwrap_or_else(|| panic!("{} has no {line}", self.path))
    }

    /// Its lines with their numbers, without those of blocks of code.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let mut is_code = false;
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let outside = lines.filter(|(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        });
        outside.collect()
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut found = Vec::new();
        let mut open: Option<Block> = None;
        for (index, line) in self.text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(language), None) => {
                    let language = language.to_owned();
                    open = Some(Block { line: index + 2, language, text: String::new() });
                }
                (Some(_), Some(block)) => found.push(block),
                (None, Some(block)) => open = Some(Block { text: block.text + line + "\n", ..block }),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block of code has no end", self.path);
        found
    }

    /// What its headings are called in links, as GitHub and mdBook do.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        let headings = self.prose().into_iter().filter_map(|(_, line)| {
            let rest = line.trim_start_matches('#');
            (rest.len() < line.len()).then(|| rest.strip_prefix(' ')).flatten()
        });
        let named = headings.map(|heading| {
            let kept = heading.trim().chars().filter_map(|letter| match letter {
                ' ' => Some('-'),
                '-' | '_' => Some(letter),
                _ => letter.is_alphanumeric().then_some(letter),
            });
            let name = kept.collect::<String>().to_lowercase();
            let seen = count.entry(name.clone()).or_default();
            *seen += 1;
            if *seen == 1 { name } else { format!("{name}-{}", *seen - 1) }
        });
        named.collect()
    }

    /// The targets of its links and images, with their lines.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let in_line = |(number, line): (usize, &str)| {
            // What stands between backticks is no link.
            let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
            let targets = plain.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            targets.map(|target| (number, target.to_owned())).collect::<Vec<_>>()
        };
        self.prose().into_iter().flat_map(in_line).collect()
    }

    /// The texts between backticks of its prose, with their lines.
    pub(crate) fn quotes(&self) -> Vec<(usize, String)> {
        let in_line = |(number, line): (usize, &str)| {
            quoted(line).into_iter().map(|text| (number, text)).collect::<Vec<_>>()
        };
        self.prose().into_iter().flat_map(in_line).collect()
    }
}

/// The texts between backticks.
pub(crate) fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows(below: &str) -> impl Iterator<Item = &str> {
    below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'))
}

fn cells(row: &str) -> Vec<String> {
    let inner = row.strip_prefix('|').and_then(|row| row.strip_suffix('|')).unwrap_or(row);
    format!("{inner} ").split(" |").map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# One `[two]`\n\n| a | b |\n|---|---|\n| `x` | |\n\n## One two\n## One two\n```sh\n# no heading\n```\n[a](b#c) `[d](e)`\n";
    let page = Page { path: "x.md".to_owned(), text: text.to_owned() };
    assert_eq!(page.anchors(), ["one-two", "one-two-1", "one-two-2"]);
    assert_eq!(page.links(), [(12, "b#c".to_owned())]);
    assert_eq!(page.quotes(), [(1, "[two]".to_owned()), (5, "x".to_owned()), (12, "[d](e)".to_owned())]);
    assert_eq!(page.whole_table("").len(), 2);
    assert_eq!(rows(text).skip(2).map(cells).next().unwrap(), ["`x`", ""]);
    let blocks = page.blocks();
    assert_eq!(
        (blocks[0].line, blocks[0].language.as_str(), blocks[0].text.as_str()),
        (10, "sh", "# no heading\n")
    );
}
