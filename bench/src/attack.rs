//! `outrigger-bench attack`: a sidecar under hostile clients, and what a good client notices of it.
//!
//! Turns alternate, quiet and under attack, with the same good client at a constant rate; the sidecar has a processor of its own
//! where there are two. The attackers give way to the good client, so that what it notices is the sidecar's doing.

mod crowd;
mod frames;
mod kind;
mod report;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::ProgressBar;

use crate::compare::seconds;
use crate::load::{Load, Record};
use crowd::{Crowd, Tally};
use stage::Stage;

pub use kind::Kind;

/// Load before each turn, for the connections to be open; its failures count, its latencies do not.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long attackers may take to have come all once.
const GATHERING: Duration = Duration::from_secs(3);
/// For the sidecar to notice that the attackers are gone.
const AFTERMATH: Duration = Duration::from_millis(1500);
const SAMPLE: Duration = Duration::from_millis(50);

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What the attackers do, several separated by commas; absent: every kind, one after the other
    #[arg(long, value_enum, value_delimiter = ',')]
    kind: Vec<Kind>,
    /// Attackers' connections at once; absent: 5000; h2-stall and churn 1000; slow-read 300; floods 100
    #[arg(long)]
    connections: Option<usize>,
    /// Length of each turn
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Turns of each sort, quiet and under attack
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// The good client's requests per second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// The good client's connections
    #[arg(long, default_value_t = 16)]
    good: usize,
    /// The sidecar's workers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    workers: u8,
    /// The sidecar; absent: the one beside this program
    #[arg(long)]
    proxy: Option<PathBuf>,
    /// MiB that the sidecar may grow by; absent: what the README's bound says for the kind and the connections
    #[arg(long, allow_negative_numbers = true)]
    bound: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one kind of attack did.
#[derive(Debug)]
struct Outcome {
    kind: Kind,
    connections: usize,
    quiet: Turns,
    attacked: Turns,
    /// Most that were open at a time.
    open: usize,
    endings: std::collections::BTreeMap<String, u64>,
    memory: Memory,
}

/// The turns of one sort together.
#[derive(Debug, Default)]
struct Turns {
    record: Record,
    cpu: f64,
}

/// The sidecar's resident MiB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    before: f64,
    peak: f64,
    after: f64,
    /// What the peak may be.
    bound: f64,
}

impl Outcome {
    fn failed(&self) -> u64 {
        self.quiet.record.failed + self.attacked.record.failed
    }

    /// No good request failed, and memory stayed within its bound.
    fn is_good(&self) -> bool {
        self.failed() == 0 && self.memory.peak <= self.memory.bound
    }
}

/// Runs every kind, prints, and fails when the good client or the bound did. Must be called on a current-thread runtime.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let kinds = if options.kind.is_empty() {
        Kind::value_variants().to_vec()
    } else {
        options.kind.clone()
    };
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(200));
    let mut outcomes = Vec::new();
    for kind in kinds {
        outcomes.push(tokio::select! {
            outcome = against(kind, &options, &progress) => outcome?,
            () = crate::stop_signal() => anyhow::bail!("interrupted"),
        });
    }
    progress.finish_and_clear();
    if options.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report::json(&outcomes))?
        );
    } else {
        report::print(&outcomes);
    }
    Ok(if outcomes.iter().all(Outcome::is_good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A fresh sidecar, and turns of one kind.
async fn against(kind: Kind, options: &Options, progress: &ProgressBar) -> anyhow::Result<Outcome> {
    let connections = options.connections.unwrap_or(kind.connections());
    let tell = |what: String| progress.set_message(format!("{}: {what}", kind.name()));
    tell("starting".to_owned());
    let stage = Stage::start(options.proxy.as_deref(), options.workers).await?;
    let tally = Arc::new(Tally::default());
    let (mut quiet, mut attacked) = (Turns::default(), Turns::default());
    let mut watch = Watch::new(&stage, &tally);
    // Code and buffers that the first requests need are nobody's attack.
    turn(&stage, options, &mut Turns::default(), &mut watch, &|_| {}).await?;
    let before = stage.resident()?;
    watch.peak = 0.0;
    let mut after = before;
    for round in 1..=options.rounds {
        let of = format!("round {round} of {}", options.rounds);
        let quietly = |_: &Watch<'_>| tell(format!("{of}, quiet"));
        turn(&stage, options, &mut quiet, &mut watch, &quietly).await?;
        let crowd = Crowd::start(kind, stage.target(kind), connections, Arc::clone(&tally))?;
        let loudly = |watch: &Watch<'_>| {
            tell(format!(
                "{of}, {} of {connections} open, {:.0} MiB",
                watch.tally.open.load(Relaxed),
                watch.last
            ));
        };
        let gathering = Instant::now();
        while tally.began() < round * connections as u64 && gathering.elapsed() < GATHERING {
            watch.sample().await?;
            loudly(&watch);
        }
        turn(&stage, options, &mut attacked, &mut watch, &loudly).await?;
        drop(crowd);
        tokio::time::sleep(AFTERMATH).await;
        after = stage.resident()?;
    }
    let bound = before + options.bound.unwrap_or(kind.bound_mib(connections));
    let (peak, open) = (watch.peak, watch.open);
    Ok(Outcome {
        kind,
        connections,
        quiet,
        attacked,
        open,
        endings: tally.endings(),
        memory: Memory {
            before,
            peak,
            after,
            bound,
        },
    })
}

/// The most that was seen of the sidecar's memory and of the attackers.
struct Watch<'a> {
    stage: &'a Stage,
    tally: &'a Tally,
    last: f64,
    peak: f64,
    open: usize,
}

impl<'a> Watch<'a> {
    fn new(stage: &'a Stage, tally: &'a Tally) -> Self {
        Self {
            stage,
            tally,
            last: 0.0,
            peak: 0.0,
            open: 0,
        }
    }

    async fn sample(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(SAMPLE).await;
        self.last = self.stage.resident()?;
        self.peak = self.peak.max(self.last);
        self.open = self.open.max(self.tally.open.load(Relaxed));
        Ok(())
    }
}

/// The good client for one turn.
async fn turn(
    stage: &Stage,
    options: &Options,
    turns: &mut Turns,
    watch: &mut Watch<'_>,
    tell: &impl Fn(&Watch<'_>),
) -> anyhow::Result<()> {
    let load = Load::start(stage.good_client(options.rate, options.good));
    tokio::time::sleep(WARM_UP).await;
    let warm_up = load.take();
    let (began, before) = (Instant::now(), stage.cpu()?);
    while began.elapsed() < options.seconds {
        watch.sample().await?;
        tell(watch);
    }
    let record = load.stop().await;
    turns.cpu += stage.cpu()? - before;
    turns.record.merge(&record);
    turns.record.failed += warm_up.failed;
    for (reason, count) in warm_up.reasons {
        *turns.record.reasons.entry(reason).or_default() += count;
    }
    Ok(())
}
