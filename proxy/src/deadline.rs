//! All deadlines of one worker in one coarse sweep: no timer per request and none per connection.
//!
//! Entries only ever lower the instant at which the sweep wakes; moving a deadline later or dropping it costs one store.
//! With thousands of requests a second that finish in time, the sweep wakes about once per shortest timeout.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Deadlines that fall within one grain fire together.
const GRAIN: Duration = Duration::from_millis(10);
/// The grain grows by this with every deadline. Firing looks at each of them, for some nanoseconds: however many there are and
/// however closely they follow each other, it takes less than a hundredth of the time.
const GRAIN_EACH: Duration = Duration::from_micros(1);

struct Entry {
    due: Option<Instant>,
    fired: bool,
    waker: Option<Waker>,
}

struct Inner {
    entries: Slab<Entry>,
    armed: Option<Instant>,
}

/// The worker's set of deadlines, and its clock. Clones share it.
#[derive(Clone)]
pub(crate) struct Sweep(Rc<Shared>);

struct Shared {
    inner: RefCell<Inner>,
    rearm: Notify,
    now: Cell<Instant>,
}

impl Sweep {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Shared {
            inner: RefCell::new(Inner {
                entries: Slab::new(),
                armed: None,
            }),
            rearm: Notify::new(),
            now: Cell::new(Instant::now()),
        }))
    }

    /// Reads the clock. Once for each thing that happens; what follows from it uses [`Self::now`].
    pub(crate) fn tick(&self) -> Instant {
        let now = Instant::now();
        self.0.now.set(now);
        now
    }

    /// When the clock was last read: at the latest when the message at hand arrived.
    pub(crate) fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// A deadline that is not set yet.
    pub(crate) fn deadline(&self) -> Deadline {
        let key = self.0.inner.borrow_mut().entries.insert(Entry {
            due: None,
            fired: false,
            waker: None,
        });
        Deadline {
            sweep: self.clone(),
            key,
        }
    }

    /// Fires what is due, for as long as the worker lives.
    pub(crate) async fn run(self) {
        loop {
            let (armed, entries) = {
                let inner = self.0.inner.borrow();
                (inner.armed, inner.entries.len())
            };
            match armed {
                None => self.0.rearm.notified().await,
                Some(at) => {
                    let grain = GRAIN_EACH * u32::try_from(entries).unwrap_or(u32::MAX);
                    let wake = at + grain.max(GRAIN);
                    tokio::select! {
                        () = tokio::time::sleep_until(wake) => self.fire(self.tick()),
                        () = self.0.rearm.notified() => {}
                    }
                }
            }
        }
    }

    fn fire(&self, now: Instant) {
        let mut due = Vec::new();
        let mut inner = self.0.inner.borrow_mut();
        let mut earliest: Option<Instant> = None;
        for (_, entry) in &mut inner.entries {
            let Some(at) = entry.due else { continue };
            if at <= now {
                entry.due = None;
                entry.fired = true;
                due.extend(entry.waker.take());
            } else {
                earliest = Some(earliest.map_or(at, |known| known.min(at)));
            }
        }
        inner.armed = earliest;
        drop(inner);
        due.into_iter().for_each(Waker::wake);
    }
}

/// One deadline; dropping it takes it out of the sweep.
pub(crate) struct Deadline {
    sweep: Sweep,
    key: usize,
}

impl Deadline {
    /// Sets or moves it. `None` switches it off.
    pub(crate) fn set(&self, due: Option<Instant>) {
        let mut inner = self.sweep.0.inner.borrow_mut();
        let entry = &mut inner.entries[self.key];
        entry.due = due;
        entry.fired = false;
        let Some(due) = due else { return };
        if inner.armed.is_none_or(|armed| due < armed) {
            inner.armed = Some(due);
            self.sweep.0.rearm.notify_one();
        }
    }

    /// Sets it `after` from now; zero switches it off, as everywhere in the configuration.
    pub(crate) fn set_after(&self, after: Duration) {
        self.set((!after.is_zero()).then(|| self.sweep.tick() + after));
    }

    /// The same, counted from the clock's last reading.
    pub(crate) fn set_after_now(&self, after: Duration) {
        self.set((!after.is_zero()).then(|| self.sweep.now() + after));
    }

