//! The two rules that compare shares of successes over an interval (Envoy's success rate and failure percentage).

use std::sync::atomic::Ordering::Relaxed;

use outrigger_xds::model::{FailurePercentage, OutlierDetection, SuccessRate};

use super::{Outcome, Rule};
use crate::policy::endpoint::Endpoint;

/// One success, in an endpoint's count of outcomes.
const SUCCESS: u64 = 1 << 32;

/// Whether a rule goes by shares, so that every outcome is counted.
pub(super) fn are_asked_for(policy: &OutlierDetection) -> bool {
    policy.success_rate.is_some() || policy.failure_percentage.is_some()
}

pub(super) fn count(endpoint: &Endpoint, outcome: Outcome) {
    let one = match outcome {
        Outcome::Success => SUCCESS + 1,
        Outcome::ServerError | Outcome::GatewayError | Outcome::LocalOrigin => 1,
    };
    endpoint.outcomes().fetch_add(one, Relaxed);
}

/// What one endpoint did in an interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    requests: u32,
    successes: u32,
}

impl Share {
    /// Takes it: the next interval begins at nothing.
    pub(super) fn take(endpoint: &Endpoint) -> Self {
        let outcomes = endpoint.outcomes().swap(0, Relaxed);
        Self {
            requests: outcomes as u32,
            successes: (outcomes >> 32) as u32,
        }
    }

    fn percent(self) -> f64 {
        100.0 * f64::from(self.successes) / f64::from(self.requests)
    }
}

/// Which of these endpoints the rules find, by index, with the numbers in words.
pub(super) fn outliers(policy: &OutlierDetection, shares: &[Share]) -> Vec<(usize, Rule, String)> {
    let mut found = Vec::new();
    if let Some(rule) = &policy.success_rate {
        below_the_others(rule, shares, &mut found);
    }
    if let Some(rule) = &policy.failure_percentage {
        failing_too_much(rule, shares, &mut found);
    }
    found
}

/// Those with enough requests; none when they are too few to be compared.
fn comparable(shares: &[Share], volume: u32, hosts: u32) -> Vec<(usize, Share)> {
    let enough = |(_, share): &(usize, Share)| share.requests >= volume.max(1);
    let compared: Vec<_> = shares.iter().copied().enumerate().filter(enough).collect();
    if compared.len() < hosts as usize {
        return Vec::new();
    }
    compared
}

fn below_the_others(rule: &SuccessRate, shares: &[Share], found: &mut Vec<(usize, Rule, String)>) {
    let compared = comparable(shares, rule.request_volume, rule.minimum_hosts);
    let count = compared.len() as f64;
    let mean = compared
        .iter()
        .map(|(_, share)| share.percent())
        .sum::<f64>()
        / count;
    let squares = compared
        .iter()
        .map(|(_, share)| (share.percent() - mean).powi(2));
    let deviation = (squares.sum::<f64>() / count).sqrt();
    let threshold = mean - deviation * f64::from(rule.stdev_factor) / 1000.0;
    for (index, share) in compared {
        let percent = share.percent();
        if percent < threshold {
            let because = format!(
                "{percent:.1} % of {} requests succeeded, less than {threshold:.1} % (all endpoints: {mean:.1} %, deviation \
                 {deviation:.1})",
                share.requests
            );
            found.push((index, Rule::SuccessRate, because));
        }
    }
}

fn failing_too_much(
    rule: &FailurePercentage,
    shares: &[Share],
    found: &mut Vec<(usize, Rule, String)>,
) {
    for (index, share) in comparable(shares, rule.request_volume, rule.minimum_hosts) {
        let failed = 100.0 - share.percent();
        if failed >= f64::from(rule.threshold) {
            let because = format!(
                "{failed:.1} % of {} requests failed, {} % are too many",
                share.requests, rule.threshold
            );
            found.push((index, Rule::FailurePercentage, because));
        }
    }
}
