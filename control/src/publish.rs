//! Publishing: changes that come together are encoded once and shared with every stream of the namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_xds::ResourceSet;
use outrigger_xds::model::TrustBundle;
use outrigger_xds::transport::Published;
use tokio::sync::{Notify, oneshot, watch};

use crate::registry::Registry;
use crate::translate;

/// How long a first change waits for others.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// Namespaces with a published state; those that nobody watches and that do not exist make room.
const MAX_NAMESPACES: usize = 4096;

type State = watch::Sender<Option<Arc<Published>>>;

/// The published state of every namespace.
#[derive(Default)]
pub(crate) struct Publisher {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Default)]
struct Inner {
    sequence: u64,
    dirty: BTreeSet<String>,
    /// Namespaces whose last change was not published.
    held_back: BTreeSet<String>,
    waiting: Vec<oneshot::Sender<u64>>,
    namespaces: BTreeMap<String, State>,
}

impl Publisher {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has these namespaces published soon.
    pub(crate) fn changed(&self, namespaces: BTreeSet<String>) {
        self.lock().dirty.extend(namespaces);
        self.wake.notify_one();
    }

    /// Has every namespace published soon that anybody has asked for.
    pub(crate) fn all_changed(&self) {
        {
            let mut inner = self.lock();
            let all: Vec<_> = inner.namespaces.keys().cloned().collect();
            inner.dirty.extend(all);
        }
        self.wake.notify_one();
    }

    /// Of every namespace that anybody has asked for, see [`Self::sequence`].
    pub(crate) fn sequences(&self) -> BTreeMap<String, u64> {
        let namespaces: Vec<_> = self.lock().namespaces.keys().cloned().collect();
        let sequence = |namespace: String| {
            let sequence = self.sequence(&namespace);
            (namespace, sequence)
        };
        namespaces.into_iter().map(sequence).collect()
    }

    /// Resolves with a sequence at which everything that was `changed` before is published.
    pub(crate) async fn flushed(&self) -> u64 {
        let (done, flushed) = oneshot::channel();
        self.lock().waiting.push(done);
        self.wake.notify_one();
        flushed.await.unwrap_or(0)
    }

    /// The published states of a namespace. One that does not exist has an empty state.
    pub(crate) fn watch(&self, namespace: &str) -> watch::Receiver<Option<Arc<Published>>> {
        let mut inner = self.lock();
        if let Some(state) = inner.namespaces.get(namespace) {
            return state.subscribe();
        }
        if inner.namespaces.len() >= MAX_NAMESPACES {
            inner.namespaces.retain(|_, state| {
                let empty = state
                    .borrow()
                    .as_ref()
                    .is_none_or(|published| published.set.is_empty());
                state.receiver_count() > 0 || !empty
            });
        }
        let (state, watched) = watch::channel(None);
        if inner.namespaces.len() < MAX_NAMESPACES {
            inner.namespaces.insert(namespace.to_owned(), state);
            inner.dirty.insert(namespace.to_owned());
            self.wake.notify_one();
        }
        watched
    }

    /// Publishes for ever.
    pub(crate) async fn run(&self, registry: impl Fn(&str) -> Vec<outrigger_xds::Resource>) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(DEBOUNCE).await;
            self.publish(&registry);
        }
    }

    fn publish(&self, resources: &impl Fn(&str) -> Vec<outrigger_xds::Resource>) {
        let (dirty, waiting) = {
            let mut inner = self.lock();
            (
                std::mem::take(&mut inner.dirty),
                std::mem::take(&mut inner.waiting),
            )
        };
        for namespace in dirty {
            let Some(before) = self
                .lock()
                .namespaces
                .get(&namespace)
                .map(|state| state.borrow().clone())
            else {
                // Nobody has asked for it yet; the first to ask marks it dirty.
                continue;
            };
            let old = before
                .as_ref()
                .map(|published| Arc::clone(&published.set))
                .unwrap_or_default();
            match old.rebuilt(resources(&namespace)) {
                Ok(set) => {
                    self.lock().held_back.remove(&namespace);
                    self.offer(&namespace, before.is_some(), &old, set);
                }
                Err(problems) => {
                    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    tracing::error!(
                        namespace,
                        ?problems,
                        "not published: the resources do not fit together"
                    );
                    self.lock().held_back.insert(namespace);
                }
            }
        }
        let sequence = self.lock().sequence;
        for done in waiting {
            // Whoever asked may have gone away.
            let _unheard = done.send(sequence);
        }
    }

    fn offer(&self, namespace: &str, published_before: bool, old: &ResourceSet, set: ResourceSet) {
        let diff = set.diff(old);
        if published_before && diff.changed.is_empty() && diff.removed.is_empty() {
            return;
        }
        let mut inner = self.lock();
        inner.sequence += 1;
        let published = Arc::new(Published {
            sequence: inner.sequence,
            set: Arc::new(set),
        });
        tracing::debug!(
            namespace,
            sequence = published.sequence,
            changed = diff.changed.len(),
            removed = diff.removed.len(),
            "published"
        );
        if let Some(state) = inner.namespaces.get(namespace) {
            state.send_replace(Some(published));
        }
    }

    /// The sequence of the namespace's newest state; a stream that acknowledged it has everything. While that state is not fit to
    /// be published nobody can have acknowledged it.
    pub(crate) fn sequence(&self, namespace: &str) -> u64 {
        let inner = self.lock();
        if inner.held_back.contains(namespace) {
            return inner.sequence + 1;
        }
        let state = inner.namespaces.get(namespace);
        let sequence = state.and_then(|state| state.borrow().as_ref().map(|now| now.sequence));
        sequence.unwrap_or(0)
    }
}

/// The resources of a namespace in a registry behind a lock, and the roots that are trusted now.
pub(crate) fn from_registry<'a, G: std::ops::Deref<Target = Registry>>(
    read: impl Fn() -> G + 'a,
    trust: impl Fn() -> Option<TrustBundle> + 'a,
) -> impl Fn(&str) -> Vec<outrigger_xds::Resource> + 'a {
    move |namespace| translate::resources(&read(), namespace, trust().as_ref())
}

#[cfg(test)]
mod tests;
