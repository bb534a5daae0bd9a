//! What a hundred times more endpoints or services cost per request, in instructions: the sidecar under valgrind's callgrind,
//! which counts those of the process alone, not the kernel's.
//!
//! The counters are set to zero after a warm-up that has met every endpoint, and read after each round, so that neither the
//! start nor the connections count. What is left of noise only adds: once-a-second work, and free lists of the allocator
//! that a start happened to leave empty (about one percent); hence several starts, and the least of all rounds as the figure.

mod callgrind;

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as Probe};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::{Table, presets};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::fleet::{Binaries, wait_for};
use crate::load::{Load, Plan};
use crate::origin::{self, Origin};
use callgrind::{Counted, Dump, Functions};

/// The most that a hundredfold may cost: many divided by few.
const TARGET: f64 = 1.02;
/// Services called in turn, whatever number there is.
const CALLED: u32 = 10;
/// Functions named when a target is missed.
const GROWN: usize = 12;
/// Under valgrind everything takes fifty times as long.
const START: Duration = Duration::from_secs(120);
/// First address of the sidecar's listeners, and of the tasks behind it.
const LISTENERS: u32 = u32::from_be_bytes([127, 72, 0, 1]);
const TASKS: u32 = u32::from_be_bytes([127, 73, 0, 1]);

/// What the command line may change.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Requests of one round
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub requests: u64,
    /// Rounds of each start
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Starts of each size; the figure is the least of all rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub starts: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Keep callgrind's files here, for kcachegrind
    #[arg(long)]
    pub keep: Option<PathBuf>,
}

/// One size of a configuration, and what its requests cost.
#[derive(Debug, Clone, Serialize)]
pub struct Size {
    /// Services, each with a listener of its own.
    pub services: u32,
    /// Endpoints of each service.
    pub endpoints: u32,
    /// Instructions per request, one figure per round.
    pub rounds: Vec<f64>,
    /// The same of each function in the least round.
    #[serde(skip)]
    functions: Functions,
}

impl Size {
    fn new(services: u32, endpoints: u32) -> Self {
        Self {
            services,
            endpoints,
            rounds: Vec::new(),
            functions: Functions::new(),
        }
    }

    fn least(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn note(&mut self, dump: Dump, requests: f64) {
        let total = dump.total as f64 / requests;
        if total < self.least() {
            let each = dump.functions.into_iter();
            self.functions = each.map(|(name, own)| (name, own / requests)).collect();
        }
        self.rounds.push(total);
    }

    fn most(&self) -> f64 {
        self.rounds.iter().copied().fold(0.0, f64::max)
    }
}

/// A hundredfold.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// `endpoints` or `services`.
    pub what: &'static str,
    /// The small configuration.
    pub few: Size,
    /// The large one.
    pub many: Size,
    /// The least of many divided by the least of few.
    pub ratio: f64,
    /// The ratio that is aimed at.
    pub target: f64,
    /// Whether it is met.
    pub met: bool,
}

/// Measures and prints; whether every target is met.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    callgrind::installed()?;
    let binaries = Binaries::find()?;
    let sizes = [
        ("endpoints", Size::new(1, 3), Size::new(1, 300)),
        ("services", Size::new(10, 1), Size::new(1_000, 1)),
    ];
    let mut comparisons = Vec::new();
    for (what, mut few, mut many) in sizes {
        for start in 1..=options.starts {
            for size in [&mut few, &mut many] {
                measure(&binaries, &options, what, size, start).await?;
            }
        }
        let ratio = many.least() / few.least();
        comparisons.push(Comparison {
            what,
            few,
            many,
            ratio,
            target: TARGET,
            met: ratio <= TARGET,
        });
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&comparisons)?);
    } else {
        println!("{}", table(&comparisons));
        let missed = comparisons.iter().filter(|comparison| !comparison.met);
        missed.for_each(print_growth);
    }
    Ok(comparisons.iter().all(|comparison| comparison.met))
}

async fn measure(
    binaries: &Binaries,
    options: &Options,
    what: &str,
    size: &mut Size,
    start: u32,
) -> anyhow::Result<()> {
    let count = size.services.max(size.endpoints);
    eprintln!("{count} {what}, start {start} of {}", options.starts);
    let folder = tempfile::Builder::new()
        .prefix("outrigger-instructions-")
        .tempdir()?;
    let (tasks, port) = tasks(size.endpoints).await?;
    let listen = free_port(Ipv4Addr::from(LISTENERS))?;
    let file = folder.path().join("static.toml");
    std::fs::write(&file, configuration(size, listen, port)?)?;
    let sidecar = Counted::start(&binaries.proxy, &file, folder.path())?;
    let last = SocketAddr::from((Ipv4Addr::from(LISTENERS + size.services - 1), listen));
    let connects = || async { Ok(TcpStream::connect(last).await.ok()) };
    wait_for(&format!("the sidecar at {last}"), START, connects)
        .await
        .map_err(|error| error.context(sidecar.log_tail()))?;

    let called = CALLED.min(size.services);
    let step = size.services / called;
    let entries: Vec<_> = (0..called)
        .map(|n| SocketAddr::from((Ipv4Addr::from(LISTENERS + n * step), listen)))
        .collect();
    send(&entries, warm_up(size.endpoints)).await?;
    sidecar.zero().await?;
    let each = options.requests / u64::from(called);
    for round in 1..=options.rounds {
        send(&entries, each).await?;
        let dump = sidecar.dump(round).await?;
        size.note(dump, (each * u64::from(called)) as f64);
    }
    if let Some(keep) = &options.keep {
        sidecar.keep(keep, &format!("{count}-{what}-{start}"))?;
    }
    drop(tasks);
    Ok(())
}

