//! Builds, checks and measures the workspace: `cargo xtask --help`.
//!
//! Everything that a person or CI runs on this repository is one subcommand here, so that both
//! run the same. This package depends on nothing of ours: it can check a workspace that does not
//! compile.

mod bench;
mod ci;
mod e2e;
mod generated;
mod markdown;
mod policies;
mod props;
mod shell;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, checks and measures sageLLM.
///
/// Before a commit: `cargo xtask tidy` and `cargo xtask test -p <package>`. Before a push: `cargo
/// xtask ci`, which is what CI runs. Each step prints the command that it runs, so that it can be
/// repeated by hand, and how long it took.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run all that CI runs, the cheapest checks first.
    Ci(ci::Options),
    /// Check what the compiler does not: arrows between crates, weight, documents, links.
    Tidy,
    /// Run the unit, integration and documentation tests.
    Test(ci::TestOptions),
    /// Run the property tests with many more cases than the tests do.
    Props(props::Options),
    /// Run the benches and print one table, in microseconds.
    Bench(bench::Options),
    /// Write the generated parts of the documents anew, from the binary itself.
    Docs(generated::Options),
    /// Say what predictions are worth, measured anew, in docs/ACCURACY.md.
    Accuracy(generated::AccuracyOptions),
    /// Run real OpenAI clients against the gateway on fake or real engines.
    E2e(e2e::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Ci(options) => ci::run(&options),
        Task::Tidy => tidy::run(),
        Task::Test(options) => ci::test(&options),
        Task::Props(options) => props::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Docs(options) => generated::run(&options),
        Task::Accuracy(options) => generated::accuracy(&options),
        Task::E2e(options) => e2e::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
