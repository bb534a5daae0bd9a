//! Scenarios on paper: the shipped ones run, repeat themselves byte by byte, and never execute a POST twice.

use std::path::PathBuf;
use std::process::{Command, Output};

use outrigger_bench::sim::scenario::Scenario;
use outrigger_bench::sim::{ours, simulate};

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
