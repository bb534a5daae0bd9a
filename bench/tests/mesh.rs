//! A short name, two hops, three tasks: real processes while tasks are added, drained and killed.

mod common;

use std::net::SocketAddr;

use anyhow::ensure;
use common::*;
use outrigger_bench::fleet::{Fleet, Sidecar, Task, client_document, wait_for};
use outrigger_bench::load::{Load, Plan, Record};
use rustix::process::Signal;

const RATE: u32 = 150;

/// Three tasks of `orders` and a client, warm.
struct Mesh {
    first: u8,
    port: u16,
    tasks: Vec<Task>,
    client: Sidecar,
    address: SocketAddr,
    /// Dropped last: its folder holds everybody's files.
    fleet: Fleet,
}

impl Mesh {
    /// Takes the addresses 127.0.1.`first` and the four after it.
    async fn start(first: u8) -> anyhow::Result<Self> {
        let fleet = fleet().await?;
        let port = free_port()?;
        let mut client = Beside::new(&fleet, "client", first);
        client.document = Some(client_document());
        let client = client.start(&fleet).await?;
        let mut tasks = Vec::new();
        for n in 1..=3 {
            tasks.push(task(&fleet, port, first, n).await?);
        }
        client.ready().await?;
        for task in &tasks {
            task.sidecar.ready().await?;
        }
        let address = dial(&client, "orders", port).await?;
        let mesh = Self {
            first,
            port,
            tasks,
            client,
            address,
            fleet,
        };
        mesh.answered_by(&["orders-1", "orders-2", "orders-3"])
            .await?;
        Ok(mesh)
    }

    async fn answered_by(&self, tasks: &[&str]) -> anyhow::Result<()> {
        with_log(
            answered_by(self.address, "orders", tasks).await,
            &self.client,
        )
    }

    fn load(&self) -> Load {
        Load::start(Plan {
            rate: Some(RATE),
            connections: 8,
            ..Plan::new(self.address, format!("orders:{}", self.port))
        })
    }

    /// Stops the load when it has sent so many more requests; none may have failed.
    async fn no_failures(&self, load: Load, more: u64) -> anyhow::Result<Record> {
        sent_more(&load, more).await?;
        let record = load.stop().await;
        ensure!(
            record.failed == 0,
            "{} of {} failed: {:?}\nthe client's sidecar said last:\n{}",
            record.failed,
            record.sent,
            record.reasons,
            self.client.process.log_tail()
        );
        Ok(record)
    }
}

async fn task(fleet: &Fleet, port: u16, first: u8, n: u8) -> anyhow::Result<Task> {
    let service = http_service("orders", port);
    let number = first + n;
    Task::start(
        fleet,
        &service,
        &format!("orders-{n}"),
        number,
        [127, number],
    )
    .await
}