/// So many requests at each entry, one after the other on one connection.
async fn send(entries: &[SocketAddr], requests: u64) -> anyhow::Result<()> {
    for entry in entries {
        let plan = Plan {
            connections: 1,
            requests: Some(requests),
            ..Plan::new(*entry, "orders")
        };
        let record = Load::start(plan).finished().await;
        if record.failed > 0 {
            bail!(
                "{} of {requests} requests failed: {:?}",
                record.failed,
                record.reasons
            );
        }
    }
    Ok(())
}

/// Enough random picks that one in a thousand runs leaves an endpoint out (the coupon collector's n · (ln n + 7)).
fn warm_up(endpoints: u32) -> u64 {
    let endpoints = f64::from(endpoints);
    (endpoints * (endpoints.ln() + 7.0)).max(200.0) as u64
}

/// Applications on so many addresses, all on the same port; they end when the set is dropped.
async fn tasks(count: u32) -> anyhow::Result<(JoinSet<std::io::Result<()>>, u16)> {
    let port = free_port(Ipv4Addr::from(TASKS))?;
    let mut tasks = JoinSet::new();
    for n in 0..count {
        let address = SocketAddr::from((Ipv4Addr::from(TASKS + n), port));
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("bind {address}"))?;
        let origin = Origin {
            name: "orders".to_owned(),
            greeting: None,
            ..Origin::default()
        };
        tasks.spawn(origin::serve(listener, origin, std::future::pending()));
    }
    Ok((tasks, port))
}

fn free_port(host: Ipv4Addr) -> anyhow::Result<u16> {
    Ok(Probe::bind((host, 0))?.local_addr()?.port())
}

/// The static file: each service with its listener, all of them with the same tasks.
fn configuration(size: &Size, listen: u16, port: u16) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let endpoints: Vec<_> = (0..size.endpoints)
        .map(|n| format!("{{ address = \"{}:{port}\" }}", Ipv4Addr::from(TASKS + n)))
        .collect();
    let endpoints = endpoints.join(", ");
    for n in 0..size.services {
        let address = Ipv4Addr::from(LISTENERS + n);
        writeln!(
            text,
            "[[listener]]\nname = \"in-{n}\"\ndirection = \"egress\"\naddress = \"{address}:{listen}\"\nprotocol = \"http\"\ncluster = \"service-{n}\"\n\n\
             [[cluster]]\nname = \"service-{n}\"\nprotocol = \"http\"\nendpoints = [{endpoints}]\noutlier_detection = {{}}\n"
        )?;
    }
    Ok(text)
}

fn table(comparisons: &[Comparison]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "",
        "few",
        "Ir / request",
        "many",
        "Ir / request",
        "ratio",
        "target",
        "",
    ]);
    for comparison in comparisons {
        let count = |size: &Size| size.services.max(size.endpoints).to_string();
        let figure = |size: &Size| format!("{:.0} (up to {:.0})", size.least(), size.most());
        table.add_row([
            comparison.what.to_owned(),
            count(&comparison.few),
            figure(&comparison.few),
            count(&comparison.many),
            figure(&comparison.many),
            format!("{:.3}", comparison.ratio),
            format!("≤ {TARGET}"),
            if comparison.met { "met" } else { "missed" }.to_owned(),
        ]);
    }
    table
}

/// Where the instructions are that the small configuration does not need.
fn print_growth(comparison: &Comparison) {
    println!("\nwhat grows with {}, Ir / request:", comparison.what);
    let few = |name: &String| {
        comparison
            .few
            .functions
            .get(name)
            .copied()
            .unwrap_or_default()
    };
    let many = comparison.many.functions.iter();
    let mut growth: Vec<_> = many.map(|(name, own)| (own - few(name), name)).collect();
    growth.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (more, name) in growth.iter().take(GROWN).filter(|(more, _)| *more >= 1.0) {
        println!("{more:+9.0}  {name}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_the_least_of_all_rounds() {
        let mut size = Size::new(1, 3);
        for total in [900, 100, 200] {
            let functions = Functions::from([("main".to_owned(), total as f64)]);
            size.note(Dump { total, functions }, 100.0);
        }
        assert_eq!((size.least(), size.most()), (1.0, 9.0));
        assert_eq!(size.functions["main"], 1.0);
    }

    #[test]
    fn every_service_has_a_listener_and_every_cluster_its_endpoints() {
        let text = configuration(&Size::new(2, 3), 80, 8080).unwrap();
        assert_eq!(text.matches("[[listener]]").count(), 2);
        assert!(text.contains("address = \"127.72.0.2:80\""));
        assert_eq!(text.matches("127.73.0.3:8080").count(), 2);
    }

    #[test]
    fn a_warm_up_meets_three_hundred_endpoints() {
        assert!(warm_up(300) > 300 * 12 && warm_up(1) >= 200);
    }
}
