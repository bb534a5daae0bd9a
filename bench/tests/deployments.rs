//! Rolling deployments under load, from the command line, with every request audited by the tasks' ledger.

mod common;

use std::time::Duration;

use anyhow::{Context, ensure};
use common::binaries;
use serde_json::Value;
use tokio::process::Command;

const LONGEST: Duration = Duration::from_secs(300);

/// The report of a run, and whether the command called it good.
async fn deploy(arguments: &[&str]) -> anyhow::Result<(Value, bool)> {
    let binaries = tokio::task::spawn_blocking(binaries).await??;
    let mut command = Command::new(binaries.bench);
    command.args(["deploy", "--json", "--quiet", "1"]);
    command.args(arguments).kill_on_drop(true);
    // A program that cargo runs builds the others first; the tests are built with them.
    command.env_remove("CARGO");
    let output = tokio::time::timeout(LONGEST, command.output()).await;
    let output =
        output.with_context(|| format!("deploy {arguments:?} takes over {LONGEST:?}"))??;
    let complaints = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    Ok((
        report.with_context(|| complaints.into_owned())?,
        output.status.success(),
    ))
}

fn count(row: &Value, what: &str) -> u64 {
    row["audit"][what].as_u64().unwrap_or(u64::MAX)
}

#[tokio::test]
async fn two_deployments_of_six_tasks_fail_no_request_and_duplicate_none_over_h1_h2_and_grpc()
-> anyhow::Result<()> {
    let (report, good) = deploy(&["--rounds", "2"]).await?;
    ensure!(good, "{report:#}");
    ensure!(report["replaced"] == 12, "{report:#}");
    let rows = report["rows"].as_array().context("rows")?;
    let names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(
        names,
        ["h1-get", "h1-post", "h2-get", "h2-post", "grpc-stream"]
    );
    for row in rows {
        ensure!(count(row, "sent") > 50, "{row:#}");
        for none in ["failed", "duplicated", "phantom", "unrecorded"] {
            ensure!(count(row, none) == 0, "{none}: {row:#}");
        }
        ensure!(count(row, "deliveries") == count(row, "sent"), "{row:#}");
    }
    Ok(())
}

#[tokio::test]
async fn applications_that_close_at_once_cost_no_get_and_no_post_is_made_twice()
-> anyhow::Result<()> {
    let (report, good) = deploy(&["--rounds", "1", "--tasks", "4", "--close-at-once"]).await?;
    ensure!(good, "{report:#}");
    for row in report["rows"].as_array().context("rows")? {
        ensure!(count(row, "duplicated") == 0, "{row:#}");
    }
    Ok(())
}

/// What the drain's announcement is for: callers that speak plain HTTP. By the hop nothing is lost without it either.
#[cfg(debug_assertions)]
#[tokio::test]
async fn without_the_announcement_of_the_drain_a_deployment_fails_requests() -> anyhow::Result<()> {
    let arguments = ["--rounds", "1", "--tasks", "3", "--rate", "200"];
    let (report, good) =
        deploy(&[&arguments[..], &["--mutant", "silent-drain,plain-hop"]].concat()).await?;
    ensure!(!good, "{report:#}");
    Ok(())
}
