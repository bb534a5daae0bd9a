//! Applications on loopback and one sidecar that calls them by a static file.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, ensure};
use http::Request;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, sleep_until};

use super::{Called, PATIENCE, application};
use crate::fleet::{Binaries, Process, call, wait_for};
use crate::sim::application::Manners;
use crate::sim::scenario::{Scenario, Step, TaskSpec, What};

/// One task's application.
struct Task {
    name: String,
    spec: TaskSpec,
    seed: u64,
    address: SocketAddr,
    process: Process,
    is_dead: bool,
    manners: Manners,
}

pub(super) struct Direct {
    sidecar: Process,
    address: SocketAddr,
    admin: SocketAddr,
    tasks: Vec<Task>,
    binaries: Binaries,
    folder: tempfile::TempDir,
}

impl Direct {
    pub(super) async fn start(scenario: &Scenario, binaries: Binaries) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outrigger-sim-")
            .tempdir()?;
        let mut tasks = Vec::new();
        for (number, spec) in scenario.tasks.iter().enumerate() {
            let name = format!("task-{}", number + 1);
            let seed = scenario.seed.wrapping_add(number as u64);
            let any = (name.as_str(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            let (process, address) = application(&binaries, folder.path(), any, spec, seed).await?;
            tasks.push(Task {
                name,
                spec: spec.clone(),
                seed,
                address,
                process,
                is_dead: false,
                manners: Manners::GOOD,
            });
        }
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let file = folder.path().join("static.toml");
        std::fs::write(
            &file,
            toml::to_string(&static_file(scenario, address, &tasks))?,
        )?;
        let mut command = Command::new(&binaries.proxy);
        command.arg("--static").arg(&file);
        command.args(["--admin", "127.0.0.1:0", "--workers", "1"]);
        if !scenario.client.zone.is_empty() {
            command.args(["--zone", &scenario.client.zone]);
        }
        let sidecar = Process::spawn("sidecar", command, folder.path())?;
        let admin = sidecar.listening("admin", PATIENCE).await?;
        let ready = wait_for("the sidecar to be ready", PATIENCE, || async {
            let (status, _) = call(admin, Request::get("/ready"), String::new()).await?;
            Ok(status.is_success().then_some(()))
        });
        ready.await.with_context(|| sidecar.log_tail())?;
        Ok(Self {
            sidecar,
            address,
            admin,
            tasks,
            binaries,
            folder,
        })
    }

    pub(super) fn called(&self) -> Called {
        Called {
            address: self.address,
            authority: "scenario".to_owned(),
            admin: self.admin,
            ledger: self.folder.path().join("ledger"),
        }
    }

    /// Takes the steps that are due at the very beginning: no request comes before them. They are returned.
    pub(super) async fn prepare(&mut self, steps: &[Step]) -> anyhow::Result<Vec<Step>> {
        let first = steps.partition_point(|step| step.at.is_zero());
        for step in &steps[..first] {
            self.step(step.what).await?;
        }
        Ok(steps[..first].to_vec())
    }

    /// Takes the other steps when they are due; tells when all were done.
    pub(super) async fn play(
        &mut self,
        scenario: &Scenario,
        mut taken: Vec<Step>,
    ) -> anyhow::Result<Vec<Step>> {
        let start = Instant::now();
        let left = scenario.steps[taken.len()..].iter();
        for Step { at, what } in left.copied() {
            sleep_until(start + at).await;
            self.step(what).await?;
            let at = start.elapsed();
            taken.push(Step { at, what });
        }
        sleep_until(start + scenario.duration).await;
        let id = self.sidecar.id();
        ensure!(
            id.is_some(),
            "the sidecar has ended; its log:\n{}",
            self.sidecar.log_tail()
        );
        Ok(taken)
    }

    async fn step(&mut self, what: What) -> anyhow::Result<()> {
        match what {
            What::Die(task, _) => {
                let task = &mut self.tasks[task];
                task.is_dead = true;
                task.process.kill().await
            }
            What::Stop(task) => self.tasks[task].process.signal(Signal::STOP),
            What::Recover(task) => self.recover(task).await,
            What::SlowDown(task, factor) => {
                let task = &mut self.tasks[task];
                task.manners.factor = factor;
                task.tell().await
            }
            What::Answer503(task, share, acted) => {
                let task = &mut self.tasks[task];
                task.manners.unavailable = share;
                task.manners.acted = acted;
                task.tell().await
            }
            What::Deploy(_) => unreachable!("a scenario with a deployment is played in a mesh"),
        }
    }

    async fn recover(&mut self, number: usize) -> anyhow::Result<()> {
        let task = &mut self.tasks[number];
        task.manners = Manners::GOOD;
        if !task.is_dead {
            task.process.signal(Signal::CONT)?;
            return task.tell().await;
        }
        let place = (task.name.as_str(), task.address);
        let started = application(
            &self.binaries,
            self.folder.path(),
            place,
            &task.spec,
            task.seed,
        );
        (task.process, _) = started.await?;
        task.is_dead = false;
        Ok(())
    }
}

impl Task {
    async fn tell(&self) -> anyhow::Result<()> {
        let request = Request::get(self.manners.path());
        let (status, text) = call(self.address, request, String::new()).await?;
        ensure!(
            status.is_success(),
            "{} answers {status}: {text}",
            self.name
        );
        Ok(())
    }
}

fn static_file(scenario: &Scenario, address: SocketAddr, tasks: &[Task]) -> Value {
    let endpoint =
        |task: &Task| json!({ "address": task.address.to_string(), "zone": task.spec.zone });
    let timeout = scenario.client.per_request_timeout;
    let mut cluster = json!({
        "name": "scenario",
        "protocol": "http",
        "endpoints": tasks.iter().map(endpoint).collect::<Vec<_>>(),
        "per_request_timeout": humantime::format_duration(timeout).to_string(),
    });
    if let (Value::Object(cluster), Value::Object(policy)) =
        (&mut cluster, scenario.client.policy.to_json())
    {
        cluster.extend(policy);
    }
    json!({
        "listener": [{
            "name": "scenario",
            "direction": "egress",
            "address": address.to_string(),
            "protocol": "http",
            "cluster": "scenario",
        }],
        "cluster": [cluster],
    })
}
