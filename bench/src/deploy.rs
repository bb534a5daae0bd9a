//! `outrigger-bench deploy`: rolling deployments under load, and the audit of every request by the tasks' ledger.
//!
//! Each round replaces every task: the next one starts with a sidecar and a registration of its own and must have answered over
//! every protocol; then the oldest one is ended as ECS does it, while requests go on at a constant rate.

mod crew;
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};

use crate::compare::seconds;
use crate::fleet::{Binaries, wait_for};
use crate::ledger::{Audit, Entries};
use crate::load::{Load, Plan, Record, Wire};
use crew::{Crew, Member};

pub use report::{Report, Row};

/// For a task to start and to answer, and for it to end; the drain's own bounds are 10 s and 20 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long each answer takes its task, so that requests are under way at every moment.
const WORK: &str = "ms=20";

/// What the requests are made over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1
    H1,
    /// HTTP/2
    H2,
    /// Bidirectional gRPC streams
    Grpc,
    /// All of them at once
    All,
}

/// How a task is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stop {
    /// SIGTERM to application and sidecar at the same moment: containers of a task that do not depend on each other
    Together,
    /// The drain call, SIGTERM to the application, and when that has ended to the sidecar
    Ecs,
}

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Tasks of the service
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub tasks: u8,
    /// Deployments, one after the other: each replaces every task
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// What the requests are made over
    #[arg(long, value_enum, default_value_t = Protocol::All)]
    pub protocol: Protocol,
    /// Requests per second of each kind (GET and POST); of streams a tenth
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub rate: u32,
    /// Seconds of load before the first deployment, to compare latencies with
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub quiet: Duration,
    /// How a task is told to end
    #[arg(long, value_enum, default_value_t = Stop::Together)]
    pub stop: Stop,
    /// Applications close their keep-alive connections at SIGTERM at once: POSTs of unknown fate are told as 502
    #[arg(long)]
    pub close_at_once: bool,
    /// Start debug builds of the sidecars without these safeguards, to see the run fail
    #[arg(long)]
    pub mutant: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs, prints, and fails when the verdict is bad.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let report = tokio::select! {
        report = play(&options) => report?,
        () = crate::stop_signal() => anyhow::bail!("interrupted; all processes are ended"),
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the deployments and audits them.
pub async fn play(options: &Options) -> anyhow::Result<Report> {
    let binaries = tokio::task::spawn_blocking(Binaries::find).await??;
    let progress = progress(options);
    progress.set_message("starting");
    let mut crew = Crew::start(binaries, options).await?;
    let loads = Loads::start(&crew, options)?;
    for member in &crew.members {
        loads.heard_from(member).await?;
    }
    progress.set_message("load before the first deployment");
    tokio::time::sleep(options.quiet).await;
    let began = Instant::now();
    let mut drains = Vec::new();
    for round in 1..=options.rounds {
        progress.set_message(format!("deployment {round} of {}", options.rounds));
        for _ in 0..options.tasks {
            loads.heard_from(crew.add().await?).await?;
            drains.push(crew.retire(options.stop).await?);
            progress.inc(1);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    progress.set_message("the last answers");
    let records = loads.stop().await;
    let refusals = crew.refusals().await?;
    progress.finish_and_clear();
    let entries = Entries::read(&crew.ledger)?;
    let rows = records.iter().map(|(kind, record)| {
        let audit = Audit::of(record, &entries, kind.name);
        Row::new(kind, record, audit, began)
    });
    let rows = rows.collect();
    Ok(Report::new(options, seconds, &drains, rows, refusals))
}

/// One kind of request.
#[derive(Debug)]
struct Kind {
    /// Of its row, and the prefix of its ids.
    name: &'static str,
    protocol: Protocol,
    wire: Wire,
    method: Method,
}

const KINDS: &[Kind] = &[
    Kind::new("h1-get", Protocol::H1, Wire::Http1, Method::GET),
    Kind::new("h1-post", Protocol::H1, Wire::Http1, Method::POST),
    Kind::new("h2-get", Protocol::H2, Wire::Http2, Method::GET),
    Kind::new("h2-post", Protocol::H2, Wire::Http2, Method::POST),
    Kind::new("grpc-stream", Protocol::Grpc, Wire::Bidi, Method::POST),
];

impl Kind {
    const fn new(name: &'static str, protocol: Protocol, wire: Wire, method: Method) -> Self {
        Self {
            name,
            protocol,
            wire,
            method,
        }
    }

    /// Messages and their pauses make a stream last some 350 ms.
    fn plan(&self, crew: &Crew, rate: u32) -> anyhow::Result<Plan> {
        let (address, authority) = crew.address(self.protocol)?;
        let streamed = self.wire == Wire::Bidi;
        Ok(Plan {
            wire: self.wire,
            method: self.method.clone(),
            path: if streamed {
                "/echo.Echo/Bidi".to_owned()
            } else {
                format!("/?{WORK}")
            },
            body: match self.method {
                Method::POST => Bytes::from_static(b"order"),
                _ => Bytes::new(),
            },
            rate: Some(if streamed { rate / 10 } else { rate }),
            connections: if self.wire == Wire::Http1 { 16 } else { 2 },
            streams: 16,
            ids: Some(self.name.to_owned()),
            ..Plan::new(address, authority)
        })
    }
}

/// The loads that are running.
struct Loads(Vec<(&'static Kind, Load)>);

impl Loads {
    fn start(crew: &Crew, options: &Options) -> anyhow::Result<Self> {
        let all = options.protocol == Protocol::All;
        let kinds = KINDS
            .iter()
            .filter(|kind| all || kind.protocol == options.protocol);
        let started = kinds.map(|kind| Ok((kind, Load::start(kind.plan(crew, options.rate)?))));
        Ok(Self(started.collect::<anyhow::Result<_>>()?))
    }

    /// Waits until a task has answered over every protocol.
    async fn heard_from(&self, member: &Member) -> anyhow::Result<()> {
        let what = format!("answers of {}", member.id);
        let heard = wait_for(&what, PATIENCE, || async {
            let silent = self.0.iter().find(|(_, load)| !load.heard_from(&member.id));
            match silent {
                None => Ok(Some(())),
                Some((kind, _)) => anyhow::bail!("none to {}", kind.name),
            }
        });
        let log = || {
            format!(
                "its sidecar said last:\n{}",
                member.sidecar.process.log_tail()
            )
        };
        heard.await.with_context(log)
    }

    async fn stop(self) -> Vec<(&'static Kind, Record)> {
        let stopped = self
            .0
            .into_iter()
            .map(|(kind, load)| async move { (kind, load.stop().await) });
        futures_util::future::join_all(stopped).await
    }
}

fn progress(options: &Options) -> ProgressBar {
    let bar = ProgressBar::new(u64::from(options.rounds) * u64::from(options.tasks));
    match ProgressStyle::with_template("{bar:30} {pos}/{len} tasks replaced  {elapsed}  {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
