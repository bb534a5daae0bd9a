//! A control server, a caller's sidecar, and tasks with sidecars of their own, which a deployment replaces one by one.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;
use http::Request;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{Called, Loads, PATIENCE, application};
use crate::fleet::{
    Binaries, Fleet, Process, Sidecar, address, call, client_document, resolve, wait_for,
};
use crate::sim::scenario::{Scenario, TaskSpec};

const SERVICE: &str = "scenario";
/// The caller's number on this machine; the tasks' follow.
const CALLER: u8 = 130;

struct Task {
    id: String,
    spec: TaskSpec,
    sidecar: Sidecar,
    app: Process,
}

pub(super) struct Mesh {
    tasks: VecDeque<Task>,
    caller: Sidecar,
    port: u16,
    started: u8,
    document: Value,
    fleet: Fleet,
}

impl Mesh {
    pub(super) async fn start(scenario: &Scenario, binaries: Binaries) -> anyhow::Result<Self> {
        let fleet = Fleet::start(binaries).await?;
        let caller =
            Sidecar::start(&fleet, "caller", CALLER, [127, CALLER], &client_document()).await?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut mesh = Self {
            tasks: VecDeque::new(),
            caller,
            port,
            started: 0,
            document: document(scenario, port),
            fleet,
        };
        for spec in &scenario.tasks {
            mesh.add(spec).await?;
        }
        let known = wait_for(
            "the service in the caller's hosts block",
            PATIENCE,
            || async { resolve(&mesh.caller.hosts_file, SERVICE) },
        );
        known
            .await
            .with_context(|| mesh.caller.process.log_tail())?;
        mesh.caller.ready().await?;
        mesh.offered().await?;
        Ok(mesh)
    }

    /// Waits until the caller offers every task: a request before that is refused by right.
    async fn offered(&self) -> anyhow::Result<()> {
        let offered = wait_for("every task to be offered", PATIENCE, || async {
            let asked = call(self.caller.admin, Request::get("/clusters"), String::new());
            let (_, text) = asked.await?;
            let clusters: Vec<Value> = serde_json::from_str(&text)?;
            let count = |cluster: &Value| cluster["offered"].as_u64();
            let most = clusters.iter().filter_map(count).max().unwrap_or(0);
            Ok((most >= self.tasks.len() as u64).then_some(()))
        });
        offered
            .await
            .with_context(|| self.caller.process.log_tail())
    }

    pub(super) fn called(&self) -> anyhow::Result<Called> {
        let (ip, _) = resolve(&self.caller.hosts_file, SERVICE)?
            .context("the service left the caller's hosts block")?;
        Ok(Called {
            address: SocketAddr::new(ip, self.port),
            authority: SERVICE.to_owned(),
            admin: self.caller.admin,
            ledger: self.fleet.folder().join("ledger"),
        })
    }

    async fn add(&mut self, spec: &TaskSpec) -> anyhow::Result<&Task> {
        self.started += 1;
        let number = CALLER
            .checked_add(self.started)
            .context("at most 125 tasks are started")?;
        let id = format!("task-{}", self.started);
        let place = (id.as_str(), SocketAddr::new(address(number), 0));
        let seed = u64::from(self.started);
        let (binaries, folder) = (&self.fleet.binaries, self.fleet.folder());
        let (app, listening) = application(binaries, folder, place, spec, seed).await?;
        let mut document = self.document.clone();
        document["portMappings"][0]["containerPort"] = listening.port().into();
        let sidecar = Sidecar::start(&self.fleet, &id, number, [127, number], &document).await?;
        let spec = spec.clone();
        self.tasks.push_back(Task {
            id,
            spec,
            sidecar,
            app,
        });
        self.tasks.back().context("a task was just added")
    }

    /// Deploys when it is due: every task gets a successor, which must have answered before its predecessor is told to end.
    pub(super) async fn play(&mut self, scenario: &Scenario, loads: &Loads) -> anyhow::Result<()> {
        let start = Instant::now();
        let end = start + scenario.duration;
        for step in &scenario.steps {
            sleep_until(start + step.at).await;
            for _ in 0..scenario.tasks.len() {
                let old = self.tasks.pop_front().context("there are tasks")?;
                let new = self.add(&old.spec).await?;
                let left = end.saturating_duration_since(Instant::now());
                let heard = wait_for("an answer of the new task", left, || async {
                    Ok(loads.heard_from(&new.id).then_some(()))
                });
                heard
                    .await
                    .context("the deployment outlasts the scenario: real_duration is too short")?;
                retire(old).await?;
            }
        }
        sleep_until(end).await;
        Ok(())
    }
}

/// The sidecar drains; when it has gone, the application ends.
async fn retire(mut old: Task) -> anyhow::Result<()> {
    old.sidecar.process.terminate()?;
    let ended = old.sidecar.process.ended(PATIENCE).await;
    ended.with_context(|| old.sidecar.process.log_tail())?;
    old.app.kill().await
}

fn document(scenario: &Scenario, port: u16) -> Value {
    let mut service = json!({
        "portName": SERVICE,
        "discoveryName": SERVICE,
        "clientAliases": [{ "port": port, "dnsName": SERVICE }],
    });
    let policy = scenario.client.policy.to_json();
    if policy.as_object().is_some_and(|policy| !policy.is_empty()) {
        service["policy"] = policy;
    }
    json!({
        "clusterName": "demo",
        "serviceName": SERVICE,
        "portMappings": [{ "name": SERVICE, "containerPort": 0, "appProtocol": "http" }],
        "serviceConnectConfiguration": {
            "enabled": true,
            "namespace": "demo",
            "services": [service],
        },
    })
}
