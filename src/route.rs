//! Owns how a host and a path select a route. The rules are compiled once. It must not know where a route leads.
//!
//! The precedence is nginx's. The most specific host wins: exact, longest `*.suffix`, longest `prefix.*`, regex in
//! file order, none. Within a host the exact path wins, then the longest prefix if it has priority (`^~`), then
//! the first regex, then the longest prefix. Unlike in nginx, if no path of a host matches, the less specific
//! hosts are tried.

mod pattern;

pub(crate) use pattern::PathRegex;
pub use pattern::{HostPattern, PathPattern};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use std::borrow::Cow;
use std::collections::HashMap;

/// The hosts and the path of one route.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The hosts. An empty list means every host.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
}

/// All rules, indexed for lookup. A rule is identified by its index in the original list.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<String, Paths>,
    leading: Vec<(String, Paths)>,
    trailing: Vec<(String, Paths)>,
    regex: Vec<(regex::Regex, Paths)>,
    any: Paths,
}

/// The paths of one host.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Vec<u8>, usize>,
    /// Longest first.
    prefixes: Vec<(String, bool, usize)>,
    regexes: Vec<(PathRegex, usize)>,
}

impl Table {
    /// Indexes rules. Of two equal rules, the first counts.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let mut table = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            if rule.hosts.is_empty() {
                table.any.add(&rule.path, index);
            }
            for host in rule.hosts.iter().flat_map(|host| host.clone().expand()) {
                table.paths_of(&host).add(&rule.path, index);
            }
        }
        table.leading.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        table.trailing.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        table
    }

    fn paths_of(&mut self, host: &HostPattern) -> &mut Paths {
        fn place<K>(list: &mut Vec<(K, Paths)>, key: K, same: impl Fn(&K, &K) -> bool) -> &mut Paths {
            let at = list.iter().position(|(k, _)| same(k, &key)).unwrap_or_else(|| {
                list.push((key, Paths::default()));
                list.len() - 1
            });
            &mut list[at].1
        }
        match host {
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostPattern::Leading(suffix) => place(&mut self.leading, suffix.clone(), |a, b| a == b),
            HostPattern::Trailing(prefix) => place(&mut self.trailing, prefix.clone(), |a, b| a == b),
            HostPattern::Regex(regex) => {
                place(&mut self.regex, regex.clone(), |a, b| a.as_str() == b.as_str())
            }
        }
    }

    /// Returns the rule for a host (without port, in any case) and a normalised path.
    #[must_use]
    pub fn find(&self, host: &str, path: impl AsRef<[u8]>) -> Option<usize> {
        let path = path.as_ref();
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let leading = self.leading.iter().filter(|(suffix, _)| is_below(&host, suffix));
        let trailing = self.trailing.iter().filter(|(prefix, _)| host.starts_with(prefix.as_str()));
        let regex = self.regex.iter().filter(|(regex, _)| regex.is_match(&host));
        let wild = leading.chain(trailing).map(|(_, paths)| paths).chain(regex.map(|(_, paths)| paths));
        let mut hosts = self.exact.get(&host).into_iter().chain(wild).chain([&self.any]);
        hosts.find_map(|paths| paths.find(path))
    }
}

/// Whether `host` ends with `.suffix` (the suffix is kept with its dot).
fn is_below(host: &str, suffix: &str) -> bool {
    host.len() > suffix.len() && host.ends_with(suffix)
}

impl Paths {
    fn add(&mut self, path: &PathPattern, index: usize) {
        match path {
            PathPattern::Exact(path) => {
                self.exact.entry(path.clone().into_bytes()).or_insert(index);
            }
            PathPattern::Prefix { prefix, priority } => {
                if self.prefixes.iter().all(|(known, ..)| known != prefix) {
                    let at = self.prefixes.partition_point(|(known, ..)| known.len() >= prefix.len());
                    self.prefixes.insert(at, (prefix.clone(), *priority, index));
                }
            }
            PathPattern::Regex(regex) => self.regexes.push((regex.clone(), index)),
        }
    }

    fn find(&self, path: &[u8]) -> Option<usize> {
        if let Some(&index) = self.exact.get(path) {
            return Some(index);
        }
        let prefix = self.prefixes.iter().find(|(prefix, ..)| path.starts_with(prefix.as_bytes()));
        if let Some((_, true, index)) = prefix {
            return Some(*index);
        }
        let regex = self.regexes.iter().find(|(regex, _)| regex.is_match(path));
        regex.map(|&(_, index)| index).or(prefix.map(|&(.., index)| index))
    }
}

/// Why a path cannot be normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path leads above the root.
    #[error("the path leads above the root")]
    AboveRoot,
    /// The path contains an encoded NUL.
    #[error("the path holds a NUL")]
    Nul,
    /// The path is not absolute.
    #[error("the path does not begin with a slash")]
    Relative,
    /// The rewritten path leads out of the path in the configuration.
    #[error("the path leads out of its route")]
    LeadsOut,
}

