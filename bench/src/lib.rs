//! Load, origins and fleets of local processes: what shows that the sidecar and its control server do their work.

pub mod attack;
pub mod certificates;
pub mod compare;
pub mod demo;
pub mod deploy;
pub mod faults;
pub mod fleet;
pub mod instructions;
pub mod ledger;
pub mod load;
pub mod network;
pub mod origin;
pub mod peers;
pub mod relay;
pub mod report;
pub mod sim;

/// Resolves at SIGTERM or Ctrl-C.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate =
        signal(SignalKind::terminate()).expect("a runtime with I/O can watch SIGTERM");
    let mut interrupt =
        signal(SignalKind::interrupt()).expect("a runtime with I/O can watch SIGINT");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
