//! Tells the program which commit it is built of: of a release only, as each commit would else build everything anew.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = if is_release { commit() } else { None };
    let built_of = commit.map_or_else(String::new, |commit| format!(" ({commit})"));
    println!("cargo::rustc-env=HOLDLINE_VERSION={version}{built_of}");
}

/// The commit and its day; `None`: this is no checkout, or git is not there.
fn commit() -> Option<String> {
    // A source package may lie in the checkout of something else.
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    for path in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", path])?;
        println!("cargo::rerun-if-changed={path}");
    }
    git(&["show", "--no-patch", "--format=%h %cs", "--abbrev=12", "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned())
}
