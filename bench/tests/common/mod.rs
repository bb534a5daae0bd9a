//! What every whole-system test needs: the programs, free ports, sidecars with any flags, requests, and bounds on time.
#![allow(dead_code, reason = "every test file uses another part of it")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use outrigger_bench::fleet::{
    AppProtocol, Binaries, Fleet, Process, Service, Sidecar, call, resolve, wait_for,
};
use outrigger_bench::load::{Load, Plan, Record};
use serde_json::{Value, json};
use tokio::process::Command;

/// For one event that a healthy system brings within a second or two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// For a whole test.
const TEST: Duration = Duration::from_secs(90);

/// Runs a test within its bound.
pub(crate) async fn bounded(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::time::timeout(TEST, test)
        .await
        .with_context(|| format!("the test still runs after {TEST:?}"))?
}

/// The three programs, built once so that no test runs against an older one.
pub(crate) fn binaries() -> anyhow::Result<Binaries> {
    static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build() -> anyhow::Result<Binaries> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.args(["build", "--quiet", "--bins"]);
    for package in ["outrigger-control", "outrigger-proxy", "outrigger-bench"] {
        command.args(["-p", package]);
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let status = command
        .stdin(Stdio::null())
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "cargo build of the programs: {status}");
    Binaries::find()
}

/// A fleet with nothing but its control server.
pub(crate) async fn fleet() -> anyhow::Result<Fleet> {
    let binaries = tokio::task::spawn_blocking(binaries).await??;
    Fleet::start(binaries).await
}

/// A port that is free on 127.0.0.1, and so most likely on every other loopback address.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(free_address(Ipv4Addr::LOCALHOST)?.port())
}

/// An address nobody listens on.
pub(crate) fn free_address(ip: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?)
}

/// Starts the control server again where it was; whatever lies in the fleet's `registry` folder is its data.
pub(crate) async fn start_control(fleet: &mut Fleet) -> anyhow::Result<()> {
    let mut command = Command::new(&fleet.binaries.control);
    command.args(["serve", "--api", &fleet.api.to_string()]);
    command.args(["--xds", &fleet.xds.to_string(), "--data"]);
    command.arg(fleet.folder().join("registry"));
    fleet.control = Process::spawn("control-again", command, fleet.folder())?;
    fleet.control.listening("api", PATIENCE).await?;
    fleet.control.listening("xds", PATIENCE).await?;
    Ok(())
}

/// One sidecar of a mesh: address 127.0.1.`number`, VIPs in 127.`number`.0.0/16.
#[derive(Debug, Clone)]
pub(crate) struct Beside<'a> {
    pub(crate) id: &'a str,
    pub(crate) number: u8,
    pub(crate) namespace: &'a str,
    /// `None`: the sidecar gets neither a document nor `--control`.
    pub(crate) document: Option<Value>,
    /// The folder of its state, hosts file and document.
    pub(crate) folder: PathBuf,
}

impl<'a> Beside<'a> {
    pub(crate) fn new(fleet: &Fleet, id: &'a str, number: u8) -> Self {
        Self {
            id,
            number,
            namespace: "demo",
            document: None,
            folder: fleet.folder().join(format!("{id}-{number}")),
        }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 1, self.number)
    }

    pub(crate) async fn start(&self, fleet: &Fleet) -> anyhow::Result<Sidecar> {
        std::fs::create_dir_all(&self.folder)?;
        let hosts_file = self.folder.join("hosts");
        if !hosts_file.exists() {
            std::fs::write(&hosts_file, "127.0.0.1 localhost\n")?;
        }
        let address = self.address().to_string();
        let mut command = Command::new(&fleet.binaries.proxy);
        command.args(["--xds", &format!("http://{}", fleet.xds)]);
        command.args(["--namespace", self.namespace, "--task-id", self.id]);
        command.args(["--address", &address, "--app-address", &address]);
        command.args(["--vip-cidr", &format!("127.{}.0.0/16", self.number)]);
        command.args(["--admin", "127.0.0.1:0", "--workers", "1"]);
        command.arg("--hosts-file").arg(&hosts_file);
        command.arg("--state").arg(self.folder.join("state"));
        let agent = self.folder.join("agent.sock");
        command.arg("--admin-socket").arg(&agent);
        if let Some(document) = &self.document {
            let file = self.folder.join("service-connect.json");
            std::fs::write(&file, document.to_string())?;
            command.args(["--control", &format!("http://{}", fleet.api)]);
            command.arg("--service-connect").arg(file);
        }
        if let Some(mutant) = &fleet.mutant {
            command.env("OUTRIGGER_MUTANT", mutant);
        }
        let name = format!("{}-{}-sidecar", self.id, self.number);
        let process = Process::spawn(&name, command, fleet.folder())?;
        let admin = process.listening("admin", PATIENCE).await?;
        Ok(Sidecar {
            process,
            admin,
            hosts_file,
            agent,
        })
    }
}

