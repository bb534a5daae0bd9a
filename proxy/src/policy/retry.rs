//! What may be tried again, how often, and after how long. No I/O.

use std::time::Duration;

use http::{Method, StatusCode};
use outrigger_xds::model::RetryPolicy;
use rand::Rng;

use crate::mutants::{self, Mutant};

/// How far a failed attempt got; the retry classes of DESIGN section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retriable {
    /// Nothing of the request reached the application: any method may be tried again.
    Undelivered,
    /// Bytes were written and no response head came back: only idempotent methods.
    Unknown,
    /// Trying again cannot help or is not allowed.
    No,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Without an answer.
    Failed(Retriable),
    /// With this status, and what the answer says of another attempt.
    Answered(StatusCode, Pushback),
}

/// What an answer says of another attempt (`Retry-After`, RFC 9110 section 10.2.3; `grpc-retry-pushback-ms`, gRPC proposal A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    None,
    /// Not sooner than after so long.
    After(Duration),
    /// None is wanted.
    Never,
}

/// The longest wait that a service may ask for: the client waits with us. With a longer one the answer is passed on.
pub const MAX_PUSHBACK: Duration = Duration::from_secs(2);

/// One request's attempts.
#[derive(Debug)]
pub struct Attempts<'a> {
    policy: &'a RetryPolicy,
    idempotent: bool,
    made: u32,
    tried: [u64; REMEMBERED],
}

/// Hosts that a further attempt avoids; inline, so that a request allocates nothing for them.
const REMEMBERED: usize = 8;

impl<'a> Attempts<'a> {
    /// No attempt has been made yet.
    pub fn new(policy: &'a RetryPolicy, method: &Method) -> Self {
        // RFC 9110 section 9.2.2: GET, HEAD, OPTIONS, TRACE, PUT, DELETE.
        Self {
            policy,
            idempotent: method.is_idempotent(),
            made: 0,
            tried: [0; REMEMBERED],
        }
    }

    /// Notes that an attempt on `endpoint` begins.
    pub fn begin(&mut self, endpoint: u64) {
        if let Some(place) = self.tried.get_mut(self.made as usize) {
            *place = endpoint;
        }
        self.made += 1;
    }

    /// Attempts begun so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// The endpoints tried so far.
    pub fn tried(&self) -> &[u64] {
        &self.tried[..self.tried.len().min(self.made as usize)]
    }

    /// Whether the rules allow one more attempt after this one, and after what wait. The budget and the body have their own say.
    pub fn next(&self, ended: Ended, rng: &mut impl Rng) -> Option<Duration> {
        let spent = self.made > self.policy.num_retries || mutants::is(Mutant::NoRetry);
        if spent || !self.may_follow(ended) {
            return None;
        }
        let wait = self.back_off(rng);
        let wait = match ended {
            Ended::Answered(_, Pushback::After(least)) => wait.max(least),
            Ended::Answered(..) | Ended::Failed(_) => wait,
        };
        (wait <= MAX_PUSHBACK).then_some(wait)
    }

    /// Whether another attempt may follow one that ended so, were it the first.
    pub fn may_follow(&self, ended: Ended) -> bool {
        match ended {
            Ended::Failed(Retriable::Undelivered) => true,
            Ended::Failed(Retriable::Unknown) => {
                self.is_repeatable() || mutants::is(Mutant::RetryUnknownPosts)
            }
            Ended::Failed(Retriable::No) | Ended::Answered(_, Pushback::Never) => false,
            Ended::Answered(status, Pushback::None | Pushback::After(_)) => {
                let codes = &self.policy.retriable_status_codes;
                self.is_repeatable() && codes.contains(&status.as_u16())
            }
        }
    }

    /// After how long without an answer the first attempt gets a second one beside it, if it may. To repeat after a failure is one
    /// thing, to send twice what may go well another: opting in to the first is none to this.
    pub fn hedge_after(&self) -> Option<Duration> {
        let may = self.made == 1 && self.policy.num_retries > 0 && self.idempotent;
        self.policy.hedge_after.filter(|_| may)
    }

    fn is_repeatable(&self) -> bool {
        self.idempotent || self.policy.retry_non_idempotent
    }

