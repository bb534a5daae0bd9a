//! The command line: `origin`, `load`, `attack`, `demo`, `compare` and what reads its results.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use outrigger_bench::attack;
use outrigger_bench::compare;
use outrigger_bench::demo;
use outrigger_bench::deploy;
use outrigger_bench::faults;
use outrigger_bench::instructions;
use outrigger_bench::ledger::Ledger;
use outrigger_bench::load::command as load;
use outrigger_bench::origin::lean::Lean;
use outrigger_bench::origin::{self, Manner, Origin};
use outrigger_bench::report;
use outrigger_bench::sim;

#[derive(Parser)]
#[command(
    version,
    about = "Load, origin servers, the demo, and the comparison with other proxies"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as an application that answers its name and misbehaves on request
    Origin {
        /// Address to listen on, again for more; port 0 is any free one, printed as `origin listening on ADDR`
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: Vec<SocketAddr>,
        /// The name answered in `x-task`
        #[arg(long)]
        name: Option<String>,
        /// Write `<x-request-id> <name>` to this file before acting on a request; origins may share it
        #[arg(long, conflicts_with = "lean")]
        ledger: Option<PathBuf>,
        /// At SIGTERM, close idle connections at once instead of after 5 s
        #[arg(long, conflicts_with = "lean")]
        close_at_once: bool,
        /// How it treats everybody
        #[arg(long, value_enum, default_value_t = Manner::Well, conflicts_with = "lean")]
        manner: Manner,
        /// Opaque TCP: send this line first, then every byte back
        #[arg(long)]
        greeting: Option<String>,
        /// For measuring: the same answer to every request, made once
        #[arg(long, conflicts_with = "greeting")]
        lean: bool,
        /// Bytes of the lean answer's body
        #[arg(long, default_value_t = 1024, requires = "lean")]
        bytes: usize,
        /// Milliseconds before each lean answer
        #[arg(long, default_value_t = 0, requires = "lean")]
        delay_ms: u64,
    },
    /// Send requests and print what came of them
    Load(load::Options),
    /// Three tasks, a client and a control server on loopback: one task is killed, one drained, one added
    Demo(demo::Options),
    /// Rolling deployments under load, audited: no request lost, none acted upon twice
    Deploy(deploy::Options),
    /// Tasks that die, freeze, lie or vanish: what should come of it, and what comes of it
    Faults(faults::Options),
    /// Our sidecar beside Envoy, HAProxy and nginx: CPU, latency, memory, and what the ratios say
    Compare(compare::Options),
    /// Hostile clients against a sidecar: what a good client notices, and what memory it takes
    Attack(attack::Options),
    /// A task of a scenario that is played with real processes
    #[command(hide = true)]
    Application(sim::application::Options),
    /// A scenario on paper: our policy beside Service Connect's in virtual time, from a seed
    Sim(sim::Options),
    /// What `compare` found, as an HTML page and a Markdown table
    Report(report::Options),
    /// Instructions per request with a hundred times more endpoints or services, under valgrind
    Instructions(instructions::Options),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("OUTRIGGER_LOG")
                .unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let args = arguments();
    if !matches!(args.command, Command::Demo(_)) {
        compare::raise_descriptors();
    }
    let mut builder = match args.command {
        // One thread: it is pinned, and what measures must cost little.
        Command::Load(_)
        | Command::Compare(_)
        | Command::Attack(_)
        | Command::Application(_)
        | Command::Origin { .. } => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .expect("the operating system gives a runtime its threads");
    match runtime.block_on(run(args)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `cargo demo -- --keep` arrives as `demo -- --keep`: the alias ends with its own `--`.
fn arguments() -> Args {
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(2).is_some_and(|word| word == "--") {
        words.remove(2);
    }
    Args::parse_from(words)
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Compare(options) => compare::run(options).await?,
        Command::Report(options) => report::run(&options)?,
        Command::Instructions(options) => {
            let met = instructions::run(options).await?;
            return Ok(if met {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Command::Demo(options) => {
            let good = demo::run(options).await?;
            return Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Command::Deploy(options) => return deploy::run(options).await,
        Command::Faults(options) => return faults::run(options).await,
        Command::Attack(options) => return attack::run(options).await,
        Command::Sim(options) => return sim::run(options).await,
        Command::Application(options) => sim::application::run(options).await?,
        Command::Load(options) => return load::run(options).await,
        Command::Origin {
            listen,
            name,
            ledger,
            close_at_once,
            manner,
            greeting,
            lean,
            bytes,
            delay_ms,
        } => {
            if lean {
                let lean = Lean {
                    bytes,
                    delay: Duration::from_millis(delay_ms),
                    name,
                };
                origin::lean::run(&listen, lean).await?;
            } else {
                let name = name.unwrap_or_else(|| "origin".to_owned());
                let ledger = ledger.map(|path| {
                    let opened = Ledger::open(&path, &name);
                    opened.with_context(|| format!("--ledger {}", path.display()))
                });
                let origin = Origin {
                    ledger: ledger.transpose()?.map(Arc::new),
                    keep_idle: if close_at_once {
                        Duration::ZERO
                    } else {
                        origin::KEEP_IDLE
                    },
                    name,
                    greeting,
                    manner,
                };
                origin::run(&listen, origin).await?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
