//! Runs random worlds with every check: `cargo xtask props`.
//!
//! `props --first 0 --seeds 2000` runs seeds and prints what they came across; with the feature
//! `planted`, `props --planted` plants one bug after the other and says at which seed each is found.

use std::process::ExitCode;

use sagellm_simulator::props::RandomWorld;
use sagellm_simulator::study::{cores, in_parallel};
use sagellm_simulator::{Coverage, SimulationError};

/// Each thing is to be come across in at least this share of the seeds.
const LEAST: f64 = 0.05;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)?.parse::<u64>().ok()
    };
    let (first, seeds) = (value("--first").unwrap_or(0), value("--seeds").unwrap_or(200));
    if arguments.iter().any(|argument| argument == "--planted") {
        planted(seeds)
    } else {
        run(first, seeds)
    }
}

/// A panic is a failed check too: what the code itself asserts.
fn outcome(seed: u64) -> Result<Coverage, String> {
    let run = || RandomWorld::of(seed).run().map_err(|error: SimulationError| error.to_string());
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

fn run(first: u64, seeds: u64) -> ExitCode {
    let all: Vec<u64> = (first..first + seeds).collect();
    let results = in_parallel(
        &all,
        cores(),
        |done| {
            if done % 500 == 0 {
                eprintln!("{done} of {seeds} seeds");
            }
        },
        |&seed| outcome(seed),
    );
    let failed: Vec<(u64, &String)> = all
        .iter()
        .zip(&results)
        .filter_map(|(&seed, result)| Some((seed, result.as_ref().err()?)))
        .collect();
    let found: Vec<&Coverage> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    let mut thin = false;
    for (place, (name, _)) in Coverage::default().list().iter().enumerate() {
        let count = found.iter().filter(|coverage| coverage.list()[place].1).count();
        let share = count as f64 / found.len().max(1) as f64;
        let low = share < LEAST;
        thin |= low;
        eprintln!(
            "{name:<32}{:>6.1} % of seeds{}",
            share * 100.0,
            if low { "  TOO FEW" } else { "" }
        );
    }
    for (seed, error) in failed.iter().take(10) {
        eprintln!("seed {seed} failed: {error}\n  again: cargo xtask props --seed {seed}");
    }
    eprintln!("{seeds} seeds, {} failed", failed.len());
    // A handful of seeds comes across little.
    let passed = failed.is_empty() && !(thin && seeds >= 200);
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "planted"))]
fn planted(_: u64) -> ExitCode {
    eprintln!("built without the feature `planted`");
    ExitCode::FAILURE
}

#[cfg(feature = "planted")]
fn planted(seeds: u64) -> ExitCode {
    use std::sync::atomic::{AtomicU64, Ordering};

    use sagellm_types::planted::{Bug, plant};
    // What a planted bug panics with is no news.
    std::panic::set_hook(Box::new(|_| {}));
    let all: Vec<u64> = (0..seeds).collect();
    let mut missed = 0;
    for bug in Bug::ALL {
        plant(Some(bug));
        let earliest = AtomicU64::new(u64::MAX);
        let found = in_parallel(
            &all,
            cores(),
            |_| {},
            |&seed| {
                // Once it is found, only earlier seeds matter.
                if seed > earliest.load(Ordering::Relaxed) {
                    return None;
                }
                let error = outcome(seed).err()?;
                earliest.fetch_min(seed, Ordering::Relaxed);
                Some((seed, error))
            },
        );
        match found.into_iter().flatten().next() {
            Some((seed, error)) => eprintln!("{bug:?}: found at seed {seed}: {error}"),
            None => {
                missed += 1;
                eprintln!("{bug:?}: NOT FOUND within {seeds} seeds");
            }
        }
    }
    plant(None);
    eprintln!("{} bugs planted, {missed} not found", Bug::ALL.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
