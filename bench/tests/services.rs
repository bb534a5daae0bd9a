//! Services by what they speak, declared in documents; and configuration that a sidecar must not believe.

mod common;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use common::*;
use outrigger_bench::fleet::{AppProtocol, Fleet, Process, Service, Task, wait_for};
use outrigger_bench::load::{Load, Plan, Wire};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn services_of_every_protocol_are_reached_by_their_names() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let all = [
            ("web", AppProtocol::Http, Wire::Http1),
            ("two", AppProtocol::Http2, Wire::Http2),
            ("rpc", AppProtocol::Grpc, Wire::Http2),
            ("sql", AppProtocol::Tcp, Wire::Tcp),
        ];
        let mut tasks = Vec::new();
        for (number, (name, protocol, _)) in (186..).zip(&all) {
            let service = Service {
                name: (*name).to_owned(),
                port: free_port()?,
                protocol: *protocol,
            };
            let task = Task::start(&fleet, &service, name, number, [127, number]).await?;
            tasks.push((service, task));
        }
        let client = Beside::new(&fleet, "client", 185).start(&fleet).await?;
        for ((service, task), (name, protocol, wire)) in tasks.iter().zip(&all) {
            task.sidecar.ready().await?;
            let address = dial(&client, name, service.port).await?;
            offered(client.admin, name).await?;
            if *protocol == AppProtocol::Tcp {
                with_log(greeted(address, name).await, &client)?;
                continue;
            }
            let plan = Plan {
                wire: *wire,
                method: http::Method::POST,
                path: "/echo".to_owned(),
                body: Bytes::from_static(b"hello"),
                connections: 2,
                requests: Some(50),
                ..Plan::new(address, format!("{name}:{}", service.port))
            };
            let record = Load::start(plan).finished().await;
            let seen: Vec<_> = record.by_task.keys().collect();
            let fine = record.failed == 0 && seen == [name] && record.bytes == 250;
            let verdict = if fine {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{name}: {seen:?}, {:?}", record.reasons))
            };
            with_log(verdict, &client)?;
        }
        Ok(())
    })
    .await
}

/// A greeting before the client has said anything, then an echo.
async fn greeted(address: SocketAddr, name: &str) -> anyhow::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    ensure!(line == format!("{name}\n"), "{line:?}");
    stream.write_all(b"select\n").await?;
    line.clear();
    stream.read_line(&mut line).await?;
    ensure!(line == "select\n", "{line:?}");
    Ok(())
}

/// Waits until the cluster offers an endpoint.
async fn offered(admin: SocketAddr, name: &str) -> anyhow::Result<()> {
    wait_for(&format!("an endpoint of {name}"), PATIENCE, || async {
        let clusters = json_page(admin, "/clusters").await?;
        let cluster = format!("demo/{name}");
        let list = clusters.as_array().context("a list")?;
        let found = list.iter().find(|one| one["name"] == cluster.as_str());
        match found {
            Some(cluster) if cluster["offered"] != 0 => Ok(Some(())),
            _ => bail!("{clusters}"),
        }
    })
    .await
}

/// An endpoint inside the client's own VIP range is a loop: its cluster keeps what it had, others change.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_resource_keeps_its_last_good_version_and_the_rest_of_the_update_applies()
-> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let port = free_port()?;
        let listen = SocketAddr::from(([127, 0, 1, 193], 0));
        let (_app, app) = application(fleet.folder(), "good", listen).await?;
        fleet
            .cloud_map("CreateHttpNamespace", json!({ "Name": "demo" }))
            .await?;
        let service = create(&fleet, "plain", port).await?;
        register(&fleet, &service, "good", app).await?;
        let client = Beside::new(&fleet, "client", 192).start(&fleet).await?;
        let address = dial(&client, "plain", port).await?;
        with_log(answered_by(address, "plain", &["good"]).await, &client)?;

        let loops = SocketAddr::from((Ipv4Addr::new(127, 192, 0, 9), 80));
        register(&fleet, &service, "loop", loops).await?;
        let reason = problem(&client, "rejected/").await?;
        ensure!(
            reason.contains("127.192.0.9:80") && reason.contains("loop"),
            "{reason}"
        );
        wait_for("the refusal in the list of nodes", PATIENCE, || async {
            let node = connected(&fleet, "client", true).await?;
            let nacks = node["nacks"].to_string();
            if nacks.contains("demo/plain") && nacks.contains("loop") {
                Ok(Some(()))
            } else {
                bail!("{node}")
            }
        })
        .await?;
        with_log(answered_by(address, "plain", &["good"]).await, &client)?;
        let other = create(&fleet, "other", port).await?;
        register(&fleet, &other, "good", app).await?;
        let second = dial(&client, "other", port).await?;
        with_log(answered_by(second, "other", &["good"]).await, &client)?;

        let input = json!({ "ServiceId": service, "InstanceId": "loop" });
        fleet.cloud_map("DeregisterInstance", input).await?;
        wait_for("the problem to be gone", PATIENCE, || async {
            let ready = json_page(client.admin, "/ready").await?;
            if ready["problems"] == json!({}) {
                Ok(Some(()))
            } else {
                bail!("{ready}")
            }
        })
        .await
    })
    .await
}

