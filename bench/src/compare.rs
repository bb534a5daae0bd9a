//! The comparison with other proxies: every peer on the same job, pinned, in turns, with ratios and how sure they are.

mod cells;
pub(crate) mod cost;
pub(crate) mod machine;
mod memory;
pub mod results;
mod run;
mod stats;
mod subject;
mod syscalls;
mod table;
mod targets;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

use crate::load::Arrivals;
use crate::peers;

pub use machine::raise_descriptors;

/// What the command line may change.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Cells, separated by commas; `targets`: those with a target; absent: all, which takes well over an hour
    #[arg(long, value_delimiter = ',')]
    pub cells: Vec<String>,
    /// Name the cells and leave
    #[arg(long)]
    pub list: bool,
    /// Peers, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "outrigger,envoy,haproxy,nginx"
    )]
    pub peers: Vec<String>,
    /// A sidecar of ours, PATH or LABEL=PATH, several separated by commas; the first is compared with the rest
    #[arg(long, value_delimiter = ',')]
    pub proxy: Vec<String>,
    /// Rounds, each with every peer once; a verdict needs 15
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    pub pairs: u64,
    /// Length of each peer's turn
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
    /// End a turn after so many requests instead
    #[arg(long)]
    pub requests: Option<u64>,
    /// Load before each turn that is not counted, seconds
    #[arg(long, default_value = "0.3", value_parser = seconds)]
    pub warm_up: Duration,
    /// Start a peer's processes anew after so many rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub restart: u64,
    /// How the requests of a constant rate are spread
    #[arg(long, value_enum, default_value_t = Arrivals::Uniform)]
    pub arrivals: Arrivals,
    /// Seeds random arrivals
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Count system calls per request with strace after each cell's rounds
    #[arg(long)]
    pub syscalls: bool,
    /// Three rounds of half a second: shows that everything works, decides nothing
    #[arg(long)]
    pub quick: bool,
    /// Install nothing: a peer that is not there is reported missing
    #[arg(long)]
    pub no_install: bool,
    /// Write the results there after every round
    #[arg(long, default_value = "target/compare.json")]
    pub out: PathBuf,
    /// Print the results as JSON
    #[arg(long)]
    pub json: bool,
}

/// Seconds with a fraction.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Measures, writes and prints. Must be called on a current-thread runtime: its thread is the load's.
pub async fn run(mut options: Options) -> anyhow::Result<()> {
    let plans = cells::all();
    if options.list {
        for plan in &plans {
            println!("{:<25} {}", plan.name, plan.title);
        }
        return Ok(());
    }
    if let Some(place) = options.cells.iter().position(|name| name == "targets") {
        let aimed = plans.iter().filter(|plan| !plan.targets().is_empty());
        let names: Vec<_> = aimed.map(|plan| plan.name.to_owned()).collect();
        options.cells.splice(place..=place, names);
    }
    for name in &options.cells {
        if !plans.iter().any(|plan| plan.name == name) {
            bail!("no cell {name:?}; --list names them");
        }
    }
    let plans: Vec<_> = plans
        .into_iter()
        .filter(|plan| {
            options.cells.is_empty() || options.cells.iter().any(|name| name == plan.name)
        })
        .collect();
    if options.quick {
        options.pairs = options.pairs.min(3);
        options.seconds = options.seconds.min(Duration::from_millis(500));
        options.warm_up = options.warm_up.min(Duration::from_millis(100));
    }
    let peers = peers::find(&options.peers, &options.proxy, !options.no_install)?;
    for peer in &peers {
        if let Some(reason) = &peer.missing {
            eprintln!("{} is missing: {reason}", peer.name);
        }
    }
    let mut results = run::begin(&peers)?;
    let ended = tokio::select! {
        ended = run::drive(&mut results, &options, &plans, &peers) => ended,
        () = crate::stop_signal() => {
            eprintln!("interrupted: what is done is kept");
            Ok(())
        }
    };
    run::finish(&mut results, &options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        table::print(&results);
        println!("results in {}", options.out.display());
    }
    ended
}
