//! What one worker thread owns: its connection pool, its deadlines, its place in the metric shards.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;

use super::access::Refusals;
use crate::date::Date;
use crate::deadline::Sweep;
use crate::http1::buffers::Buffers;
use crate::routing::snapshot::Current;
use crate::spare::Spare;
use crate::upstream::pool::Pool;

/// How often a worker looks for connections that idled too long.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// A bound on how many have something at once.
#[derive(Debug, Default)]
pub(crate) struct Places(Rc<Cell<usize>>);

impl Places {
    /// A place, if fewer than `most` are taken.
    pub(crate) fn take(&self, most: usize) -> Option<Place> {
        let taken = self.0.get();
        (taken < most).then(|| {
            self.0.set(taken + 1);
            Place(Rc::clone(&self.0))
        })
    }
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// One worker; shared by reference counting among the tasks of its thread, never across threads.
pub(crate) struct Worker {
    /// Its index among the metric shards.
    pub(crate) id: usize,
    pub(crate) pool: Pool,
    pub(crate) buffers: Rc<Buffers>,
    /// Places of conversations with HTTP/1.1 clients, and of streams of HTTP/2 ones.
    pub(crate) conversations: Spare,
    pub(crate) streams: Spare,
    pub(crate) sweep: Sweep,
    pub(crate) date: Date,
    /// For choices among tasks and for back-off; nothing secret comes of it.
    pub(crate) rng: RefCell<SmallRng>,
    pub(crate) snapshot: Current,
    /// Connections over a limit that are being told so.
    pub(crate) farewells: Places,
    /// HTTP/2 clients with wide windows.
    pub(crate) wide: Places,
    /// What it has written of callers that may not.
    pub(crate) refusals: Refusals,
}

impl Worker {
    pub(crate) fn new(id: usize, snapshot: Current) -> Rc<Self> {
        let buffers = Buffers::new();
        let (pool, sweep) = (Pool::new(id, Rc::clone(&buffers)), Sweep::new());
        Rc::new(Self {
            id,
            pool,
            buffers,
            conversations: Spare::default(),
            streams: Spare::default(),
            sweep,
            date: Date::default(),
            rng: RefCell::new(SmallRng::from_os_rng()),
            snapshot,
            farewells: Places::default(),
            wide: Places::default(),
            refusals: Refusals::default(),
        })
    }

    /// Closes idle connections: at once when an endpoint is retired, else every second.
    pub(crate) async fn tidy(self: Rc<Self>, mut retired: watch::Receiver<u64>) {
        let tick = self.sweep.deadline();
        loop {
            tick.set_after(TIDY_EVERY);
            tokio::select! {
                () = tick.expired() => {}
                changed = retired.changed() => if changed.is_err() { return },
            }
            self.pool.tidy();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_given_back_is_taken_again() {
        let places = Places::default();
        let taken: Vec<_> = (0..3).map_while(|_| places.take(2)).collect();
        assert_eq!(taken.len(), 2);
        assert!(places.take(2).is_none());
        drop(taken);
        assert!(places.take(2).is_some());
    }
}
