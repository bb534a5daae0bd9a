//! What may be under way to one service at once, over all workers: counted here, each count given back by `Drop`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use outrigger_xds::model::CircuitBreakers;

/// The counters of one service's circuit breakers.
#[derive(Debug, Default)]
pub struct Limits {
    live: AtomicU32,
    retrying: AtomicU32,
    connecting: AtomicU32,
}

impl Limits {
    /// One more request, if there may be one (Envoy's `max_requests`).
    pub fn enter(self: &Arc<Self>, breakers: &CircuitBreakers) -> Option<Share> {
        Share::within(self, |limits| &limits.live, breakers.max_requests)
    }

    /// One more retry: a share of live requests, never fewer than the floor (Envoy's `retry_budget`).
    pub fn retry(self: &Arc<Self>, breakers: &CircuitBreakers) -> Option<Share> {
        let live = u64::from(self.live.load(Relaxed));
        let share = live * u64::from(breakers.retry_budget_percent) / 100;
        let allowed = u32::try_from(share).unwrap_or(u32::MAX);
        let allowed = allowed.max(breakers.min_retry_concurrency);
        Share::within(self, |limits| &limits.retrying, allowed)
    }

    /// One more request that waits for a connection being made (Envoy's `max_pending_requests`).
    pub fn connect(self: &Arc<Self>, breakers: &CircuitBreakers) -> Option<Share> {
        Share::within(
            self,
            |limits| &limits.connecting,
            breakers.max_pending_requests,
        )
    }
}

/// One count, given back by `Drop`.
#[derive(Debug)]
pub struct Share {
    limits: Arc<Limits>,
    counter: fn(&Limits) -> &AtomicU32,
}

impl Share {
    fn within(limits: &Arc<Limits>, counter: fn(&Limits) -> &AtomicU32, most: u32) -> Option<Self> {
        let before = counter(limits).fetch_add(1, Relaxed);
        let share = Self {
            limits: Arc::clone(limits),
            counter,
        };
        (before < most).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        (self.counter)(&self.limits).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes until no more is given; one that is given back is given again.
    fn bound(take: impl Fn() -> Option<Share>) -> usize {
        let held: Vec<_> = std::iter::from_fn(&take).collect();
        let most = held.len();
        drop(held);
        assert!(take().is_some());
        most
    }

    #[test]
    fn each_limit_is_kept_and_given_back() {
        let limits = Arc::new(Limits::default());
        let breakers = CircuitBreakers {
            max_requests: 7,
            max_pending_requests: 5,
            min_retry_concurrency: 3,
            ..CircuitBreakers::default()
        };
        assert_eq!(bound(|| limits.enter(&breakers)), 7);
        assert_eq!(bound(|| limits.connect(&breakers)), 5);
        assert_eq!(bound(|| limits.retry(&breakers)), 3);
    }

    #[test]
    fn retries_are_a_share_of_live_requests_and_never_fewer_than_the_floor() {
        let limits = Arc::new(Limits::default());
        let breakers = CircuitBreakers::default();
        let live: Vec<_> = (0..1000).map_while(|_| limits.enter(&breakers)).collect();
        assert_eq!(live.len(), 1000);
        assert_eq!(bound(|| limits.retry(&breakers)), 200);
        drop(live);
        assert_eq!(bound(|| limits.retry(&breakers)), 32);
    }
}