    /// Jittered wait before the next attempt. The first retry goes to another host at once: its failure says nothing of that one.
    fn back_off(&self, rng: &mut impl Rng) -> Duration {
        if self.made < 2 {
            return Duration::ZERO;
        }
        let doubled = self.policy.back_off_base * (1 << (self.made - 1).min(10));
        rng.random_range(Duration::ZERO..=doubled.min(self.policy.back_off_max))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn rng() -> SmallRng {
        SmallRng::seed_from_u64(5)
    }

    fn after_one(method: &Method, policy: &RetryPolicy, ended: Ended) -> Option<Duration> {
        let mut attempts = Attempts::new(policy, method);
        attempts.begin(1);
        attempts.next(ended, &mut rng())
    }

    const fn answered(status: StatusCode) -> Ended {
        Ended::Answered(status, Pushback::None)
    }

    const UNAVAILABLE: Ended = answered(StatusCode::SERVICE_UNAVAILABLE);

    #[test]
    fn a_post_is_repeated_only_when_it_was_not_delivered() {
        let policy = RetryPolicy::default();
        for (ended, get, post) in [
            (Ended::Failed(Retriable::Undelivered), true, true),
            (Ended::Failed(Retriable::Unknown), true, false),
            (Ended::Failed(Retriable::No), false, false),
            (UNAVAILABLE, true, false),
            (answered(StatusCode::INTERNAL_SERVER_ERROR), false, false),
        ] {
            let allows = |method| after_one(method, &policy, ended).is_some();
            assert_eq!(allows(&Method::GET), get, "GET {ended:?}");
            assert_eq!(allows(&Method::POST), post, "POST {ended:?}");
        }
    }

    #[test]
    fn an_owner_can_opt_in_for_every_method() {
        let policy = RetryPolicy {
            retry_non_idempotent: true,
            ..RetryPolicy::default()
        };
        assert!(after_one(&Method::POST, &policy, UNAVAILABLE).is_some());
    }

    #[test]
    fn two_retries_and_no_more() {
        let policy = RetryPolicy::default();
        let mut attempts = Attempts::new(&policy, &Method::GET);
        for (attempt, allowed) in [(1, true), (2, true), (3, false)] {
            attempts.begin(attempt);
            let next = attempts.next(UNAVAILABLE, &mut rng());
            assert_eq!(next.is_some(), allowed, "after attempt {attempt}");
        }
    }

    #[test]
    fn retries_can_be_switched_off() {
        let undelivered = Ended::Failed(Retriable::Undelivered);
        let off = RetryPolicy {
            hedge_after: Some(Duration::ZERO),
            ..RetryPolicy::off()
        };
        assert_eq!(after_one(&Method::GET, &off, undelivered), None);
        let mut attempts = Attempts::new(&off, &Method::GET);
        attempts.begin(1);
        assert_eq!(attempts.hedge_after(), None);
    }

    #[test]
    fn the_first_retry_is_made_at_once_and_later_ones_wait_longer_and_longer() {
        let policy = RetryPolicy {
            num_retries: 20,
            ..RetryPolicy::default()
        };
        let mut attempts = Attempts::new(&policy, &Method::GET);
        let mut rng = rng();
        let mut longest = Vec::new();
        for attempt in 1..=8 {
            attempts.begin(attempt);
            let waits = (0..1000).map(|_| attempts.next(UNAVAILABLE, &mut rng).unwrap_or_default());
            longest.push(waits.max().unwrap_or_default().as_millis());
        }
        assert_eq!(longest[0], 0);
        assert!((45..=50).contains(&longest[1]), "{longest:?}");
        assert!((90..=100).contains(&longest[2]), "{longest:?}");
        assert!(
            longest[4..].iter().all(|most| (225..=250).contains(most)),
            "{longest:?}"
        );
    }

    #[test]
    fn what_the_service_asks_for_is_waited_for_or_the_answer_is_passed_on() {
        let policy = RetryPolicy::default();
        let unavailable = |pushback| Ended::Answered(StatusCode::SERVICE_UNAVAILABLE, pushback);
        let (one, ten) = (Duration::from_secs(1), Duration::from_secs(10));
        for (pushback, wait) in [
            (Pushback::None, Some(Duration::ZERO)),
            (Pushback::After(one), Some(one)),
            (Pushback::After(ten), None),
            (Pushback::Never, None),
        ] {
            let next = after_one(&Method::GET, &policy, unavailable(pushback));
            assert_eq!(next, wait, "{pushback:?}");
        }
    }

    #[test]
    fn only_the_first_attempt_of_an_idempotent_request_is_hedged() {
        let policy = RetryPolicy {
            hedge_after: Some(Duration::from_millis(50)),
            retry_non_idempotent: true,
            ..RetryPolicy::default()
        };
        let mut get = Attempts::new(&policy, &Method::GET);
        get.begin(1);
        assert_eq!(get.hedge_after(), policy.hedge_after);
        get.begin(2);
        assert_eq!(get.hedge_after(), None);
        let mut post = Attempts::new(&policy, &Method::POST);
        post.begin(1);
        assert_eq!(post.hedge_after(), None);
    }
}
