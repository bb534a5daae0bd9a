//! The end of a sidecar: tell everybody, keep serving, and leave when nothing is in flight or the bound is reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Where the sidecar is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Serving,
    /// DRAINING is published; connections are still accepted and requests finish.
    Draining,
    /// Leaving now.
    Stopped,
}

/// The phase, written by the application and watched by everybody else.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    /// The same, for a look without a lock; written before watchers are woken.
    now: Arc<AtomicU8>,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            now: Arc::default(),
        }
    }

    /// Moves on to `phase`; never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.now.fetch_max(phase as u8, Ordering::SeqCst);
        self.phase.send_if_modified(|current| {
            let later = *current < phase;
            *current = phase.max(*current);
            later
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Whether `phase` is reached. One relaxed load, for the request path.
    pub(crate) fn is(&self, phase: Phase) -> bool {
        self.now.load(Ordering::Relaxed) >= phase as u8
    }

    /// Completes when `phase` is reached.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut watch = self.watch();
        let waited = watch.wait_for(|current| *current >= phase).await;
        drop(waited);
    }
}

/// Waits until `in_flight` is zero, at most `bound`. Returns what is left.
pub(crate) async fn until_idle(in_flight: impl Fn() -> u64, bound: Duration) -> u64 {
    let poll = Duration::from_millis(10);
    let waited = tokio::time::timeout(bound, async {
        while in_flight() > 0 {
            tokio::time::sleep(poll).await;
        }
    });
    match waited.await {
        Ok(()) => 0,
        Err(_) => in_flight(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_phase_never_goes_back() {
        let drain = Drain::new();
        drain.enter(Phase::Stopped);
        drain.enter(Phase::Draining);
        assert_eq!(*drain.watch().borrow(), Phase::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_sidecar_leaves_at_once_and_a_busy_one_at_the_bound() {
        let start = tokio::time::Instant::now();
        assert_eq!(until_idle(|| 0, Duration::from_secs(20)).await, 0);
        assert_eq!(start.elapsed(), Duration::ZERO);
        let left = Cell::new(3_u64);
        let countdown = || left.replace(left.get().saturating_sub(1));
        assert_eq!(until_idle(countdown, Duration::from_secs(20)).await, 0);
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(until_idle(|| 7, Duration::from_secs(20)).await, 7);
    }
}
