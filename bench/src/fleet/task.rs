//! A task of the fleet: an application and the sidecar beside it, with addresses of its own on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{Fleet, Process, START, call, wait_for};

/// A port mapping's `appProtocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppProtocol {
    /// `http`
    Http,
    /// `http2`
    Http2,
    /// `grpc`
    Grpc,
    /// Unset: opaque TCP.
    Tcp,
}

/// The service a task belongs to, with its one client alias.
#[derive(Debug, Clone)]
pub struct Service {
    /// `discoveryName`, `portName` and the alias's `dnsName`.
    pub name: String,
    /// The port clients dial.
    pub port: u16,
    /// What the application speaks.
    pub protocol: AppProtocol,
}

/// A sidecar process and the files it keeps for its task.
#[derive(Debug)]
pub struct Sidecar {
    /// The sidecar itself.
    pub process: Process,
    /// Its admin listener.
    pub admin: SocketAddr,
    /// The hosts file with its managed block.
    pub hosts_file: PathBuf,
    /// The unix socket on which the ECS agent asks for a drain.
    pub agent: PathBuf,
}

/// An application (an origin server) and its sidecar.
#[derive(Debug)]
pub struct Task {
    /// Task id, and the name the application answers with.
    pub id: String,
    /// The application's process.
    pub app: Process,
    /// The sidecar beside it.
    pub sidecar: Sidecar,
}

impl Sidecar {
    /// Starts a sidecar for the `number`-th task of this machine: address 127.0.1.`number`, VIPs in
    /// `vip_net`.0.0/16. `document` is its service-connect document.
    pub async fn start(
        fleet: &Fleet,
        id: &str,
        number: u8,
        vip_net: [u8; 2],
        document: &Value,
    ) -> anyhow::Result<Self> {
        let folder = fleet.folder().join(id);
        std::fs::create_dir_all(&folder)?;
        let hosts_file = folder.join("hosts");
        if !hosts_file.exists() {
            std::fs::write(&hosts_file, "127.0.0.1 localhost\n")?;
        }
        let document_file = folder.join("service-connect.json");
        std::fs::write(&document_file, serde_json::to_vec_pretty(document)?)?;
        let agent = folder.join("agent.sock");
        let address = address(number).to_string();
        let mut command = Command::new(&fleet.binaries.proxy);
        let service = document["serviceName"].as_str().unwrap_or_default();
        fleet.reach_control(&mut command, service).await?;
        command
            .args(["--namespace", "demo", "--task-id", id, "--zone", "local"])
            .args(["--address", &address, "--app-address", &address])
            .args([
                "--vip-cidr",
                &format!("{}.{}.0.0/16", vip_net[0], vip_net[1]),
            ])
            .args(["--admin", "127.0.0.1:0", "--workers", "1"])
            .arg("--service-connect")
            .arg(&document_file)
            .arg("--hosts-file")
            .arg(&hosts_file)
            .arg("--state")
            .arg(folder.join("state"))
            .arg("--admin-socket")
            .arg(&agent);
        if let Some(mutant) = &fleet.mutant {
            command.env("OUTRIGGER_MUTANT", mutant);
        }
        let process = Process::spawn(&format!("{id}-sidecar"), command, fleet.folder())?;
        let admin = process.listening("admin", START).await?;
        Ok(Self {
            process,
            admin,
            hosts_file,
            agent,
        })
    }

    /// Waits until `/ready` answers 200.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let what = format!("{} to be ready", self.process.name());
        let ready = wait_for(&what, START, || async {
            let (status, body) =
                call(self.admin, http::Request::get("/ready"), String::new()).await?;
            if status.is_success() {
                Ok(Some(()))
            } else {
                Err(anyhow::anyhow!("/ready says {status}: {body}"))
            }
        });
        ready
            .await
            .map_err(|error| error.context(format!("its log:\n{}", self.process.log_tail())))
    }
}

impl Task {
    /// Starts the application, then the sidecar that announces it.
    pub async fn start(
        fleet: &Fleet,
        service: &Service,
        id: &str,
        number: u8,
        vip_net: [u8; 2],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(&fleet.binaries.bench);
        command.args([
            "origin",
            "--name",
            id,
            "--listen",
            &SocketAddr::new(address(number), 0).to_string(),
        ]);
        if service.protocol == AppProtocol::Tcp {
            command.args(["--greeting", id]);
        }
        let app = Process::spawn(id, command, fleet.folder())?;
        let listening = app.listening("origin", START).await?;
        let document = document(service, listening.port());
        let sidecar = Sidecar::start(fleet, id, number, vip_net, &document).await?;
        Ok(Self {
            id: id.to_owned(),
            app,
            sidecar,
        })
    }

    /// SIGKILL to both processes at once, as when a machine dies.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.sidecar.process.signal(rustix::process::Signal::KILL)?;
        self.app.kill().await?;
        self.sidecar.process.ended(START).await?;
        Ok(())
    }

    /// SIGTERM to the sidecar, which drains; when it has gone, SIGTERM to the application. Answers how long the drain took.
    pub async fn drain(mut self, bound: Duration) -> anyhow::Result<Duration> {
        let start = tokio::time::Instant::now();
        self.sidecar.process.terminate()?;
        self.sidecar.process.ended(bound).await?;
        let drained = start.elapsed();
        self.app.terminate()?;
        self.app.ended(bound).await?;
        Ok(drained)
    }
}

/// The address of the `number`-th task of this machine.
pub fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, number))
}

fn document(service: &Service, container_port: u16) -> Value {
    let mut mapping = json!({ "name": service.name, "containerPort": container_port });
    let protocol = match service.protocol {
        AppProtocol::Http => Some("http"),
        AppProtocol::Http2 => Some("http2"),
        AppProtocol::Grpc => Some("grpc"),
        AppProtocol::Tcp => None,
    };
    if let Some(protocol) = protocol {
        mapping["appProtocol"] = protocol.into();
    }
    json!({
        "clusterName": "demo",
        "serviceName": service.name,
        "portMappings": [mapping],
        "serviceConnectConfiguration": {
            "enabled": true,
            "namespace": "demo",
            "services": [{
                "portName": service.name,
                "discoveryName": service.name,
                "clientAliases": [{ "port": service.port, "dnsName": service.name }],
            }],
        },
    })
}

/// The document of a task that only calls others.
pub fn client_document() -> Value {
    json!({
        "clusterName": "demo",
        "serviceName": "client",
        "portMappings": [],
        "serviceConnectConfiguration": { "enabled": true, "namespace": "demo", "services": [] },
    })
}
