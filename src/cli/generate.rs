//! Owns `holdline generate` and `holdline completion`: it makes manual pages and shell completions from the
//! definition of the command line.

use super::{AFTER_HELP, DEFAULT_CONFIG, EXAMPLE, fail};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

pub(super) fn generate(command: &Command, folder: &Path) -> ExitCode {
    match write(without_hidden(command), folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{}: {error}", folder.display())),
    }
}

/// Prints the completions for a shell.
pub(super) fn completion(command: &Command, shell: Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut without_hidden(command), NAME, &mut text);
    match io::stdout().write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&format!("cannot write: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

/// Returns the command line without its hidden commands, which completions would offer.
fn without_hidden(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).cloned())
}

fn write(command: Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), NAME, folder)?;
    }
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_pages(&command, folder)?;
    write_main_page(&page(&command), &mut File::create(folder.join(format!("{NAME}.1")))?)
}

/// Writes a page for each command below this one.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands() {
        page(subcommand).generate_to(folder)?;
        write_pages(subcommand, folder)?;
    }
    Ok(())
}

fn page(command: &Command) -> Man {
    Man::new(command.clone()).source(format!("{NAME} {}", env!("CARGO_PKG_VERSION"))).manual("Holdline")
}

/// Writes the page of the whole command line. The end of `--help` becomes sections.
fn write_main_page(man: &Man, file: &mut File) -> io::Result<()> {
    man.render_title(file)?;
    man.render_name_section(file)?;
    man.render_synopsis_section(file)?;
    man.render_options_section(file)?;
    man.render_subcommands_section(file)?;
    let mut roff = Roff::new();
    for section in AFTER_HELP.split("\n\n") {
        let mut lines = section.lines();
        roff.control("SH", [lines.next().unwrap_or_default().trim_end_matches(':').to_uppercase().as_str()]);
        for (term, meaning) in lines.filter_map(|line| line.trim().split_once("  ")) {
            roff.control("TP", []).text([bold(term)]).text([roman(meaning.trim())]);
        }
    }
    roff.control("SH", ["FILES"]);
    roff.control("TP", []).text([bold(DEFAULT_CONFIG)]).text([roman("the configuration")]);
    roff.control("TP", []).text([bold(EXAMPLE)]).text([roman("every setting, with its default")]);
    file.write_all(roff.to_roff().as_bytes())
}

const NAME: &str = "holdline";
