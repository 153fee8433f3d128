//! Owns the files of the status page. They are part of the program, and the page loads nothing else.

use super::response::{AdminResponse, Problem, of};
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};

/// Returns a file by its name. The page itself has an empty name.
pub(super) fn answer(name: &str) -> Result<AdminResponse, Problem> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let Some(&(_, kind, text)) = found else { return Err(Problem::nothing_here()) };
    let mut answer = of(StatusCode::OK, kind, Bytes::from_static(text.as_bytes()));
    // Browsers must fetch it each time, so that a new program never meets an old page.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(answer)
}

/// Name, type and content.
const FILES: &[(&str, &str, &str)] = &[
    ("", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("bars.js", SCRIPT, include_str!("page/bars.js")),
    ("connections.js", SCRIPT, include_str!("page/connections.js")),
    ("detail.js", SCRIPT, include_str!("page/detail.js")),
    ("dialogs.js", SCRIPT, include_str!("page/dialogs.js")),
    ("dom.js", SCRIPT, include_str!("page/dom.js")),
    ("ends.js", SCRIPT, include_str!("page/ends.js")),
    ("format.js", SCRIPT, include_str!("page/format.js")),
    ("hour.js", SCRIPT, include_str!("page/hour.js")),
    ("overview.js", SCRIPT, include_str!("page/overview.js")),
    ("page.css", STYLE, include_str!("page/page.css")),
    ("page.js", SCRIPT, include_str!("page/page.js")),
    ("uplot.css", STYLE, include_str!("page/uplot.min.css")),
    ("uplot.js", SCRIPT, include_str!("page/uplot.min.js")),
    ("upstreams.js", SCRIPT, include_str!("page/upstreams.js")),
    ("wire.js", SCRIPT, include_str!("page/wire.js")),
    ("words.js", SCRIPT, include_str!("page/words.js")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands in quotes behind a word, each time.
    fn quoted<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(word).skip(1).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn whatever_the_page_asks_for_is_served() {
        let served = |name: &str| FILES.iter().any(|(known, ..)| *known == name);
        let mut referenced = 0;
        for (name, kind, text) in FILES.iter().filter(|(name, ..)| !name.starts_with("uplot")) {
            let words: &[&str] = if *kind == SCRIPT {
                &["from \"./"]
            } else {
                &["src=\"", "<link rel=\"stylesheet\" href=\""]
            };
            for wanted in words.iter().flat_map(|word| quoted(text, word)) {
                referenced += 1;
                assert!(served(wanted), "{name} asks for {wanted}");
            }
        }
        assert!(referenced > FILES.len(), "only {referenced} were found");
    }

    #[test]
    fn the_policy_holds_in_the_files() {
        for (name, _, text) in FILES.iter().filter(|(name, ..)| !name.starts_with("uplot")) {
            for inline in [" style=\"", " onclick=", "<style", "innerHTML", "insertAdjacentHTML", "setHTML"] {
                assert!(!text.contains(inline), "{name} has {inline}");
            }
        }
        let (.., page) = FILES[0];
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script src=").count(),
            "a script stands in the page"
        );
    }
}
