//! The command line of the control server.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use outrigger_control::app::{self, Options, Running};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Outrigger's control server: a registry with the AWS Cloud Map API, pushed to sidecars over xDS.
#[derive(Parser)]
#[command(name = "outrigger-control", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the Cloud Map API, the operator API and ADS.
    Serve(Serve),
}

#[derive(Args)]
struct Serve {
    /// Address of the Cloud Map API and the operator API.
    #[arg(
        long,
        env = "OUTRIGGER_API",
        default_value = "127.0.0.1:8471",
        value_name = "ADDR"
    )]
    api: SocketAddr,
    /// Address of ADS (gRPC).
    #[arg(
        long,
        env = "OUTRIGGER_XDS",
        default_value = "127.0.0.1:8472",
        value_name = "ADDR"
    )]
    xds: SocketAddr,
    /// Directory that holds the registry.
    #[arg(
        long,
        env = "OUTRIGGER_DATA",
        default_value = "./outrigger-data",
        value_name = "DIR"
    )]
    data: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli {
        command: Command::Serve(serve),
    } = Cli::parse();
    let filter =
        EnvFilter::try_from_env("OUTRIGGER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(serve).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger-control: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(serve: Serve) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut running = app::start(Options {
        api: serve.api,
        xds: serve.xds,
        data: serve.data,
    })
    .await?;
    greet(&running);
    tokio::select! {
        reason = running.failed() => anyhow::bail!(reason),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    running.shutdown().await;
    Ok(())
}

fn greet(running: &Running) {
    let (api, xds) = (running.api_addr, running.xds_addr);
    let text = format!(
        "api listening on http://{api}\n\
         xds listening on http://{xds}\n\
         AWS SDKs and CLI: export AWS_DISABLE_HOST_PREFIX_INJECTION=true (else they ask data-{api})\n"
    );
    // Whoever started the server may have closed its output; that is no reason to stop.
    let _unread = std::io::stdout().write_all(text.as_bytes());
}
