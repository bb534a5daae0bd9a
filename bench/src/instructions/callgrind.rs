//! A sidecar under callgrind: started, its counters set to zero and read while it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::fleet::Process;

const OUT: &str = "callgrind.out";

/// Instructions of each function itself, by name.
pub(super) type Functions = BTreeMap<String, f64>;

/// What was executed in one span of time.
#[derive(Debug)]
pub(super) struct Dump {
    /// Instructions.
    pub(super) total: u64,
    /// The same by function.
    pub(super) functions: Functions,
}

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

    /// What was executed since the counters were last zero or read; `number` is that of the dump, from 1.
    pub(super) async fn dump(&self, number: u32) -> anyhow::Result<Dump> {
        self.monitor("dump").await?;
        let file = self.folder.join(format!("{OUT}.{number}"));
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        parse(&text).with_context(|| format!("{} has no totals", file.display()))
    }

    /// Copies the dumps.
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

/// Reads a dump. A line after `calls=` is the cost of the callee, which is counted where it belongs.
fn parse(text: &str) -> Option<Dump> {
    let total = text.lines().find_map(|line| line.strip_prefix("totals:"))?;
    let total = total.split_whitespace().next()?.parse().ok()?;
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut costs: BTreeMap<&str, f64> = BTreeMap::new();
    let (mut current, mut is_call) = ("", false);
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=").or(line.strip_prefix("cfn=")) {
            // A name is written out where it first occurs: `(12) main`, later `(12)`.
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(id, name);
            }
            if line.starts_with("fn=") {
                current = id;
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line
                .split_whitespace()
                .nth(1)
                .and_then(|cost| cost.parse::<f64>().ok());
            if !std::mem::take(&mut is_call) {
                *costs.entry(current).or_default() += cost.unwrap_or_default();
            }
        }
    }
    let mut functions = Functions::new();
    for (id, cost) in costs {
        let name = names.get(id).unwrap_or(&id);
        *functions.entry((*name).to_owned()).or_default() += cost;
    }
    Some(Dump { total, functions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_gives_the_total_and_what_each_function_did_itself() {
        let text = "events: Ir\n\nfn=(1) main\n1 5\n+2 7\ncfn=(2) pick\ncalls=3 9\n* 30\n\nfn=(2)\n9 30\n\ntotals: 42\n";
        let dump = parse(text).unwrap();
        assert_eq!(dump.total, 42);
        assert_eq!(dump.functions["main"], 12.0);
        assert_eq!(dump.functions["pick"], 30.0);
        assert!(parse("events: Ir\n").is_none());
    }
}