async fn sent_more(load: &Load, more: u64) -> anyhow::Result<()> {
    let before = load.snapshot().sent;
    wait_for("requests to be sent", PATIENCE, || async {
        Ok((load.snapshot().sent >= before + more).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_name_reaches_every_task_over_two_hops() -> anyhow::Result<()> {
    bounded(async {
        let mesh = Mesh::start(60).await?;
        ensure!(is_vip_of(mesh.address.ip(), 60), "{}", mesh.address);
        let record = mesh.no_failures(mesh.load(), 300).await?;
        for n in 1..=3 {
            let share = record.by_task[&format!("orders-{n}")].answers;
            ensure!(share >= record.sent / 6, "orders-{n} got only {share}");
        }
        for task in &mesh.tasks {
            let seen = metric(
                task.sidecar.admin,
                "RequestCount_total",
                "Direction=\"ingress\"",
            );
            let seen = seen.await?;
            let least = record.by_task[&task.id].answers as f64;
            ensure!(seen >= least, "{}'s sidecar saw {seen} of {least}", task.id);
        }
        let seen = metric(
            mesh.client.admin,
            "RequestCount_total",
            "Direction=\"egress\"",
        );
        let seen = seen.await?;
        ensure!(
            seen >= record.sent as f64,
            "the client's sidecar saw {seen}"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_added_under_traffic_gets_its_share_and_nothing_fails() -> anyhow::Result<()> {
    bounded(async {
        let mesh = Mesh::start(66).await?;
        let load = mesh.load();
        sent_more(&load, 50).await?;
        let added = task(&mesh.fleet, mesh.port, mesh.first, 4).await?;
        wait_for("answers of the fourth task", PATIENCE, || async {
            let record = load.snapshot();
            let answers = record
                .by_task
                .get("orders-4")
                .map_or(0, |seen| seen.answers);
            Ok((answers >= 20).then_some(()))
        })
        .await?;
        added.sidecar.ready().await?;
        mesh.no_failures(load, 100).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_drained_under_traffic_leaves_without_a_failure() -> anyhow::Result<()> {
    bounded(async {
        let mut mesh = Mesh::start(72).await?;
        let load = mesh.load();
        sent_more(&load, 50).await?;
        let leaver = mesh.tasks.remove(0);
        let log = fleet_log(&mesh.fleet, "orders-1-sidecar");
        let took = leaver.drain(PATIENCE).await?;
        ensure!(
            took.as_secs() < 10,
            "a drain of short requests took {took:?}:\n{}",
            log()
        );
        let record = mesh.no_failures(load, 200).await?;
        ensure!(record.by_task.contains_key("orders-1"), "{record:?}");
        mesh.answered_by(&["orders-2", "orders-3"]).await?;
        let clusters = page(mesh.client.admin, "/clusters").await?;
        ensure!(!clusters.contains("orders-1"), "{clusters}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_killed_under_traffic_costs_no_idempotent_request() -> anyhow::Result<()> {
    bounded(async {
        let mut mesh = Mesh::start(78).await?;
        let load = mesh.load();
        sent_more(&load, 50).await?;
        mesh.tasks.remove(0).kill().await?;
        let record = mesh.no_failures(load, 300).await?;
        ensure!(record.by_task.contains_key("orders-1"), "{record:?}");
        mesh.answered_by(&["orders-2", "orders-3"]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_killed_beside_a_living_task_comes_back_with_the_same_task() -> anyhow::Result<()>
{
    bounded(async {
        let mut mesh = Mesh::start(84).await?;
        let load = mesh.load();
        sent_more(&load, 50).await?;
        let mut task = mesh.tasks.remove(0);
        task.sidecar.process.signal(Signal::KILL)?;
        task.sidecar.process.ended(PATIENCE).await?;
        mesh.answered_by(&["orders-2", "orders-3"]).await?;
        // The state folder is the same, so this is the same node.
        let service_connect = mesh.fleet.folder().join("orders-1/service-connect.json");
        let document = serde_json::from_str(&std::fs::read_to_string(service_connect)?)?;
        let again = Sidecar::start(
            &mesh.fleet,
            "orders-1",
            mesh.first + 1,
            [127, mesh.first + 1],
            &document,
        );
        let again = again.await?;
        again.ready().await?;
        connected(&mesh.fleet, "orders-1", true).await?;
        // An ejection of the dead endpoint lasts 30 s, which this test does not wait for: a fresh client sees it at once.
        let fresh = Beside::new(&mesh.fleet, "fresh", mesh.first + 5);
        let fresh = fresh.start(&mesh.fleet).await?;
        let address = dial(&fresh, "orders", mesh.port).await?;
        answered_by(address, "orders", &["orders-1", "orders-2", "orders-3"]).await?;
        mesh.no_failures(load, 50).await?;
        Ok(())
    })
    .await
}

fn fleet_log(fleet: &Fleet, name: &str) -> impl Fn() -> String {
    let path = fleet.folder().join(format!("{name}.log"));
    move || std::fs::read_to_string(&path).unwrap_or_default()
}
