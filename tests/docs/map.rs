//! The map of the source: as `src/lib.rs` has it.

use crate::page::{Page, quoted};
use std::collections::BTreeSet;

#[test]
fn every_module_has_its_rank_and_its_words() {
    let library = Page::read("src/lib.rs");
    let rows = library.text.lines().filter_map(|line| line.strip_prefix("//! |")).skip(2);
    let modules = |row: &str| quoted(row.rsplit('|').nth(1).unwrap()).into_iter().collect::<BTreeSet<_>>();
    let ranks: Vec<BTreeSet<String>> = rows.map(modules).collect();
    assert!(ranks.len() > 5);
    let page = Page::read("docs/architecture.md");
    let described: Vec<BTreeSet<String>> =
        page.table("## Ranks").iter().map(|row| quoted(&row[2]).into_iter().collect()).collect();
    assert_eq!(ranks, described);
    let tables = [
        page.table("The modules that a connection meets, roughly in order; `proxy` joins them:"),
        page.table("Beside it:"),
    ];
    let explained: BTreeSet<String> = tables.iter().flatten().flat_map(|row| quoted(&row[0])).collect();
    let mut all: BTreeSet<String> = ranks.into_iter().flatten().collect();
    all.remove("main");
    assert_eq!(all, explained);
}
