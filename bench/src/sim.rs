//! `outrigger-bench sim`: a scenario on paper. The policy core of the sidecar and Service Connect's defaults meet the same requests
//! and the same failures in virtual time; with `--real`, real processes do.

mod client;
mod engine;
mod policy;
mod queue;
mod read;
mod report;
mod requests;
mod rollout;
pub mod scenario;
mod service_connect;
pub mod service_time;
mod tally;
mod task;
mod timeline;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use report::{Comparison, Report, Runs};
use scenario::Scenario;
pub use tally::Figures;

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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads the scenario, runs it and prints.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut scenario = Scenario::load(&options.scenario)?;
    scenario.seed = options.seed.unwrap_or(scenario.seed);
    let name = name(&options.scenario);
    let report = simulate(&name, &scenario, options.runs);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

fn name(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Runs both policies on so many seeds from the scenario's on.
pub fn simulate(name: &str, scenario: &Scenario, runs: u64) -> Report {
    let seeds: Vec<u64> = (0..runs.max(1))
        .map(|nth| scenario.seed.wrapping_add(nth))
        .collect();
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

/// One run of our policy.
pub fn ours(scenario: &Scenario, seed: u64) -> Figures {
    engine::run(scenario, seed, client::Ours::new(&scenario.client))
}
