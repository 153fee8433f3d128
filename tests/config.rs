//! What an operator writes, and what is said to it. Each file of `config/invalid` stands beside
//! the exact messages; `BLESS=1` writes them anew, for a person to read.

use holdline::config::Config;
use holdline::upstream::Server;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const EXAMPLE: &str = include_str!("../proxy.toml.example");

/// The smallest useful file.
const SMALLEST: &str = r#"
[[listen]]
address = "0.0.0.0:8080"

[[route]]
path = "/ws/"
upstream = "chat"

[upstream.chat]
servers = ["chat1:8080", "chat2:8080"]
"#;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(folder);
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// A text and its file's name without the folder, as messages show it.
fn read(path: &Path) -> (String, String) {
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    (fs::read_to_string(path).expect("a text"), name)
}

fn parse(text: &str) -> Config {
    Config::parse(text, "test.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn mistakes_are_reported_all_at_once_in_these_words() {
    for path in files("invalid") {
        let (text, name) = read(&path);
        let errors = Config::parse(&text, &name).map(drop).expect_err(&name).to_string() + "\n";
        let expected = path.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &errors).unwrap();
        }
        assert_eq!(errors, fs::read_to_string(&expected).unwrap(), "{name}");
    }
}

#[test]
fn doubts_are_warnings_in_these_words() {
    for path in files("valid") {
        let (text, name) = read(&path);
        let config = Config::parse(&text, &name).unwrap_or_else(|errors| panic!("{errors}"));
        let warnings: String = config.warnings.iter().map(|warning| format!("{warning}\n")).collect();
        let expected = path.with_extension("warnings");
        if std::env::var_os("BLESS").is_some() && !warnings.is_empty() {
            fs::write(&expected, &warnings).unwrap();
        }
        assert_eq!(warnings, fs::read_to_string(&expected).unwrap_or_default(), "{name}");
    }
}

#[test]
fn a_configuration_reads_as_it_was_written() {
    let texts = files("valid").into_iter().map(|path| read(&path).0);
    for text in texts.chain([EXAMPLE.to_owned(), SMALLEST.to_owned()]) {
        let config = parse(&text);
        let shown = config.to_toml();
        assert_eq!(parse(&shown), config, "{shown}");
        assert_eq!(parse(&shown).to_toml(), shown);
    }
}

#[test]
fn a_configuration_is_written_with_every_key() {
    let left_out = Config::absent_keys(&parse(EXAMPLE).to_toml());
    let left_out: Vec<&str> =
        left_out.iter().map(String::as_str).filter(|key| !key.starts_with("defaults")).collect();
    // A rewrite says the first; each server says the others for itself.
    let elsewhere = ["route[].strip_prefix", "upstream.NAME.fail_timeout", "upstream.NAME.max_fails"];
    assert_eq!(left_out, elsewhere);
}

#[test]
fn the_example_is_valid_and_holds_no_doubt() {
    assert_eq!(parse(EXAMPLE).warnings, []);
}

#[test]
fn the_example_shows_every_default_as_it_is() {
    let with_defaults = uncommented(EXAMPLE);
    assert_eq!(parse(&with_defaults), parse(EXAMPLE));
    // Of a server no line is commented out: one is written short, the other with every default.
    let config = parse(EXAMPLE);
    let [short, long] = &config.plan.upstreams[0].servers[..] else { panic!("two servers") };
    assert_eq!(Server { address: long.address.clone(), ..short.clone() }, *long);
}

#[test]
fn the_example_shows_every_key() {
    let absent: BTreeSet<String> = Config::absent_keys(&uncommented(EXAMPLE)).into_iter().collect();
    // A setting of all routes is shown once, under [defaults].
    let of_all_routes = |key: &&String| {
        key.strip_prefix("route[].").is_some_and(|key| {
            let default = format!("defaults.{key}");
            all_keys().contains(&default) && !absent.contains(&default)
        })
    };
    let missing: Vec<_> = absent.iter().filter(|key| !of_all_routes(key)).collect();
    assert!(missing.is_empty(), "proxy.toml.example does not show {missing:?}");
}

#[test]
fn a_missing_file_is_a_mistake_like_others() {
    let errors = Config::load(Path::new("/nowhere/proxy.toml")).unwrap_err().to_string();
    assert!(errors.starts_with("/nowhere/proxy.toml: cannot be read: "), "{errors}");
}

/// With its defaults written out: "#key = value" is a setting, "# " begins a comment.
fn uncommented(text: &str) -> String {
    let setting = |line: &&str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    text.lines().map(|line| if setting(&line) { &line[1..] } else { line }.to_owned() + "\n").collect()
}

/// Every key of every table that may be left out.
fn all_keys() -> BTreeSet<String> {
    Config::absent_keys("").into_iter().collect()
}

proptest! {
    #[test]
    fn an_odd_text_is_refused_with_its_place(text: String) {
        match Config::parse(&text, "odd.toml") {
            Ok(config) => prop_assert_eq!(parse(&config.to_toml()), config),
            Err(errors) => {
                prop_assert!(errors.iter().next().is_some());
                for error in &errors {
                    prop_assert!(error.to_string().starts_with("odd.toml:"), "{}", error);
                    prop_assert!(!error.found.is_empty() && !error.remedy.is_empty(), "{}", error);
                }
            }
        }
    }

    /// Near to what operators write, where the odd text alone seldom comes.
    #[test]
    fn a_slip_of_the_keyboard_is_refused_or_reads_as_it_was_written(at: prop::sample::Index, cut in 0..40_usize, typed in "[ -~\n]{0,8}") {
        let text = uncommented(EXAMPLE);
        let start = at.index(text.len());
        let end = (start + cut).min(text.len());
        // The example is ASCII: any index is a boundary.
        let slipped = [&text[..start], &typed, &text[end..]].concat();
        if let Ok(config) = Config::parse(&slipped, "slip.toml") {
            prop_assert_eq!(parse(&config.to_toml()), config);
        }
    }
}
