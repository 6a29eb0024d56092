//! What CI runs: the cheapest checks first, and steps that share what they build side by side.
//!
//! `clippy`, `test` and `doc` all use `--workspace --all-features`, so that features are unified
//! once and the dependencies are built once.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{e2e, generated, shell, tidy, workspace};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Steps to leave out, as in `--skip e2e`.
    #[arg(long, value_name = "STEP", value_enum)]
    skip: Vec<Step>,
    #[command(flatten)]
    need: e2e::Need,
}

/// The steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// The formatting is rustfmt's.
    Fmt,
    /// `cargo xtask tidy`.
    Tidy,
    /// Every library crate can be packaged, so that it can be used alone.
    Package,
    /// No warning of clippy or the compiler, in any target, with every feature.
    Clippy,
    /// `cargo xtask test`: unit, integration and documentation tests.
    Test,
    /// The generated parts of the documents are those which the binary would write.
    Docs,
    /// rustdoc builds without a warning; links are checked.
    Rustdoc,
    /// `cargo xtask e2e`: real clients, the gateway, fake engines.
    E2e,
}

#[derive(Debug, Default, Args)]
pub(crate) struct TestOptions {
    /// Test this package alone (may be repeated).
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
    /// Run only tests whose name contains this.
    filter: Option<String>,
    /// Passed on to the tests, as in `-- --nocapture`.
    #[arg(last = true, value_name = "ARGUMENTS")]
    rest: Vec<String>,
}

/// Runs every step that is not skipped, and stops at the first that fails.
///
/// # Errors
///
/// When a step fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let start = shell::now();
    for &step in Step::value_variants() {
        let name = format!("{step:?}").to_lowercase();
        if options.skip.contains(&step) {
            eprintln!("\n== {name}: left out by --skip");
            continue;
        }
        eprintln!("\n== {name}");
        run_step(step, &options.need).with_context(|| format!("step {name}"))?;
    }
    eprintln!("\nall of it passed in {}", shell::seconds(start.elapsed()));
    Ok(())
}

fn run_step(step: Step, need: &e2e::Need) -> Result<()> {
    match step {
        Step::Fmt => shell::run(shell::cargo("fmt").args(["--all", "--", "--check"])),
        Step::Tidy => tidy::run(),
        Step::Package => package(),
        Step::Clippy => shell::run(
            shell::cargo("clippy")
                .args(["--workspace", "--all-targets", "--all-features"])
                .args(["--", "-D", "warnings"]),
        ),
        Step::Test => test(&TestOptions::default()),
        Step::Docs => generated::run(&generated::Options { check: true }),
        Step::Rustdoc => shell::run(
            shell::cargo("doc")
                .args(["--workspace", "--all-features", "--no-deps"])
                // The docs of private items are read in the source; links to them are welcome.
                .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"),
        ),
        Step::E2e => e2e::run(&e2e::Options::on_fakes(need.clone())),
    }
}

/// Packages every library crate as it would be published. What they build to is the other steps'
/// work.
fn package() -> Result<()> {
    let packages = workspace::packages(&workspace::metadata()?);
    let mut command = shell::cargo("package");
    command.args(["--no-verify", "--allow-dirty", "--quiet"]);
    let libraries = packages.iter().filter(|package| package.folder.starts_with("crates/"));
    for package in libraries.filter(|package| package.library.is_some()) {
        command.args(["--package", &package.name]);
    }
    shell::run(&mut command)
}

/// Runs the unit and integration tests, then the examples in the documentation.
///
/// # Errors
///
/// When a test fails.
pub(crate) fn test(options: &TestOptions) -> Result<()> {
    let packages = workspace::packages(&workspace::metadata()?);
    let has_library = |name: &&String| {
        packages.iter().any(|package| package.name == **name && package.library.is_some())
    };
    let every: Vec<_> = options.package.iter().collect();
    let documented: Vec<_> = options.package.iter().filter(has_library).collect();
    let cargo_test = |names: &[&String], targets: &[&str]| {
        let mut command = shell::cargo("test");
        if names.is_empty() {
            command.arg("--workspace");
        }
        for name in names {
            command.args(["--package", name]);
        }
        command.arg("--all-features").args(targets).args(&options.filter);
        command.arg("--").args(&options.rest);
        shell::run(&mut command)
    };
    cargo_test(&every, &["--tests", "--examples"])?;
    // rustdoc has nothing to run in a package without a library.
    if every.is_empty() || !documented.is_empty() {
        cargo_test(&documented, &["--doc"])?;
    }
    Ok(())
}
