//! Figures of the comparison: those that were measured, and no others.

use crate::page::Page;

const RESULTS: &str = "benches/compare/results/results.md";

/// A table's column.
fn column(table: &[Vec<String>], name: &str) -> Vec<String> {
    let index = table[0].iter().position(|head| head.eq_ignore_ascii_case(name));
    let index = index.unwrap_or_else(|| panic!("there is no column {name}"));
    table[1..].iter().map(|row| row[index].clone()).collect()
}

/// The number at the beginning of a cell, and how many decimals it has.
fn number(cell: &str) -> Option<(f64, usize)> {
    let text = cell.split(' ').next()?.replace(',', "");
    let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    Some((text.parse().ok()?, decimals))
}

#[test]
fn every_figure_of_the_comparison_was_measured() {
    let results = Page::read(RESULTS);
    let measured = results.whole_table("Medians, and the least and the most of the rounds:");
    let mut count = 0;
    for (path, heading) in [("README.md", "## Numbers"), ("docs/performance.md", "## Beside other proxies")] {
        let table = Page::read(path).whole_table(heading);
        for name in ["Holdline", "nginx", "HAProxy", "Envoy", "Caddy"] {
            let measured: Vec<f64> =
                column(&measured, name).iter().filter_map(|cell| Some(number(cell)?.0)).collect();
            for cell in column(&table, name) {
                let Some((shown, decimals)) = number(&cell) else { continue };
                // Half of the last digit that is shown, and what a double cannot hold.
                let near = 0.5 / 10_f64.powi(decimals.try_into().unwrap()) + 1e-6;
                let is_known = measured.iter().any(|value| (value - shown).abs() <= near);
                assert!(is_known, "{path}: {name}: {cell} was not measured");
                count += 1;
            }
        }
    }
    assert!(count > 60, "{count}");
}
