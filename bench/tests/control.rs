//! The control server killed, restarted, and replaced by an empty one, while sidecars serve.

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, anyhow, bail, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, Task, wait_for};
use outrigger_bench::load::{Load, Plan};
use outrigger_xds::model::{Address, Endpoint, EndpointSet};
use outrigger_xds::transport::{NodeEvents, Published, StreamId, plain, serve_ads};
use outrigger_xds::{NodeInfo, Rejection, Resource, ResourceSet};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

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

/// An older copy of the registry's file has a task that is gone and lacks one that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_server_restarted_with_an_old_copy_of_its_file_costs_no_request()
-> anyhow::Result<()> {
    bounded(async {
        let mut mesh = Mesh::start(124).await?;
        let registry = mesh.fleet.folder().join("registry");
        let copy = mesh.fleet.folder().join("copy");
        // Only a file that nobody writes can be copied.
        mesh.kill_control().await?;
        copy_folder(&registry, &copy)?;
        start_control(&mut mesh.fleet).await?;
        mesh.all_connected().await?;
        let _third = task(&mesh.fleet, mesh.port, mesh.first, 3).await?;
        let load = Load::start(Plan {
            method: http::Method::POST,
            path: "/echo".to_owned(),
            rate: Some(100),
            connections: 4,
            ..Plan::new(mesh.address, format!("orders:{}", mesh.port))
        });
        let third_answers = async || {
            let before = third_seen(&load);
            wait_for("answers of the third task", PATIENCE, || async {
                Ok((third_seen(&load) > before).then_some(()))
            })
            .await
        };
        third_answers().await?;
        mesh.tasks.remove(0).drain(PATIENCE).await?;
        mesh.kill_control().await?;
        std::fs::remove_dir_all(&registry)?;
        copy_folder(&copy, &registry)?;
        start_control(&mut mesh.fleet).await?;
        for id in ["client", "orders-2", "orders-3"] {
            connected(&mesh.fleet, id, true).await?;
        }
        wait_for("the third task in the old copy", PATIENCE, || async {
            let query =
                json!({ "NamespaceName": "demo", "ServiceName": "orders", "HealthStatus": "ALL" });
            let answer = mesh.fleet.cloud_map("DiscoverInstances", query).await?;
            Ok(answer.to_string().contains("orders-3").then_some(()))
        })
        .await?;
        third_answers().await?;
        sent_more(&load, 100).await?;
        none_failed(load, &mesh.client).await
    })
    .await
}

fn third_seen(load: &Load) -> u64 {
    let record = load.snapshot();
    record
        .by_task
        .get("orders-3")
        .map_or(0, |seen| seen.answers)
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// What a fake control server was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Acknowledged(String),
    Rejected(String),
}

/// A control server that publishes the same to everybody.
struct Fake {
    published: watch::Sender<Option<Arc<Published>>>,
    nodes: Mutex<Vec<String>>,
    told: mpsc::Sender<Told>,
}

impl Fake {
    /// Listens where the real one did, which is dead.
    async fn start(
        xds: SocketAddr,
        resources: Vec<Resource>,
    ) -> anyhow::Result<(tokio::task::JoinHandle<()>, mpsc::Receiver<Told>)> {
        let set = ResourceSet::from_model(resources).map_err(|error| anyhow!("{error:?}"))?;
        let set = Arc::new(set);
        let (told, heard) = mpsc::channel(1024);
        let fake = Self {
            published: watch::Sender::new(Some(Arc::new(Published { sequence: 1, set }))),
            nodes: Mutex::default(),
            told,
        };
        let listener = wait_for("the port to be free", PATIENCE, || async {
            Ok(Some(TcpListener::bind(xds).await?))
        })
        .await?;
        let serving = async move {
            let epoch = "nonsense".to_owned();
            drop(
                serve_ads(
                    plain(listener),
                    Arc::new(fake),
                    epoch,
                    std::future::pending(),
                )
                .await,
            );
        };
        Ok((tokio::spawn(serving), heard))
    }

    fn node(&self, stream: StreamId) -> String {
        let nodes = self.nodes.lock().expect("nobody panics with it");
        let index = usize::try_from(stream.0).expect("few streams");
        nodes[index].clone()
    }
}

impl NodeEvents for Fake {
    fn connected(&self, node: &NodeInfo) -> Result<StreamId, String> {
        let mut nodes = self.nodes.lock().expect("nobody panics with it");
        nodes.push(node.id.clone());
        Ok(StreamId(nodes.len() as u64 - 1))
    }

    fn acknowledged(&self, stream: StreamId, _: u64, _: &BTreeSet<String>) {
        let _full = self.told.try_send(Told::Acknowledged(self.node(stream)));
    }

    fn rejected(&self, stream: StreamId, _: Rejection) {
        let _full = self.told.try_send(Told::Rejected(self.node(stream)));
    }

    fn disconnected(&self, _: StreamId) {}

    fn namespace(&self, _: &str) -> watch::Receiver<Option<Arc<Published>>> {
        self.published.subscribe()
    }

    fn closed(&self, _: StreamId) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

async fn hears(heard: &mut mpsc::Receiver<Told>, expected: Told) -> anyhow::Result<()> {
    let hear = async { while heard.recv().await.is_some_and(|told| told != expected) {} };
    let heard = tokio::time::timeout(PATIENCE, hear).await;
    heard.with_context(|| format!("{expected:?} is not heard"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_server_that_returns_nonsense_costs_no_request() -> anyhow::Result<()> {
    bounded(async {
        let mut mesh = Mesh::start(128).await?;
        let load = mesh.load();
        mesh.kill_control().await?;
        let xds = mesh.fleet.xds;

        // Bytes that are no protocol.
        let listener = wait_for("the port to be free", PATIENCE, || async {
            Ok(Some(TcpListener::bind(xds).await?))
        })
        .await?;
        for _ in 0..6 {
            let (mut stream, _) = listener.accept().await?;
            // Whoever closes at once has seen enough.
            let _closed = stream.write_all(&[0xff; 4096]).await;
        }
        drop(listener);
        sent_more(&load, 50).await?;

        // An empty world.
        let (serving, mut heard) = Fake::start(xds, Vec::new()).await?;
        hears(&mut heard, Told::Acknowledged("client".to_owned())).await?;
        sent_more(&load, 100).await?;
        serving.abort();

        // Endpoints that are the sidecar itself.
        let endpoints = Resource::Endpoints(EndpointSet {
            cluster: "demo/orders".to_owned(),
            endpoints: vec![Endpoint::new(Address::Ip(mesh.address))],
        });
        let (serving, mut heard) = Fake::start(xds, vec![endpoints]).await?;
        hears(&mut heard, Told::Rejected("client".to_owned())).await?;
        sent_more(&load, 100).await?;
        serving.abort();

        start_control(&mut mesh.fleet).await?;
        mesh.all_connected().await?;
        sent_more(&load, 50).await?;
        none_failed(load, &mesh.client).await?;
        with_log(
            answered_by(mesh.address, "orders", BOTH).await,
            &mesh.client,
        )
    })
    .await
}
