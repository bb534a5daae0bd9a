//! The tasks of a deployment: one application with an h1, an h2 and a gRPC port, its sidecar, and how both are ended.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::Instant;

use super::{Options, PATIENCE, Protocol, Stop};
use crate::fleet::{
    Binaries, Fleet, Process, Sidecar, address, call, client_document, resolve, wait_for,
};

/// Numbers of one crew on this machine: the client's, and those of 20 tasks and of two that come and go.
const NUMBERS: u8 = 24;
/// Below the ports that sidecars choose from for their ingress.
const LOCK: u16 = 14_999;

/// A service, which every task of the crew offers.
#[derive(Debug)]
struct Service {
    protocol: Protocol,
    name: &'static str,
    app_protocol: &'static str,
    port: u16,
}

/// One task.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) sidecar: Sidecar,
    app: Process,
}

/// The control server, a client, and the tasks of now, oldest first.
pub(super) struct Crew {
    pub(super) members: VecDeque<Member>,
    pub(super) ledger: PathBuf,
    client: Sidecar,
    services: [Service; 3],
    close_at_once: bool,
    started: u32,
    /// The client's number; the tasks' follow.
    first: u8,
    /// Held: two crews with the same numbers take each other's ports.
    _lock: TcpListener,
    /// Numbers in use at once: a new task takes the place of one that is long gone.
    places: u32,
    fleet: Fleet,
}

impl Crew {
    /// Starts everything, until the client knows every service.
    pub(super) async fn start(binaries: Binaries, options: &Options) -> anyhow::Result<Self> {
        let mut fleet = Fleet::start(binaries).await?;
        fleet.mutant.clone_from(&options.mutant);
        let document = client_document();
        let (first, lock) = numbers()?;
        let client = Sidecar::start(&fleet, "client", first, vip_net(first), &document).await?;
        let mut crew = Self {
            members: VecDeque::new(),
            ledger: fleet.folder().join("ledger"),
            client,
            services: services()?,
            close_at_once: options.close_at_once,
            started: 0,
            first,
            _lock: lock,
            places: u32::from(options.tasks) + 2,
            fleet,
        };
        for _ in 0..options.tasks {
            crew.add().await?;
        }
        for service in &crew.services {
            let what = format!("{} in the client's hosts block", service.name);
            let known = wait_for(&what, PATIENCE, || async {
                resolve(&crew.client.hosts_file, service.name)
            });
            let log = || crew.client.process.log_tail();
            known.await.with_context(log)?;
        }
        crew.client.ready().await?;
        crew.offered().await?;
        Ok(crew)
    }

    /// Waits until the client offers every task for every service: a request before that is none of a deployment's.
    async fn offered(&self) -> anyhow::Result<()> {
        let offered = wait_for("every task to be offered", PATIENCE, || async {
            let (_, text) =
                call(self.client.admin, Request::get("/clusters"), String::new()).await?;
            let clusters: Vec<Value> = serde_json::from_str(&text)?;
            let whole = clusters.iter().filter(|cluster| {
                let endpoints = cluster["endpoints"].as_array();
                let has = |id: &str| {
                    endpoints
                        .into_iter()
                        .flatten()
                        .any(|one| one["instance"] == id)
                };
                self.members.iter().all(|member| has(&member.id))
            });
            match whole.count() {
                count if count >= self.services.len() => Ok(Some(())),
                _ => anyhow::bail!("{text}"),
            }
        });
        offered
            .await
            .with_context(|| self.client.process.log_tail())
    }

    /// Where the client dials, and the authority it names.
    pub(super) fn address(&self, protocol: Protocol) -> anyhow::Result<(SocketAddr, String)> {
        let mut all = self.services.iter();
        let service = all.find(|service| service.protocol == protocol);
        let service = service.context("every protocol but `all` has a service")?;
        let (ip, _) = resolve(&self.client.hosts_file, service.name)?
            .with_context(|| format!("{} left the client's hosts block", service.name))?;
        let authority = format!("{}:{}", service.name, service.port);
        Ok((SocketAddr::new(ip, service.port), authority))
    }

