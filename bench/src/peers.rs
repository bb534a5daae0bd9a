//! The proxies that are compared: where their programs are, how each is configured for one job, and chains of their processes.

mod install;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::process::Command;

use crate::certificates::Certificates;
use crate::fleet::{Process, wait_for};
use crate::load::tls::{self, Group, Session};
use crate::load::{Load, Plan, Wire};

pub use install::{Peer, find};

const START: Duration = Duration::from_secs(20);

/// What kind of program a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No proxy: the load goes to the origin.
    Direct,
    /// Ours.
    Outrigger,
    /// Envoy 1.40.
    Envoy,
    /// HAProxy.
    HaProxy,
    /// nginx.
    Nginx,
}

/// What is spoken on one side of a proxy; the words are those of our static file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

/// How a peer spreads requests over endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn: Envoy's and Service Connect's default.
    RoundRobin,
    /// The one with fewer requests under way.
    LeastRequest,
    /// What a user gets who says nothing.
    Shipped,
}

/// One job of a proxy.
#[derive(Debug, Clone)]
pub struct Job {
    /// What clients speak.
    pub front: Protocol,
    /// What endpoints speak.
    pub back: Protocol,
    /// What the two proxies of a pair speak between them.
    pub middle: Protocol,
    /// How requests are spread.
    pub balance: Balance,
    /// Threads for traffic.
    pub workers: usize,
    /// The endpoints of each service.
    pub services: Vec<Vec<SocketAddr>>,
    /// Mutual TLS: between the two proxies of a pair, or before a single one.
    pub tls: Option<Tls>,
    /// Whether two of ours speak the hop protocol, which has HTTP/2 between them whatever `middle` says.
    pub hop: bool,
}

/// Mutual TLS 1.3 with certificates of P-256.
#[derive(Debug, Clone, Serialize)]
pub struct Tls {
    /// Who has what.
    pub certificates: Certificates,
    /// The only key exchange group.
    pub group: Group,
    /// How the load's connections begin, where it speaks TLS itself.
    pub session: Session,
    /// Whether sessions may be resumed.
    pub resumes: bool,
}

impl Tls {
    /// Servers that are measured in full handshakes make no tickets, where they can do without.
    pub fn new(certificates: Certificates, group: Group, session: Session) -> Self {
        Self {
            certificates,
            group,
            session,
            resumes: session != Session::Full,
        }
    }

    fn of_load(&self) -> anyhow::Result<tls::Tls> {
        tls::Tls::new(&self.certificates, self.group, self.session)
    }
}

/// One proxy's part of a job.
#[derive(Debug, Clone)]
struct Part {
    job: Job,
    /// As our static file has it: an ingress is called by others, and an egress calls them.
    direction: &'static str,
    tls_front: bool,
    tls_back: bool,
    hop_front: bool,
    hop_back: bool,
}

impl Part {
    /// That of number `hop` of `hops` proxies, counted from the client; `next` is where the following one listens.
    fn of(job: &Job, hop: u8, hops: u8, next: SocketAddr) -> Self {
        let mut job = job.clone();
        let (first, last) = (hop == 1, hop == hops);
        if !first {
            job.front = job.middle;
        }
        if !last {
            job.back = job.middle;
            job.services = vec![vec![next]];
        }
        let tls = job.tls.is_some();
        let tls_front = tls && (!first || last);
        Self {
            direction: if first && !tls_front {
                "egress"
            } else {
                "ingress"
            },
            tls_front,
            tls_back: tls && !last,
            hop_front: job.hop && !first,
            hop_back: job.hop && !last,
            job,
        }
    }
}

/// Processes of one peer in a row.
#[derive(Debug)]
pub struct Chain {
    /// From the origin towards the client.
    pub processes: Vec<Process>,
    /// Where the load goes.
    pub entry: SocketAddr,
    /// What the load speaks TLS with, if the entry does.
    pub tls: Option<tls::Tls>,
    /// Name and text of the configuration files.
    pub configuration: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Values<'a> {
    workers: usize,
    folder: &'a Path,
    direction: &'a str,
    tls: &'a Option<Tls>,
    tls_front: bool,
    tls_back: bool,
    hop_front: bool,
    hop_back: bool,
    front: Protocol,
    back: Protocol,
    balance: Balance,
    admin_port: u16,
    listen_port: u16,
    services: Vec<Service>,
}

#[derive(Serialize)]
struct Service {
    name: String,
    listen: SocketAddr,
    ip: String,
    port: u16,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize)]
struct Endpoint {
    address: SocketAddr,
    ip: String,
    port: u16,
}

impl Chain {
    /// Starts `hops` proxies in a row, on the calling thread's CPUs.
    pub fn start(peer: &Peer, hops: u8, job: &Job, folder: &Path) -> anyhow::Result<Self> {
        let origin = job.services[0][0];
        let mut chain = Self {
            processes: Vec::new(),
            entry: origin,
            tls: None,
            configuration: Vec::new(),
        };
        for hop in (1..=hops).rev() {
            let part = Part::of(job, hop, hops, chain.entry);
            chain.add(peer, &format!("{}-{hops}-{hop}", peer.name), &part, folder)?;
            chain.tls = match &job.tls {
                Some(tls) if part.tls_front => Some(tls.of_load()?),
                _ => None,
            };
        }
        Ok(chain)
    }

