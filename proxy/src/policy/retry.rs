//! What may be tried again, how often, and after how long. No I/O.

use std::time::Duration;

use http::{Method, StatusCode};
use outrigger_xds::model::RetryPolicy;
use rand::Rng;

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

/// How an attempt ended without a response that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Without an answer.
    Failed(Retriable),
    /// With this status.
    Answered(StatusCode),
}

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

    /// The endpoints tried so far.
    pub fn tried(&self) -> &[u64] {
        &self.tried[..self.tried.len().min(self.made as usize)]
    }

    /// Whether the rules allow one more attempt. The budget and the body have their own say.
    pub fn allows(&self, ended: Ended) -> bool {
        if self.made > self.policy.num_retries {
            return false;
        }
        let repeatable = self.idempotent || self.policy.retry_non_idempotent;
        match ended {
            Ended::Failed(Retriable::Undelivered) => true,
            Ended::Failed(Retriable::Unknown) => repeatable,
            Ended::Failed(Retriable::No) => false,
            Ended::Answered(status) => {
                repeatable
                    && self
                        .policy
                        .retriable_status_codes
                        .contains(&status.as_u16())
            }
        }
    }

    /// Jittered wait before the next attempt. The first retry goes to another host at once: its failure says nothing of that one.
    pub fn back_off(&self, rng: &mut impl Rng) -> Duration {
        if self.made < 2 {
            return Duration::ZERO;
        }
        let doubled = self.policy.back_off_base * (1 << (self.made - 1).min(10));
        rng.random_range(Duration::ZERO..=doubled.min(self.policy.back_off_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(method: &Method, policy: &RetryPolicy, ended: Ended) -> bool {
        let mut attempts = Attempts::new(policy, method);
        attempts.begin(1);
        attempts.allows(ended)
    }

    const UNAVAILABLE: Ended = Ended::Answered(StatusCode::SERVICE_UNAVAILABLE);

    #[test]
    fn a_post_is_repeated_only_when_it_was_not_delivered() {
        let policy = RetryPolicy::default();
        for (ended, get, post) in [
            (Ended::Failed(Retriable::Undelivered), true, true),
            (Ended::Failed(Retriable::Unknown), true, false),
            (Ended::Failed(Retriable::No), false, false),
            (UNAVAILABLE, true, false),
            (
                Ended::Answered(StatusCode::INTERNAL_SERVER_ERROR),
                false,
                false,
            ),
        ] {
            assert_eq!(allows(&Method::GET, &policy, ended), get, "GET {ended:?}");
            assert_eq!(
                allows(&Method::POST, &policy, ended),
                post,
                "POST {ended:?}"
            );
        }
    }

    #[test]
    fn an_owner_can_opt_in_for_every_method() {
        let policy = RetryPolicy {
            retry_non_idempotent: true,
            ..RetryPolicy::default()
        };
        assert!(allows(&Method::POST, &policy, UNAVAILABLE));
    }

    #[test]
    fn two_retries_and_no_more() {
        let policy = RetryPolicy::default();
        let mut attempts = Attempts::new(&policy, &Method::GET);
        for (attempt, allowed) in [(1, true), (2, true), (3, false)] {
            attempts.begin(attempt);
            assert_eq!(
                attempts.allows(UNAVAILABLE),
                allowed,
                "after attempt {attempt}"
            );
        }
    }

    #[test]
    fn retries_can_be_switched_off() {
        let policy = RetryPolicy {
            num_retries: 0,
            ..RetryPolicy::default()
        };
        assert!(!allows(
            &Method::GET,
            &policy,
            Ended::Failed(Retriable::Undelivered)
        ));
    }
}
