//! The command line as a shell sees it: what is printed, and the exit codes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

fn holdline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdline")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn file(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn check_says_ok_or_all_that_is_wrong() {
    let good = holdline(&["check", "--config", &file("proxy.toml.example")]);
    assert_eq!(good.status.code(), Some(0));
    assert!(text(&good.stdout).ends_with("proxy.toml.example: ok\n"), "{}", text(&good.stdout));
    let bad = holdline(&["check", "--config", &file("tests/config/invalid/many.toml")]);
    assert_eq!(bad.status.code(), Some(78));
    let expected = std::fs::read_to_string(file("tests/config/invalid/many.expected")).unwrap();
    assert_eq!(text(&bad.stderr).lines().count(), expected.lines().count());
    let none = holdline(&["check", "--config", "/no/such/file.toml"]);
    assert_eq!(none.status.code(), Some(78));
    let said = text(&none.stderr);
    assert!(
        ["/no/such/file.toml", "--config", "proxy.toml.example"].iter().all(|part| said.contains(part)),
        "{said}"
    );
}

/// What `check` says of a file, below the line that takes an address and before the route `/`, and its exit code.
fn checked(folder: &std::path::Path, head: &str, address: &str, rest: &str) -> (String, Option<i32>) {
    let path = folder.join("proxy.toml");
    let text = format!("{head}\n[[listen]]\naddress = \"{address}\"\n{rest}\n");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdline"));
    let checked = command.args(["check", "--config", "proxy.toml"]).current_dir(folder).output().unwrap();
    (String::from_utf8(checked.stderr).unwrap(), checked.status.code())
}

const ANSWER: &str = "[[route]]\npath = \"/\"\nrespond = { status = 204 }";

#[test]
fn check_finds_what_this_host_does_not_have() {
    let folder = tempfile::tempdir().unwrap();
    let (said, code) = checked(folder.path(), "[log]\naccess = \"logs/access.log\"", "127.0.0.1:0", ANSWER);
    let whole = folder.path().canonicalize().unwrap().join("logs");
    assert!(said.starts_with("warning: proxy.toml:2: log.access: "), "{said}");
    assert!(said.contains(whole.to_str().unwrap()) && said.contains("`holdline run` would fail"), "{said}");
    assert_eq!(code, Some(0), "the file may be meant for another host");
    let up = |server: &str| {
        format!("[[route]]\npath = \"/\"\nupstream = \"up\"\n[upstream.up]\nservers = [\"{server}\"]")
    };
    let (said, _) = checked(folder.path(), "", "127.0.0.1:0", &up("no-such-host.invalid:80"));
    assert!(said.starts_with("warning: no-such-host.invalid:80: cannot be looked up from here: "), "{said}");
}

#[test]
fn check_finds_an_upstream_that_is_its_own_listener() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (listen, server) in [
        (format!("127.0.0.1:{free}"), format!("127.0.0.1:{free}")),
        (format!("0.0.0.0:{free}"), format!("127.0.0.1:{free}")),
        (format!("0.0.0.0:{free}"), format!("localhost:{free}")),
        ("unix:/nowhere/a.sock".to_owned(), "unix:/nowhere/a.sock".to_owned()),
    ] {
        let rest =
            format!("[[route]]\npath = \"/\"\nupstream = \"up\"\n[upstream.up]\nservers = [\"{server}\"]");
        let (said, code) = checked(folder.path(), "", &listen, &rest);
        assert!(
            said.contains(&format!("upstream.up.servers: {server} is where Holdline itself listens")),
            "{said}"
        );
        assert_eq!(code, Some(0));
    }
}

#[test]
fn check_notes_an_address_in_use_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (said, code) = checked(folder.path(), "", &address, ANSWER);
    assert!(said.starts_with(&format!("note: {address} is in use now")), "{said}");
    assert_eq!(code, Some(0));
}