/// Returns the path against which routes are matched (nginx, `location`): `%XX` is decoded, `.` and `..` are
/// resolved, and slashes are merged. It need not be UTF-8.
///
/// # Errors
/// The path has no normal form.
pub fn normalise(path: &str) -> Result<Cow<'_, [u8]>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if !path.contains('%') && !path.contains("//") && !path.contains("/.") {
        return Ok(Cow::Borrowed(path.as_bytes()));
    }
    let decoded = Cow::from(percent_decode_str(path));
    if decoded.contains(&0) {
        return Err(PathError::Nul);
    }
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|&byte| byte == b'/').skip(1) {
        match segment {
            b"" | b"." => {}
            b".." => segments.pop().map(drop).ok_or(PathError::AboveRoot)?,
            name => segments.push(name),
        }
    }
    let is_folder = [&b"/"[..], b"/.", b"/.."].iter().any(|end| decoded.ends_with(end));
    let mut normal = Vec::with_capacity(decoded.len());
    for segment in segments {
        normal.push(b'/');
        normal.extend_from_slice(segment);
    }
    if is_folder || normal.is_empty() {
        normal.push(b'/');
    }
    Ok(Cow::Owned(normal))
}

/// What a route makes of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite(pub String);

impl Rewrite {
    /// Returns the percent-encoded path for the upstream. The part that `matched` matches is replaced (nginx
    /// `proxy_pass` with a URI). With a regex, `$1` stands for its first group.
    ///
    /// # Errors
    /// After the replacement a segment has become `..`, such as in `/ws../x` without `/ws`.
    pub fn apply(&self, matched: &PathPattern, normal: impl AsRef<[u8]>) -> Result<String, PathError> {
        let normal = normal.as_ref();
        let mut path = match matched {
            PathPattern::Exact(_) => self.0.clone().into_bytes(),
            PathPattern::Prefix { prefix, .. } => self.in_place_of(prefix, normal),
            PathPattern::Regex(regex) => regex.replace(normal, &self.0),
        };
        if !path.starts_with(b"/") {
            path.insert(0, b'/');
        }
        if path.split(|&byte| byte == b'/').any(|segment| matches!(segment, b"." | b"..")) {
            return Err(PathError::LeadsOut);
        }
        Ok(percent_encode(&path, PATH).to_string())
    }

    fn in_place_of(&self, prefix: &str, normal: &[u8]) -> Vec<u8> {
        let rest = normal.strip_prefix(prefix.as_bytes()).unwrap_or(normal);
        let joined = !self.0.ends_with('/') && !rest.starts_with(b"/") && prefix.ends_with('/');
        if joined && !rest.is_empty() {
            [self.0.as_bytes(), rest].join(&b'/')
        } else if self.0.ends_with('/') {
            let slashes = rest.iter().take_while(|&&byte| byte == b'/').count();
            [self.0.as_bytes(), &rest[slashes..]].concat()
        } else {
            [self.0.as_bytes(), rest].concat()
        }
    }
}

