//! Scenarios on paper: the shipped ones run, repeat themselves byte by byte, and never execute a POST twice; real processes agree.

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::PATIENCE;
use outrigger_bench::sim::scenario::Scenario;
use outrigger_bench::sim::{Figures, compare, ours, play, simulate};

fn scenarios() -> Vec<(PathBuf, Scenario)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let files = std::fs::read_dir(folder).expect("the folder of scenarios");
    let mut paths: Vec<_> = files
        .map(|file| file.expect("a readable folder").path())
        .collect();
    paths.sort();
    let load = |path: PathBuf| {
        let scenario =
            Scenario::load(&path).unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
        (path, scenario)
    };
    paths.into_iter().map(load).collect()
}

fn command(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-bench"));
    command
        .arg("sim")
        .args(args)
        .output()
        .expect("the program was built for this test")
}

fn shipped(name: &str) -> String {
    format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_shipped_scenario_runs_and_ours_never_executes_a_post_twice() {
    let all = scenarios();
    assert!(all.len() >= 8, "{}", all.len());
    for (path, mut scenario) in all {
        scenario.duration /= 4;
        for step in &mut scenario.steps {
            step.at /= 4;
        }
        for seed in 1..=3 {
            let figures = ours(&scenario, seed);
            assert!(figures.requests > 0);
            assert_eq!(figures.duplicates, 0, "{} with seed {seed}", path.display());
        }
    }
}

#[test]
fn the_same_seed_prints_the_same_json_byte_by_byte_and_another_seed_does_not() {
    let file = shipped("task-flaps");
    let one = command(&[&file, "--json", "--runs", "2"]);
    assert!(
        one.status.success(),
        "{}",
        String::from_utf8_lossy(&one.stderr)
    );
    assert_eq!(
        one.stdout,
        command(&[&file, "--json", "--runs", "2"]).stdout
    );
    assert_ne!(
        one.stdout,
        command(&[&file, "--json", "--runs", "2", "--seed", "9"]).stdout
    );
}

#[test]
fn a_wrong_scenario_is_refused_with_every_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "rate = 0\nsped = 2\n").expect("a writable folder");
    let output = command(&[&file.to_string_lossy()]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in [
        "rate = \"0\"",
        "sped = \"2\": unknown field",
        "tasks = \"0\"",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn service_connects_defaults_execute_posts_twice_where_ours_do_not() {
    let scenario = Scenario::load(shipped("answers-503").as_ref()).expect("it is shipped");
    let report = simulate("answers-503", &scenario, 2);
    assert!(
        report
            .service_connect
            .runs
            .iter()
            .all(|figures| figures.duplicates > 0)
    );
    assert!(
        report
            .outrigger
            .runs
            .iter()
            .all(|figures| figures.duplicates == 0)
    );
}

/// Slow enough for a busy machine: its stalls must not fill a queue or a budget.
const CALM: &str = "rate = 100\nduration = \"5s\"\n[[tasks]]\ncount = 3\nservice_time = \"exponential 10ms\"\n\
    concurrency = 1000\nqueue = 1000\n[[event]]\nat = \"0s\"\ntasks = [1]\n";

async fn played(text: &str) -> anyhow::Result<(Scenario, Figures)> {
    common::binaries()?;
    let scenario = Scenario::parse(text)?;
    tokio::time::timeout(PATIENCE, play(&scenario)).await?
}

#[tokio::test]
async fn real_processes_make_as_many_attempts_as_computed_and_other_settings_would_be_noticed()
-> anyhow::Result<()> {
    let text =
        format!("non_idempotent = 0.3\nclient.outlier_detection = false\n{CALM}do = \"die\"\n");
    let (mut scenario, real) = played(&text).await?;
    let same = compare("one of three is dead", &scenario, real.clone());
    assert!(same.agrees && real.attempts_per_request > 1.2, "{same}");
    for num_retries in [0, 1] {
        scenario.client.policy.retry.num_retries = num_retries;
        let other = compare("one of three is dead", &scenario, real.clone());
        // One retry is enough here, none is not: only what changes the outcome can be noticed.
        assert_eq!(other.agrees, num_retries == 1, "{other}");
    }
    Ok(())
}

#[tokio::test]
async fn real_processes_lose_the_posts_that_are_lost_on_paper_and_no_others() -> anyhow::Result<()>
{
    // In turn, and never tried again: a third, without any chance.
    let text = format!(
        "non_idempotent = 1.0\nclient.outlier_detection = false\nclient.lb = \"round_robin\"\n{CALM}do = \"answer_503\"\nacted = true\n"
    );
    let (mut scenario, real) = played(&text).await?;
    let same = compare("one of three answers 503", &scenario, real.clone());
    assert!(same.agrees && real.success_percent < 70.0, "{same}");
    assert_eq!((real.duplicates, real.unknown), (0, real.lost), "{same}");
    scenario.client.policy.retry.retry_non_idempotent = true;
    let other = compare("one of three answers 503", &scenario, real);
    assert!(!other.agrees, "{other}");
    Ok(())
}

#[tokio::test]
async fn a_real_deployment_loses_and_repeats_nothing_as_computed() -> anyhow::Result<()> {
    let text = "rate = 100\nduration = \"20s\"\nreal_duration = \"8s\"\nnon_idempotent = 0.5\n\
        [[tasks]]\ncount = 2\nservice_time = \"exponential 10ms\"\nconcurrency = 1000\nqueue = 1000\n\
        [[event]]\nat = \"1s\"\ndo = \"deploy\"\n";
    let (scenario, real) = played(text).await?;
    let same = compare("deployment", &scenario, real.clone());
    assert!(same.agrees, "{same}");
    assert_eq!((real.lost, real.duplicates), (0, 0), "{same}");
    Ok(())
}
