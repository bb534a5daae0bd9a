//! What may be under way to one service at once, over all workers: counted here, each count given back by `Drop`.
//!
//! Names and meanings are Envoy's (`envoy.config.cluster.v3.CircuitBreakers`). What is beyond a bound is refused at once and counted;
//! nothing waits for a place. One bound gives way, as Envoy's does: an endpoint with nothing under way may always have a
//! connection made for a request, so that kept connections to others never shut it out.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use outrigger_xds::model::CircuitBreakers;

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Requests, and opaque connections.
    Requests,
    /// Attempts beyond the first.
    Retries,
    /// Requests that wait for a connection being made.
    Pending,
    /// Connections to endpoints, idle ones too.
    Connections,
    /// Requests, by what the service was found to take without queueing.
    Concurrency,
}

impl Breaker {
    /// Every breaker, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Requests,
        Self::Retries,
        Self::Pending,
        Self::Connections,
        Self::Concurrency,
    ];

    /// The word used in metrics and on `/clusters`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Retries => "retries",
            Self::Pending => "pending",
            Self::Connections => "connections",
            Self::Concurrency => "concurrency",
        }
    }
}

/// One breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Whose.
    pub breaker: Breaker,
    /// How many are under way.
    pub held: u32,
    /// How many may be.
    pub limit: u32,
    /// How many were refused so far.
    pub refused: u64,
}

/// The counters of one service's circuit breakers.
#[derive(Debug, Default)]
pub struct Limits {
    held: [AtomicU32; Breaker::ALL.len()],
    refused: [AtomicU64; Breaker::ALL.len()],
}

impl Limits {
    /// One more request, if both the configured number and `concurrency`, what the service was found to take, allow it.
    pub fn enter(self: &Arc<Self>, breakers: &CircuitBreakers, concurrency: u32) -> Option<Share> {
        let (share, before) = self.take(Breaker::Requests);
        if before >= breakers.max_requests {
            self.refuse(Breaker::Requests)
        } else if before >= concurrency {
            self.refuse(Breaker::Concurrency)
        } else {
            Some(share)
        }
    }

    /// One more retry: a share of live requests, never fewer than the floor.
    pub fn retry(self: &Arc<Self>, breakers: &CircuitBreakers) -> Option<Share> {
        let (share, before) = self.take(Breaker::Retries);
        if before < self.budget(breakers) {
            Some(share)
        } else {
            self.refuse(Breaker::Retries)
        }
    }

    /// Retries that may be under way now.
    fn budget(&self, breakers: &CircuitBreakers) -> u32 {
        let live = u64::from(self.held(Breaker::Requests));
        let share = live * u64::from(breakers.retry_budget_percent) / 100;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        share.max(breakers.min_retry_concurrency)
    }

    /// One more request that waits for a connection being made.
    pub fn connect(self: &Arc<Self>, breakers: &CircuitBreakers) -> Option<Share> {
        let (share, before) = self.take(Breaker::Pending);
        if before < breakers.max_pending_requests {
            Some(share)
        } else {
            self.refuse(Breaker::Pending)
        }
    }

    /// One more connection; `only`: nothing else is under way to its endpoint, and it is one for HTTP.
    pub fn open(self: &Arc<Self>, breakers: &CircuitBreakers, only: bool) -> Option<Share> {
        let (share, before) = self.take(Breaker::Connections);
        if before < breakers.max_connections || only {
            Some(share)
        } else {
            self.refuse(Breaker::Connections)
        }
    }

    /// All breakers; `concurrency` is what the service was found to take.
    pub fn usage(
        &self,
        breakers: &CircuitBreakers,
        concurrency: Option<u32>,
    ) -> [Usage; Breaker::ALL.len()] {
        array::from_fn(|index| {
            let breaker = Breaker::ALL[index];
            let (counted, limit) = match breaker {
                Breaker::Requests => (breaker, breakers.max_requests),
                Breaker::Retries => (breaker, self.budget(breakers)),
                Breaker::Pending => (breaker, breakers.max_pending_requests),
                Breaker::Connections => (breaker, breakers.max_connections),
                Breaker::Concurrency => (Breaker::Requests, concurrency.unwrap_or(u32::MAX)),
            };
            Usage {
                breaker,
                held: self.held(counted),
                limit,
                refused: self.refused[index].load(Relaxed),
            }
        })
    }

    fn held(&self, breaker: Breaker) -> u32 {
        self.held[breaker as usize].load(Relaxed)
    }

    /// A count, and how many there were before it. Taken first and looked at then: two that ask at once never both get the last.
    fn take(self: &Arc<Self>, breaker: Breaker) -> (Share, u32) {
        let before = self.held[breaker as usize].fetch_add(1, Relaxed);
        let limits = Arc::clone(self);
        (Share { limits, breaker }, before)
    }

    fn refuse(&self, breaker: Breaker) -> Option<Share> {
        self.refused[breaker as usize].fetch_add(1, Relaxed);
        None
    }
}

