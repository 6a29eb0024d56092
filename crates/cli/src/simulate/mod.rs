//! `sagellm simulate`: a fleet in virtual time.

mod args;
mod page;
mod plot;
mod tables;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sagellm_manager::{RouterConfig, StrategyConfig};
use sagellm_monitoring::render_text;
use sagellm_simulator::study::{Cell, Grid, Study, cores};
use sagellm_simulator::{Machine, Outcome, Scenario, model};
use sagellm_types::clock::Clock;
use sagellm_workload::{SloClass, Workload};
use serde_json::json;

use crate::output;
use crate::settings::{Environment, Settings};
use args::{Axis, Find, Switch};
pub(crate) use args::{SimulateArgs, set_objectives};
pub(crate) use tables::aligned;

/// Runs the command.
///
/// # Errors
/// If the scenario, the settings, the model, the fleet or the workload cannot be.
pub(crate) fn run(args: &SimulateArgs, environment: &Environment, quiet: bool) -> Result<()> {
    refuse(args)?;
    let (scenario, folder) = scenario(args, environment)?;
    let study = study(args, &scenario, &folder)?;
    match (&args.find, args.compare.is_empty()) {
        (Some(Find::Goodput), _) => find_goodput(args, &study, quiet),
        (Some(Find::Fleet), _) => find_fleet(args, &scenario, &folder, &study, quiet),
        (None, false) => compare(args, &study, quiet),
        (None, true) => once(args, &scenario, &study, quiet),
    }
}

/// Refuses what would be ignored.
fn refuse(args: &SimulateArgs) -> Result<()> {
    if args.settings.listen.is_some() {
        bail!("--listen: nothing listens in a simulation");
    }
    if args.find == Some(Find::Fleet) && !args.compare.is_empty() {
        bail!(
            "--find fleet seeks with one strategy and one router: --compare is for --find goodput"
        );
    }
    let same = |a: &Axis, b: &Axis| std::mem::discriminant(a) == std::mem::discriminant(b);
    if let [a, b] = args.compare.as_slice()
        && same(a, b)
    {
        bail!("--compare: expected one list of strategies and one of routers");
    }
    if args.compare.len() > 2 {
        bail!("--compare: expected at most two lists, strategy=… and router=…");
    }
    Ok(())
}

/// Returns the scenario of the file, or an empty one, changed by flags; and where its files are.
fn scenario(args: &SimulateArgs, environment: &Environment) -> Result<(Scenario, PathBuf)> {
    let here = PathBuf::from(".");
    let (mut scenario, folder) = match &args.scenario {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the scenario {}", path.display()))?;
            let scenario: Scenario = toml::from_str(&text)
                .with_context(|| format!("{} is no scenario", path.display()))?;
            let wrong = |error| anyhow!("{}: control_plane.{error}", path.display());
            scenario.control_plane.validate().map_err(wrong)?;
            let base =
                toml::to_string(&scenario.control_plane).context("settings are plain values")?;
            let settings = Settings::over(&base, path, &args.settings, environment)?;
            let scenario = Scenario { control_plane: settings.control_plane, ..scenario };
            (scenario, path.parent().map_or(here, Path::to_owned))
        }
        None => {
            let (Some(model), Some(fleet)) = (args.model.clone(), args.fleet.clone()) else {
                bail!("expected a scenario file, or --model and --fleet");
            };
            let settings = Settings::load(&args.settings, &Default::default(), environment)?;
            if !settings.instances.is_empty() {
                bail!("the settings name instances; in a simulation --fleet says which there are");
            }
            let scenario = Scenario {
                control_plane: settings.control_plane,
                ..Scenario::of(&model, &fleet, Default::default())
            };
            (scenario, here)
        }
    };
    let engine = &mut scenario.engine;
    engine.block_size = args.block_size.unwrap_or(engine.block_size);
    engine.max_num_seqs = args.max_num_seqs.unwrap_or(engine.max_num_seqs);
    engine.max_num_batched_tokens =
        args.max_num_batched_tokens.unwrap_or(engine.max_num_batched_tokens);
    engine.max_model_len = args.max_model_len.or(engine.max_model_len);
    engine.step |= args.step;
    if let Some(switch) = args.prefix_cache {
        engine.enable_prefix_caching = switch == Switch::On;
    }
    if let Some(model) = &args.model {
        // A file named on the command line is sought from here.
        let file = model.ends_with(".json").then(|| std::path::absolute(model)).transpose()?;
        scenario.model = file.map_or_else(|| model.clone(), |path| path.display().to_string());
    }
    scenario.fleet = args.fleet.clone().unwrap_or(scenario.fleet);
    scenario.warm_up_s = args.warm_up.unwrap_or(scenario.warm_up_s);
    Ok((scenario, folder))
}