/// One declared port of a document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port<'a> {
    pub(crate) name: &'a str,
    pub(crate) container: u16,
    pub(crate) alias: u16,
}

/// A document with one HTTP service for each port.
pub(crate) fn document(namespace: &str, ports: &[Port<'_>]) -> Value {
    let mapping = |port: &Port<'_>| json!({ "name": port.name, "containerPort": port.container, "appProtocol": "http" });
    let service = |port: &Port<'_>| {
        json!({
            "portName": port.name,
            "discoveryName": port.name,
            "clientAliases": [{ "port": port.alias, "dnsName": port.name }],
        })
    };
    json!({
        "clusterName": "test",
        "serviceName": ports.first().map_or("none", |port| port.name),
        "portMappings": ports.iter().map(mapping).collect::<Vec<_>>(),
        "serviceConnectConfiguration": {
            "enabled": true,
            "namespace": namespace,
            "services": ports.iter().map(service).collect::<Vec<_>>(),
        },
    })
}

/// A document with the service `orders`.
pub(crate) fn orders_document(container: u16, alias: u16) -> Value {
    let port = Port {
        name: "orders",
        container,
        alias,
    };
    document("demo", &[port])
}

/// An HTTP service whose alias has its own name.
pub(crate) fn http_service(name: &str, port: u16) -> Service {
    Service {
        name: name.to_owned(),
        port,
        protocol: AppProtocol::Http,
    }
}

/// An application as a process of its own.
pub(crate) async fn application(
    folder: &Path,
    name: &str,
    listen: SocketAddr,
) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(binaries()?.bench);
    command.args(["origin", "--name", name, "--listen", &listen.to_string()]);
    let process = Process::spawn(name, command, folder)?;
    let address = process.listening("origin", PATIENCE).await?;
    Ok((process, address))
}

/// Waits until the name stands in the sidecar's managed hosts block; answers what a program would dial.
pub(crate) async fn dial(sidecar: &Sidecar, name: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let what = format!("{name} in the hosts block of {}", sidecar.process.name());
    let found = wait_for(&what, PATIENCE, || async {
        resolve(&sidecar.hosts_file, name)
    });
    let (ip, _) = with_log(found.await, sidecar)?;
    Ok((ip, port).into())
}

/// Adds the sidecar's last words to an error.
pub(crate) fn with_log<T>(result: anyhow::Result<T>, sidecar: &Sidecar) -> anyhow::Result<T> {
    let process = &sidecar.process;
    result.with_context(|| format!("{} said last:\n{}", process.name(), process.log_tail()))
}

/// So many GETs, one after the other on one connection.
pub(crate) async fn gets(address: SocketAddr, name: &str, requests: u64) -> Record {
    let plan = Plan {
        connections: 1,
        requests: Some(requests),
        ..Plan::new(address, format!("{name}:{}", address.port()))
    };
    Load::start(plan).finished().await
}

/// Waits until all of `tasks`, and nobody else, answer.
pub(crate) async fn answered_by(
    address: SocketAddr,
    name: &str,
    tasks: &[&str],
) -> anyhow::Result<()> {
    let what = format!("answers of {name} from {tasks:?}");
    wait_for(&what, PATIENCE, || async {
        let record = gets(address, name, 30).await;
        let seen: Vec<_> = record.by_task.keys().collect();
        if record.failed == 0 && seen == tasks {
            return Ok(Some(()));
        }
        bail!("answers came from {seen:?}; failures: {:?}", record.reasons)
    })
    .await
}

/// A page of an admin listener or of the operator API.
pub(crate) async fn page(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let (_, body) = call(address, http::Request::get(path), String::new()).await?;
    Ok(body)
}

/// The same, as JSON.
pub(crate) async fn json_page(address: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let body = page(address, path).await?;
    serde_json::from_str(&body).with_context(|| format!("{path} answered {body:?}"))
}

