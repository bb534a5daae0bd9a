//! Hot restarts under load: a new sidecar process takes over from the running one, and nobody notices.

mod chain;
#[path = "../common/mod.rs"]
mod common;
mod mesh;
mod side;
mod traffic;

use std::cell::Cell;

use anyhow::{Context, ensure};
use chain::{Chain, Stuck, refused, said};
use common::*;
use http::Request;
use mesh::{Mesh, name_of};
use outrigger_bench::fleet::{Process, Task, call};
use side::Side;
use traffic::{KeptOpen, Stream, Traffic, Tunnel};

/// One restart, with a stream and a tunnel that the old process brings to their end; the old process.
async fn restart(side: &mut Side, traffic: &mut Traffic) -> anyhow::Result<Process> {
    let mut stream = Stream::open(traffic.paths.grpc).await?;
    let mut tunnel = Tunnel::open(traffic.paths.tcp).await?;
    let old = side.restart().await?;
    let under_way = async {
        for text in ["during", "still"] {
            stream.say(text).await?;
            tunnel.say(text).await?;
        }
        stream.end().await?;
        tunnel.end().await
    };
    under_way.await.with_context(|| old.log_tail())?;
    traffic.goes_on().await?;
    Stream::open(traffic.paths.grpc).await?.end().await?;
    Tunnel::open(traffic.paths.tcp).await?.end().await?;
    Ok(old)
}

