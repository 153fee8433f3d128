//! What an operator writes, and what is said to it. Each file of `config/invalid` stands beside
//! the exact messages; `BLESS=1` writes them anew, for a person to read.

use holdline::testing::config::document::{Document, InlineTable, Item, Section};
use holdline::testing::config::{Config, Form, Secrets};
use holdline::testing::upstream::Server;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLE: &str = include_str!("../proxy.toml.example");

/// Keys that a table of `config/valid/everything.toml` cannot do without.
const NEEDED: [&str; 14] = [
    "address",
    "certificates",
    "client_ca",
    "client_cert",
    "client_key",
    "path",
    "path_exact",
    "path_regex",
    "respond",
    "server_name",
    "servers",
    "token",
    "trusted",
    "upstream",
];

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

/// The configurations that the tests have texts of.
fn known() -> impl Iterator<Item = Config> {
    let texts = files("valid").into_iter().map(|path| read(&path).0);
    texts.chain([EXAMPLE.to_owned(), SMALLEST.to_owned()]).map(|text| parse(&text))
}

fn changed(config: &Config) -> String {
    config.document().write(Form::Changed, Secrets::Shown)
}

/// In both forms.
fn assert_reads_as_it_was_written(config: &Config) {
    let document = config.document();
    for form in [Form::Full, Form::Changed] {
        let text = document.write(form, Secrets::Shown);
        assert_eq!(parse(&text), *config, "{text}");
    }
}

#[test]
fn a_configuration_reads_as_it_was_written() {
    for config in known() {
        assert_reads_as_it_was_written(&config);
        let (full, changed) = (config.to_toml(), changed(&config));
        for text in [&full, &changed] {
            let again = parse(text);
            assert_eq!((again.to_toml(), self::changed(&again)), (full.clone(), changed.clone()));
        }
    }
}

#[test]
fn without_defaults_only_what_is_required_is_left() {
    assert_eq!(changed(&parse(SMALLEST)), SMALLEST.trim_start());
    assert_eq!(changed(&parse(&uncommented(EXAMPLE))), changed(&parse(EXAMPLE)));
    assert_eq!(changed(&parse(&parse(SMALLEST).to_toml())), SMALLEST.trim_start());
    // Tables that mean something though nothing in them differs from a default.
    let text = "[admin]\n\n[[listen]]\naddress = \"0.0.0.0:1\"\n\n[[route]]\npath = \"/\"\n\
                upstream = \"u\"\n\n[upstream.u]\nservers = [\"a:1\"]\n\n[upstream.u.tls]\n";
    assert_eq!(changed(&parse(text)), text);
}

#[test]
fn defaults_that_follow_other_settings_are_left_out() {
    let rest = "[[listen]]\naddress = \"0.0.0.0:1\"\n\n[[route]]\nhosts = [\"a.example\"]\n\
                path_exact = \"/\"\nrespond = { status = 200 }\n";
    let text = format!("[process]\nshutdown_grace = \"3s\"\n\n{rest}");
    assert_eq!(changed(&parse(&text)), text);
    let name = "name = \"a.example=/\"\n";
    assert_eq!(changed(&parse(&text.replace("[[route]]\n", &format!("[[route]]\n{name}")))), text);
    let spread = text.replace("\n\n[[listen", "\ndrain_spread = \"2s\"\n\n[[listen");
    assert_eq!(changed(&parse(&spread)), text);
    let tls = "\n[listen.tls]\ncertificates = [{ cert = \"c\", key = \"k\" }]\n\n[[route";
    let [one, both] = ["protocols = [\"h1\"]\n", "protocols = [\"h1\", \"h2\"]\n"];
    for (spoken, is_left) in [(one, true), (both, false)] {
        let with = |spoken: &str| text.replace("\n\n[[route", &format!("\n{spoken}{tls}"));
        assert_eq!(changed(&parse(&with(spoken))), with(if is_left { spoken } else { "" }));
    }
}

#[test]
fn no_line_of_what_differs_could_be_left_out() {
    for config in known() {
        let text = changed(&config);
        let lines: Vec<&str> = text.lines().collect();
        let settings = lines.iter().enumerate().filter(|(_, line)| line.contains(" = "));
        for (index, line) in settings {
            let without = [&lines[..index], &lines[index + 1..]].concat().join("\n");
            let same = Config::parse(&without, "test.toml").is_ok_and(|found| found == config);
            assert!(!same, "{line}\n{text}");
        }
    }
}

#[test]
fn a_dollar_sign_reads_as_it_was_written() {
    let text = SMALLEST.replace("upstream = \"chat\"", "respond = { status = 200, body = \"$$5 and 5 $\" }");
    assert_reads_as_it_was_written(&parse(&text));
}

