//! `outrigger-proxy`: reads its flags, starts the log, and runs the sidecar.

use std::process::ExitCode;

use clap::Parser;
use outrigger_proxy::app::{self, StartError};
use outrigger_proxy::config::{AgentConfig, Args, Cli, Command, Config};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    // Levels by target are all that is asked for; `EnvFilter` would bring regular expressions with it.
    let asked = std::env::var("OUTRIGGER_LOG").unwrap_or_default();
    let filter = if asked.is_empty() {
        Targets::new()
            .with_default(LevelFilter::INFO)
            .with_target("pingora_load_balancing", LevelFilter::WARN)
    } else {
        match asked.parse() {
            Ok(filter) => filter,
            Err(error) => {
                eprintln!("outrigger-proxy: OUTRIGGER_LOG={asked:?}: {error}");
                return ExitCode::from(2);
            }
        }
    };
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry().with(log).with(filter).init();
    if let Err(reason) = outrigger_proxy::mutants::choose() {
        eprintln!("outrigger-proxy: {reason}");
        return ExitCode::from(2);
    }
    let cli = Cli::parse();
    let ended = match cli.command {
        Some(Command::CertAgent(args)) => AgentConfig::from_args(&args)
            .map_err(StartError::from)
            .and_then(app::run_agent),
        None => Config::from_args(in_ecs(cli.sidecar))
            .map_err(StartError::from)
            .and_then(app::run),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Config(errors)) => {
            eprintln!("outrigger-proxy: the configuration has errors:\n{errors}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("outrigger-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where ECS tells the sidecar of its own to listen (SERVICE_CONNECT.md 2.2).
fn in_ecs(mut args: Args) -> Args {
    let socket = || std::env::var("APPNET_AGENT_ADMIN_UDS_PATH").ok();
    args.admin_socket = args.admin_socket.or_else(socket);
    args
}