/// One count, given back by `Drop`.
#[derive(Debug)]
pub struct Share {
    limits: Arc<Limits>,
    breaker: Breaker,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.limits.held[self.breaker as usize].fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A place that nobody else asks for.
    pub(crate) fn share() -> Share {
        let limits = Arc::new(Limits::default());
        let share = limits.open(&CircuitBreakers::default(), true);
        share.expect("the only one is always given")
    }

    /// Takes until no more is given; one that is given back is given again.
    fn bound(take: impl Fn() -> Option<Share>) -> usize {
        let held: Vec<_> = std::iter::from_fn(&take).collect();
        let most = held.len();
        drop(held);
        assert!(take().is_some());
        most
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn each_limit_is_kept_given_back_and_counted_by_its_name() {
        let limits = Arc::new(Limits::default());
        let breakers = CircuitBreakers {
            max_requests: 7,
            max_pending_requests: 5,
            max_connections: 4,
            min_retry_concurrency: 3,
            ..CircuitBreakers::default()
        };
        assert_eq!(bound(|| limits.enter(&breakers, NONE)), 7);
        assert_eq!(bound(|| limits.enter(&breakers, 6)), 6);
        assert_eq!(bound(|| limits.connect(&breakers)), 5);
        assert_eq!(bound(|| limits.open(&breakers, false)), 4);
        assert_eq!(bound(|| limits.retry(&breakers)), 3);
        let usage = limits.usage(&breakers, Some(6));
        let each = usage.map(|usage| (usage.breaker, usage.held, usage.limit, usage.refused));
        assert_eq!(
            each,
            [
                (Breaker::Requests, 0, 7, 1),
                (Breaker::Retries, 0, 3, 1),
                (Breaker::Pending, 0, 5, 1),
                (Breaker::Connections, 0, 4, 1),
                (Breaker::Concurrency, 0, 6, 1),
            ]
        );
    }

    #[test]
    fn an_endpoint_with_nothing_under_way_gets_a_connection_past_the_limit() {
        let limits = Arc::new(Limits::default());
        let breakers = CircuitBreakers {
            max_connections: 1,
            ..CircuitBreakers::default()
        };
        let _first = limits.open(&breakers, false);
        assert!(limits.open(&breakers, false).is_none());
        assert!(limits.open(&breakers, true).is_some());
    }

    #[test]
    fn retries_are_a_share_of_live_requests_and_never_fewer_than_the_floor() {
        let limits = Arc::new(Limits::default());
        let breakers = CircuitBreakers::default();
        let live: Vec<_> = (0..1000)
            .map_while(|_| limits.enter(&breakers, NONE))
            .collect();
        assert_eq!(live.len(), 1000);
        assert_eq!(bound(|| limits.retry(&breakers)), 200);
        drop(live);
        assert_eq!(bound(|| limits.retry(&breakers)), 32);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter,
        Retry,
        Leave(prop::sample::Index),
        GiveBack(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Enter),
            3 => Just(Step::Retry),
            1 => any::<prop::sample::Index>().prop_map(Step::Leave),
            1 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
        ]
    }

    fn breakers() -> impl Strategy<Value = CircuitBreakers> {
        (0..60_u32, 0..150_u32, 0..8_u32).prop_map(|(requests, percent, floor)| CircuitBreakers {
            max_requests: requests,
            retry_budget_percent: percent,
            min_retry_concurrency: floor,
            ..CircuitBreakers::default()
        })
    }

    proptest! {
        /// A retry is given exactly while fewer than the larger of floor and share are under way; all is given back in the end.
        #[test]
        fn the_budget_is_what_it_says_after_any_history(
            breakers in breakers(),
            steps in vec(step(), 0..300),
        ) {
            let limits = Arc::new(Limits::default());
            let (mut live, mut retries) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Enter => {
                        let fits = live.len() < breakers.max_requests as usize;
                        let share = limits.enter(&breakers, NONE);
                        prop_assert_eq!(share.is_some(), fits);
                        live.extend(share);
                    }
                    Step::Retry => {
                        let share = live.len() * breakers.retry_budget_percent as usize / 100;
                        let most = share.max(breakers.min_retry_concurrency as usize);
                        let fits = retries.len() < most;
                        let share = limits.retry(&breakers);
                        prop_assert_eq!(share.is_some(), fits);
                        retries.extend(share);
                    }
                    Step::Leave(which) if !live.is_empty() => {
                        live.swap_remove(which.index(live.len()));
                    }
                    Step::GiveBack(which) if !retries.is_empty() => {
                        retries.swap_remove(which.index(retries.len()));
                    }
                    Step::Leave(_) | Step::GiveBack(_) => {}
                }
                prop_assert_eq!(limits.held(Breaker::Requests) as usize, live.len());
                prop_assert_eq!(limits.held(Breaker::Retries) as usize, retries.len());
            }
            drop((live, retries));
            let left = limits.usage(&breakers, None).map(|usage| usage.held);
            prop_assert_eq!(left, [0; Breaker::ALL.len()]);
        }
    }
}
