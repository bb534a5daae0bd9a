//! What may be tried again, how often, and after how long. No I/O.

use std::time::Duration;

use http::{Method, StatusCode};
use outrigger_xds::model::RetryPolicy;
use rand::Rng;

use crate::error::{Kind, Retriable};

/// Base of the jittered back-off between attempts (Envoy's default, 25 ms).
const BACK_OFF: Duration = Duration::from_millis(25);

/// How an attempt ended without a response that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Failed(Kind),
    Answered(StatusCode),
}

/// One request's attempts.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    idempotent: bool,
    made: u32,
    tried: [u64; REMEMBERED],
}

/// Hosts that a further attempt avoids; inline, so that a request allocates nothing for them.
const REMEMBERED: usize = 8;

impl<'a> Attempts<'a> {
    pub(crate) fn new(policy: &'a RetryPolicy, method: &Method) -> Self {
        // RFC 9110 section 9.2.2: GET, HEAD, OPTIONS, TRACE, PUT, DELETE.
        Self {
            policy,
            idempotent: method.is_idempotent(),
            made: 0,
            tried: [0; REMEMBERED],
        }
    }

    /// Notes that an attempt on `endpoint` begins.
    pub(crate) fn begin(&mut self, endpoint: u64) {
        if let Some(place) = self.tried.get_mut(self.made as usize) {
            *place = endpoint;
        }
        self.made += 1;
    }

    /// The endpoints tried so far.
    pub(crate) fn tried(&self) -> &[u64] {
        &self.tried[..self.tried.len().min(self.made as usize)]
    }

    /// Whether the rules allow one more attempt. The budget and the body have their own say.
    pub(crate) fn allows(&self, ended: Ended) -> bool {
        if self.made > self.policy.num_retries {
            return false;
        }
        let repeatable = self.idempotent || self.policy.retry_non_idempotent;
        match ended {
            Ended::Failed(kind) => match kind.retriable() {
                Retriable::Undelivered => true,
                Retriable::Unknown => repeatable,
                Retriable::No => false,
            },
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
    pub(crate) fn back_off(&self) -> Duration {
        if self.made < 2 {
            return Duration::ZERO;
        }
        let most = BACK_OFF * (1 << (self.made - 1).min(6));
        Duration::from_millis(rand::rng().random_range(0..=most.as_millis() as u64))
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
            (Ended::Failed(Kind::ConnectFailed), true, true),
            (Ended::Failed(Kind::ConnectTimeout), true, true),
            (Ended::Failed(Kind::Unsent), true, true),
            (Ended::Failed(Kind::RefusedStream), true, true),
            (Ended::Failed(Kind::ConnectionTermination), true, false),
            (Ended::Failed(Kind::RemoteReset), true, false),
            (Ended::Failed(Kind::RequestTimeout), false, false),
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
            Ended::Failed(Kind::ConnectFailed)
        ));
    }
}
