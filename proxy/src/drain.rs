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
    /// All clients are asked to go, this task's own application too: another process serves it from now on.
    Leaving,
    /// Leaving: what idles closes, what is in flight is the last.
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

    /// Whether `phase` is reached. One relaxed load, for the request path.
    pub(crate) fn is(&self, phase: Phase) -> bool {
        self.now() >= phase
    }

    /// The phase. One relaxed load.
    pub(crate) fn now(&self) -> Phase {
        match self.now.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            2 => Phase::Leaving,
            _ => Phase::Stopped,
        }
    }

    /// The phase that watchers have been woken for, which may lag behind [`Self::now`] for a moment. Whoever looks at this before it
    /// polls [`Self::reached`] knows whether it must poll again.
    pub(crate) fn told(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Completes when `phase` is reached.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut watch = self.phase.subscribe();
        let waited = watch.wait_for(|current| *current >= phase).await;
        drop(waited);
    }
}

/// Between two looks at what is in flight.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Waits until `in_flight` is zero, at most `bound`. Returns what is left.
pub(crate) async fn until_idle(in_flight: impl Fn() -> u64, bound: Duration) -> u64 {
    let waited = tokio::time::timeout(bound, async {
        while in_flight() > 0 {
            tokio::time::sleep(POLL).await;
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
        assert_eq!(drain.now(), Phase::Stopped);
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