    fn add(&mut self, peer: &Peer, name: &str, part: &Part, folder: &Path) -> anyhow::Result<()> {
        let program = peer.program.as_deref().context("a peer that is there")?;
        let listen = free_port()?;
        let text = render(peer.kind, part, listen, folder)?;
        let file = folder.join(format!("{name}.{}", extension(peer.kind)));
        std::fs::write(&file, &text)?;
        let command = command(peer.kind, program, &file, folder, part.job.workers);
        self.processes.push(Process::spawn(name, command, folder)?);
        self.entry = listener(0, listen);
        self.configuration.push((name.to_owned(), text));
        Ok(())
    }

    /// Resolves when a process ends, and names it: one that refuses its configuration need not be waited for.
    async fn first_ended(&self) -> &str {
        loop {
            let ended = |process: &&Process| process.id().is_none_or(is_zombie);
            if let Some(process) = self.processes.iter().find(ended) {
                return process.name();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the first proxy answers a request, or accepts where the job is opaque TCP.
    pub async fn answers(&self, wire: Wire) -> anyhow::Result<()> {
        let asked = || async {
            let plan = Plan {
                wire,
                connections: 1,
                requests: Some(1),
                timeout: Duration::from_secs(2),
                tls: self.tls.clone(),
                body: match wire {
                    Wire::Tcp => bytes::Bytes::from_static(b"x"),
                    _ => bytes::Bytes::new(),
                },
                ..Plan::new(self.entry, "orders")
            };
            let record = Load::start(plan).finished().await;
            anyhow::ensure!(record.failed == 0, "{:?}", record.reasons);
            Ok(Some(()))
        };
        let names: Vec<_> = self.processes.iter().map(Process::name).collect();
        let what = format!("{names:?} at {}", self.entry);
        let waited = tokio::select! {
            waited = wait_for(&what, START, asked) => waited,
            name = self.first_ended() => Err(anyhow::anyhow!("{name} has ended")),
        };
        waited.map_err(|error| {
            let logs: Vec<_> = self.processes.iter().map(Process::log_tail).collect();
            error.context(logs.join("\n"))
        })
    }
}

impl Drop for Chain {
    /// Ends whole process groups: nginx's workers outlive a master that is killed.
    fn drop(&mut self) {
        for process in &self.processes {
            let group = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            if let Some(group) = group {
                // It may have ended by itself.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }
}

/// Whether a child has ended and nobody has waited for it yet.
fn is_zombie(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    after_name.is_none_or(|rest| rest.starts_with('Z'))
}

/// The configuration of one proxy.
fn render(kind: Kind, part: &Part, listen: u16, folder: &Path) -> anyhow::Result<String> {
    let job = &part.job;
    let template = match kind {
        Kind::Outrigger => include_str!("../peers/outrigger.toml"),
        Kind::Envoy => include_str!("../peers/envoy.yaml"),
        Kind::HaProxy => include_str!("../peers/haproxy.cfg"),
        Kind::Nginx => include_str!("../peers/nginx.conf"),
        Kind::Direct => "",
    };
    let services = job.services.iter().enumerate();
    let context = Values {
        workers: job.workers,
        folder,
        direction: part.direction,
        tls: &job.tls,
        tls_front: part.tls_front,
        tls_back: part.tls_back,
        hop_front: part.hop_front,
        hop_back: part.hop_back,
        front: job.front,
        back: job.back,
        balance: job.balance,
        admin_port: free_port()?,
        listen_port: listen,
        services: services
            .map(|(index, endpoints)| {
                let address = listener(index, listen);
                Service {
                    name: format!("orders-{index}"),
                    listen: address,
                    ip: address.ip().to_string(),
                    port: address.port(),
                    endpoints: endpoints.iter().map(endpoint).collect(),
                }
            })
            .collect(),
    };
    let mut environment = minijinja::Environment::new();
    environment.set_keep_trailing_newline(true);
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    Ok(environment.render_str(template, context)?)
}

fn endpoint(address: &SocketAddr) -> Endpoint {
    Endpoint {
        address: *address,
        ip: address.ip().to_string(),
        port: address.port(),
    }
}

/// Every service listens on an address of its own, as a service's VIP is.
fn listener(index: usize, port: u16) -> SocketAddr {
    let third = u8::try_from(index / 250).unwrap_or(u8::MAX);
    let fourth = u8::try_from(index % 250 + 1).unwrap_or(u8::MAX);
    SocketAddr::from(([127, 0, third, fourth], port))
}

fn extension(kind: Kind) -> &'static str {
    match kind {
        Kind::Outrigger | Kind::Direct => "toml",
        Kind::Envoy => "yaml",
        Kind::HaProxy => "cfg",
        Kind::Nginx => "conf",
    }
}

fn command(kind: Kind, program: &Path, file: &Path, folder: &Path, workers: usize) -> Command {
    let mut command = Command::new(program);
    let workers = workers.to_string();
    match kind {
        Kind::Outrigger | Kind::Direct => command.arg("--static").arg(file).args([
            "--admin",
            "127.0.0.1:0",
            "--workers",
            &workers,
        ]),
        Kind::Envoy => command.arg("-c").arg(file).args([
            "--concurrency",
            &workers,
            "--disable-hot-restart",
            "-l",
            "error",
        ]),
        Kind::HaProxy => command.args(["-db", "-f"]).arg(file),
        Kind::Nginx => command
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(file)
            .args(["-e", "stderr"]),
    };
    command
}

/// A port that nobody listens on now, on no loopback address.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let any = std::net::TcpListener::bind("0.0.0.0:0")?;
    Ok(any.local_addr()?.port())
}

/// Where the build puts what is not ours.
fn target_folder() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")).to_owned()
}

#[cfg(test)]
mod tests;
