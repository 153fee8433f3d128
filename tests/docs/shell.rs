//! Commands: the program accepts those that it is given, and the scripts are there.

use crate::page::{Page, all, root};
use clap::error::ErrorKind;

/// Where the source has scripts.
const OURS: [&str; 4] = [".ci/", "benches/", "packaging/", "tests/"];

/// The commands of a page's blocks, by their words, with their lines.
fn commands(page: &Page) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for block in page.blocks() {
        let lines = block.text.lines().enumerate().map(|(index, line)| (block.line + index, line));
        for (number, line) in lines {
            let line = match block.language.as_str() {
                "sh" => Some(line),
                "console" => line.strip_prefix("$ "),
                _ => None,
            };
            found.extend(line.into_iter().flat_map(split).map(|words| (number, words)));
        }
    }
    found
}

/// The commands of a line, without its comment; what is between quotes is one word.
fn split(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    for letter in line.chars().chain([' ', ';']) {
        match (letter, quote) {
            (_, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => word.get_or_insert_default().push(letter),
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (' ', None) => words.extend(word.take()),
            (';' | '|' | '&', None) => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (_, None) => word.get_or_insert_default().push(letter),
        }
    }
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    commands
}

/// The arguments of a command that runs Holdline.
fn of_holdline(words: &[String]) -> Option<Vec<String>> {
    let redirected = words.iter().position(|word| word.starts_with(['>', '<'])).unwrap_or(words.len());
    let words = &words[..redirected];
    let texts: Vec<&str> = words.iter().map(String::as_str).collect();
    match texts.as_slice() {
        ["holdline" | "target/release/holdline", ..] => Some(words.to_vec()),
        ["cargo", "run", "--release", "--", arguments @ ..] => {
            Some(["holdline"].iter().chain(arguments).map(|word| (*word).to_owned()).collect())
        }
        _ => None,
    }
}

/// Those commands of a page's blocks that run Holdline.
pub(crate) fn runs(page: &Page) -> Vec<(usize, Vec<String>)> {
    commands(page).into_iter().filter_map(|(line, words)| Some((line, of_holdline(&words)?))).collect()
}

fn accepted(words: &[String]) -> Result<(), clap::Error> {
    holdline::cli::command().try_get_matches_from(words).map(drop)
}

#[test]
fn the_program_accepts_every_command() {
    let mut count = 0;
    for page in all() {
        for (line, words) in runs(&page) {
            accepted(&words).unwrap_or_else(|error| panic!("{}:{line}: {error}", page.path));
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn the_program_knows_every_command_that_is_named() {
    let mut count = 0;
    for page in all() {
        for (line, text) in page.quotes().into_iter().filter(|(_, text)| text.starts_with("holdline ")) {
            let words = split(&text).remove(0);
            match accepted(&words).map_err(|error| error.kind()) {
                // It is named, and not meant to be typed as it stands.
                Ok(())
                | Err(
                    ErrorKind::MissingSubcommand
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::MissingRequiredArgument
                    | ErrorKind::DisplayVersion,
                ) => count += 1,
                Err(kind) => panic!("{}:{line}: `{text}`: {kind}", page.path),
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn every_script_that_is_run_is_there() {
    let mut count = 0;
    for page in all() {
        for (line, words) in commands(&page) {
            let script = match words[0].as_str() {
                "bash" | "python3" => words.get(1),
                _ => words.first(),
            };
            // Other paths are the reader's.
            let Some(script) = script.filter(|script| OURS.iter().any(|ours| script.starts_with(ours)))
            else {
                continue;
            };
            assert!(root().join(script).exists(), "{}:{line}: {script} is not there", page.path);
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

#[test]
fn every_file_that_is_named_is_there() {
    const ROOMS: [&str; 5] = ["contrib/", "docs/", "fuzz/", "src/", "systemd/"];
    let mut count = 0;
    for page in all() {
        for (line, text) in page.quotes() {
            let Some(words) = split(&text).into_iter().next() else { continue };
            for path in
                words.iter().filter(|word| OURS.iter().chain(&ROOMS).any(|room| word.starts_with(room)))
            {
                assert!(root().join(path).exists(), "{}:{line}: {path} is not there", page.path);
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn every_test_that_is_named_is_there() {
    let mut count = 0;
    for page in all() {
        let named = page.quotes().into_iter().map(|(line, text)| (line, split(&text).concat()));
        for (line, words) in commands(&page).into_iter().chain(named) {
            for pair in words.windows(2).filter(|pair| pair[0] == "--test") {
                let (file, folder) = (format!("tests/{}.rs", pair[1]), format!("tests/{}/main.rs", pair[1]));
                let is_there = root().join(file).exists() || root().join(folder).exists();
                assert!(is_there, "{}:{line}: there is no test {}", page.path, pair[1]);
                count += 1;
            }
        }
    }
    assert!(count > 0);
}

#[test]
fn a_line_is_split_as_a_shell_does() {
    let words = |line| split(line).into_iter().map(|words| words.join("_")).collect::<Vec<_>>();
    assert_eq!(words("a b  # c"), ["a_b"]);
    assert_eq!(words("a \"b c\" && d | e#f; ''"), ["a_b c", "d", "e#f", ""]);
}
