//! Owns what is held of routing: a normal path has no way out, patterns print as they are read, the
//! table finds what a search through all rules finds, and a rewritten path stays below what the
//! operator wrote.
//!
//! An input is lines: the host and the path that are asked for, a rewrite, and then rules as "HOST
//! PATH", HOST "-" for any, PATH with "=" for exact, "~" for regex, "^" for priority in front.

#![no_main]

use holdline::testing::route::{HostPattern, PathPattern, Rewrite, Rule, Table, normalise};
use libfuzzer_sys::fuzz_target;

fn rule(line: &str) -> Option<Rule> {
    let (host, path) = line.split_once(' ')?;
    let path = match path.as_bytes().first()? {
        b'=' => PathPattern::exact(&path[1..]),
        b'~' => PathPattern::regex(&path[1..]),
        b'^' => PathPattern::prefix(&path[1..], true),
        _ => PathPattern::prefix(path, false),
    };
    let hosts = if host == "-" { vec![] } else { vec![host.parse::<HostPattern>().ok()?] };
    for host in &hosts {
        let printed = host.to_string();
        let again = printed.parse::<HostPattern>();
        assert!(again.is_ok_and(|again| again == *host), "{printed:?} reads as another");
    }
    Some(Rule { hosts, path: path.ok()? })
}

fn matches(pattern: &PathPattern, path: &[u8]) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact.as_bytes() == path,
        PathPattern::Prefix { prefix, .. } => path.starts_with(prefix.as_bytes()),
        PathPattern::Regex(regex) => regex.is_match(path),
    }
}

/// How specific a match of a host is; the length tells wildcards of one kind apart.
fn host_rank(rule: &Rule, host: &str) -> Option<(u8, usize)> {
    let patterns = rule.hosts.iter().cloned().flat_map(HostPattern::expand);
    let ranks = patterns.filter_map(|pattern| match pattern {
        HostPattern::Exact(exact) => (exact == host).then_some((4, 0)),
        HostPattern::Leading(suffix) => {
            (host.len() > suffix.len() && host.ends_with(&suffix)).then_some((3, suffix.len()))
        }
        HostPattern::Trailing(prefix) => host.starts_with(&prefix).then_some((2, prefix.len())),
        HostPattern::Regex(regex) => regex.is_match(host).then_some((1, 0)),
    });
    let any = rule.hosts.is_empty().then_some((0, 0));
    ranks.chain(any).max()
}

/// A path below a prefix: no segment of it is "." or "..".
fn has_dots(path: impl AsRef<[u8]>) -> bool {
    path.as_ref().split(|&byte| byte == b'/').any(|segment| segment == b"." || segment == b"..")
}

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let (Some(host), Some(path), Some(rewrite)) = (lines.next(), lines.next(), lines.next()) else { return };
    let rules: Vec<Rule> = lines.take(12).filter_map(rule).collect();
    let table = Table::new(&rules);
    // What comes over HTTP is a URI's path.
    let Ok(uri) = path.parse::<http::uri::PathAndQuery>() else { return };
    let Ok(normal) = normalise(uri.path()) else { return };
    assert!(normal.starts_with(b"/") && !normal.contains(&0), "{normal:?}");
    assert!(!normal.windows(2).any(|two| two == b"//"), "{normal:?}");
    assert!(!has_dots(&normal), "{normal:?}");

    let found = table.find(host, &normal);
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let fits = |rule: &Rule| host_rank(rule, &host).filter(|_| matches(&rule.path, &normal));
    let best = rules.iter().filter_map(fits).max();
    assert_eq!(found.and_then(|index| fits(&rules[index])), best, "the most specific host that fits");
    let Some(rule) = found.map(|index| &rules[index]) else { return };
    let of_host = rules.iter().filter(|rule| fits(rule) == best && best.is_some_and(|(rank, _)| rank != 1));
    for other in of_host {
        match (&other.path, &rule.path) {
            (PathPattern::Exact(_), chosen) => assert!(matches!(chosen, PathPattern::Exact(_))),
            (PathPattern::Prefix { prefix, .. }, PathPattern::Prefix { prefix: chosen, .. }) => {
                assert!(chosen.len() >= prefix.len(), "the longest prefix");
            }
            _ => {}
        }
    }

    // As the configuration takes it.
    if !rewrite.starts_with('/') || rewrite.contains(char::is_control) || has_dots(rewrite) {
        return;
    }
    let rewrite = Rewrite(rewrite.to_owned());
    let Ok(target) = rewrite.apply(&rule.path, &normal) else { return };
    let uri = target.parse::<http::Uri>();
    assert!(uri.is_ok_and(|uri| uri.path() == target && uri.query().is_none()), "{target:?} is no path");
    assert!(!has_dots(&target), "{target:?} leads out of {rewrite:?}");
    assert!(normalise(&target).is_ok(), "{target:?} has no normal form");
});
