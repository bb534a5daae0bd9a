//! Hostile clients from the command line: a few of some kinds, and what is reported of them.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, ensure};
use outrigger_bench::fleet::Binaries;
use serde_json::Value;
use tokio::process::Command;

const LONGEST: Duration = Duration::from_secs(100);

async fn attack(arguments: &[&str]) -> anyhow::Result<(Output, Vec<Value>)> {
    let mut command = Command::new(Binaries::find()?.bench);
    let short = [
        "attack",
        "--seconds",
        "0.3",
        "--rounds",
        "1",
        "--rate",
        "100",
        "--json",
    ];
    command.args(short).args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(LONGEST, command.output()).await;
    let output =
        output.with_context(|| format!("attack {arguments:?} still runs after {LONGEST:?}"))??;
    let complaints = String::from_utf8_lossy(&output.stderr);
    let outcomes =
        serde_json::from_slice(&output.stdout).with_context(|| complaints.into_owned())?;
    Ok((output, outcomes))
}

#[tokio::test]
async fn attacks_are_survived_and_reported() -> anyhow::Result<()> {
    let (output, outcomes) = attack(&[
        "--kind",
        "slowloris,slow-read,h2-rapid-reset",
        "--connections",
        "20",
    ])
    .await?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{outcomes:#?} {complaints}");
    let kinds: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| outcome["attack"].as_str())
        .collect();
    assert_eq!(kinds, ["slowloris", "slow-read", "h2-rapid-reset"]);
    for outcome in &outcomes {
        for turn in ["quiet", "attacked"] {
            assert!(outcome[turn]["requests"].as_u64() > Some(0), "{outcome:#}");
            assert_eq!(outcome[turn]["failed"], 0, "{outcome:#}");
        }
        assert!(
            outcome["sidecar_mib"]["peak"].as_f64() > Some(1.0),
            "{outcome:#}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn memory_over_its_bound_fails_the_command() -> anyhow::Result<()> {
    let (output, outcomes) =
        attack(&["--kind", "idle", "--connections", "20", "--bound", "-1"]).await?;
    assert_eq!(output.status.code(), Some(1), "{outcomes:#?}");
    assert_eq!(outcomes[0]["good"], false);
    Ok(())
}
