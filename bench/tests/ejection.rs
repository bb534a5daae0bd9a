//! A dead task costs its first failures and no more, behind a real sidecar on a static file; and what that owes to ejection.

mod common;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail, ensure};
use common::*;
use outrigger_bench::fleet::{Process, wait_for};
use tokio::process::Command;

/// GETs, one after the other: half of what a dead task among two is offered would fail.
const GETS: u64 = 60;

/// A sidecar that tries nothing again, one task that is well and one that is dead.
struct World {
    folder: tempfile::TempDir,
    _app: Process,
    egress: Process,
    admin: SocketAddr,
    address: SocketAddr,
}

impl World {
    async fn start(last: u8, mutant: Option<&str>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let ip = |n| Ipv4Addr::new(127, 0, 3, n);
        let (app, well) = application(folder.path(), "well", (ip(last), 0).into()).await?;
        let (dead, address) = (free_address(ip(last + 1))?, free_address(ip(last + 2))?);
        let text = file(
            "egress",
            address,
            "http",
            "http",
            &[dead, well],
            "retries = 0",
        );
        let path = folder.path().join("egress.toml");
        std::fs::write(&path, text)?;
        let binaries = tokio::task::spawn_blocking(binaries).await??;
        let mut command = Command::new(&binaries.proxy);
        command.arg("--static").arg(&path);
        command.args(["--admin", "127.0.0.1:0", "--workers", "1"]);
        if let Some(mutant) = mutant {
            command.env("OUTRIGGER_MUTANT", mutant);
        }
        let egress = Process::spawn("egress", command, folder.path())?;
        let admin = egress.listening("admin", PATIENCE).await?;
        let ready = wait_for("a ready sidecar", PATIENCE, || async {
            let ready = json_page(admin, "/ready").await?;
            Ok((ready["ready"] == true).then_some(()))
        });
        ready.await.with_context(|| egress.log_tail())?;
        Ok(Self {
            folder,
            _app: app,
            egress,
            admin,
            address,
        })
    }

    async fn failures(&self) -> u64 {
        gets(self.address, "orders", GETS).await.failed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_task_fails_no_get_once_it_has_failed_often_enough() -> anyhow::Result<()> {
    bounded(async {
        let world = World::start(60, None).await?;
        let first = world.failures().await;
        ensure!(first >= 5, "{first} failed: fewer than it takes");
        let ejection = wait_for("the ejection", PATIENCE, || async {
            let clusters = json_page(world.admin, "/clusters").await?;
            let ejection = clusters[0]["endpoints"]
                .as_array()
                .and_then(|all| all.iter().find(|one| one["ejected"] == true))
                .map(|one| one["ejection"].clone());
            match ejection {
                Some(ejection) => Ok(Some(ejection)),
                None => bail!("{clusters}"),
            }
        });
        let ejection = ejection.await.with_context(|| world.egress.log_tail())?;
        ensure!(ejection["rule"] == "consecutive_5xx", "{ejection}");
        let later = world.failures().await;
        ensure!(later == 0, "{later} failed while it was out");
        let counted = metric(
            world.admin,
            "outrigger_ejections_total",
            "rule=\"consecutive_5xx\"",
        );
        ensure!(counted.await? >= 1.0, "no ejection was counted");
        let out = metric(world.admin, "outrigger_ejected_endpoints", "").await?;
        ensure!((out - 1.0).abs() < 0.1, "{out} endpoints are out");
        let log = std::fs::read_to_string(world.folder.path().join("egress.log"))?;
        ensure!(log.contains("failures in a row"), "{log}");
        Ok(())
    })
    .await
}

/// What ejection is for.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn without_ejection_a_dead_task_goes_on_failing_gets() -> anyhow::Result<()> {
    bounded(async {
        let world = World::start(64, Some("no-ejection")).await?;
        world.failures().await;
        let later = world.failures().await;
        ensure!(later > 0, "none failed: the claim proves nothing");
        Ok(())
    })
    .await
}
