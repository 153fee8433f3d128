//! Links between the pages, and the pages that there are.

use crate::page::{Page, all, manual, root};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// Where a link leads: the file's path in the source, and the heading in it.
fn target(page: &Page, link: &str) -> (PathBuf, Option<String>) {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let file = if path.is_empty() { PathBuf::from(&page.path) } else { plain(&page.folder().join(path)) };
    (file, anchor.map(str::to_owned))
}

fn links(page: &Page) -> Vec<(usize, String)> {
    let links = page.links().into_iter();
    links.filter(|(_, link)| !link.starts_with("http://") && !link.starts_with("https://")).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for page in all() {
        for (line, link) in links(&page) {
            let (file, anchor) = target(&page, &link);
            assert!(root().join(&file).exists(), "{}:{line}: {link}: there is no such file", page.path);
            if let Some(anchor) = anchor {
                let anchors = Page::read(file.to_str().unwrap()).anchors();
                assert!(anchors.contains(&anchor), "{}:{line}: {link}: there is no such heading", page.path);
            }
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
}

/// mdBook copies what is in `docs/`, and nothing else.
#[test]
fn links_of_the_manual_stay_in_it() {
    for page in manual() {
        for (line, link) in links(&page) {
            let file = target(&page, &link).0;
            assert!(file.starts_with("docs"), "{}:{line}: {link} leads out of docs/", page.path);
        }
    }
}

#[test]
fn every_page_is_in_the_summary_and_in_the_readme() {
    let there: BTreeSet<PathBuf> = manual().iter().map(|page| PathBuf::from(&page.path)).collect();
    let summary = PathBuf::from("docs/SUMMARY.md");
    for from in ["docs/SUMMARY.md", "README.md"] {
        let page = Page::read(from);
        let linked: BTreeSet<PathBuf> = links(&page).iter().map(|(_, link)| target(&page, link).0).collect();
        let missing: Vec<_> = there.difference(&linked).filter(|page| **page != summary).collect();
        assert!(missing.is_empty(), "{from} lacks {missing:?}");
    }
}

#[test]
fn every_image_is_shown() {
    let images = std::fs::read_dir(root().join("docs/images")).unwrap();
    let images: BTreeSet<PathBuf> =
        images.map(|file| Path::new("docs/images").join(file.unwrap().file_name())).collect();
    let shown = all();
    let shown = shown.iter().flat_map(|page| links(page).into_iter().map(|(_, link)| target(page, &link).0));
    let shown: BTreeSet<PathBuf> = shown.filter(|file| file.starts_with("docs/images")).collect();
    assert_eq!(shown, images);
}

#[test]
fn the_readme_is_short() {
    assert!(Page::read("README.md").text.lines().count() <= 200);
}
