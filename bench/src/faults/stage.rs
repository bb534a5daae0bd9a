//! Where a fault plays: a sidecar on a static file, a few tasks on loopback or on hosts of their own, and what strikes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use http::Request;
use rustix::process::Signal;
use tokio::process::Command;

use super::Fault;
use crate::fleet::{Binaries, Process, call, wait_for};
use crate::network::Host;
use crate::relay::{Delay, Relay};

/// For processes to start and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Half of what the far zone is away.
const HALF_WAY: Duration = Duration::from_millis(100);
/// Between two deaths of a flapping task.
const FLAP: Duration = Duration::from_millis(500);

/// One application. Its process ends before its host.
struct Task {
    name: String,
    process: Process,
    /// Where it listens.
    address: SocketAddr,
    /// Where the sidecar dials.
    dialled: SocketAddr,
    faulty: bool,
    _relay: Option<Relay>,
    _sidecar: Option<Process>,
    host: Option<Host>,
}

pub(super) struct Stage {
    /// Where clients dial.
    pub(super) address: SocketAddr,
    /// What they ask for.
    pub(super) path: &'static str,
    pub(super) ledger: PathBuf,
    admin: SocketAddr,
    _sidecar: Process,
    tasks: Vec<Task>,
    binaries: Binaries,
    folder: tempfile::TempDir,
}

impl Stage {
    pub(super) async fn start(
        fault: Fault,
        binaries: Binaries,
        mutant: Option<&str>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("outrigger-").tempdir()?;
        let ledger = folder.path().join("ledger");
        let (count, faulty) = match fault {
            Fault::FarZone | Fault::ZoneLost => (4, 2),
            Fault::AllUnavailable => (3, 3),
            _ => (3, 1),
        };
        let mut tasks = Vec::new();
        for n in 0..count {
            let task = start_task(fault, &binaries, &folder, n, n < faulty, mutant);
            tasks.push(task.await?);
        }
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let text = static_file(fault, address, &tasks);
        let (sidecar, admin) = start_sidecar(&binaries, &folder, "sidecar", &text, mutant).await?;
        Ok(Self {
            address,
            path: match fault {
                Fault::Bandwidth => "/?ms=5&bytes=20000",
                _ => "/?ms=20",
            },
            ledger,
            admin,
            _sidecar: sidecar,
            tasks,
            binaries,
            folder,
        })
    }

    /// The fault, and the time under it.
    pub(super) async fn strike(&mut self, fault: Fault, time: Duration) -> anyhow::Result<()> {
        match fault {
            Fault::Kill | Fault::AppKill => self.tasks[0].process.kill().await?,
            Fault::ZoneLost => {
                let mut struck = self.tasks.iter().filter(|task| task.faulty);
                struck.try_for_each(|task| task.process.signal(Signal::KILL))?;
            }
            Fault::Freeze => self.tasks[0].process.signal(Signal::STOP)?,
            Fault::Flapping => return self.flap(time).await,
            Fault::HalfOpen => self.host()?.vanish()?,
            Fault::Loss => self.host()?.lose(0.1)?,
            Fault::Reject => self.host()?.reject()?,
            Fault::Bandwidth => self.host()?.limit(1000)?,
            // These were so from the start.
            Fault::ResetOnAccept
            | Fault::Mute
            | Fault::Break
            | Fault::AppBreak
            | Fault::Unavailable
            | Fault::AllUnavailable
            | Fault::FarZone => {}
        }
        tokio::time::sleep(time).await;
        Ok(())
    }

    /// A frozen task goes on, and acts upon what has waited for it: that counts as well.
    pub(super) async fn relent(&mut self, fault: Fault) -> anyhow::Result<()> {
        if fault == Fault::Freeze {
            let process = &mut self.tasks[0].process;
            process.signal(Signal::CONT)?;
            process.terminate()?;
            process.ended(PATIENCE).await?;
        }
        Ok(())
    }

    async fn flap(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            let task = &mut self.tasks[0];
            task.process.kill().await?;
            tokio::time::sleep(FLAP).await;
            let command = application(&self.binaries, Fault::Flapping, &task.name, &self.ledger);
            task.process = listen(command, &task.name, task.address, &self.folder)?;
            task.process.listening("origin", PATIENCE).await?;
            tokio::time::sleep(FLAP).await;
        }
        Ok(())
    }

    fn host(&self) -> anyhow::Result<&Host> {
        let host = self.tasks.first().and_then(|task| task.host.as_ref());
        host.context("a fault of the network strikes a task with a host")
    }

    pub(super) fn is_faulty(&self, name: &str) -> bool {
        self.tasks
            .iter()
            .any(|task| task.faulty && task.name == name)
    }

    /// Attempts per request, by the sidecar's own count of retries.
    pub(super) async fn attempts(&self, requests: u64) -> anyhow::Result<f64> {
        let (_, text) = call(self.admin, Request::get("/metrics"), String::new()).await?;
        let counts = text
            .lines()
            .filter(|line| line.starts_with("outrigger_retries_total"));
        let retries = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(1.0 + retries.sum::<f64>() / requests.max(1) as f64)
    }
}

