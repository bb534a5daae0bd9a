//! The control server killed, restarted, and replaced by an empty one, while sidecars serve.

mod common;

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, Task, wait_for};
use outrigger_bench::load::{Load, Plan};
use serde_json::{Value, json};

/// Two tasks of `orders` and a client.
struct Mesh<'a> {
    client_flags: Beside<'a>,
    client: Sidecar,
    address: SocketAddr,
    port: u16,
    first: u8,
    tasks: Vec<Task>,
    fleet: Fleet,
}

const BOTH: &[&str] = &["orders-1", "orders-2"];

impl Mesh<'_> {
    async fn start(first: u8) -> anyhow::Result<Self> {
        let fleet = fleet().await?;
        let port = free_port()?;
        let mut tasks = Vec::new();
        for n in 1..=2 {
            tasks.push(task(&fleet, port, first, n).await?);
        }
        let client_flags = Beside::new(&fleet, "client", first);
        let client = client_flags.start(&fleet).await?;
        let address = dial(&client, "orders", port).await?;
        with_log(answered_by(address, "orders", BOTH).await, &client)?;
        Ok(Self {
            client_flags,
            client,
            address,
            port,
            first,
            tasks,
            fleet,
        })
    }

    fn load(&self) -> Load {
        Load::start(Plan {
            rate: Some(100),
            connections: 4,
            ..Plan::new(self.address, format!("orders:{}", self.port))
        })
    }

    async fn kill_control(&mut self) -> anyhow::Result<()> {
        self.fleet.control.kill().await?;
        problem(&self.client, "control-server").await?;
        Ok(())
    }

    async fn all_connected(&self) -> anyhow::Result<()> {
        for id in ["client", "orders-1", "orders-2"] {
            connected(&self.fleet, id, true).await?;
        }
        Ok(())
    }
}

async fn task(fleet: &Fleet, port: u16, first: u8, n: u8) -> anyhow::Result<Task> {
    let number = first + n;
    let id = format!("orders-{n}");
    let service = http_service("orders", port);
    let task = Task::start(fleet, &service, &id, number, [127, number]).await?;
    task.sidecar.ready().await?;
    Ok(task)
}

async fn sent_more(load: &Load, more: u64) -> anyhow::Result<()> {
    let before = load.snapshot().sent;
    wait_for("requests to be sent", PATIENCE, || async {
        Ok((load.snapshot().sent >= before + more).then_some(()))
    })
    .await
}