/// Returns the scenario ready to be run, with the traffic of the flags where they name some.
fn study(args: &SimulateArgs, scenario: &Scenario, folder: &Path) -> Result<Study> {
    let own = scenario.workload.is_some() || scenario.trace.is_some();
    let mut study = if own {
        let mut study = scenario.prepare(folder)?;
        if args.source.names_traffic() {
            // Other arrivals, of the same classes.
            let mut source = args.source.source()?;
            if args.source.trace.is_some() && !args.source.mix {
                let plain =
                    |class: &SloClass| SloClass { prompt: None, output: None, ..class.clone() };
                *source.classes_mut() = study.source.classes().iter().map(plain).collect();
                args.source.ask(source.classes_mut());
            }
            study.source = source;
        } else {
            args.source.adjust(&mut study.source)?;
        }
        study
    } else {
        scenario.with_source(args.source.source()?, folder)?
    };
    if let Some(slo) = &args.slo {
        args::set_objectives(study.source.classes_mut(), slo)?;
    }
    study.check = args.check;
    Ok(study)
}

fn seed(study: &Study) -> u64 {
    study.config.seed.0
}

/// Returns the seeds of a study over several: those that follow the setting.
fn seeds(args: &SimulateArgs, study: &Study) -> Vec<u64> {
    let first = seed(study);
    (0..args.seeds.unwrap_or(5)).map(|n| first.wrapping_add(n)).collect()
}

pub(crate) fn progress(quiet: bool, length: u64, what: &str) -> ProgressBar {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
    let style = ProgressStyle::with_template(&format!("{{wide_bar}} {{pos}}/{{len}} {what}"));
    bar.with_style(style.expect("a good template"))
}

/// Runs the scenario once and reports.
fn once(args: &SimulateArgs, scenario: &Scenario, study: &Study, quiet: bool) -> Result<()> {
    if args.seeds.is_some() {
        bail!("--seeds is for --compare and --find; --seed chooses the seed of a single run");
    }
    let cell = study.cell(seed(study));
    let workload = study.workload(&cell)?;
    if !quiet {
        warn_of_long_ones(&workload, &study.machines);
    }
    let bar = progress(quiet, workload.arrivals.len() as u64, "requests");
    let clock = Clock::real();
    let begun = clock.now();
    let outcome = study.run_on(&workload, &cell, |come| bar.set_position(come as u64))?;
    let took = clock.now().since(begun).as_secs_f64();
    bar.finish_and_clear();
    let text = format!(
        "{}\n{}\n{}",
        render_text(&outcome.report),
        plot::timeline(&outcome.timeline),
        tables::intervals(&outcome.simulated.intervals)
    );
    output::report(&text, &outcome.report, args.json.as_deref())?;
    if let Some(path) = &args.html {
        write(path, &page::of_run(scenario, &outcome))?;
    }
    if let Some(path) = &args.csv {
        write(path, &tables::classes_csv(&outcome))?;
    }
    if !quiet {
        eprintln!("{}", effort(&outcome, took));
    }
    if outcome.unfinished > 0 {
        bail!("{} requests have not ended", outcome.unfinished);
    }
    Ok(())
}

fn effort(outcome: &Outcome, took: f64) -> String {
    let model_s = outcome.report.model_s;
    let percent = |share: Option<f64>, of: &str| {
        share.map_or_else(String::new, |share| format!(", {:.1} % {of}", share * 100.0))
    };
    format!(
        "{took:.2} s for {model_s:.0} s of model time ({:.0}×): {} engine steps, {} calls of the core, {} KV blocks, {} preemptions{}{}",
        model_s / took.max(1e-9),
        outcome.simulated.steps,
        outcome.simulated.core_calls,
        outcome.simulated.kv_blocks,
        outcome.simulated.preemptions,
        percent(outcome.simulated.utilization, "of the GPUs' time used"),
        percent(outcome.simulated.prefix_hit_rate, "of prompt tokens found in prefix caches"),
    )
}

