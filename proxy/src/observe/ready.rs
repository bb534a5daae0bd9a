//! Whether this sidecar can be used, and what is wrong with it: named tasks decide, problems are only told.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::json;
use tokio::sync::watch;

/// One named step of the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Done.
    Ready,
    /// Not yet, and why.
    Waiting(String),
    /// Cannot be done, and why.
    Failed(String),
}

/// Problems kept at once; more are counted, not kept.
const MAX_PROBLEMS: usize = 1000;

/// The readiness of the whole process: all tasks ready, whatever the problems.
#[derive(Debug)]
pub struct Readiness {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    tasks: BTreeMap<&'static str, State>,
    problems: BTreeMap<String, String>,
    problems_left_out: u64,
    draining: bool,
    drained: Option<String>,
    state_written: Option<SystemTime>,
}

impl Readiness {
    /// With its tasks, all waiting: what is not named here is not waited for.
    pub fn new(tasks: &[&'static str]) -> Self {
        let waiting = |task: &&'static str| (*task, State::Waiting("not started".to_owned()));
        let inner = Inner {
            tasks: tasks.iter().map(waiting).collect(),
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
            changed: watch::Sender::new(0),
        }
    }

    /// Sets the state of a task; a task never named before is added.
    pub fn set(&self, task: &'static str, state: State) {
        let before = self.lock().tasks.insert(task, state.clone());
        if before.as_ref() != Some(&state) {
            match &state {
                State::Ready => tracing::info!(task, "ready"),
                State::Waiting(reason) => tracing::debug!(task, reason, "waiting"),
                State::Failed(reason) => tracing::error!(task, reason, "failed"),
            }
            self.notify();
        }
    }

    /// Tells a problem (in `/ready`, in the log, to the control server); the same text under the same key is told once.
    pub fn problem(&self, key: impl Into<String>, text: impl Into<String>) {
        let (key, text) = (key.into(), text.into());
        let mut inner = self.lock();
        if inner.problems.get(&key) == Some(&text) {
            return;
        }
        if inner.problems.len() >= MAX_PROBLEMS && !inner.problems.contains_key(&key) {
            inner.problems_left_out += 1;
            return;
        }
        tracing::warn!(problem = %key, "{text}");
        inner.problems.insert(key, text);
        drop(inner);
        self.notify();
    }

    /// The problem is gone.
    pub fn clear(&self, key: &str) {
        if self.lock().problems.remove(key).is_some() {
            tracing::info!(problem = %key, "resolved");
            self.notify();
        }
    }

    /// Clears every problem whose key begins with `prefix` and is not among `kept`.
    pub fn clear_others(&self, prefix: &str, kept: &std::collections::BTreeSet<String>) {
        let keys: Vec<String> = self
            .lock()
            .problems
            .keys()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect();
        for key in keys.iter().filter(|key| !kept.contains(*key)) {
            self.clear(key);
        }
    }

    /// The text of a problem, when it is there.
    pub fn problem_of(&self, key: &str) -> Option<String> {
        self.lock().problems.get(key).cloned()
    }

    /// All problems, as they are told to the control server.
    pub fn problems(&self) -> Vec<String> {
        self.lock()
            .problems
            .iter()
            .map(|(key, text)| format!("{key}: {text}"))
            .collect()
    }

    /// The sidecar is going away: no longer ready.
    pub fn set_draining(&self) {
        self.lock().draining = true;
        self.notify();
    }

    /// What the drain waited for, as in `14/14 acknowledged, 3 in flight finished`.
    pub fn set_drained(&self, summary: String) {
        self.lock().drained = Some(summary);
        self.notify();
    }

    /// When the configuration on disk was last written or confirmed.
    pub fn set_state_written(&self, at: SystemTime) {
        self.lock().state_written = Some(at);
    }

    /// Whether every task is ready and the sidecar is not draining.
    pub fn is_ready(&self) -> bool {
        let inner = self.lock();
        !inner.draining && inner.tasks.values().all(|state| *state == State::Ready)
    }

    /// Whether every task is ready, draining or not.
    pub fn is_initialized(&self) -> bool {
        let inner = self.lock();
        inner.tasks.values().all(|state| *state == State::Ready)
    }

    /// Returns once every task is ready (also when draining, so that nobody waits forever).
    pub async fn wait(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let done = {
                let inner = self.lock();
                inner.draining || inner.tasks.values().all(|state| *state == State::Ready)
            };
            if done || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Changes with every task and problem.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What `/ready` answers: whether it is ready, and the details.
    pub fn render(&self) -> (bool, serde_json::Value) {
        let ready = self.is_ready();
        let inner = self.lock();
        let tasks: BTreeMap<_, _> = inner
            .tasks
            .iter()
            .map(|(task, state)| {
                let value = match state {
                    State::Ready => json!({"state": "ready"}),
                    State::Waiting(reason) => json!({"state": "waiting", "reason": reason}),
                    State::Failed(reason) => json!({"state": "failed", "reason": reason}),
                };
                (*task, value)
            })
            .collect();
        let age = inner
            .state_written
            .and_then(|at| at.elapsed().ok())
            .map(|age| age.as_secs());
        let value = json!({
            "ready": ready,
            "draining": inner.draining,
            "drained": inner.drained,
            "tasks": tasks,
            "problems": inner.problems,
            "problems_left_out": inner.problems_left_out,
            "state_age_seconds": age,
        });
        (ready, value)
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_decide_and_problems_do_not() {
        let ready = Readiness::new(&["configuration", "listeners"]);
        ready.set("configuration", State::Ready);
        assert!(!ready.is_ready());
        ready.problem("listener/orders", "127.255.0.1:80: permission denied");
        ready.set("listeners", State::Ready);
        let (is_ready, page) = ready.render();
        assert!(is_ready);
        assert_eq!(
            page["problems"]["listener/orders"],
            "127.255.0.1:80: permission denied"
        );
        assert_eq!(page["tasks"]["listeners"]["state"], "ready");
        ready.clear("listener/orders");
        assert!(ready.problems().is_empty());
    }

    #[test]
    fn a_draining_sidecar_is_not_ready() {
        let ready = Readiness::new(&[]);
        assert!(ready.is_ready());
        ready.set_draining();
        assert_eq!(ready.render().1["draining"], true);
        assert!(!ready.is_ready());
    }

    #[test]
    fn problems_are_bounded_and_the_rest_is_counted() {
        let ready = Readiness::new(&[]);
        for index in 0..MAX_PROBLEMS + 3 {
            ready.problem(format!("p{index}"), "text");
        }
        assert_eq!(ready.problems().len(), MAX_PROBLEMS);
        assert_eq!(ready.render().1["problems_left_out"], 3);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_last_task_is_ready() {
        let ready = std::sync::Arc::new(Readiness::new(&["configuration"]));
        let waiter = tokio::spawn({
            let ready = ready.clone();
            async move { ready.wait().await }
        });
        ready.set("configuration", State::Ready);
        waiter.await.expect("the waiter returns");
    }
}
