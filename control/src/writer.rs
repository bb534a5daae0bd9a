//! The one place where the registry changes: calls are planned one after the other, committed together, then shown and answered.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};

use crate::registry::{Change, Context, Error, Plan, Registry, Who};
use crate::store::Store;

/// Calls that may wait for the writer; more wait in their connections.
const QUEUE: usize = 1024;
/// Calls committed with one write to disk.
const BATCH: usize = 256;

type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;
type Call = Box<dyn FnOnce(&Registry, &mut Context<'_>) -> (Vec<Change>, Answer) + Send>;

/// Hands calls to the writer and reads what it has committed.
#[derive(Clone)]
pub(crate) struct Writer {
    calls: mpsc::Sender<Call>,
    committed: Arc<RwLock<Registry>>,
    who: Who,
}

impl Writer {
    /// Starts the writer's thread. `changed` is told the names of the namespaces that a commit touched, after it can be read.
    pub(crate) fn start(
        store: Store,
        registry: Registry,
        changed: impl Fn(BTreeSet<String>) + Send + 'static,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let committed = Arc::new(RwLock::new(registry.clone()));
        let writer = Self {
            calls,
            committed: Arc::clone(&committed),
            who: Who::Anyone,
        };
        let thread = std::thread::Builder::new()
            .name("registry-writer".to_owned())
            .spawn(move || run(&store, registry, queue, &committed, changed))?;
        Ok((writer, thread))
    }

    /// On whose behalf it changes.
    pub(crate) const fn who(&self) -> &Who {
        &self.who
    }

    /// The same, which changes what `who` may.
    pub(crate) fn on_behalf_of(&self, who: Who) -> Self {
        Self {
            who,
            ..self.clone()
        }
    }

    /// Plans a call against everything before it and answers when it is on disk; an error has changed nothing.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        plan: impl FnOnce(&Registry, &mut Context<'_>) -> Plan<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let who = self.who.clone();
        let call: Call = Box::new(move |registry, context| {
            let permitted = plan(registry, context).and_then(|(changes, value)| {
                registry.permit(&who, &changes)?;
                Ok((changes, value))
            });
            let (changes, planned) = match permitted {
                Ok((changes, value)) => (changes, Ok(value)),
                Err(refused) => (Vec::new(), Err(refused)),
            };
            // A caller that went away is not waited for; what it asked for is done all the same.
            let reply: Answer =
                Box::new(move |committed| drop(answer.send(committed.and(planned))));
            (changes, reply)
        });
        let stopping = || Error::Internal("the server is stopping".to_owned());
        self.calls.send(call).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// The committed state; not to be held across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.committed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(
    store: &Store,
    mut working: Registry,
    mut queue: mpsc::Receiver<Call>,
    committed: &RwLock<Registry>,
    changed: impl Fn(BTreeSet<String>),
) {
    let mut rng = StdRng::from_os_rng();
    let mut calls = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut calls, BATCH) > 0 {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        let mut touched = BTreeSet::new();
        for call in calls.drain(..) {
            let mut context = Context {
                now: now(),
                rng: &mut rng,
            };
            let (planned, answer) = call(&working, &mut context);
            answers.push(answer);
            for change in planned {
                touched.append(&mut working.touched(&change));
                working.apply(&change);
                touched.append(&mut working.touched(&change));
                changes.push(change);
            }
        }
        let result = if changes.is_empty() {
            Ok(())
        } else {
            store.commit(&changes)
        };
        let result = result.map_err(|error| Error::Internal(error.to_string()));
        match &result {
            Ok(()) => {
                let mut shown = committed.write().unwrap_or_else(PoisonError::into_inner);
                changes.iter().for_each(|change| shown.apply(change));
            }
            Err(error) => {
                tracing::error!(%error, "a change was not written; the registry stays as it was");
                working = committed
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
            }
        }
        if result.is_ok() && !touched.is_empty() {
            changed(touched);
        }
        answers
            .into_iter()
            .for_each(|answer| answer(result.clone()));
    }
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
