//! Who takes part besides the attackers: two origins, a sidecar on its defaults, and the good client's plan.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;

use super::kind::Kind;
use crate::compare::cost;
use crate::compare::machine::Cpus;
use crate::fleet::{Binaries, Process, call, wait_for};
use crate::load::Plan;

/// Bytes of the answers that attackers do not read.
const LARGE: usize = 2 << 20;
const SMALL: usize = 1024;
const START: Duration = Duration::from_secs(10);

/// Processes that end when this is dropped.
pub(super) struct Stage {
    sidecar: Process,
    _origins: [Process; 2],
    ids: Vec<u32>,
    good: SocketAddr,
    large: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(super) async fn start(proxy: Option<&Path>, workers: u8) -> anyhow::Result<Self> {
        let binaries = Binaries::find()?;
        let folder = tempfile::Builder::new()
            .prefix("outrigger-attack-")
            .tempdir()?;
        let cpus = Cpus::allowed()?;
        cpus.to_load(usize::from(workers));
        let small = origin(&binaries, "origin", SMALL, folder.path())?;
        let big = origin(&binaries, "large-origin", LARGE, folder.path())?;
        let (good, large) = (free()?, free()?);
        let text = [
            service("good", good, small.listening("origin", START).await?),
            service("large", large, big.listening("origin", START).await?),
        ]
        .concat();
        let file = folder.path().join("static.toml");
        std::fs::write(&file, text)?;
        let mut command = Command::new(proxy.unwrap_or(&binaries.proxy));
        command.arg("--static").arg(&file);
        command.args(["--admin", "127.0.0.1:0", "--workers", &workers.to_string()]);
        let spawn = || Process::spawn("sidecar", command, folder.path());
        let sidecar = cpus.on_proxies(usize::from(workers), spawn)?;
        let admin = sidecar.listening("admin", START).await?;
        wait_for("the sidecar's /ready", START, async || {
            let (status, _) = call(admin, http::Request::get("/ready"), String::new()).await?;
            Ok(status.is_success().then_some(()))
        })
        .await?;
        let ids = vec![sidecar.id().context("the sidecar has ended")?];
        Ok(Self {
            sidecar,
            _origins: [small, big],
            ids,
            good,
            large,
            _folder: folder,
        })
    }

    /// Where attackers of this kind go.
    pub(super) fn target(&self, kind: Kind) -> SocketAddr {
        if kind.wants_large() {
            self.large
        } else {
            self.good
        }
    }

    pub(super) fn good_client(&self, rate: u32, connections: usize) -> Plan {
        Plan {
            rate: Some(rate),
            connections,
            timeout: Duration::from_secs(10),
            ..Plan::new(self.good, "app")
        }
    }

    /// The sidecar's resident MiB.
    pub(super) fn resident(&self) -> anyhow::Result<f64> {
        let read = cost::rss_mib(&self.ids);
        read.with_context(|| format!("the sidecar's log ends in:\n{}", self.sidecar.log_tail()))
    }

    /// CPU seconds the sidecar has used.
    pub(super) fn cpu(&self) -> anyhow::Result<f64> {
        let cpu = cost::cpu(&self.ids)?;
        Ok(cpu.user() + cpu.system())
    }
}

fn origin(binaries: &Binaries, name: &str, bytes: usize, folder: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(&binaries.bench);
    command.args(["origin", "--lean", "--bytes", &bytes.to_string()]);
    Process::spawn(name, command, folder)
}

/// A port that was free a moment ago.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn service(name: &str, listener: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"http\"\ncluster = \"{name}\"\n\
         [[cluster]]\nname = \"{name}\"\nprotocol = \"http\"\nendpoints = [{{ address = \"{origin}\" }}]\n"
    )
}
