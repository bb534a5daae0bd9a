//! One child process: its announced addresses, its log, its signals; killed when dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

type Announced = BTreeMap<String, String>;

/// A child process whose standard output announces `<what> listening on <address>`.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    announced: watch::Receiver<Announced>,
}

impl Process {
    /// Starts it with both outputs in `<folder>/<name>.log`.
    pub fn spawn(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file.try_clone()?)
            .kill_on_drop(true);
        // What the caller's shell sets for a sidecar of its own must not reach ours.
        for (variable, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OUTRIGGER_"))
        {
            command.env_remove(variable);
        }
        // A terminal's Ctrl-C is for us alone: children are ended in order, by Drop.
        command.process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("start {:?}", command.as_std().get_program()))?;
        let stdout = child
            .stdout
            .take()
            .context("the child's standard output is a pipe")?;
        let (sender, announced) = watch::channel(Announced::new());
        tokio::spawn(follow(stdout, file, sender));
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
            announced,
        })
    }

    /// Waits until it has said where `what` listens.
    pub async fn listening(&self, what: &str, bound: Duration) -> anyhow::Result<SocketAddr> {
        let mut announced = self.announced.clone();
        let told = announced.wait_for(|announced| announced.contains_key(what));
        let address = match tokio::time::timeout(bound, told).await {
            Ok(Ok(announced)) => announced[what].clone(),
            Ok(Err(_)) => bail!(
                "{} ended before its {what} listened; its log:\n{}",
                self.name,
                self.log_tail()
            ),
            Err(_) => bail!(
                "{}: no {what} after {bound:?}; its log:\n{}",
                self.name,
                self.log_tail()
            ),
        };
        let address = address
            .trim_start_matches("http://")
            .trim_start_matches("https://")
            .trim_end_matches('/');
        address
            .parse()
            .with_context(|| format!("{} announced {what} at {address:?}", self.name))
    }

    /// Its name in the fleet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id; `None` once it has been waited for.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("kill {}", self.name))
    }

    /// Sends a signal; nothing happens when it has already ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(pid) = self.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
            return Ok(());
        };
        kill_process(pid, signal).with_context(|| format!("{signal:?} to {}", self.name))
    }

    /// SIGTERM.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Waits for its end.
    pub async fn ended(&mut self, bound: Duration) -> anyhow::Result<ExitStatus> {
        let status = tokio::time::timeout(bound, self.child.wait()).await;
        Ok(status.with_context(|| format!("{} still runs after {bound:?}", self.name))??)
    }
}

async fn follow(stdout: ChildStdout, mut log: File, announced: watch::Sender<Announced>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A full disk must not stop the reading, which would stop the child.
        let _ = writeln!(log, "{line}");
        if let Some((what, address)) = line.split_once(" listening on ") {
            let what = what.rsplit(' ').next().unwrap_or(what).to_owned();
            announced.send_modify(|all| {
                all.insert(what, address.trim().to_owned());
            });
        }
    }
}