    /// When it passes, if it is set.
    #[cfg(test)]
    pub(crate) fn due(&self) -> Option<Instant> {
        self.sweep.0.inner.borrow().entries[self.key].due
    }

    /// The worker's clock.
    pub(crate) fn sweep(&self) -> &Sweep {
        &self.sweep
    }

    /// Whether it has passed; if not, the task is woken when it does.
    pub(crate) fn poll_expired(&self, cx: &std::task::Context<'_>) -> Poll<()> {
        let mut inner = self.sweep.0.inner.borrow_mut();
        let entry = &mut inner.entries[self.key];
        if entry.fired {
            return Poll::Ready(());
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Completes when the deadline passes.
    pub(crate) async fn expired(&self) {
        poll_fn(|cx| self.poll_expired(cx)).await;
    }

    /// Runs `work` until it is done (`Some`) or the deadline passes (`None`). Pinned by the caller: passed by value it would lie
    /// in two futures at once.
    pub(crate) async fn bound<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            self.poll_expired(cx).map(|()| None)
        })
        .await
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.sweep.0.inner.borrow_mut().entries.remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn with_sweep<F: Future>(test: impl FnOnce(Sweep) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a current-thread runtime can be built");
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let sweep = Sweep::new();
            tokio::task::spawn_local(sweep.clone().run());
            test(sweep).await
        })
    }

    #[test]
    fn a_deadline_fires_within_one_grain_of_its_time() {
        with_sweep(|sweep| async move {
            let start = Instant::now();
            let deadline = sweep.deadline();
            deadline.set_after(Duration::from_secs(15));
            deadline.expired().await;
            let late = start.elapsed() - Duration::from_secs(15);
            assert!(late <= GRAIN * 2, "{late:?}");
        });
    }

    #[test]
    fn an_earlier_deadline_wakes_a_sweep_that_sleeps_for_a_later_one() {
        with_sweep(|sweep| async move {
            let late = sweep.deadline();
            late.set_after(Duration::from_secs(300));
            tokio::task::yield_now().await;
            let early = sweep.deadline();
            early.set_after(Duration::from_secs(1));
            let start = Instant::now();
            early.expired().await;
            assert!(start.elapsed() < Duration::from_secs(2));
        });
    }

    #[test]
    fn a_deadline_that_was_moved_does_not_fire_at_its_old_time() {
        with_sweep(|sweep| async move {
            let deadline = sweep.deadline();
            deadline.set_after(Duration::from_secs(1));
            deadline.set_after(Duration::from_secs(10));
            let work = pin!(tokio::time::sleep(Duration::from_secs(5)));
            assert!(deadline.bound(work).await.is_some());
        });
    }

    #[test]
    fn very_many_deadlines_close_together_fire_in_few_sweeps() {
        with_sweep(|sweep| async move {
            let many: Vec<_> = (0..50_000).map(|_| sweep.deadline()).collect();
            let start = Instant::now();
            for (n, deadline) in (1..).zip(&many) {
                deadline.set(Some(start + n * Duration::from_micros(20)));
            }
            let mut fired = std::collections::BTreeSet::new();
            for deadline in &many {
                deadline.expired().await;
                fired.insert(start.elapsed());
            }
            assert!(fired.len() <= 21, "{fired:?}");
            let last = fired.last().copied().unwrap_or_default();
            assert!(last <= Duration::from_millis(1120), "{last:?}");
        });
    }

    #[test]
    fn a_dropped_deadline_leaves_the_sweep() {
        with_sweep(|sweep| async move {
            let deadline = sweep.deadline();
            deadline.set_after(Duration::from_secs(1));
            drop(deadline);
            assert_eq!(sweep.0.inner.borrow().entries.len(), 0);
        });
    }

    #[test]
    fn zero_is_off() {
        with_sweep(|sweep| async move {
            let deadline = sweep.deadline();
            deadline.set_after(Duration::ZERO);
            let work = pin!(tokio::time::sleep(Duration::from_secs(9000)));
            assert!(deadline.bound(work).await.is_some());
        });
    }
}
