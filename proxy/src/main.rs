//! `outrigger-proxy`: reads its flags, starts the log, and runs the sidecar.

use std::process::ExitCode;

use clap::Parser;
use outrigger_proxy::app::{self, StartError};
use outrigger_proxy::config::{Args, Config};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("OUTRIGGER_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,pingora_load_balancing=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let started = Config::from_args(Args::parse())
        .map_err(StartError::from)
        .and_then(app::run);
    match started {
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
