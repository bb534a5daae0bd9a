//! The comparison from its command line to its results, with whatever peers this machine has and nothing installed.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, ensure};
use outrigger_bench::compare::results::{Reading, Results, Subject};
use outrigger_bench::fleet::{Binaries, Process, wait_for};
use tokio::process::Command;

const LONGEST: Duration = Duration::from_secs(150);

async fn compare(out: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let binaries = Binaries::find()?;
    let mut command = Command::new(&binaries.bench);
    command
        .args(["compare", "--no-install", "--proxy"])
        .arg(&binaries.proxy)
        .arg("--out")
        .arg(out)
        .args(arguments)
        .kill_on_drop(true);
    let output = tokio::time::timeout(LONGEST, command.output()).await;
    output
        .with_context(|| format!("compare {arguments:?} still runs after {LONGEST:?}"))?
        .context("start compare")
}

#[tokio::test]
async fn every_peer_is_measured_or_reported_missing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("results.json");
    let arguments = [
        "--quick",
        "--cells",
        "h1-64-1k,h2-h1,two-hops-h2,slow-500rps,rss-idle",
        "--pairs",
        "2",
        "--seconds",
        "0.2",
        "--json",
    ];
    let output = compare(&out, &arguments).await?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{complaints}");
    let results: Results = serde_json::from_slice(&std::fs::read(&out)?)?;
    let printed: Results = serde_json::from_slice(&output.stdout)?;
    assert_eq!(printed.cells.len(), results.cells.len());
    assert!(!results.machine.pinning.is_empty() && !results.began.is_empty());

    let names: Vec<_> = results
        .peers
        .iter()
        .map(|peer| peer.name.as_str())
        .collect();
    for name in ["direct", "outrigger", "envoy", "haproxy", "nginx"] {
        assert!(names.contains(&name), "{name} is in none of {names:?}");
    }
    assert_eq!(results.cells.len(), 5);
    for cell in &results.cells {
        let found: Vec<_> = cell.subjects.iter().map(|subject| &subject.peer).collect();
        for peer in results.peers.iter().filter(|peer| peer.missing.is_some()) {
            assert!(!found.contains(&&peer.name), "{} is missing", peer.name);
            let noted = cell.notes.iter().any(|note| note.starts_with(&peer.name));
            assert!(noted, "{}: {:?}", cell.name, cell.notes);
        }
        let ours = cell
            .subjects
            .iter()
            .find(|subject| subject.peer == "outrigger")
            .with_context(|| format!("{} has nothing of ours", cell.name))?;
        whole(&cell.name, ours).with_context(|| format!("{:?}", cell.notes))?;
        // Two rounds decide nothing.
        let mut verdicts = cell.verdicts.iter();
        assert!(verdicts.all(|verdict| verdict.reading == Reading::Tied));
    }
    Ok(())
}

fn whole(cell: &str, ours: &Subject) -> anyhow::Result<()> {
    ensure!(ours.rounds.len() == 2, "{cell}: {:?}", ours.rounds);
    ensure!(ours.configuration.len() == usize::from(ours.hops));
    for round in &ours.rounds {
        if cell == "rss-idle" {
            ensure!(round.memory.is_some_and(|mib| mib > 0.0), "{round:?}");
            continue;
        }
        ensure!(round.failed == 0, "{cell}: {round:?}");
        ensure!(round.cpu_user + round.cpu_system > 0.0, "{cell}: {round:?}");
        ensure!(
            round.throughput > 0.0 && round.p50 <= round.p99,
            "{cell}: {round:?}"
        );
        ensure!(round.slow_share.is_some() == (cell == "slow-500rps"));
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_cell_or_peer_is_named_and_nothing_is_measured() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("results.json");
    for (arguments, name) in [
        (["--cells", "h9-tiny"], "h9-tiny"),
        (["--peers", "squid"], "squid"),
    ] {
        let output = compare(&out, &arguments).await?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && complaints.contains(name),
            "{complaints}"
        );
        assert!(!out.exists());
    }
    Ok(())
}

#[tokio::test]
async fn an_interrupt_leaves_what_is_done() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("results.json");
    let binaries = Binaries::find()?;
    let mut command = Command::new(&binaries.bench);
    command
        .args([
            "compare",
            "--no-install",
            "--peers",
            "outrigger",
            "--cells",
            "h1-64-1k",
        ])
        .args(["--pairs", "1000", "--seconds", "0.1", "--proxy"])
        .arg(&binaries.proxy)
        .arg("--out")
        .arg(&out);
    let mut compare = Process::spawn("compare", command, folder.path())?;
    wait_for("the first round", LONGEST, || async {
        Ok(out.exists().then_some(()))
    })
    .await?;
    compare.signal(rustix::process::Signal::INT)?;
    let status = compare.ended(Duration::from_secs(20)).await?;
    ensure!(status.success(), "{}", compare.log_tail());
    let results: Results = serde_json::from_slice(&std::fs::read(&out)?)?;
    let rounds = results.cells[0].subjects[0].rounds.len();
    ensure!((1..1000).contains(&rounds), "{rounds} rounds");
    Ok(())
}