fn warn_of_long_ones(workload: &Workload, machines: &[Machine]) {
    let longest = machines.iter().map(|machine| machine.engine.max_model_len).max().unwrap_or(0);
    let too_long = workload.arrivals.iter().filter(|a| a.prompt.0 + a.output.0 > longest.into());
    let count = too_long.count();
    if count > 0 {
        eprintln!(
            "{count} requests are longer than {longest} tokens and will fail: --max-prompt cuts them, --max-model-len lets engines take them"
        );
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the policies that are asked for: those of the scenario where the flags name none.
fn grid(args: &SimulateArgs, study: &Study) -> Grid {
    let cell = study.cell(seed(study));
    let mut grid = Grid {
        strategies: vec![cell.strategy],
        routers: vec![cell.router],
        seeds: seeds(args, study),
    };
    // A policy that the scenario sets is compared as it is set there.
    let own = study.cell(seed(study));
    for axis in &args.compare {
        match axis {
            Axis::Strategies(named) => {
                let set = |named: &StrategyConfig| match named.name() == own.strategy.name() {
                    true => own.strategy.clone(),
                    false => named.clone(),
                };
                grid.strategies = named.iter().map(set).collect();
            }
            Axis::Routers(named) => {
                let set = |named: &RouterConfig| match named.name() == own.router.name() {
                    true => own.router.clone(),
                    false => named.clone(),
                };
                grid.routers = named.iter().map(set).collect();
            }
        }
    }
    grid
}

/// Compares policies.
fn compare(args: &SimulateArgs, study: &Study, quiet: bool) -> Result<()> {
    let grid = grid(args, study);
    let runs = grid.cells().len() * grid.seeds.len();
    let bar = progress(quiet, runs as u64, "runs");
    let compared = study.compare(&grid, cores(), |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let report = json!({ "seeds": grid.seeds, "compared": compared });
    output::report(&tables::compared(&compared, grid.seeds.len()), &report, args.json.as_deref())?;
    if let Some(path) = &args.html {
        write(path, &page::of_comparison(&compared, grid.seeds.len()))?;
    }
    if let Some(path) = &args.csv {
        write(path, &tables::compared_csv(&compared))?;
    }
    Ok(())
}

/// Seeks the largest rate, of one pair of policies or of each.
fn find_goodput(args: &SimulateArgs, study: &Study, quiet: bool) -> Result<()> {
    refuse_files(args)?;
    let (grid, target) = (grid(args, study), args.target());
    let cells = grid.cells();
    let bar = progress(quiet, (cells.len() * grid.seeds.len()) as u64, "searches");
    let done = |done| bar.set_position(done as u64);
    let found = study.goodput(&cells, &target, &grid.seeds, cores(), done)?;
    bar.finish_and_clear();
    let rows = tables::goodput_rows(&cells, found);
    let report = json!({ "seeds": grid.seeds, "attainment": target.attainment, "goodput": rows });
    output::report(
        &tables::goodput(&rows, &target, grid.seeds.len()),
        &report,
        args.json.as_deref(),
    )?;
    if rows.iter().all(|row| row.goodput.per_s.is_none()) {
        let best = rows.iter().map(|row| row.goodput.attainment.mean).fold(0.0, f64::max);
        bail!(
            "no rate is low enough: of the worst class, at most {:.1} % were on time, {:.0} % were asked for",
            best * 100.0,
            target.attainment * 100.0
        );
    }
    Ok(())
}

fn refuse_files(args: &SimulateArgs) -> Result<()> {
    if args.html.is_some() || args.csv.is_some() {
        bail!("--html and --csv are for runs and comparisons; --json takes what --find finds");
    }
    Ok(())
}

/// Seeks the cheapest fleet: each part of the fleet is an alternative, with its count the most.
fn find_fleet(
    args: &SimulateArgs,
    scenario: &Scenario,
    folder: &Path,
    study: &Study,
    quiet: bool,
) -> Result<()> {
    refuse_files(args)?;
    if let Some(place) = scenario.faults.iter().position(|fault| fault.instance.is_some()) {
        bail!(
            "faults[{place}] names an instance, and --find fleet tries fleets of every size: leave \
             `instance` out, and one is drawn"
        );
    }
    let (seeds, target) = (seeds(args, study), args.target());
    let spec = model(&scenario.model, folder)?;
    let cell: Cell = study.cell(seed(study));
    let mut rows = Vec::new();
    for part in scenario.fleet.split(',').map(str::trim) {
        let most = scenario.machines(part, &spec)?;
        let each = rent(&most[..1]);
        let fleets: Vec<Vec<Machine>> = (1..=most.len()).map(|n| most[..n].to_vec()).collect();
        let found = study.smallest(&fleets, &cell, &target, &seeds, cores(), |place, share| {
            if !quiet {
                eprintln!("{} of {part}: {:.1} % on time", place + 1, share * 100.0);
            }
        })?;
        let instances = found.place.map(|place| place + 1);
        let rent = instances.map(|count| each * count as f64);
        rows.push(tables::FoundFleet {
            part: part.to_owned(),
            instances,
            rent_per_hour: rent,
            best: found.best,
        });
    }
    rows.sort_by(|a, b| {
        let rent = |row: &tables::FoundFleet| row.rent_per_hour.unwrap_or(f64::INFINITY);
        rent(a).total_cmp(&rent(b))
    });
    let report = json!({ "fleets": rows, "attainment": target.attainment });
    output::report(&tables::fleets(&rows, &target), &report, args.json.as_deref())?;
    if rows.iter().all(|row| row.instances.is_none()) {
        let best = rows.iter().map(|row| row.best).fold(0.0, f64::max);
        bail!(
            "no fleet of this size is enough: at most {:.1} % of the worst class were on time",
            best * 100.0
        );
    }
    Ok(())
}

/// Returns what machines cost per hour.
fn rent(machines: &[Machine]) -> f64 {
    machines.iter().map(|machine| machine.spec.rent_per_hour().0).sum()
}