/// A sidecar on a static file, when it is ready; and its admin address.
async fn start_sidecar(
    binaries: &Binaries,
    folder: &tempfile::TempDir,
    name: &str,
    text: &str,
    mutant: Option<&str>,
) -> anyhow::Result<(Process, SocketAddr)> {
    let file = folder.path().join(format!("{name}.toml"));
    std::fs::write(&file, text)?;
    let mut command = Command::new(&binaries.proxy);
    command.arg("--static").arg(&file);
    command.args(["--admin", "127.0.0.1:0", "--workers", "1", "--zone", "near"]);
    if let Some(mutant) = mutant {
        command.env("OUTRIGGER_MUTANT", mutant);
    }
    let process = Process::spawn(name, command, folder.path())?;
    let admin = process.listening("admin", PATIENCE).await?;
    let ready = wait_for("the sidecar to be ready", PATIENCE, || async {
        let (status, _) = call(admin, Request::get("/ready"), String::new()).await?;
        Ok(status.is_success().then_some(()))
    });
    ready.await.with_context(|| process.log_tail())?;
    Ok((process, admin))
}

/// A listener and its cluster, and what stands beside the listener's address and in the cluster.
fn service(direction: &str, address: SocketAddr, listener: &str, cluster: &str) -> String {
    format!(
        "[[listener]]\nname = \"orders\"\ndirection = \"{direction}\"\naddress = \"{address}\"\n\
         protocol = \"http\"\ncluster = \"orders\"\n{listener}\n\n\
         [[cluster]]\nname = \"orders\"\nprotocol = \"http\"\n{cluster}\n"
    )
}

/// What both ends of a hop know of the task; every task of a test may have the same tokens.
fn hop(instance: &str) -> String {
    let (request, verdict) = ("1".repeat(32), "2".repeat(32));
    format!(
        "hop = {{ namespace = \"demo\", service = \"orders\", instance = \"{instance}\", \
         request = \"{request}\", verdict = \"{verdict}\" }}"
    )
}

async fn start_task(
    fault: Fault,
    binaries: &Binaries,
    folder: &tempfile::TempDir,
    n: u8,
    faulty: bool,
    mutant: Option<&str>,
) -> anyhow::Result<Task> {
    let name = format!("orders-{}", n + 1);
    let ledger = folder.path().join("ledger");
    let host = (faulty && fault.needs_network())
        .then(Host::start)
        .transpose()?;
    let plain = if faulty { fault } else { Fault::Kill };
    let program = application(binaries, plain, &name, &ledger);
    let (command, ip) = match &host {
        Some(host) => {
            let mut command = host.command(std::path::Path::new(program.as_std().get_program()));
            command.args(program.as_std().get_args());
            (command, host.address())
        }
        None => (program, IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let process = listen(command, &name, SocketAddr::new(ip, 0), folder)?;
    let address = process.listening("origin", PATIENCE).await?;
    let delay = Delay {
        there: HALF_WAY,
        back: HALF_WAY,
    };
    let relay = match is_far(fault, faulty) {
        true => Some(Relay::start(address, delay).await?),
        false => None,
    };
    let mut dialled = relay.as_ref().map_or(address, |relay| relay.address);
    let mut sidecar = None;
    if fault.behind_sidecars() {
        dialled = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let endpoint = format!("endpoints = [{{ address = \"{address}\" }}]");
        let text = service("ingress", dialled, &hop(&name), &endpoint);
        let beside = format!("{name}-sidecar");
        sidecar = Some(
            start_sidecar(binaries, folder, &beside, &text, mutant)
                .await?
                .0,
        );
    }
    Ok(Task {
        name,
        process,
        address,
        dialled,
        faulty,
        _relay: relay,
        _sidecar: sidecar,
        host,
    })
}

/// Whether a task is in the other zone.
fn is_far(fault: Fault, faulty: bool) -> bool {
    match fault {
        Fault::FarZone => faulty,
        Fault::ZoneLost => !faulty,
        _ => false,
    }
}

fn application(binaries: &Binaries, fault: Fault, name: &str, ledger: &std::path::Path) -> Command {
    let mut command = Command::new(&binaries.bench);
    command.args(["origin", "--name", name, "--ledger"]);
    command.arg(ledger);
    let manner = clap::ValueEnum::to_possible_value(&fault.manner());
    if let Some(manner) = manner {
        command.args(["--manner", manner.get_name()]);
    }
    command
}

fn listen(
    mut command: Command,
    name: &str,
    address: SocketAddr,
    folder: &tempfile::TempDir,
) -> anyhow::Result<Process> {
    command.args(["--listen", &address.to_string()]);
    Process::spawn(name, command, folder.path())
}

fn static_file(fault: Fault, address: SocketAddr, tasks: &[Task]) -> String {
    let zone = |task: &Task| match is_far(fault, task.faulty) {
        true => "far",
        false => "near",
    };
    let endpoint = |task: &Task| {
        let mut said = format!("address = \"{}\", zone = \"{}\"", task.dialled, zone(task));
        if fault.behind_sidecars() {
            said = format!("{said}, {}", hop(&task.name));
        }
        format!("{{ {said} }}")
    };
    let endpoints: Vec<_> = tasks.iter().map(endpoint).collect();
    let timeouts = match fault {
        // Longer than what TCP needs to repair a loss or two.
        Fault::Loss | Fault::Bandwidth => "per_request_timeout = \"5s\"",
        // Time alone tells a frozen task from a slow one; what is left of the request's own is for a second try.
        Fault::Freeze | Fault::Mute | Fault::HalfOpen => {
            "per_request_timeout = \"3s\"\nretry = { per_try_timeout = \"1s\" }"
        }
        _ => "per_request_timeout = \"3s\"\nconnect_timeout = \"500ms\"",
    };
    let cluster = format!("{timeouts}\nendpoints = [{}]", endpoints.join(", "));
    service("egress", address, "", &cluster)
}