#[test]
fn certificate_files_that_are_not_there_are_named_with_their_line_and_whole_path() {
    let folder = tempfile::tempdir().unwrap();
    let tls = "[listen.tls]\ncertificates = [\n  { cert = \"tls/cert.pem\", key = \"tls/key.pem\" },\n]";
    let (said, code) = checked(folder.path(), "", "127.0.0.1:0", &format!("{tls}\n{ANSWER}"));
    let whole = folder.path().canonicalize().unwrap().join("tls/cert.pem");
    assert!(said.starts_with("proxy.toml:6: listen[0].tls.certificates[0].cert: tls/cert.pem: "), "{said}");
    assert!(said.contains(&format!("looked for at {}", whole.display())), "{said}");
    assert_eq!(code, Some(78));
    let path = folder.path().join("proxy.toml");
    let run = holdline(&["run", "--config", path.to_str().unwrap()]);
    let said = text(&run.stderr);
    assert!(said.contains("proxy.toml:6: listen[0].tls.certificates[0].cert: "), "{said}");
}

#[test]
fn a_token_that_is_not_there_is_named_with_its_line_and_whole_path() {
    let folder = tempfile::tempdir().unwrap();
    let admin = "[admin]\ntoken_file = \"token\"";
    let (said, code) = checked(folder.path(), admin, "127.0.0.1:0", ANSWER);
    let whole = folder.path().canonicalize().unwrap().join("token");
    assert!(said.starts_with("proxy.toml:2: admin.token_file: token: "), "{said}");
    assert!(said.contains(&format!("looked for at {}", whole.display())), "{said}");
    assert_eq!(code, Some(78));
}

#[test]
fn an_address_of_the_demo_is_explained() {
    for (given, part) in
        [("8099", "0.0.0.0:8099"), (":8099", "0.0.0.0:8099"), ("localhost:8099", "127.0.0.1:8099")]
    {
        let demo = holdline(&["demo", "--listen", given]);
        assert_eq!(demo.status.code(), Some(2));
        assert!(text(&demo.stderr).contains(part), "{}", text(&demo.stderr));
    }
}

