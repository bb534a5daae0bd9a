//! What a strict reference reads of a client's bytes and what an application behind a real sidecar reads: the same messages.
//!
//! `differential.py` is the client, the application and the reference; what is mutated and how h11 differs is said there.

mod common;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use common::*;
use tokio::process::Command;

const PACKAGE: &str = "h11==0.16.0";

/// A virtual environment in `target/` with the pinned package; the test fails where it cannot be made.
async fn environment() -> anyhow::Result<PathBuf> {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("h11-venv");
    let stamp = environment.join("installed");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(PACKAGE) {
        let mut venv = Command::new("python3");
        run(venv.args(["-m", "venv", "--clear"]).arg(&environment)).await?;
        let mut pip = Command::new(environment.join("bin/python"));
        run(pip.args(["-m", "pip", "install", "--quiet", "--no-input", PACKAGE])).await?;
        std::fs::write(&stamp, PACKAGE)?;
    }
    Ok(environment)
}

async fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.kill_on_drop(true).output().await?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{out}\n{err}",
        output.status
    );
    Ok(out)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_sees_the_messages_that_a_strict_reader_of_the_clients_bytes_sees()
-> anyhow::Result<()> {
    let environment = environment().await?;
    bounded(async {
        let folder = tempfile::tempdir()?;
        let ip = Ipv4Addr::new(127, 0, 2, 60);
        let (listener, origin) = (free_address(ip)?, free_address(ip)?);
        // One try for each message: a second one would be seen as another message.
        let more = "retries = 0\noutlier_detection = false";
        let text = file("egress", listener, "http", "http", &[origin], more);
        let (sidecar, _) = static_sidecar(folder.path(), "sidecar", &text).await?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential.py");
        let mut python = Command::new(environment.join("bin/python"));
        python.arg(script);
        let ran = run(python.args([listener.to_string(), origin.to_string()])).await;
        println!(
            "{}",
            ran.map_err(|error| error.context(sidecar.log_tail()))?
        );
        Ok(())
    })
    .await
}
