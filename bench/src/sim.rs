//! `outrigger-bench sim`: a scenario on paper. The policy core of the sidecar and Service Connect's defaults meet the same requests
//! and the same failures in virtual time; with `--real`, real processes do.

pub mod application;
mod client;
mod engine;
mod policy;
mod queue;
mod read;
mod real;
mod report;
mod requests;
mod rollout;
pub mod scenario;
mod service_connect;
pub mod service_time;
mod tally;
mod task;
mod timeline;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::fleet::Binaries;

pub use report::{Comparison, Report, Runs};
use scenario::Scenario;
pub use tally::Figures;

/// Seeds that a real run is compared with.
const SIMULATED: u64 = 10;

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The scenario's file
    scenario: PathBuf,
    /// Seed instead of the file's
    #[arg(long)]
    seed: Option<u64>,
    /// Runs, each with the next seed; mean and standard deviation are printed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    runs: u64,
    /// Also with real processes, in the scenario's real_duration; fails when model and reality do not agree
    #[arg(long, conflicts_with = "runs")]
    real: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads the scenario, runs it and prints.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut scenario = Scenario::load(&options.scenario)?;
    scenario.seed = options.seed.unwrap_or(scenario.seed);
    let name = name(&options.scenario);
    if options.real {
        let (played, real) = tokio::select! {
            played = play(&scenario) => played?,
            () = crate::stop_signal() => anyhow::bail!("interrupted; all processes are ended"),
        };
        let comparison = compare(&name, &played, real);
        print(&comparison, options.json)?;
        return Ok(if comparison.agrees {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    print(&simulate(&name, &scenario, options.runs), options.json)?;
    Ok(ExitCode::SUCCESS)
}

fn print(report: &(impl Serialize + fmt::Display), json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// So many seeds from the scenario's on.
fn seeds(scenario: &Scenario, runs: u64) -> Vec<u64> {
    (0..runs.max(1))
        .map(|nth| scenario.seed.wrapping_add(nth))
        .collect()
}

/// Runs both policies on so many seeds from the scenario's on.
pub fn simulate(name: &str, scenario: &Scenario, runs: u64) -> Report {
    let seeds = seeds(scenario, runs);
    let theirs = |seed: &u64| {
        let policy = service_connect::ServiceConnect::default();
        engine::run(scenario, *seed, policy)
    };
    Report {
        scenario: name.to_owned(),
        seconds: scenario.duration.as_secs_f64(),
        outrigger: Runs::of(seeds.iter().map(|seed| ours(scenario, *seed)).collect()),
        service_connect: Runs::of(seeds.iter().map(theirs).collect()),
        seeds,
    }
}

/// Plays a scenario with real processes, in its real duration. Gives it as it was played beside what came of it.
pub async fn play(scenario: &Scenario) -> anyhow::Result<(Scenario, Figures)> {
    let binaries = tokio::task::spawn_blocking(Binaries::find).await??;
    let mut played = scenario.scaled();
    let (figures, steps) = real::run(&played, binaries).await?;
    played.steps = steps;
    Ok((played, figures))
}

/// Computes a scenario as it was played, and says whether both agree.
pub fn compare(name: &str, played: &Scenario, real: Figures) -> Comparison {
    let seeds = seeds(played, SIMULATED);
    let simulated = Runs::of(seeds.iter().map(|seed| ours(played, *seed)).collect());
    Comparison::of(name, played, simulated, real)
}

/// One run of our policy.
pub fn ours(scenario: &Scenario, seed: u64) -> Figures {
    engine::run(scenario, seed, client::Ours::new(&scenario.client))
}