async fn none_failed(load: Load, client: &Sidecar) -> anyhow::Result<()> {
    let record = load.stop().await;
    let (failed, sent) = (record.failed, record.sent);
    let verdict = match failed {
        0 => Ok(()),
        _ => Err(anyhow::anyhow!(
            "{failed} of {sent} failed: {:?}",
            record.reasons
        )),
    };
    with_log(verdict, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_serve_without_the_control_server_and_hear_of_changes_when_it_is_back()
-> anyhow::Result<()> {
    bounded(async {
        let mut mesh = Mesh::start(100).await?;
        let load = mesh.load();
        mesh.kill_control().await?;
        sent_more(&load, 150).await?;
        start_control(&mut mesh.fleet).await?;
        mesh.all_connected().await?;
        sent_more(&load, 50).await?;
        let _third = task(&mesh.fleet, mesh.port, mesh.first, 3).await?;
        wait_for("answers of the third task", PATIENCE, || async {
            Ok(load
                .snapshot()
                .by_task
                .contains_key("orders-3")
                .then_some(()))
        })
        .await?;
        none_failed(load, &mesh.client).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_restarted_without_the_control_server_serves_from_its_state() -> anyhow::Result<()>
{
    bounded(async {
        let mut mesh = Mesh::start(106).await?;
        // Written at most once a second, so that the last change may still be on its way.
        kept(&mesh.client_flags.folder.join("state"), BOTH).await?;
        kept(&mesh.fleet.folder().join("orders-1/state"), BOTH).await?;
        mesh.kill_control().await?;
        mesh.client.process.kill().await?;
        let again = mesh.client_flags.start(&mesh.fleet).await?;
        again.ready().await?;
        let address = dial(&again, "orders", mesh.port).await?;
        ensure!(
            address == mesh.address,
            "the name moved from {} to {address}",
            mesh.address
        );
        let record = gets(address, "orders", 40).await;
        let seen: Vec<_> = record.by_task.keys().collect();
        ensure!(record.failed == 0, "{:?}", record.reasons);
        ensure!(seen == BOTH, "answers came from {seen:?}");
        // Tasks restarted without it serve, too.
        let mut task = mesh.tasks.remove(0);
        task.sidecar.process.kill().await?;
        let document = mesh.fleet.folder().join("orders-1/service-connect.json");
        let document: Value = serde_json::from_str(&std::fs::read_to_string(document)?)?;
        let number = mesh.first + 1;
        let back = Sidecar::start(&mesh.fleet, "orders-1", number, [127, number], &document);
        let back = back.await?;
        back.ready().await?;
        let own = dial(&back, "orders", mesh.port).await?;
        with_log(answered_by(own, "orders", BOTH).await, &back)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_control_server_removes_nobody_and_tasks_announce_themselves_again()
-> anyhow::Result<()> {
    bounded(async {
        let mut mesh = Mesh::start(112).await?;
        let load = mesh.load();
        mesh.kill_control().await?;
        std::fs::remove_dir_all(mesh.fleet.folder().join("registry"))?;
        start_control(&mut mesh.fleet).await?;
        mesh.all_connected().await?;
        wait_for("both tasks in the new registry", PATIENCE, || async {
            let query =
                json!({ "NamespaceName": "demo", "ServiceName": "orders", "HealthStatus": "ALL" });
            let answer = mesh.fleet.cloud_map("DiscoverInstances", query).await?;
            let count = answer["Instances"].as_array().map_or(0, Vec::len);
            if count == 2 {
                Ok(Some(()))
            } else {
                bail!("{answer}")
            }
        })
        .await?;
        sent_more(&load, 100).await?;
        none_failed(load, &mesh.client).await?;
        let address = dial(&mesh.client, "orders", mesh.port).await?;
        ensure!(
            address == mesh.address,
            "the name moved from {} to {address}",
            mesh.address
        );
        with_log(answered_by(address, "orders", BOTH).await, &mesh.client)
    })
    .await
}

/// Nobody announces these again, so that only the sidecar's own disbelief keeps them.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_an_emptied_control_server_does_not_know_stay_reachable()
-> anyhow::Result<()> {
    bounded(async {
        let mut fleet = fleet().await?;
        let port = free_port()?;
        let (_apps, addresses) = plain_tasks(&fleet, 119).await?;
        let service = register(&fleet, port, &addresses).await?;
        let client = Beside::new(&fleet, "client", 118).start(&fleet).await?;
        let address = dial(&client, "plain", port).await?;
        with_log(
            answered_by(address, "plain", &["plain-1", "plain-2"]).await,
            &client,
        )?;
        fleet.control.kill().await?;
        std::fs::remove_dir_all(fleet.folder().join("registry"))?;
        start_control(&mut fleet).await?;
        connected(&fleet, "client", true).await?;
        // The new server has published this namespace once the client has accepted something from it.
        let cart = json!({ "Name": "demo" });
        fleet.cloud_map("CreateHttpNamespace", cart).await?;
        let other = register_service(&fleet, "other", port).await?;
        ensure!(other != service, "the registry was not emptied: {service}");
        dial(&client, "other", port).await?;
        let clusters = page(client.admin, "/clusters").await?;
        for address in &addresses {
            ensure!(
                clusters.contains(&address.to_string()),
                "{address} is gone: {clusters}"
            );
        }
        with_log(
            answered_by(address, "plain", &["plain-1", "plain-2"]).await,
            &client,
        )
    })
    .await
}

async fn plain_tasks(fleet: &Fleet, number: u8) -> anyhow::Result<(Vec<Process>, Vec<SocketAddr>)> {
    let (mut apps, mut addresses) = (Vec::new(), Vec::new());
    for n in 1..=2 {
        let listen = SocketAddr::from(([127, 0, 1, number], 0));
        let (app, address) = application(fleet.folder(), &format!("plain-{n}"), listen).await?;
        apps.push(app);
        addresses.push(address);
    }
    Ok((apps, addresses))
}

/// Registers tasks without sidecars, as an operator would; answers the service's id.
async fn register(fleet: &Fleet, port: u16, tasks: &[SocketAddr]) -> anyhow::Result<String> {
    fleet
        .cloud_map("CreateHttpNamespace", json!({ "Name": "demo" }))
        .await?;
    let service = register_service(fleet, "plain", port).await?;
    for (n, task) in tasks.iter().enumerate() {
        let attributes = json!({
            "AWS_INSTANCE_IPV4": task.ip().to_string(),
            "AWS_INSTANCE_PORT": task.port().to_string(),
        });
        let input = json!({
            "ServiceId": service,
            "InstanceId": format!("plain-{}", n + 1),
            "Attributes": attributes,
        });
        fleet.cloud_map("RegisterInstance", input).await?;
    }
    Ok(service)
}

async fn register_service(fleet: &Fleet, name: &str, port: u16) -> anyhow::Result<String> {
    let namespaces = fleet.cloud_map("ListNamespaces", json!({})).await?;
    let namespace = namespaces["Namespaces"][0]["Id"]
        .as_str()
        .with_context(|| format!("a namespace: {namespaces}"))?;
    let input = json!({ "Name": name, "NamespaceId": namespace });
    let created = fleet.cloud_map("CreateService", input).await?;
    let id = created["Service"]["Id"]
        .as_str()
        .with_context(|| format!("a service: {created}"))?;
    let attributes = json!({
        "OUTRIGGER_REVISION": "1",
        "OUTRIGGER_ALIAS": format!("{name}:{port}"),
        "OUTRIGGER_APP_PROTOCOL": "http",
    });
    let input = json!({ "ServiceId": id, "Attributes": attributes });
    fleet.cloud_map("UpdateServiceAttributes", input).await?;
    Ok(id.to_owned())
}
