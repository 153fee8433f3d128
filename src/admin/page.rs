//! Owns the files of the status page: they are part of the program, and nothing else is loaded.

use super::answer::{Answer, Problem, of};
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};

/// A file by its name in the path; the page itself has none.
pub(super) fn answer(name: &str) -> Result<Answer, Problem> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let Some(&(_, kind, text)) = found else { return Err(Problem::nothing_here()) };
    let mut answer = of(StatusCode::OK, kind, Bytes::from_static(text.as_bytes()));
    // Asked for anew each time: a new program never meets the page of an old one.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(answer)
}

/// Name, type and text.
const FILES: &[(&str, &str, &str)] = &[
    ("", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("page.css", STYLE, include_str!("page/page.css")),
    ("page.js", SCRIPT, include_str!("page/page.js")),
    ("uplot.css", STYLE, include_str!("page/uplot.min.css")),
    ("uplot.js", SCRIPT, include_str!("page/uplot.min.js")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
