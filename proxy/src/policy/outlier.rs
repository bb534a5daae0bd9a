//! Outlier detection: when an endpoint is ejected and when it returns. No I/O; time is an argument.
//!
//! Service Connect's documented rule: five failures in a row, out for 30 s growing to 300 s (`SERVICE_CONNECT.md` 1.2). At least
//! one endpoint may always be ejected when there are two or more; a single one never is.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::StatusCode;
use outrigger_xds::model::OutlierDetection;

use super::endpoint::Endpoint;

/// How one attempt ended, as far as the endpoint is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, and not with a 5xx.
    Success,
    /// It answered 500, 501 or 505 and above.
    ServerError,
    /// It answered 502, 503 or 504: something behind it does not.
    GatewayError,
    /// It did not answer: the connect failed, it reset or timed out.
    LocalOrigin,
}

impl Outcome {
    /// What an answer says of the endpoint.
    pub fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Self::GatewayError,
            status if status.is_server_error() => Self::ServerError,
            _ => Self::Success,
        }
    }
}

/// Notes an attempt. `true` when the endpoint has now failed often enough to be ejected.
pub(crate) fn record(policy: &OutlierDetection, endpoint: &Endpoint, outcome: Outcome) -> bool {
    let failures = endpoint.consecutive_failures();
    match outcome {
        Outcome::Success => {
            // Written only when it changes: the line is shared between workers.
            if failures.load(Relaxed) != 0 {
                failures.store(0, Relaxed);
            }
            false
        }
        Outcome::ServerError | Outcome::GatewayError | Outcome::LocalOrigin => {
            failures.fetch_add(1, Relaxed) + 1 == policy.consecutive_5xx
        }
    }
}

/// How many of `total` endpoints may be out at once.
pub(crate) fn most_ejected(policy: &OutlierDetection, total: usize) -> usize {
    if total < 2 {
        return 0;
    }
    (total * usize::from(policy.max_ejection_percent) / 100)
        .max(1)
        .min(total - 1)
}

/// Ejects the endpoint if its cluster may spare it. Returns how long it is out.
pub(crate) fn eject(
    policy: &OutlierDetection,
    endpoint: &Endpoint,
    already_out: usize,
    total: usize,
    now: Duration,
) -> Option<Duration> {
    endpoint.consecutive_failures().store(0, Relaxed);
    if endpoint.is_ejected() || already_out >= most_ejected(policy, total) {
        return None;
    }
    let nth = endpoint.ejections.fetch_add(1, Relaxed) + 1;
    let duration = policy
        .base_ejection_time
        .saturating_mul(nth)
        .min(policy.max_ejection_time);
    endpoint
        .ejected_until
        .store(millis(now + duration).max(1), Relaxed);
    Some(duration)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Lets the endpoint back in if its current ejection has ended. Returns whether it came back.
pub(crate) fn release(endpoint: &Endpoint, now: Duration) -> bool {
    let until = endpoint.ejected_until.load(Relaxed);
    let over = until != 0 && until <= millis(now);
    if over {
        endpoint.ejected_until.store(0, Relaxed);
    }
    over
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::tests::endpoint;
    use super::*;

    fn policy() -> OutlierDetection {
        OutlierDetection::default()
    }

    #[test]
    fn the_fifth_failure_in_a_row_ejects_and_a_success_starts_over() {
        let endpoint = endpoint(1);
        for _ in 0..4 {
            assert!(!record(&policy(), &endpoint, Outcome::LocalOrigin));
        }
        record(&policy(), &endpoint, Outcome::Success);
        let verdicts: Vec<_> = (0..5)
            .map(|_| record(&policy(), &endpoint, Outcome::LocalOrigin))
            .collect();
        assert_eq!(verdicts, [false, false, false, false, true]);
    }

    #[test]
    fn how_many_may_be_out_for_1_2_3_and_10() {
        let out: Vec<_> = [1, 2, 3, 10]
            .map(|total| most_ejected(&policy(), total))
            .into();
        assert_eq!(out, [0, 1, 1, 5]);
        let all = OutlierDetection {
            max_ejection_percent: 100,
            ..policy()
        };
        assert_eq!(
            [1, 2, 3, 10].map(|total| most_ejected(&all, total)),
            [0, 1, 2, 9]
        );
    }

    #[test]
    fn ejections_grow_from_30_to_300_seconds() {
        let endpoint = endpoint(1);
        let mut now = Duration::ZERO;
        let mut lengths = Vec::new();
        for _ in 0..12 {
            let out = eject(&policy(), &endpoint, 0, 2, now).expect("one of two may be ejected");
            lengths.push(out.as_secs());
            now += out;
            assert!(release(&endpoint, now));
        }
        assert_eq!(
            lengths,
            [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
        );
    }

    #[test]
    fn a_stale_release_does_not_end_the_current_ejection() {
        let endpoint = endpoint(1);
        let later = Duration::from_secs(30);
        eject(&policy(), &endpoint, 0, 2, Duration::ZERO);
        assert!(release(&endpoint, later));
        eject(&policy(), &endpoint, 0, 2, later);
        assert!(!release(&endpoint, later));
        assert!(endpoint.is_ejected());
    }

    #[test]
    fn the_last_endpoint_is_never_ejected() {
        assert_eq!(eject(&policy(), &endpoint(1), 0, 1, Duration::ZERO), None);
    }
}