#[test]
fn check_shows_what_is_in_effect_and_that_is_valid_again() {
    let shown = holdline(&["check", "--show", "--config", &file("tests/config/valid/smallest.toml")]);
    assert_eq!(shown.status.code(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let again = folder.path().join("proxy.toml");
    std::fs::write(&again, &shown.stdout).unwrap();
    let again = holdline(&["check", "--show", "--config", again.to_str().unwrap()]);
    assert_eq!(text(&again.stdout), text(&shown.stdout));
}

#[test]
fn check_shows_only_what_differs_if_asked() {
    let smallest = file("tests/config/valid/smallest.toml");
    let shown = holdline(&["check", "--show=changed", "--config", &smallest]);
    assert_eq!(text(&shown.stdout), std::fs::read_to_string(&smallest).unwrap());
    let [full, plain] =
        ["--show=full", "--show"].map(|show| holdline(&["check", show, "--config", &smallest]));
    assert_eq!(text(&full.stdout), text(&plain.stdout));
    assert!(full.stdout.len() > 10 * shown.stdout.len());
    assert_eq!(holdline(&["check", "--show=some", "--config", &smallest]).status.code(), Some(2));
}

#[test]
fn a_token_that_others_may_read_is_told_and_not_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let [config, token] = ["proxy.toml", "token"].map(|name| folder.path().join(name));
    let secret = "0123456789abcdef-not-to-be-seen";
    std::fs::write(&token, secret).unwrap();
    let rest = "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = \"/\"\nrespond = { status = 204 }\n";
    let given = format!("token = \"{secret}\"");
    let in_file = format!("token_file = \"{}\"", token.display());
    for (line, open, warned) in [
        (&given, &config, true),
        (&given, &token, false),
        (&in_file, &token, true),
        (&in_file, &config, false),
    ] {
        std::fs::write(&config, format!("[admin]\n{line}\n{rest}")).unwrap();
        for path in [&config, &token] {
            let mode = if path == open { 0o644 } else { 0o640 };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        for show in ["--show", "--show=changed"] {
            let checked = holdline(&["check", show, "--config", config.to_str().unwrap()]);
            assert_eq!(checked.status.code(), Some(0));
            let (out, said) = (text(&checked.stdout), text(&checked.stderr));
            assert_eq!(said.contains("everybody on this host may read"), warned, "{line}, {open:?}: {said}");
            assert!(
                !out.contains(secret) && !said.contains(secret) && out.contains("[admin]"),
                "{out}{said}"
            );
        }
    }
}

#[test]
fn a_completion_is_printed() {
    assert!(text(&holdline(&["--help"]).stdout).contains("completion"));
    for (shell, part) in
        [("bash", "complete -F"), ("zsh", "#compdef holdline"), ("fish", "complete -c holdline")]
    {
        let printed = text(&holdline(&["completion", shell]).stdout);
        assert!(printed.contains(part) && printed.contains("ctl"), "{shell}: {printed}");
    }
    assert_eq!(holdline(&["completion", "cmd"]).status.code(), Some(2));
}

#[test]
fn usage_and_version() {
    assert_eq!(holdline(&["ran"]).status.code(), Some(2));
    let version = text(&holdline(&["--version"]).stdout);
    assert_eq!(version, format!("holdline {}\n", env!("CARGO_PKG_VERSION")));
    let help = text(&holdline(&["--help"]).stdout);
    assert!(help.contains("SIGHUP") && help.contains("78"), "{help}");
}

#[test]
fn what_cannot_be_bound_is_said_with_a_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    let address = taken.local_addr().unwrap();
    let config =
        format!("[[listen]]\naddress = \"{address}\"\n[[route]]\npath = \"/\"\nrespond = {{ status = 204 }}");
    std::fs::write(&path, config).unwrap();
    let run = holdline(&["run", "--config", path.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("another process listens there"), "{}", text(&run.stderr));
}

fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn signals_reload_reopen_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = (folder.path().join("proxy.toml"), folder.path().join("access.log"));
    let good = format!(
        "[log]\naccess = \"{}\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = \"/\"\nrespond = {{ status = 204 }}",
        log.display()
    );
    std::fs::write(&path, &good).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdline"));
    let mut child = command.args(["run", "--config"]).arg(&path).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut wait_for = |text: &str| loop {
        let line = lines.next().unwrap_or_else(|| panic!("the log ended before {text:?}")).unwrap();
        if line.contains(text) {
            return line;
        }
    };
    wait_for("serving");
    signal(&child, "HUP");
    wait_for("reloaded");
    std::fs::write(&path, good.replace("[log]", "[log]\nformat = \"json\"")).unwrap();
    signal(&child, "HUP");
    assert!(wait_for("reloaded").starts_with('{'), "the log's format changes too");
    std::fs::write(&path, "[[liste]]").unwrap();
    signal(&child, "HUP");
    assert!(wait_for("liste").contains("listen"), "the nearest key is named");
    wait_for("the running configuration stays");
    std::fs::rename(&log, folder.path().join("access.log.1")).unwrap();
    signal(&child, "USR1");
    wait_for("access log reopened");
    signal(&child, "TERM");
    wait_for("shutting down");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(log.exists(), "the log was reopened");
}

#[test]
fn manual_pages_and_completions_say_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("new/folder");
    let generated = holdline(&["generate", written.to_str().unwrap()]);
    assert_eq!(generated.status.code(), Some(0), "{}", text(&generated.stderr));
    let read = |name: &str| std::fs::read_to_string(written.join(name)).unwrap();
    let page = read("holdline.1");
    for word in ["holdline\\-check(1)", ".SH SIGNALS", "SIGHUP", ".SH \"EXIT CODES\"", "78"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    assert!(!page.contains("holdline\\-help"), "{page}");
    assert!(read("holdline-run.1").contains("/etc/holdline/proxy.toml"));
    assert!(read("holdline-ctl-drain.1").contains("1012"));
    for name in ["holdline.1", "holdline.bash", "holdline.fish", "_holdline"] {
        assert!(!read(name).contains("generate"), "{name} offers what is no operator's business");
    }
    assert!(!text(&holdline(&["--help"]).stdout).contains("generate"));
    assert_eq!(holdline(&["generate", "/dev/null/folder"]).status.code(), Some(1));
}
