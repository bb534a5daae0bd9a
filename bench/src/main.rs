//! The command line: `origin`, `load`, `demo` and `figures`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use outrigger_bench::demo;
use outrigger_bench::figures;
use outrigger_bench::instructions;
use outrigger_bench::load::{Load, Plan, Record, Wire};
use outrigger_bench::origin::{self, Origin};

#[derive(Parser)]
#[command(
    version,
    about = "Load, origin servers, the demo, and figures of what the sidecar costs"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as an application that answers its name and misbehaves on request
    Origin {
        /// Address to listen on; port 0 is any free one, printed as `origin listening on ADDR`
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// The name answered in `x-task`
        #[arg(long, default_value = "origin")]
        name: String,
        /// Opaque TCP: send this line first, then every byte back
        #[arg(long)]
        greeting: Option<String>,
    },
    /// Send requests and print what came of them
    Load {
        /// Where connections go
        address: SocketAddr,
        /// Host header; the address when absent
        #[arg(long)]
        host: Option<String>,
        /// Path and query
        #[arg(long, default_value = "/")]
        path: String,
        /// Method
        #[arg(long, default_value = "GET")]
        method: http::Method,
        /// Bytes of body with every request
        #[arg(long, default_value_t = 0)]
        body: usize,
        /// What is spoken
        #[arg(long, value_enum, default_value_t = Wire::Http1)]
        wire: Wire,
        /// Requests per second; absent: as fast as answers come
        #[arg(long)]
        rate: Option<u32>,
        /// Connections held open
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// Streams per HTTP/2 connection
        #[arg(long, default_value_t = 16)]
        streams: usize,
        /// Stop after so many requests
        #[arg(long)]
        requests: Option<u64>,
        /// Stop after so many seconds
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Three tasks, a client and a control server on loopback: one task is killed, one drained, one added
    Demo(demo::Options),
    /// CPU per 100,000 requests and memory, one hop and two, beside Envoy if it is installed
    Figures(figures::Options),
    /// Instructions per request with a hundred times more endpoints or services, under valgrind
    Instructions(instructions::Options),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime =
        tokio::runtime::Runtime::new().expect("the operating system gives a runtime its threads");
    match runtime.block_on(run(arguments())) {
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
        Command::Figures(options) => figures::run(options).await?,
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
        Command::Origin {
            listen,
            name,
            greeting,
        } => origin::run(listen, Origin { name, greeting }).await?,
        Command::Load {
            address,
            host,
            path,
            method,
            body,
            wire,
            rate,
            connections,
            streams,
            requests,
            seconds,
        } => {
            let plan = Plan {
                path,
                method,
                body: Bytes::from(vec![b'0'; body]),
                wire,
                rate,
                connections,
                streams,
                requests,
                duration: requests.is_none().then(|| Duration::from_secs(seconds)),
                ..Plan::new(address, host.unwrap_or_else(|| address.to_string()))
            };
            let start = std::time::Instant::now();
            let record = Load::start(plan).finished().await;
            print_record(&record, start.elapsed());
            return Ok(if record.failed == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_record(record: &Record, elapsed: Duration) {
    let rate = record.sent as f64 / elapsed.as_secs_f64();
    println!(
        "requests {}  failed {}  per second {rate:.0}  bytes {}",
        record.sent, record.failed, record.bytes
    );
    let at = |quantile| record.latency_ms(quantile);
    println!(
        "ms: p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    for (task, seen) in &record.by_task {
        println!("task {task}: {}", seen.answers);
    }
    for (reason, count) in &record.reasons {
        println!("failed: {reason}: {count}");
    }
}