async fn create(fleet: &Fleet, name: &str, port: u16) -> anyhow::Result<Value> {
    let namespaces = fleet.cloud_map("ListNamespaces", json!({})).await?;
    let namespace = &namespaces["Namespaces"][0]["Id"];
    let input = json!({ "Name": name, "NamespaceId": namespace });
    let created = fleet.cloud_map("CreateService", input).await?;
    let service = created["Service"]["Id"].clone();
    let attributes = json!({
        "OUTRIGGER_REVISION": "1",
        "OUTRIGGER_ALIAS": format!("{name}:{port}"),
        "OUTRIGGER_APP_PROTOCOL": "http",
    });
    let input = json!({ "ServiceId": service, "Attributes": attributes });
    fleet.cloud_map("UpdateServiceAttributes", input).await?;
    Ok(service)
}

async fn register(
    fleet: &Fleet,
    service: &Value,
    id: &str,
    address: SocketAddr,
) -> anyhow::Result<()> {
    let attributes = json!({
        "AWS_INSTANCE_IPV4": address.ip().to_string(),
        "AWS_INSTANCE_PORT": address.port().to_string(),
    });
    let input = json!({ "ServiceId": service, "InstanceId": id, "Attributes": attributes });
    fleet.cloud_map("RegisterInstance", input).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_file_read_again_moves_the_traffic_and_a_broken_one_changes_nothing()
-> anyhow::Result<()> {
    bounded(async {
        let folder = tempfile::tempdir()?;
        let mut apps: Vec<(Process, SocketAddr)> = Vec::new();
        for (name, last) in [("old", 1), ("new", 2)] {
            let listen = SocketAddr::from(([127, 0, 5, last], 0));
            apps.push(application(folder.path(), name, listen).await?);
        }
        let address = free_address(Ipv4Addr::new(127, 0, 5, 3))?;
        let text = |app: SocketAddr| file("egress", address, "auto", "http", &[app], "");
        let (egress, admin) = static_sidecar(folder.path(), "egress", &text(apps[0].1)).await?;
        answered_by(address, "orders", &["old"]).await?;
        let path = folder.path().join("egress.toml");
        std::fs::write(
            &path,
            text(apps[1].1).replace("cluster = \"out\"", "cluster = \"no\""),
        )?;
        egress.signal(Signal::HUP)?;
        wait_for("the broken file to be told", PATIENCE, || async {
            let ready = json_page(admin, "/ready").await?;
            let told = ready["problems"]["static-file"].to_string();
            Ok((told.contains("listener") && told.contains("no cluster")).then_some(()))
        })
        .await?;
        answered_by(address, "orders", &["old"]).await?;
        std::fs::write(&path, text(apps[1].1))?;
        let load = Load::start(Plan {
            rate: Some(200),
            connections: 4,
            ..Plan::new(address, "orders")
        });
        egress.signal(Signal::HUP)?;
        wait_for("answers of the new application", PATIENCE, || async {
            Ok(load.snapshot().by_task.contains_key("new").then_some(()))
        })
        .await?;
        let record = load.stop().await;
        ensure!(record.failed == 0, "{:?}", record.reasons);
        answered_by(address, "orders", &["new"]).await?;
        let ready = json_page(admin, "/ready").await?;
        ensure!(ready["problems"] == json!({}), "{ready}");
        Ok(())
    })
    .await
}
