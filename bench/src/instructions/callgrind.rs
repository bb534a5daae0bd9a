//! A sidecar under callgrind: started, its counters set to zero and read while it runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::fleet::Process;

const OUT: &str = "callgrind.out";

/// Says what is missing, and how to get it.
pub(super) fn installed() -> anyhow::Result<()> {
    for program in ["valgrind", "vgdb"] {
        let found = std::process::Command::new(program)
            .arg("--version")
            .output();
        found.with_context(|| {
            format!("{program} cannot be run; `apt-get install valgrind` brings it")
        })?;
    }
    Ok(())
}

/// The sidecar's process, killed when dropped.
#[derive(Debug)]
pub(super) struct Counted {
    process: Process,
    folder: PathBuf,
}

impl Counted {
    /// Starts the sidecar on a static file, one worker.
    pub(super) fn start(proxy: &Path, file: &Path, folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--trace-children=no", "--quiet"])
            .arg(format!(
                "--callgrind-out-file={}",
                folder.join(OUT).display()
            ))
            .arg(proxy)
            .arg("--static")
            .arg(file)
            .args(["--admin", "127.0.0.1:0", "--workers", "1"]);
        let process = Process::spawn("sidecar", command, folder)?;
        Ok(Self {
            process,
            folder: folder.to_owned(),
        })
    }

    pub(super) fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// Sets the counters to zero.
    pub(super) async fn zero(&self) -> anyhow::Result<()> {
        self.monitor("zero").await
    }

    /// Instructions since the counters were last zero or read; `number` is that of the dump, from 1.
    pub(super) async fn dump(&self, number: u32) -> anyhow::Result<u64> {
        self.monitor("dump").await?;
        let file = self.folder.join(format!("{OUT}.{number}"));
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        totals(&text).with_context(|| format!("{} has no totals", file.display()))
    }

    /// Copies the dumps for callgrind_annotate.
    pub(super) fn keep(&self, folder: &Path, name: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for entry in std::fs::read_dir(&self.folder)? {
            let from = entry?.path();
            let number = from.extension().unwrap_or_default().to_string_lossy();
            if from.file_stem().is_some_and(|stem| stem == OUT) {
                std::fs::copy(&from, folder.join(format!("{name}.{number}")))?;
            }
        }
        Ok(())
    }

    async fn monitor(&self, command: &str) -> anyhow::Result<()> {
        let id = self.process.id().context("the sidecar has ended")?;
        let output = Command::new("vgdb")
            .arg(format!("--pid={id}"))
            .arg(command)
            .output()
            .await?;
        if !output.status.success() {
            bail!(
                "vgdb {command}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }
}

/// The first event's sum, which is `Ir` unless callgrind is told otherwise.
fn totals(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_from_a_dump() {
        assert_eq!(
            totals("events: Ir\nfn=(1) main\n1 5\n\ntotals: 13394\n"),
            Some(13394)
        );
        assert_eq!(totals("events: Ir\n"), None);
    }
}
