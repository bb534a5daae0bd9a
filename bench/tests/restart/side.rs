//! One sidecar through all its processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use outrigger_bench::fleet::Process;
use tokio::process::Command;

use super::common::*;

/// For what an old process still holds: connections that idle are closed then.
pub(super) const DRAIN: &str = "10s";

/// One sidecar through all its processes.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) mutant: Option<&'static str>,
    pub(super) folder: PathBuf,
    /// Of the process, from 1.
    pub(super) generation: u32,
    pub(super) process: Process,
    pub(super) admin: SocketAddr,
}

impl Side {
    pub(super) async fn start(
        name: &'static str,
        folder: &Path,
        arguments: Vec<String>,
        mutant: Option<&'static str>,
    ) -> anyhow::Result<Self> {
        let program = tokio::task::spawn_blocking(binaries).await??.proxy;
        let state = folder.join(format!("{name}-state")).display().to_string();
        let mut all = arguments;
        all.extend(["--state".to_owned(), state]);
        let more = [
            "--workers",
            "2",
            "--admin",
            "127.0.0.1:0",
            "--drain-timeout",
            DRAIN,
        ];
        all.extend(more.map(str::to_owned));
        let process = spawn(name, 1, &program, &all, mutant, folder)?;
        let admin = process.listening("admin", PATIENCE).await?;
        Ok(Self {
            name,
            program,
            arguments: all,
            mutant,
            folder: folder.to_owned(),
            generation: 1,
            process,
            admin,
        })
    }

    pub(super) fn state(&self) -> PathBuf {
        self.folder.join(format!("{}-state", self.name))
    }

    /// Another process with the same arguments.
    pub(super) fn another(&self, generation: u32) -> anyhow::Result<Process> {
        let (program, folder) = (&self.program, &self.folder);
        let arguments = &self.arguments;
        spawn(
            self.name,
            generation,
            program,
            arguments,
            self.mutant,
            folder,
        )
    }

    /// Another process on another static file.
    pub(super) fn with_file(&self, generation: u32, file: &Path) -> anyhow::Result<Process> {
        let mut arguments = self.arguments.clone();
        let flag = arguments.iter().position(|one| one == "--static");
        arguments[flag.context("a sidecar on a file")? + 1] = file.display().to_string();
        let (program, folder) = (&self.program, &self.folder);
        spawn(
            self.name,
            generation,
            program,
            &arguments,
            self.mutant,
            folder,
        )
    }

    /// Starts the next process and waits until it has taken over; the one before.
    pub(super) async fn restart(&mut self) -> anyhow::Result<Process> {
        self.generation += 1;
        let next = self.another(self.generation)?;
        let admin = next.listening("admin", PATIENCE).await?;
        ensure!(admin == self.admin, "{admin} instead of {}", self.admin);
        Ok(std::mem::replace(&mut self.process, next))
    }
}

pub(super) fn spawn(
    name: &str,
    generation: u32,
    program: &Path,
    arguments: &[String],
    mutant: Option<&str>,
    folder: &Path,
) -> anyhow::Result<Process> {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(mutant) = mutant {
        command.env("OUTRIGGER_MUTANT", mutant);
    }
    Process::spawn(&format!("{name}-{generation}"), command, folder)
}
