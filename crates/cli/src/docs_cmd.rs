//! `sagellm docs`: the references of `docs/`, made from the code; `cargo xtask docs` writes them.

use std::fmt::Write as _;

use anyhow::Result;
use clap::{Command, CommandFactory, ValueEnum};
use sagellm_monitoring::metrics_reference;

use crate::{Cli, output, reference, settings};

/// A reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reference {
    /// The metrics of /metrics
    Metrics,
    /// Every setting
    Config,
    /// Every command and flag
    Cli,
}

/// Prints a reference as Markdown.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn run(reference: Reference) -> Result<()> {
    output::print(&match reference {
        Reference::Metrics => metrics(),
        Reference::Config => reference::markdown(),
        Reference::Cli => commands(),
    })
}

fn metrics() -> String {
    let mut out =
        String::from("| metric | kind | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for metric in metrics_reference() {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} |",
            metric.name,
            metric.kind.name(),
            metric.unit,
            labels.join(", "),
            metric.help,
        );
    }
    out
}

fn commands() -> String {
    let mut out = String::new();
    let mut root = Cli::command().term_width(100);
    root.build();
    describe(&mut root, &mut out);
    out.push_str("### Environment\n\n| variable | meaning |\n|---|---|\n");
    for (name, meaning) in settings::RESERVED {
        let _ = writeln!(out, "| `{name}` | {meaning} |");
    }
    let any = "any setting by its name: `SAGELLM_QUEUE__MAX_WAITING=10`";
    let _ = writeln!(out, "| `SAGELLM_<TABLE>__<SETTING>` | {any} |");
    out
}

/// Appends the help of a command and of those below it.
fn describe(command: &mut Command, out: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = writeln!(out, "### `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    for below in command.get_subcommands_mut().filter(|c| c.get_name() != "help") {
        describe(below, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_name_what_there_is() {
        assert!(metrics().contains("`sagellm_requests_total`"));
        let commands = commands();
        for command in ["serve", "demo", "replay", "mock-engine", "status", "config check"] {
            assert!(commands.contains(&format!("### `sagellm {command}`")), "{command}");
        }
        assert!(commands.contains("SAGELLM_BACKENDS"));
    }
}