/// Waits until some file of a state folder names all of these.
pub(crate) async fn kept(state: &Path, names: &[&str]) -> anyhow::Result<()> {
    let what = format!("{names:?} in the files of {}", state.display());
    wait_for(&what, PATIENCE, || async {
        for entry in std::fs::read_dir(state)? {
            let bytes = std::fs::read(entry?.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            if names.iter().all(|name| text.contains(name)) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })
    .await
}

/// Waits until `/ready` tells a problem whose key begins with `key`; answers its text.
pub(crate) async fn problem(sidecar: &Sidecar, key: &str) -> anyhow::Result<String> {
    let what = format!("a problem {key} of {}", sidecar.process.name());
    let found = wait_for(&what, PATIENCE, || async {
        let ready = json_page(sidecar.admin, "/ready").await?;
        let problems = ready["problems"].as_object().cloned().unwrap_or_default();
        let text = problems.iter().find(|(name, _)| name.starts_with(key));
        match text {
            Some((_, text)) => Ok(Some(text.as_str().unwrap_or_default().to_owned())),
            None => bail!("{ready}"),
        }
    });
    with_log(found.await, sidecar)
}

/// Waits until the control server's list of nodes says whether `id` is connected.
pub(crate) async fn connected(fleet: &Fleet, id: &str, wanted: bool) -> anyhow::Result<Value> {
    let what = format!("node {id} to be connected: {wanted}");
    wait_for(&what, PATIENCE, || async {
        let nodes = json_page(fleet.api, "/v1/nodes").await?;
        let list = nodes.as_array().context("a list of nodes")?;
        let node = list.iter().find(|node| node["node"] == id);
        match node {
            Some(node) if node["connected"] == wanted => Ok(Some(node.clone())),
            _ => bail!("{nodes}"),
        }
    })
    .await
}

/// The sum of a metric's samples that carry `label`.
pub(crate) async fn metric(admin: SocketAddr, name: &str, label: &str) -> anyhow::Result<f64> {
    let text = page(admin, "/metrics").await?;
    let samples = text
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
    let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum())
}

/// The most memory a process ever held, in KiB.
pub(crate) fn peak_kib(process: &Process) -> anyhow::Result<u64> {
    let id = process.id().context("the process runs")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(value.context("VmHWM in the status")?.parse()?)
}

/// Two sidecars in a row on static files: egress, ingress, then the application.
pub(crate) struct Chain {
    pub(crate) egress: Process,
    pub(crate) egress_admin: SocketAddr,
    pub(crate) ingress: Process,
    /// Where a client dials.
    pub(crate) address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Chain {
    /// `listener` and `cluster` are the protocols; `ip` is the egress's.
    pub(crate) async fn start(
        ip: Ipv4Addr,
        listener: &str,
        cluster: &str,
        application: SocketAddr,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (address, hop) = (free_address(ip)?, free_address(ip)?);
        let ingress = file("ingress", hop, listener, cluster, &[application], "");
        let egress = file("egress", address, listener, cluster, &[hop], "");
        let (ingress, _) = static_sidecar(folder.path(), "ingress", &ingress).await?;
        let (egress, egress_admin) = static_sidecar(folder.path(), "egress", &egress).await?;
        Ok(Self {
            egress,
            egress_admin,
            ingress,
            address,
            folder,
        })
    }
}

/// A static file with one listener and one cluster; `more` is added to the cluster.
pub(crate) fn file(
    direction: &str,
    address: SocketAddr,
    listener: &str,
    cluster: &str,
    endpoints: &[SocketAddr],
    more: &str,
) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| format!("{{ address = \"{address}\" }}"))
        .collect();
    format!(
        "[[listener]]\nname = \"in\"\ndirection = \"{direction}\"\naddress = \"{address}\"\n\
         protocol = \"{listener}\"\ncluster = \"out\"\n\n\
         [[cluster]]\nname = \"out\"\nprotocol = \"{cluster}\"\nendpoints = [{}]\n{more}\n",
        endpoints.join(", ")
    )
}

/// Starts a sidecar on a static file and waits until it is ready; answers its admin address, too.
pub(crate) async fn static_sidecar(
    folder: &Path,
    name: &str,
    text: &str,
) -> anyhow::Result<(Process, SocketAddr)> {
    let binaries = tokio::task::spawn_blocking(binaries).await??;
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, text)?;
    let mut command = Command::new(&binaries.proxy);
    command.arg("--static").arg(&path);
    command.args(["--admin", "127.0.0.1:0", "--workers", "1"]);
    let process = Process::spawn(name, command, folder)?;
    let admin = process.listening("admin", PATIENCE).await?;
    let ready = wait_for("a ready sidecar without problems", PATIENCE, || async {
        let ready = json_page(admin, "/ready").await?;
        let fine = ready["ready"] == true && ready["problems"] == json!({});
        if fine { Ok(Some(())) } else { bail!("{ready}") }
    });
    ready
        .await
        .with_context(|| format!("{name} said last:\n{}", process.log_tail()))?;
    Ok((process, admin))
}

/// Whether an address is one of a sidecar's VIPs.
pub(crate) fn is_vip_of(ip: IpAddr, number: u8) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[..2] == [127, number])
}
