//! A control server, a task with three services, and a client of all three.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context;
use http::Request;
use outrigger_bench::fleet::{Fleet, Process, call, resolve, wait_for};
use serde_json::{Value, json};

use super::chain::greeter;
use super::common::*;
use super::side::Side;
use super::traffic::{Stream, Traffic, Tunnel, Ways};

/// A control server, a task with three services, and a client; both sidecars are restarted.
pub(super) struct Mesh {
    pub(super) fleet: Fleet,
    pub(super) egress: Side,
    pub(super) ingress: Side,
    pub(super) paths: Ways,
    pub(super) _apps: Vec<Process>,
}

impl Mesh {
    pub(super) async fn start(number: u8) -> anyhow::Result<Self> {
        let fleet = fleet().await?;
        let ip = Ipv4Addr::new(127, 0, 1, number);
        let (web, origin) = application(fleet.folder(), "web", free_address(ip)?).await?;
        let (raw, greeter) = greeter(fleet.folder(), free_address(ip)?).await?;
        let port = free_port()?;
        let document = three_services([origin.port(), origin.port(), greeter.port()], port);
        let file = fleet.folder().join("document.json");
        std::fs::write(&file, document.to_string())?;
        let mut arguments = mesh_arguments(&fleet, "task-1", ip)?;
        let control = format!("http://{}", fleet.api);
        let file = file.display().to_string();
        arguments.extend([
            "--control".to_owned(),
            control,
            "--service-connect".to_owned(),
            file,
        ]);
        let ingress = Side::start("ingress", fleet.folder(), arguments, None).await?;
        let next = Ipv4Addr::new(127, 0, 1, number + 1);
        let arguments = mesh_arguments(&fleet, "client-1", next)?;
        let egress = Side::start("egress", fleet.folder(), arguments, None).await?;
        let paths = Ways {
            web: (name_of(&fleet, "client-1", "web").await?, port).into(),
            grpc: (name_of(&fleet, "client-1", "stream").await?, port).into(),
            tcp: (name_of(&fleet, "client-1", "raw").await?, port).into(),
        };
        for name in ["web", "stream", "raw"] {
            name_of(&fleet, "task-1", name).await?;
        }
        wait_for("the task behind every name", PATIENCE, || async {
            Tunnel::open(paths.tcp).await?.end().await?;
            Stream::open(paths.grpc).await?.end().await?;
            let (status, _) = call(paths.web, Request::get("/"), String::new()).await?;
            Ok(status.is_success().then_some(()))
        })
        .await?;
        Ok(Self {
            fleet,
            egress,
            ingress,
            paths,
            _apps: vec![web, raw],
        })
    }

    pub(super) fn traffic(&self) -> Traffic {
        let Ways { web, grpc, tcp } = self.paths;
        let admins = [self.egress.admin, self.ingress.admin];
        Traffic::start(Ways { web, grpc, tcp }, &admins)
    }

    /// How often the control server saw a node connect.
    pub(super) fn connections(&self, id: &str) -> anyhow::Result<usize> {
        let log = std::fs::read_to_string(self.fleet.folder().join("control.log"))?;
        let node = format!("\"{id}\"");
        let connected = |line: &&str| line.contains(&node) && line.contains(" connected");
        Ok(log.lines().filter(connected).count())
    }

    /// What must come out of a restart as it went in.
    pub(super) fn kept(&self) -> anyhow::Result<Vec<String>> {
        let files = [
            hosts_file(&self.fleet, "client-1"),
            hosts_file(&self.fleet, "task-1"),
            self.ingress.state().join("ingress-ports"),
        ];
        let read =
            |file: &PathBuf| std::fs::read_to_string(file).context(file.display().to_string());
        files.iter().map(read).collect()
    }
}

pub(super) fn hosts_file(fleet: &Fleet, id: &str) -> PathBuf {
    fleet.folder().join(format!("{id}-hosts"))
}

pub(super) fn mesh_arguments(fleet: &Fleet, id: &str, ip: Ipv4Addr) -> anyhow::Result<Vec<String>> {
    let hosts = hosts_file(fleet, id);
    std::fs::write(&hosts, "127.0.0.1 localhost\n")?;
    let [_, _, _, number] = ip.octets();
    let pairs = [
        ("--xds", format!("http://{}", fleet.xds)),
        ("--namespace", "demo".to_owned()),
        ("--task-id", id.to_owned()),
        ("--address", ip.to_string()),
        ("--app-address", ip.to_string()),
        ("--vip-cidr", format!("127.{number}.0.0/24")),
        ("--hosts-file", hosts.display().to_string()),
    ];
    let flat = pairs
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    Ok(flat.collect())
}

pub(super) async fn name_of(fleet: &Fleet, id: &str, name: &str) -> anyhow::Result<IpAddr> {
    let hosts = hosts_file(fleet, id);
    let what = format!("{name} in {}", hosts.display());
    let found = wait_for(&what, PATIENCE, || async { resolve(&hosts, name) });
    Ok(found.await?.0)
}

pub(super) fn three_services([web, stream, raw]: [u16; 3], alias: u16) -> Value {
    let service = |name: &str| {
        json!({
            "portName": name,
            "discoveryName": name,
            "clientAliases": [{ "port": alias, "dnsName": name }],
        })
    };
    json!({
        "clusterName": "test",
        "serviceName": "task",
        "portMappings": [
            { "name": "web", "containerPort": web, "appProtocol": "http" },
            { "name": "stream", "containerPort": stream, "appProtocol": "grpc" },
            { "name": "raw", "containerPort": raw },
        ],
        "serviceConnectConfiguration": {
            "enabled": true,
            "namespace": "demo",
            "services": [service("web"), service("stream"), service("raw")],
        },
    })
}