#[test]
fn a_document_can_be_made_by_hand() {
    let mut document =
        Document { comment: Some("From /etc/nginx/nginx.conf.".to_owned()), ..Document::default() };
    let mut listen = Section::element("listen");
    listen.set("address", "0.0.0.0:80");
    listen.set("header_timeout", Duration::from_secs(15)).comment =
        Some("client_header_timeout, line 3".to_owned());
    listen.set("backlog", 4096_u32);
    let mut route = Section::element("route");
    route.comment = Some("location /ws/, line 8\n\nproxy_cache: not in Holdline".to_owned());
    route.set("path", "/other/");
    route.set("upstream", "chat");
    route.set("path", "/ws/");
    route.set("headers", InlineTable::default().with("set", InlineTable::default().with("X Y", "1")));
    let mut upstream = Section::named("upstream", "chat");
    let mut server = InlineTable::default().with("address", "app:80").with("weight", 2_u32);
    server.entries[1].comment = Some("weight=2".to_owned());
    upstream.set("servers", Item::Lines(vec!["app:81".into(), server.into()]));
    document.sections = vec![listen, route, upstream];
    let errors = Config::from_document(&mut document).unwrap_err().to_string();
    assert!(errors.ends_with(": found \"X Y\", expected a header name"), "{errors}");
    document.sections[1].set("headers", InlineTable::default());
    let config = Config::from_document(&mut document).unwrap();
    let written = document.write(Form::Changed, Secrets::Hidden);
    let expected = r#"# From /etc/nginx/nginx.conf.

[[listen]]
address = "0.0.0.0:80"
# client_header_timeout, line 3
header_timeout = "15s"

# location /ws/, line 8
#
# proxy_cache: not in Holdline
[[route]]
upstream = "chat"
path = "/ws/"

[upstream.chat]
servers = [
  "app:81",
  # weight=2
  { address = "app:80", weight = 2 },
]
"#;
    assert_eq!(written, expected);
    assert_eq!(parse(&written), config);
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
            Ok(config) => assert_reads_as_it_was_written(&config),
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
            assert_reads_as_it_was_written(&config);
        }
    }
    #[test]
    fn a_secret_is_written_only_where_it_is_asked_for(token in "[A-Za-z0-9._~+/-]{16,40}") {
        let config = parse(&format!("{SMALLEST}[admin]\naddress = \"[::]:9\"\ntoken = \"{token}\"\n"));
        for form in [Form::Full, Form::Changed] {
            let document = config.document();
            let write = |secrets| document.write(form, secrets);
            let [hidden, shown] = [Secrets::Hidden, Secrets::Shown].map(write);
            prop_assert!(!hidden.contains(&token) && hidden.contains("token = \"***\""), "{}", hidden);
            prop_assert_eq!(hidden.replace("\"***\"", &format!("{token:?}")), shown);
        }
    }

    #[test]
    fn comments_are_written_and_change_nothing(text in "[ -~\r\n\t\u{85}\u{2028}é]{0,40}", is_default: bool) {
        let config = parse(SMALLEST);
        let mut document = config.document();
        let mut count = 0;
        let mut comment = || {
            count += 1;
            Some(format!("begin{count}. {text} end{count}."))
        };
        document.comment = comment();
        for section in &mut document.sections {
            section.comment = comment();
            for entry in &mut section.entries {
                entry.is_default &= is_default;
                entry.comment = comment();
                if let Item::Table(table) = &mut entry.item {
                    table.entries.iter_mut().for_each(|entry| entry.comment = comment());
                }
            }
        }
        for form in [Form::Full, Form::Changed] {
            let written = document.write(form, Secrets::Shown);
            prop_assert_eq!(&parse(&written), &config, "{}", written);
            let comments = written.lines().filter(|line| line.starts_with("# "));
            let words: BTreeSet<&str> = comments.flat_map(str::split_whitespace).collect();
            for mark in (1..=count).flat_map(|number| [format!("begin{number}."), format!("end{number}.")]) {
                prop_assert!(words.contains(&*mark), "{}: {}", mark, written);
            }
        }
    }
}

proptest! {
    // A case reads a long text four times.
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whichever of its settings are left to their defaults.
    #[test]
    fn settings_read_as_they_were_written(kept in prop::collection::vec(any::<bool>(), 200)) {
        let everything = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid/everything.toml");
        let full = parse(&read(&everything).0).to_toml();
        let is_free = |line: &str| {
            let key = line.split_once(" = ").map(|(key, _)| key);
            key.is_some_and(|key| key.starts_with(|c: char| c.is_ascii_lowercase()) && !NEEDED.contains(&key))
        };
        let lines = full.lines().zip(kept.iter().cycle()).filter(|&(line, &kept)| kept || !is_free(line));
        let text: String = lines.map(|(line, _)| format!("{line}\n")).collect();
        assert_reads_as_it_was_written(&parse(&text));
    }
}
