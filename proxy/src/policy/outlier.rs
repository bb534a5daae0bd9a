//! Outlier detection: what a request's outcome says of its endpoint. No I/O; time is an argument.
//!
//! Rules and names are Envoy's (architecture overview, "Outlier detection"). A request only counts; who is ejected is decided by
//! [`Detector`], away from every request.

mod detector;
mod shares;

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use outrigger_xds::model::OutlierDetection;

pub(crate) use self::detector::{Candidate, Detector};
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

    /// Whether it is one more of the failures in a row that the rule counts; else it ends them.
    fn counts_for(self, rule: Rule) -> bool {
        match self {
            Self::Success => false,
            Self::ServerError => rule == Rule::Consecutive5xx,
            Self::GatewayError => rule != Rule::ConsecutiveLocalOriginFailure,
            Self::LocalOrigin => true,
        }
    }
}

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// Failures of any kind in a row.
    Consecutive5xx = 1,
    /// 502, 503, 504 and failures without an answer, in a row.
    ConsecutiveGatewayFailure = 2,
    /// Failures without an answer, in a row.
    ConsecutiveLocalOriginFailure = 3,
    /// Its share of successes lies far below the others'.
    SuccessRate = 4,
    /// Its share of failures is large.
    FailurePercentage = 5,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayFailure,
        Self::ConsecutiveLocalOriginFailure,
        Self::SuccessRate,
        Self::FailurePercentage,
    ];

    /// Those that count failures in a row, in the order of an endpoint's counters.
    const CONSECUTIVE: [Self; 3] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayFailure,
        Self::ConsecutiveLocalOriginFailure,
    ];

    /// The word used in metrics, logs and on the admin pages: the setting's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| *rule as u8 == number)
    }

    /// Failures in a row that eject; 0 when the rule is off, or counts something else.
    fn limit(self, policy: &OutlierDetection) -> u32 {
        match self {
            Self::Consecutive5xx => policy.consecutive_5xx,
            Self::ConsecutiveGatewayFailure => policy.consecutive_gateway_failure,
            Self::ConsecutiveLocalOriginFailure => policy.consecutive_local_origin_failure,
            Self::SuccessRate | Self::FailurePercentage => 0,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One ejection: the rule that fired, the numbers it went by, and how long the endpoint is out.
#[derive(Debug, Clone, PartialEq)]
pub struct Ejection {
    /// Which rule.
    pub rule: Rule,
    /// Its numbers, in words.
    pub because: String,
    /// From now on.
    pub duration: std::time::Duration,
}

/// Notes an attempt. `true` when the endpoint has now failed often enough in a row to be ejected.
///
/// Of what workers share only what changes is written: nothing for a success, unless shares of successes are asked for.
pub(crate) fn record(policy: &OutlierDetection, endpoint: &Endpoint, outcome: Outcome) -> bool {
    if shares::are_asked_for(policy) {
        shares::count(endpoint, outcome);
    }
    let mut fired = None;
    for (rule, failures) in Rule::CONSECUTIVE.into_iter().zip(endpoint.consecutive()) {
        if outcome.counts_for(rule) {
            let failures = failures.fetch_add(1, Relaxed).saturating_add(1);
            let limit = rule.limit(policy);
            if limit > 0 && failures >= limit {
                // The later rule is the narrower one, and says more.
                fired = Some(rule);
            }
        } else if failures.load(Relaxed) != 0 {
            failures.store(0, Relaxed);
        }
    }
    if let Some(rule) = fired {
        endpoint.suspect.store(rule as u8, Relaxed);
    }
    fired.is_some()
}

/// The rule by which an endpoint is out.
pub(crate) fn ejected_by(endpoint: &Endpoint) -> Option<Rule> {
    Rule::of_number(endpoint.ejected_by.load(Relaxed))
}

#[cfg(test)]
mod state_machine;
#[cfg(test)]
mod tests;