    /// What the client's sidecar answered itself, by its reason.
    pub(super) async fn refusals(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let (_, text) = call(self.client.admin, Request::get("/metrics"), String::new()).await?;
        let mut refusals = BTreeMap::new();
        for line in text
            .lines()
            .filter(|line| line.starts_with("outrigger_errors_total{"))
        {
            let kind = line
                .split("kind=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            let count = line
                .rsplit(' ')
                .next()
                .and_then(|count| count.parse::<u64>().ok());
            if let Some((kind, count)) = kind.zip(count) {
                *refusals.entry(kind.to_owned()).or_default() += count;
            }
        }
        Ok(refusals)
    }

    /// Starts one more task; when it is in use is for the caller to see.
    pub(super) async fn add(&mut self) -> anyhow::Result<&Member> {
        let place = self.started % self.places + 1;
        let number = self.first + u8::try_from(place).context("few tasks run at once")?;
        self.started += 1;
        let id = format!("orders-{}", self.started);
        let mut command = Command::new(&self.fleet.binaries.bench);
        command.args(["origin", "--name", &id, "--ledger"]);
        command.arg(&self.ledger);
        for _ in &self.services {
            let listen = SocketAddr::new(address(number), 0);
            command.args(["--listen", &listen.to_string()]);
        }
        if self.close_at_once {
            command.arg("--close-at-once");
        }
        let app = Process::spawn(&id, command, self.fleet.folder())?;
        let mut ports = Vec::new();
        for what in ["origin", "origin-2", "origin-3"] {
            ports.push(app.listening(what, PATIENCE).await?.port());
        }
        let document = document(&self.services, &ports);
        let sidecar = Sidecar::start(&self.fleet, &id, number, vip_net(number), &document).await?;
        self.members.push_back(Member { id, sidecar, app });
        self.members.back().context("a task was just added")
    }

    /// Ends the oldest task and waits until both its processes have gone; answers how long that took.
    pub(super) async fn retire(&mut self, stop: Stop) -> anyhow::Result<Duration> {
        let mut oldest = self.members.pop_front().context("a task to end")?;
        let start = Instant::now();
        let (app, sidecar) = (&mut oldest.app, &mut oldest.sidecar);
        match stop {
            Stop::Together => {
                app.terminate()?;
                sidecar.process.terminate()?;
                sidecar.process.ended(PATIENCE).await?;
                app.ended(PATIENCE).await?;
            }
            Stop::Ecs => {
                ask_for_drain(&sidecar.agent).await?;
                app.terminate()?;
                app.ended(PATIENCE).await?;
                sidecar.process.terminate()?;
                sidecar.process.ended(PATIENCE).await?;
            }
        }
        Ok(start.elapsed())
    }
}

/// As the agent asks; it does not wait for the end of the drain.
async fn ask_for_drain(socket: &Path) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    let request =
        "GET /drain_listeners?inboundonly HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "the agent's drain: {answer}"
    );
    Ok(())
}

/// The first number of a crew that is not running here.
fn numbers() -> anyhow::Result<(u8, TcpListener)> {
    let mut firsts = (0..10).map(|crew| 1 + crew * NUMBERS);
    let free = firsts.find_map(|first| {
        let lock = TcpListener::bind((address(first), LOCK));
        Some((first, lock.ok()?))
    });
    free.context("ten deployments are running here")
}

fn services() -> anyhow::Result<[Service; 3]> {
    let service = |protocol, name, app_protocol| {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        anyhow::Ok(Service {
            protocol,
            name,
            app_protocol,
            port,
        })
    };
    Ok([
        service(Protocol::H1, "orders", "http")?,
        service(Protocol::H2, "orders-h2", "http2")?,
        service(Protocol::Grpc, "orders-grpc", "grpc")?,
    ])
}

fn vip_net(number: u8) -> [u8; 2] {
    [127, number]
}

fn document(services: &[Service], container_ports: &[u16]) -> Value {
    let mapping = |(service, port): (&Service, &u16)| json!({ "name": service.name, "containerPort": port, "appProtocol": service.app_protocol });
    let declared = |service: &Service| {
        json!({
            "portName": service.name,
            "discoveryName": service.name,
            "clientAliases": [{ "port": service.port, "dnsName": service.name }],
        })
    };
    json!({
        "clusterName": "demo",
        "serviceName": "orders",
        "portMappings": services.iter().zip(container_ports).map(mapping).collect::<Vec<_>>(),
        "serviceConnectConfiguration": {
            "enabled": true,
            "namespace": "demo",
            "services": services.iter().map(declared).collect::<Vec<_>>(),
        },
    })
}