/// Bytes that a path must encode (RFC 3986 3.3), and those that would end it.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(hosts: &[&str], path: PathPattern) -> Rule {
        Rule { hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(), path }
    }

    fn prefix(prefix: &str) -> PathPattern {
        PathPattern::prefix(prefix, false).unwrap()
    }

    #[test]
    fn paths_are_chosen_as_nginx_chooses_locations() {
        // The example of nginx's documentation of `location`, A to E.
        let rules = [
            rule(&[], PathPattern::exact("/").unwrap()),
            rule(&[], prefix("/")),
            rule(&[], prefix("/documents/")),
            rule(&[], PathPattern::prefix("/images/", true).unwrap()),
            rule(&[], PathPattern::regex(r"(?i)\.(gif|jpg|jpeg)$").unwrap()),
        ];
        let table = Table::new(&rules);
        let found = |path| table.find("any", path);
        assert_eq!(found("/"), Some(0));
        assert_eq!(found("/index.html"), Some(1));
        assert_eq!(found("/documents/document.html"), Some(2));
        assert_eq!(found("/images/1.gif"), Some(3));
        assert_eq!(found("/documents/1.jpg"), Some(4));
    }

    #[test]
    fn hosts_are_chosen_as_nginx_chooses_servers() {
        let rules = [
            rule(&[], prefix("/")),
            rule(&["~^img[0-9]+\\.example\\.org$"], prefix("/")),
            rule(&["mail.*"], prefix("/")),
            rule(&["*.example.org"], prefix("/")),
            rule(&["*.deep.example.org"], prefix("/")),
            rule(&["www.example.org", ".example.net"], prefix("/")),
        ];
        let table = Table::new(&rules);
        let found = |host| table.find(host, "/x");
        assert_eq!(found("WWW.Example.ORG."), Some(5));
        assert_eq!(found("a.deep.example.org"), Some(4));
        assert_eq!(found("mail.example.org"), Some(3), "a leading wildcard before a trailing one");
        assert_eq!(found("mail.example.com"), Some(2));
        assert_eq!(found("example.net"), Some(5), "a leading dot means both");
        assert_eq!(found("a.example.net"), Some(5));
        assert_eq!(found("elsewhere"), Some(0));
        assert_eq!(found("img1.example.org"), Some(3));
    }

    #[test]
    fn a_host_without_a_fitting_path_falls_back() {
        let table = Table::new(&[rule(&["a.example"], prefix("/ws/")), rule(&[], prefix("/"))]);
        assert_eq!(table.find("a.example", "/ws/1"), Some(0));
        assert_eq!(table.find("a.example", "/"), Some(1));
        assert_eq!(Table::new(&[rule(&["a"], prefix("/"))]).find("b", "/"), None);
    }

    #[test]
    fn paths_have_a_normal_form() {
        let good = [
            ("/a/b", "/a/b"),
            ("/a//b/", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/%61%2Fb", "/a/b"),
            ("/a/.", "/a/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/", "/"),
        ];
        for (path, normal) in good {
            assert_eq!(normalise(path).as_deref(), Ok(normal.as_bytes()), "{path}");
        }
        assert_eq!(normalise("/../etc"), Err(PathError::AboveRoot));
        assert_eq!(normalise("/%2e%2e/etc"), Err(PathError::AboveRoot));
        assert_eq!(normalise("/a%00b"), Err(PathError::Nul));
        assert_eq!(normalise("*"), Err(PathError::Relative));
    }

    #[test]
    fn rewriting_replaces_what_matched() {
        let to = |rewrite: &str, matched: &PathPattern, path: &str| {
            Rewrite(rewrite.into()).apply(matched, path).unwrap()
        };
        assert_eq!(to("/", &prefix("/ws/"), "/ws/room/1"), "/room/1");
        assert_eq!(to("/", &prefix("/ws"), "/ws/room"), "/room");
        assert_eq!(to("/", &prefix("/ws"), "/ws"), "/");
        assert_eq!(to("/api/", &prefix("/ws/"), "/ws/x y"), "/api/x%20y");
        assert_eq!(to("/api", &prefix("/ws/"), "/ws/x"), "/api/x");
        assert_eq!(to("/all", &PathPattern::exact("/one").unwrap(), "/one"), "/all");
        let regex = PathPattern::regex("^/room/([0-9]+)$").unwrap();
        assert_eq!(to("/ws?r=$1", &regex, "/room/7"), "/ws%3Fr=7", "a query is not made here");
    }

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        let path = normalise("/pub/%ff%fe/%C3%A4").unwrap();
        assert_eq!(&*path, b"/pub/\xff\xfe/\xc3\xa4");
        let to =
            |rewrite: &str, matched: &PathPattern| Rewrite(rewrite.into()).apply(matched, &path).unwrap();
        assert_eq!(to("/", &prefix("/pub/")), "/%FF%FE/%C3%A4");
        let regex = PathPattern::regex("^/pub/([^/]+)/(.*)$").unwrap();
        assert_eq!(to("/$2/${1}x", &regex), "/%C3%A4/%FF%FEx");
        let table = Table::new(&[rule(&[], prefix("/")), rule(&[], regex)]);
        assert_eq!(table.find("x", &path), Some(1), "a regex does not lose a path for its bytes");
        let letters = PathPattern::regex(r"^/pub/\p{L}").unwrap();
        let table = Table::new(&[rule(&[], letters)]);
        assert_eq!((table.find("x", b"/pub/\xff"), table.find("x", "/pub/ä")), (None, Some(0)));
    }

    proptest! {
        #[test]
        fn every_byte_is_asked_for_as_it_was(bytes: Vec<u8>) {
            let encoded = percent_encode(&bytes, percent_encoding::NON_ALPHANUMERIC).to_string();
            if let Ok(normal) = normalise(&format!("/a/{encoded}")) {
                let asked = Rewrite("/b/".into()).apply(&prefix("/a/"), &normal).unwrap_or_default();
                if let Ok(again) = normalise(&asked) {
                    prop_assert_eq!(again.strip_prefix(b"/b/"), normal.strip_prefix(b"/a/"));
                }
            }
        }

        #[test]
        fn a_normal_path_has_no_dots_and_keeps_its_form(path in "/[a-c./%2e]{0,20}") {
            if let Ok(normal) = normalise(&path) {
                prop_assert!(normal.starts_with(b"/") && !normal.windows(2).any(|two| two == b"//"));
                prop_assert!(!normal.split(|&b| b == b'/').any(|segment| segment == b"." || segment == b".."));
            }
        }
    }
}
