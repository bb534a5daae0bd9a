//! A restart without a gap: what is taken over from the process before, and what is handed to the one after.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};

use super::running::Shared;
use super::{Parts, StartError};
use crate::config::{Config, Mode};
use crate::drain::{self, Phase};
use crate::mesh::state::StateDir;
use crate::mutants::{self, Mutant};
use crate::observe::admin::Until;
use crate::restart::{self, Door, Identity, Predecessor, RestartError, Socket, Successor};

/// For what ends with the hand-over to end: a write to the disk, accept loops.
const ENDING: Duration = Duration::from_secs(2);

/// A start that may follow on another process.
pub(super) struct Succession {
    path: PathBuf,
    identity: Identity,
    predecessor: Option<Predecessor>,
}

impl Succession {
    /// Looks for a process to take over from, and borrows its sockets; `None` when there is to be no hot restart.
    pub(super) async fn begin(
        config: &Config,
        running: &Shared,
    ) -> Result<Option<Self>, StartError> {
        let (Some(path), Some(state)) = (&config.hot_restart, &config.state) else {
            return Ok(None);
        };
        let node = match &config.mode {
            Mode::Static(_) => "static".to_owned(),
            Mode::Mesh(mesh) => format!("{}/{}", mesh.namespace, mesh.task_id),
        };
        let identity = Identity::new(node, StateDir::open(state)?.node_secret()?);
        let predecessor = match restart::find(path, &identity).await? {
            Some((predecessor, sockets)) => {
                let (count, process) = (sockets.len(), predecessor.process());
                tracing::info!("taking over {count} listening sockets from process {process}");
                running.lock().inherited.add(sockets);
                Some(predecessor)
            }
            None => None,
        };
        Ok(Some(Self {
            path: path.clone(),
            identity,
            predecessor,
        }))
    }

    /// Everything is ready: from here on this process is the one that accepts. Whether there was another one.
    pub(super) async fn take_over(&mut self, parts: &Parts) -> Result<bool, StartError> {
        let Some(predecessor) = self.predecessor.take() else {
            return Ok(false);
        };
        if let Some(problem) = parts.ready.problem_of("state") {
            return Err(StartError::NotReady(problem));
        }
        let process = predecessor.process();
        let late = predecessor.take_over().await?;
        tracing::info!("took over from process {process}");
        parts.running.lock().inherited.add(late);
        Ok(true)
    }

    /// Where the next process takes over. Without it this one serves all the same, and says that it cannot be restarted so.
    pub(super) fn open(self, parts: &Parts) -> Option<Door> {
        let mut running = parts.running.lock();
        match Door::open(&self.path, self.identity, &mut running.inherited) {
            Ok(door) => Some(door),
            Err(error) => {
                let text = format!("no hot restart: {}: {error}", self.path.display());
                parts.ready.problem("hot-restart", text);
                None
            }
        }
    }
}

/// What ends when another process takes over, besides the accepting.
#[derive(Default)]
pub(super) struct Ending {
    /// With the control server: the next process has it with the same node id.
    pub(super) conversation: JoinSet<()>,
    /// Ends when the last accepted configuration is on disk.
    pub(super) writing: Option<JoinHandle<()>>,
    pub(super) pages: JoinSet<io::Result<()>>,
    pub(super) until: Until,
}

/// Waits for a successor and hands everything over; whoever fails before it has taken over changes nothing.
pub(super) async fn hand_over(
    door: Option<&Door>,
    parts: &Parts,
    pages: &[Socket],
    ending: &mut Ending,
) {
    let Some(door) = door else {
        return std::future::pending().await;
    };
    loop {
        let successor = door.successor().await;
        let process = successor.process();
        let busy = format!("process {process} is taking over already");
        let handed = tokio::select! {
            handed = offer(door, successor, parts, pages, ending) => handed,
            never = door.turn_away(&busy) => never,
        };
        match handed {
            Ok(count) => {
                return tracing::info!(
                    "handed over {count} listening sockets to process {process}; draining"
                );
            }
            Err(error) => tracing::warn!("no hot restart, this process goes on: {error}"),
        }
    }
}

async fn offer(
    door: &Door,
    mut successor: Successor,
    parts: &Parts,
    pages: &[Socket],
    ending: &mut Ending,
) -> Result<usize, RestartError> {
    if mutants::is(Mutant::ClosedAtRestart) {
        parts.running.lock().succeed();
    }
    let lent = match lend(door, parts, pages) {
        Ok(lent) => lent,
        Err(error) => return Err(successor.refuse(format!("sockets cannot be lent: {error}"))),
    };
    successor.ready(&lent).await?;
    if let Some(problem) = parts.ready.problem_of("state") {
        return Err(successor.refuse(format!("what it runs on is not on disk: {problem}")));
    }
    // It was told that it is alone: there is no way back.
    ending.end_conversation().await;
    ending.until.succeeded.cancel();
    let known: BTreeSet<_> = lent.iter().map(|one| &one.label).collect();
    let (late, accepting) = {
        let mut running = parts.running.lock();
        let mut late = running.lend().unwrap_or_else(|error| {
            tracing::warn!(%error, "what was opened during the hand-over is not handed over");
            Vec::new()
        });
        late.retain(|one| !known.contains(&one.label));
        (late, running.succeed())
    };
    let left = successor.leave(&late).await;
    // A connection that was just accepted is counted before the count is looked at.
    let ended = async {
        for loops in &accepting {
            loops.cancelled().await;
        }
    };
    if tokio::time::timeout(ENDING, ended).await.is_err() {
        tracing::warn!("a worker is busy and may still accept");
    }
    if let Err(error) = left {
        tracing::error!(%error, "the successor ended when it had taken over");
    }
    Ok(lent.len() + late.len())
}

fn lend(door: &Door, parts: &Parts, pages: &[Socket]) -> io::Result<Vec<Socket>> {
    let mut lent = parts.running.lock().lend()?;
    lent.push(door.socket()?);
    for page in pages {
        lent.push(page.try_clone()?);
    }
    Ok(lent)
}

impl Ending {
    async fn end_conversation(&mut self) {
        self.conversation.shutdown().await;
        if let Some(writing) = self.writing.take()
            && tokio::time::timeout(ENDING, writing).await.is_err()
        {
            tracing::warn!("the last accepted configuration is not on disk after {ENDING:?}");
        }
    }

    /// Whoever was connected to the pages when a successor took them over has `bound` to be answered.
    pub(super) async fn end_pages(mut self, bound: Duration) {
        if self.until.succeeded.is_cancelled() {
            let answered = async { while self.pages.join_next().await.is_some() {} };
            // At the bound they are cut off.
            let _ = tokio::time::timeout(bound, answered).await;
        }
        self.until.shutdown.cancel();
    }
}

/// The rest of a process that another one follows: its connections end, idle ones with their next answer, or at the bound. The task
/// stays where it is, so nothing is published.
pub(super) async fn finish(parts: &Parts, bound: Duration) {
    let connections = || match mutants::is(Mutant::CutOffAtRestart) {
        true => 0,
        false => parts.workers.connections(),
    };
    let before = connections();
    parts.drain.enter(Phase::Leaving);
    let left = drain::until_idle(connections, bound).await;
    tracing::info!(
        "draining: {} connections ended, {left} left at the bound of {bound:?}",
        before.saturating_sub(left)
    );
}

/// A process that leaves for another reason hands nothing over.
pub(super) fn close(door: Option<Door>) {
    if let Some(door) = door {
        tokio::spawn(async move { door.turn_away("it is draining and will be gone").await });
    }
}
