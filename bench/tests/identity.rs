//! Who a sidecar is, what it declares, and what it says when something cannot be had.

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{bail, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, wait_for};
use rustix::process::Signal;
use tokio::process::Command;

/// An application and its sidecar, with one HTTP service for every name and alias port.
struct Declared {
    /// Ended with the task.
    _apps: Vec<Process>,
    sidecar: Sidecar,
}

async fn declared(
    fleet: &Fleet,
    beside: &mut Beside<'_>,
    services: &[(&str, u16)],
) -> anyhow::Result<Declared> {
    let (mut apps, mut ports) = (Vec::new(), Vec::new());
    for (name, alias) in services {
        let listen = SocketAddr::from((beside.address(), 0));
        let label = format!("{}-{name}", beside.id);
        let (app, address) = application(fleet.folder(), &label, listen).await?;
        apps.push(app);
        ports.push(Port {
            name,
            container: address.port(),
            alias: *alias,
        });
    }
    beside.document = Some(document(beside.namespace, &ports));
    let sidecar = beside.start(fleet).await?;
    Ok(Declared {
        _apps: apps,
        sidecar,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_id_used_twice_is_refused_while_the_first_is_alive() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let port = free_port()?;
        let mut first = Beside::new(&fleet, "twin", 130);
        let first = declared(&fleet, &mut first, &[("orders", port)]).await?;
        first.sidecar.ready().await?;
        connected(&fleet, "twin", true).await?;
        // Another folder, and so another secret.
        let second = Beside::new(&fleet, "twin", 131).start(&fleet).await?;
        let reason = problem(&second, "control-server").await?;
        ensure!(
            reason.contains("\"twin\"") && reason.contains("in use"),
            "{reason}"
        );
        let own = dial(&first.sidecar, "orders", port).await?;
        with_log(
            answered_by(own, "orders", &["twin-orders"]).await,
            &first.sidecar,
        )?;
        connected(&fleet, "twin", true).await?;
        drop(first);
        // The first is gone for good, so the id is free.
        wait_for("the second to be ready", PATIENCE, || async {
            let ready = json_page(second.admin, "/ready").await?;
            match &ready["problems"]["control-server"] {
                serde_json::Value::Null => Ok(Some(())),
                reason => bail!("{reason}"),
            }
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_sidecar_takes_over_from_its_frozen_predecessor() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let beside = Beside::new(&fleet, "client", 134);
        let predecessor = beside.start(&fleet).await?;
        predecessor.ready().await?;
        connected(&fleet, "client", true).await?;
        // Frozen, its connection stays open: only the secret tells the control server that the new one is the same task.
        predecessor.process.signal(Signal::STOP)?;
        let successor = beside.start(&fleet).await?;
        successor.ready().await?;
        let log = || std::fs::read_to_string(fleet.folder().join("client-134-sidecar.log"));
        wait_for("the successor to be connected", PATIENCE, || async {
            let times = log()?.matches("control server connected").count();
            Ok((times == 2).then_some(()))
        })
        .await?;
        connected(&fleet, "client", true).await?;
        ensure!(!log()?.contains("in use"), "{}", log()?);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_task_offers_two_services_and_a_client_needs_no_document() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let (orders, cart) = (free_port()?, free_port()?);
        let mut both = Beside::new(&fleet, "both", 140);
        let task = declared(&fleet, &mut both, &[("orders", orders), ("cart", cart)]).await?;
        task.sidecar.ready().await?;
        let client = Beside::new(&fleet, "client", 141).start(&fleet).await?;
        client.ready().await?;
        let mut vips = Vec::new();
        for (name, port, answer) in [
            ("orders", orders, "both-orders"),
            ("cart", cart, "both-cart"),
        ] {
            let address = dial(&client, name, port).await?;
            with_log(answered_by(address, name, &[answer]).await, &client)?;
            vips.push(address.ip());
        }
        ensure!(vips[0] != vips[1], "two names share a VIP: {vips:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_with_the_same_names_do_not_meet() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let port = free_port()?;
        let mut running = Vec::new();
        for (namespace, task, client, number) in [
            ("blue", "blue-1", "blue-client", 146),
            ("green", "green-1", "green-client", 148),
        ] {
            let mut beside = Beside::new(&fleet, task, number);
            beside.namespace = namespace;
            let declared = declared(&fleet, &mut beside, &[("orders", port)]).await?;
            declared.sidecar.ready().await?;
            let mut beside = Beside::new(&fleet, client, number + 1);
            beside.namespace = namespace;
            running.push((namespace, beside.start(&fleet).await?, declared));
        }
        for (namespace, client, _) in &running {
            let answer = format!("{namespace}-1-orders");
            let address = dial(client, "orders", port).await?;
            with_log(answered_by(address, "orders", &[&answer]).await, client)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_on_the_applications_own_port_is_reported_and_not_bound() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let mut beside = Beside::new(&fleet, "web-1", 152);
        // On every address, as most applications do: a bound VIP with that port would be in its way.
        let port = free_port()?;
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let (_app, _) = application(fleet.folder(), "web", listen).await?;
        let own = Port {
            name: "web",
            container: port,
            alias: port,
        };
        beside.document = Some(document("demo", &[own]));
        let task = beside.start(&fleet).await?;
        task.ready().await?;
        let reason = problem(&task, &format!("alias/demo/web:{port}")).await?;
        ensure!(
            reason.contains("not bound") && reason.contains(&port.to_string()),
            "{reason}"
        );
        wait_for("the control server to be told", PATIENCE, || async {
            let node = connected(&fleet, "web-1", true).await?;
            Ok(node["reports"]
                .to_string()
                .contains("not bound")
                .then_some(()))
        })
        .await?;
        let query = serde_json::json!({ "NamespaceName": "demo", "ServiceName": "web" });
        let found = fleet.cloud_map("DiscoverInstances", query).await?;
        let instances = found["Instances"].as_array().map_or(0, Vec::len);
        ensure!(instances == 1, "it is announced all the same: {found}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_cannot_be_bound_is_named_and_the_others_work_until_it_can()
-> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let (orders, cart) = (free_port()?, free_port()?);
        let mut both = Beside::new(&fleet, "both", 158);
        let task = declared(&fleet, &mut both, &[("orders", orders), ("cart", cart)]).await?;
        task.sidecar.ready().await?;
        // Whichever of the first VIPs is the cart's.
        let taken: Vec<_> = (1..=2)
            .map(|last| TcpListener::bind((Ipv4Addr::new(127, 159, 0, last), cart)))
            .collect::<Result<_, _>>()?;
        let client = Beside::new(&fleet, "client", 159).start(&fleet).await?;
        client.ready().await?;
        let reason = problem(&client, &format!("listener/demo/cart:{cart}")).await?;
        ensure!(
            reason.contains(&format!(":{cart}")) && reason.contains("cannot be bound"),
            "{reason}"
        );
        ensure!(
            client.process.log_tail().contains("cannot be bound"),
            "{}",
            client.process.log_tail()
        );
        let address = dial(&client, "orders", orders).await?;
        with_log(
            answered_by(address, "orders", &["both-orders"]).await,
            &client,
        )?;
        drop(taken);
        let address = dial(&client, "cart", cart).await?;
        with_log(answered_by(address, "cart", &["both-cart"]).await, &client)?;
        wait_for("the problem to be gone", PATIENCE, || async {
            let ready = json_page(client.admin, "/ready").await?;
            Ok((ready["problems"] == serde_json::json!({})).then_some(()))
        })
        .await
    })
    .await
}

/// The task's own sidecar has the API's address, too, so that it can tell the control server.
#[tokio::test(flavor = "multi_thread")]
async fn the_control_server_is_told_of_a_listener_that_cannot_be_bound() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let port = free_port()?;
        let _taken = TcpListener::bind((Ipv4Addr::new(127, 164, 0, 1), port))?;
        let mut beside = Beside::new(&fleet, "orders-1", 164);
        let task = declared(&fleet, &mut beside, &[("orders", port)]).await?;
        let told = wait_for("the control server to be told", PATIENCE, || async {
            let node = connected(&fleet, "orders-1", true).await?;
            let reports = node["reports"].to_string();
            if reports.contains("cannot be bound") {
                Ok(Some(reports))
            } else {
                bail!("{node}")
            }
        });
        let reports = with_log(told.await, &task.sidecar)?;
        ensure!(
            reports.contains(&format!("demo/orders:{port}")),
            "{reports}"
        );
        task.sidecar.ready().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_static_file_ends_the_sidecar_with_2_and_all_its_errors() -> anyhow::Result<()>
{
    bounded(async {
        let binaries = tokio::task::spawn_blocking(binaries).await??;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("wrong.toml");
        let text = "[[listener]]\nname = \"in\"\ndirection = \"sideways\"\naddress = \"nowhere\"\n\
                    cluster = \"missing\"\nsurprise = 1\n\n\
                    [[cluster]]\nname = \"out\"\nprotocol = \"spdy\"\n\
                    endpoints = [{ address = \"127.0.0.2\" }]\nper_request_timeout = \"soon\"\n";
        std::fs::write(&path, text)?;
        let mut command = Command::new(&binaries.proxy);
        command.arg("--static").arg(&path);
        command.args(["--admin", "127.0.0.1:0"]);
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
        for (field, value) in [
            ("direction", "sideways"),
            ("address", "nowhere"),
            ("cluster", "missing"),
            ("surprise", "1"),
            ("protocol", "spdy"),
            ("address", "127.0.0.2"),
            ("per_request_timeout", "soon"),
        ] {
            ensure!(
                said.lines()
                    .any(|line| line.contains(field) && line.contains(value)),
                "{field} = {value} is not named in:\n{said}"
            );
        }
        Ok(())
    })
    .await
}
