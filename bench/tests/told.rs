//! What a sidecar says while it waits, and what it refuses to start with.

mod common;

use std::net::SocketAddr;

use anyhow::{bail, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, Process, wait_for};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_announced_once_its_application_answers() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let mut beside = Beside::new(&fleet, "late-1", 210);
        let listen = free_address(beside.address())?;
        let port = Port {
            name: "late",
            container: listen.port(),
            alias: free_port()?,
        };
        beside.document = Some(document("demo", &[port]));
        let sidecar = beside.start(&fleet).await?;
        let reason = problem(&sidecar, "application/late").await?;
        ensure!(reason.contains(&listen.to_string()), "{reason}");
        let query = json!({ "NamespaceName": "demo", "ServiceName": "late" });
        let early = fleet.cloud_map("DiscoverInstances", query).await;
        ensure!(
            early.is_err(),
            "announced before its application answers: {early:?}"
        );
        let (_app, _) = application(fleet.folder(), "late", listen).await?;
        let address = dial(&sidecar, "late", port.alias).await?;
        with_log(answered_by(address, "late", &["late"]).await, &sidecar)?;
        wait_for("the problem to be gone", PATIENCE, || async {
            let ready = json_page(sidecar.admin, "/ready").await?;
            Ok((ready["problems"] == json!({})).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_control_server_is_told_again_what_cannot_be_bound() -> anyhow::Result<()> {
    bounded(async {
        let mut fleet = fleet().await?;
        let mut beside = Beside::new(&fleet, "web-1", 212);
        let listen = SocketAddr::from((beside.address(), 0));
        let (_app, app) = application(fleet.folder(), "web", listen).await?;
        let own = Port {
            name: "web",
            container: app.port(),
            alias: app.port(),
        };
        beside.document = Some(document("demo", &[own]));
        let sidecar = beside.start(&fleet).await?;
        told(&fleet, "not bound").await?;
        fleet.control.kill().await?;
        problem(&sidecar, "control-server").await?;
        start_control(&mut fleet).await?;
        with_log(told(&fleet, "not bound").await, &sidecar)
    })
    .await
}

async fn told(fleet: &Fleet, what: &str) -> anyhow::Result<()> {
    wait_for("the control server to be told", PATIENCE, || async {
        let node = connected(fleet, "web-1", true).await?;
        if node["reports"].to_string().contains(what) {
            Ok(Some(()))
        } else {
            bail!("{node}")
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_and_a_wrong_document_end_the_sidecar_with_2_and_all_errors()
-> anyhow::Result<()> {
    bounded(async {
        let binaries = tokio::task::spawn_blocking(binaries).await??;
        let document = json!({
            "clusterName": "c",
            "serviceName": "s",
            "portMappings": [{ "name": "main", "containerPort": 70000, "appProtocol": "gopher" }],
            "serviceConnectConfiguration": { "enabled": true, "namespace": "demo", "services": [
                { "portName": "missing", "clientAliases": [{ "port": 0 }] },
            ] },
        });
        let mut command = Command::new(&binaries.proxy);
        command.args(["--xds", "ftp://nowhere", "--vip-cidr", "10.0.0.0/33"]);
        command.args(["--workers", "many", "--admin", "0.0.0.0:9901"]);
        command.args(["--service-connect", &document.to_string()]);
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
        for (field, value) in [
            ("--xds", "ftp://nowhere"),
            ("--vip-cidr", "10.0.0.0/33"),
            ("--workers", "many"),
            ("--admin", "0.0.0.0:9901"),
            ("containerPort", "70000"),
            ("appProtocol", "gopher"),
            ("portName", "missing"),
            ("port", "0"),
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

/// A server that hangs up at once, and counts.
async fn hanging_up() -> anyhow::Result<(SocketAddr, watch::Receiver<u32>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok(accepted) = listener.accept().await {
            drop(accepted);
            count.send_modify(|count| *count += 1);
        }
    });
    Ok((address, counted))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_control_server_is_tried_on_and_logged_once_per_back_off_step()
-> anyhow::Result<()> {
    bounded(async {
        let binaries = tokio::task::spawn_blocking(binaries).await??;
        let folder = tempfile::tempdir()?;
        let (address, mut tries) = hanging_up().await?;
        let mut command = Command::new(&binaries.proxy);
        command.args(["--xds", &format!("http://{address}")]);
        command.args(["--namespace", "demo", "--admin", "127.0.0.1:0"]);
        let sidecar = Process::spawn("waiting", command, folder.path())?;
        sidecar.listening("admin", PATIENCE).await?;
        let lines = || -> anyhow::Result<usize> {
            let log = std::fs::read_to_string(folder.path().join("waiting.log"))?;
            Ok(log.matches("no control server").count())
        };
        // 0.1 s doubling, and 5 s as the longest: seven steps.
        wait_for("the line of the longest back-off", PATIENCE, || async {
            Ok((lines()? >= 7).then_some(()))
        })
        .await?;
        // A try may connect twice, so that four connections are two tries at least.
        let before = *tries.borrow();
        let more = tries.wait_for(|now| *now >= before + 4);
        tokio::time::timeout(PATIENCE, more).await??;
        let lines = lines()?;
        ensure!(lines == 7, "{lines} lines:\n{}", sidecar.log_tail());
        Ok(())
    })
    .await
}
