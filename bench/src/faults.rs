//! `outrigger-bench faults`: one fault after the other, what should come of it, and what came of it.
//!
//! A real sidecar on a static file offers a service of a few tasks, each a process; GETs and POSTs with ids come at a constant rate.
//! Then the fault strikes. The tasks' ledger tells what they acted upon, the sidecar's metrics how often it tried.

mod fault;
mod report;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};

use crate::compare::seconds;
use crate::fleet::Binaries;
use crate::ledger::{Audit, Entries};
use crate::load::{Load, Plan, Record};
use crate::network;
use stage::Stage;

pub use fault::{Expected, Fault};
pub use report::{Measured, Outcome};

/// Load before the fault.
const CALM: Duration = Duration::from_millis(500);

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which, several separated by commas; absent: all of them
    #[arg(long, value_enum, value_delimiter = ',')]
    pub fault: Vec<Fault>,
    /// Seconds of load under each fault
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub seconds: Duration,
    /// GETs per second, and as many POSTs
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub rate: u32,
    /// Start debug builds of the sidecar without this safeguard, to see the run fail
    #[arg(long)]
    pub mutant: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs, prints, and fails when an outcome is not what was expected.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let outcomes = tokio::select! {
        outcomes = play(&options) => outcomes?,
        () = crate::stop_signal() => anyhow::bail!("interrupted; all processes are ended"),
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        report::print(&outcomes);
    }
    Ok(if outcomes.iter().all(Outcome::is_good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn play(options: &Options) -> anyhow::Result<Vec<Outcome>> {
    let faults = match options.fault.as_slice() {
        [] => Fault::value_variants(),
        some => some,
    };
    let progress = progress(faults.len());
    let mut outcomes = Vec::new();
    for fault in faults {
        progress.set_message(fault.what());
        outcomes.push(suffer(*fault, options).await?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(outcomes)
}

fn progress(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    match ProgressStyle::with_template("{bar:30} {pos}/{len} faults  {elapsed}  {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Default for Options {
    /// Every fault for 2 s, with 100 requests per second of each method.
    fn default() -> Self {
        Self {
            fault: Vec::new(),
            seconds: Duration::from_secs(2),
            rate: 100,
            mutant: None,
            json: false,
        }
    }
}

/// One fault, from the start of its tasks to the audit.
pub async fn suffer(fault: Fault, options: &Options) -> anyhow::Result<Outcome> {
    if fault.needs_network()
        && let Err(missing) = network::available()
    {
        return Ok(Outcome::skipped(fault, missing));
    }
    let binaries = tokio::task::spawn_blocking(Binaries::find).await??;
    let mut stage = Stage::start(fault, binaries, options.mutant.as_deref()).await?;
    let (gets, posts) = (
        load(&stage, &Method::GET, options),
        load(&stage, &Method::POST, options),
    );
    tokio::time::sleep(CALM).await;
    stage.strike(fault, options.seconds).await?;
    let (gets, posts) = tokio::join!(gets.stop(), posts.stop());
    let attempts = stage.attempts(gets.sent + posts.sent).await?;
    stage.relent(fault).await?;
    let entries = Entries::read(&stage.ledger)?;
    let measured = Measured {
        gets: Audit::of(&gets, &entries, "get"),
        posts: Audit::of(&posts, &entries, "post"),
        attempts,
        faulty_share: faulty_share(&stage, &gets, &posts),
        p99_ms: {
            let mut both = gets;
            both.merge(&posts);
            both.latency_ms(0.99)
        },
    };
    Ok(Outcome::new(fault, measured))
}

fn load(stage: &Stage, method: &Method, options: &Options) -> Load {
    let post = method == Method::POST;
    Load::start(Plan {
        path: stage.path.to_owned(),
        method: method.clone(),
        body: if post {
            Bytes::from_static(b"order")
        } else {
            Bytes::new()
        },
        rate: Some(options.rate),
        connections: 32,
        timeout: Duration::from_secs(15),
        ids: Some(if post { "post" } else { "get" }.to_owned()),
        ..Plan::new(stage.address, "orders")
    })
}

/// The share of the answers that came from the tasks that the fault struck.
fn faulty_share(stage: &Stage, gets: &Record, posts: &Record) -> f64 {
    let (mut faulty, mut all) = (0, 0);
    for (task, seen) in gets.by_task.iter().chain(&posts.by_task) {
        all += seen.answers;
        if stage.is_faulty(task) {
            faulty += seen.answers;
        }
    }
    faulty as f64 / all.max(1) as f64
}