/// Restarts of both sides in turn.
async fn restarts(
    egress: &mut Side,
    ingress: &mut Side,
    mut traffic: Traffic,
    rounds: usize,
) -> anyhow::Result<String> {
    let told = async {
        let mut olds = Vec::new();
        traffic.goes_on().await?;
        for _ in 0..rounds {
            for side in [&mut *egress, &mut *ingress] {
                let restarted = restart(side, &mut traffic).await;
                let named = || format!("{} {}", side.name, side.generation);
                olds.push(restarted.with_context(named)?);
            }
        }
        for mut old in olds {
            let status = old.ended(PATIENCE).await?;
            let log = old.log_tail();
            ensure!(status.success(), "{status}: {log}");
            ensure!(log.contains("handed over"), "{log}");
            ensure!(!log.contains("deregistered"), "{log}");
        }
        traffic.goes_on().await
    };
    let told = told.await;
    let stopped = traffic.stop().await;
    let logs = || {
        format!(
            "egress:\n{}\ningress:\n{}",
            egress.process.log_tail(),
            ingress.process.log_tail()
        )
    };
    told.with_context(logs)?;
    stopped.with_context(logs)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_restarts_of_each_of_two_sidecars_on_files_go_unnoticed() -> anyhow::Result<()> {
    bounded(async {
        let mut chain = Chain::start([127, 0, 0, 91], None).await?;
        let traffic = chain.traffic();
        let told = restarts(&mut chain.egress, &mut chain.ingress, traffic, 5).await?;
        println!("10 hot restarts on files, nothing failed: {told}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_restarts_of_each_of_two_sidecars_of_a_mesh_go_unnoticed() -> anyhow::Result<()> {
    bounded(async {
        let mut mesh = Mesh::start(200).await?;
        let (before, traffic) = (mesh.kept()?, mesh.traffic());
        let told = restarts(&mut mesh.egress, &mut mesh.ingress, traffic, 5).await?;
        println!("10 hot restarts in a mesh, nothing failed: {told}");
        let after = mesh.kept()?;
        ensure!(before == after, "{before:?} became {after:?}");
        for id in ["task-1", "client-1"] {
            // Each process once: two that hold one node id would take it from each other for ever.
            let connections = mesh.connections(id)?;
            ensure!(connections == 6, "{id} connected {connections} times");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_while_a_sidecar_is_restarted_again_and_again_arrives() -> anyhow::Result<()>
{
    bounded(async {
        let mut mesh = Mesh::start(204).await?;
        for n in 1..=3 {
            let late = http_service(&format!("late-{n}"), free_port()?);
            let id = format!("late-task-{n}");
            let number = 206 + n;
            let started = Cell::new(false);
            let task = async {
                let task = Task::start(&mesh.fleet, &late, &id, number, [127, number]).await;
                started.set(true);
                task
            };
            let restarts = async {
                while !started.get() {
                    mesh.egress.restart().await?.ended(PATIENCE).await?;
                }
                anyhow::Ok(())
            };
            let (task, restarted) = tokio::join!(task, restarts);
            let task = task?;
            restarted?;
            let address = (
                name_of(&mesh.fleet, "client-1", &late.name).await?,
                late.port,
            );
            answered_by(address.into(), &late.name, &[&id])
                .await
                .with_context(|| mesh.egress.process.log_tail())?;
            drop(task);
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_never_gets_ready_changes_nothing() -> anyhow::Result<()> {
    bounded(async {
        let mut stuck = Stuck::start([127, 0, 0, 94], None).await?;
        stuck.serves().await?;
        let mut second = stuck.side.another(3)?;
        refused(&mut second, 1, "is taking over already").await?;
        stuck.successor.kill().await?;
        said(&stuck.side.process, "this process goes on").await?;
        stuck.serves().await?;
        let mut old = stuck.side.restart().await?;
        let status = old.ended(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        stuck.serves().await
    })
    .await
}

/// Who closes an idle connection may cross a request on it; who answers the next request with `connection: close` does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_answered_once_more_by_the_old_process() -> anyhow::Result<()> {
    bounded(async {
        let mut chain = Chain::start([127, 0, 0, 98], None).await?;
        let (mut busy, mut idle) = (
            KeptOpen::open(chain.paths.web).await?,
            KeptOpen::open(chain.paths.web).await?,
        );
        for connection in [&mut busy, &mut idle] {
            let head = connection.ask().await?;
            ensure!(!head.contains("connection: close"), "{head}");
        }
        let mut old = chain.egress.restart().await?;
        let head = busy.ask().await?;
        ensure!(head.contains("connection: close"), "{head}");
        busy.is_ended().await?;
        // At the bound, and not with a reset.
        idle.is_ended().await?;
        let status = old.ended(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_told_to_stop_hands_nothing_over() -> anyhow::Result<()> {
    bounded(async {
        let mut stuck = Stuck::start([127, 0, 0, 95], None).await?;
        stuck.side.process.terminate()?;
        let status = stuck.side.process.ended(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        stuck.feed().await?;
        refused(&mut stuck.successor, 1, "hands nothing over").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_before_the_hand_over_is_followed() -> anyhow::Result<()> {
    bounded(async {
        let mut stuck = Stuck::start([127, 0, 0, 96], None).await?;
        stuck.side.process.kill().await?;
        // Nobody accepts, and nobody is refused: the successor holds the sockets.
        let waiting = call(stuck.address, Request::get("/"), String::new());
        let (answer, fed) = tokio::join!(waiting, stuck.feed());
        fed?;
        ensure!(answer?.0.is_success());
        stuck.serves().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_or_a_wrong_file_is_refused_and_the_running_process_goes_on()
-> anyhow::Result<()> {
    bounded(async {
        let mut stuck = Stuck::start([127, 0, 0, 97], None).await?;
        stuck.successor.kill().await?;
        let wrong = stuck.side.folder.join("wrong.toml");
        std::fs::write(&wrong, "[[listener]]\nname = 7\n")?;
        let mut process = stuck.side.with_file(3, &wrong)?;
        refused(&mut process, 2, "the configuration has errors").await?;
        stuck.serves().await?;

        let secret = stuck.side.state().join("node-secret");
        std::fs::write(&secret, "ab".repeat(32))?;
        let mut process = stuck.side.another(4)?;
        refused(&mut process, 1, "does not hold this node's secret").await?;
        said(&stuck.side.process, "does not hold this node's secret").await?;
        stuck.serves().await
    })
    .await
}

/// The safeguard switched off: whoever dials between the two processes is refused.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_hand_over_of_sockets_clients_are_refused() -> anyhow::Result<()> {
    bounded(async {
        if !cfg!(debug_assertions) {
            return Ok(());
        }
        let stuck = Stuck::start([127, 0, 0, 92], Some("closed-at-restart")).await?;
        let error = stuck.serves().await.err().context("nobody has noticed")?;
        ensure!(format!("{error:#}").contains("refused"), "{error:#}");
        Ok(())
    })
    .await
}

/// The safeguard switched off: what is under way in the old process breaks.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_time_to_finish_what_is_under_way_breaks() -> anyhow::Result<()> {
    bounded(async {
        if !cfg!(debug_assertions) {
            return Ok(());
        }
        let mut chain = Chain::start([127, 0, 0, 93], Some("cut-off-at-restart")).await?;
        let traffic = chain.traffic();
        let ended = restarts(&mut chain.egress, &mut chain.ingress, traffic, 1).await;
        let error = format!("{:#}", ended.err().context("nobody has noticed")?);
        ensure!(error.contains("broke"), "{error}");
        Ok(())
    })
    .await
}
