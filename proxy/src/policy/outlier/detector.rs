//! Who is ejected, for how long, and who returns. Runs away from every request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outrigger_xds::model::OutlierDetection;

use super::shares::{self, Share};
use super::{Ejection, Rule};
use crate::policy::cluster::Event;
use crate::policy::endpoint::Endpoint;

/// A member of the cluster.
pub(crate) struct Candidate<'a> {
    pub(crate) endpoint: &'a Arc<Endpoint>,
    /// One that drains, or has no weight, counts neither among all nor among those that are out.
    pub(crate) counts: bool,
    /// Neither the registry nor our probes call it unhealthy.
    pub(crate) passes: bool,
}

/// Outlier detection of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    /// When an interval ends, in ms of the cluster's clock; 0: nothing waits for that.
    interval_ends: AtomicU64,
    ejections: [AtomicU64; Rule::ALL.len()],
    prevented: AtomicU64,
}

/// How many of `total` endpoints may be out at once: at least one of two or more, and never the last.
pub(super) fn most_ejected(policy: &OutlierDetection, total: usize) -> usize {
    if total < 2 {
        return 0;
    }
    (total * usize::from(policy.max_ejection_percent) / 100)
        .max(1)
        .min(total - 1)
}

impl Detector {
    /// One pass at `now`: lets back in whose ejection is over, ejects what the rules find. Tells what changed, and when the next
    /// pass is due at the latest.
    pub(crate) fn run(
        &self,
        policy: Option<&OutlierDetection>,
        members: &[Candidate<'_>],
        now: Duration,
        tell: &mut impl FnMut(Event),
    ) -> Option<Duration> {
        for candidate in members {
            let endpoint = candidate.endpoint;
            if endpoint.is_ejected() && (policy.is_none() || is_over(candidate, now)) {
                let until = endpoint.ejected_until.load(Relaxed).min(millis(now));
                endpoint.ejected_until.store(until, Relaxed);
                endpoint.ejected_by.store(0, Relaxed);
                forget(endpoint);
                tell(Event::Returned(Arc::clone(endpoint)));
            }
        }
        let Some(policy) = policy else {
            self.interval_ends.store(0, Relaxed);
            return None;
        };
        let mut pass = Pass::new(self, policy, members, now, tell);
        pass.suspects(members);
        if self.interval_is_over(policy, now) {
            pass.shares(members);
            decay(policy, members, now);
        }
        let next = self.begin_interval(policy, members, now);
        let ejected = members.iter().map(|one| one.endpoint);
        let ejected = ejected.filter(|endpoint| endpoint.is_ejected());
        let returns = ejected.map(|endpoint| endpoint.ejected_until.load(Relaxed));
        returns.chain(next).min().map(Duration::from_millis)
    }

    /// Ejections so far by rule, in the order of [`Rule::ALL`].
    pub(crate) fn ejections(&self) -> [u64; Rule::ALL.len()] {
        self.ejections.each_ref().map(|count| count.load(Relaxed))
    }

    /// Ejections that the maximum has prevented.
    pub(crate) fn prevented(&self) -> u64 {
        self.prevented.load(Relaxed)
    }

    fn interval_is_over(&self, policy: &OutlierDetection, now: Duration) -> bool {
        let ends = self.interval_ends.load(Relaxed);
        // It may have been made shorter since.
        let over = ends != 0 && ends.min(ends_from(policy, now)) <= millis(now);
        if over {
            self.interval_ends.store(0, Relaxed);
        }
        over
    }

    /// When the interval ends, if anything waits for that: shares to compare, or the length of the next ejection.
    fn begin_interval(
        &self,
        policy: &OutlierDetection,
        members: &[Candidate<'_>],
        now: Duration,
    ) -> Option<u64> {
        let decays = |one: &Candidate<'_>| {
            one.endpoint.multiplier.load(Relaxed) > 0 && !one.endpoint.is_ejected()
        };
        if !shares::are_asked_for(policy) && !members.iter().any(decays) {
            self.interval_ends.store(0, Relaxed);
            return None;
        }
        let latest = ends_from(policy, now);
        let ends = match self.interval_ends.load(Relaxed) {
            0 => latest,
            ends => ends.min(latest),
        };
        self.interval_ends.store(ends, Relaxed);
        Some(ends)
    }
}

/// What one pass knows.
struct Pass<'a, T> {
    detector: &'a Detector,
    policy: &'a OutlierDetection,
    now: Duration,
    out: usize,
    most: usize,
    tell: &'a mut T,
}

impl<'a, T: FnMut(Event)> Pass<'a, T> {
    fn new(
        detector: &'a Detector,
        policy: &'a OutlierDetection,
        members: &[Candidate<'_>],
        now: Duration,
        tell: &'a mut T,
    ) -> Self {
        let counted = || members.iter().filter(|one| one.counts);
        let ejected = counted().filter(|one| one.endpoint.is_ejected());
        Self {
            detector,
            policy,
            now,
            out: ejected.count(),
            most: most_ejected(policy, counted().count()),
            tell,
        }
    }

    /// Those that requests have found failing too often in a row.
    fn suspects(&mut self, members: &[Candidate<'_>]) {
        for candidate in members {
            let endpoint = candidate.endpoint;
            let suspect = Rule::of_number(endpoint.suspect.swap(0, Relaxed));
            let Some(rule) = suspect else { continue };
            let limit = rule.limit(self.policy);
            // A success may have come since.
            let failures = consecutive(endpoint, rule).max(limit);
            forget_consecutive(endpoint);
            // The rule may be off by now.
            if candidate.counts && limit > 0 {
                let because = format!("{failures} failures in a row");
                self.eject(candidate, rule, because);
            }
        }
    }

    /// Those whose shares of the interval that ends now are found wanting. One that is out has no share.
    fn shares(&mut self, members: &[Candidate<'_>]) {
        let mut compared = Vec::new();
        let mut taken = Vec::new();
        for candidate in members {
            let share = Share::take(candidate.endpoint);
            if candidate.counts && !candidate.endpoint.is_ejected() {
                compared.push(candidate);
                taken.push(share);
            }
        }
        for (index, rule, because) in shares::outliers(self.policy, &taken) {
            self.eject(compared[index], rule, because);
        }
    }

    fn eject(&mut self, candidate: &Candidate<'_>, rule: Rule, because: String) {
        let endpoint = candidate.endpoint;
        if endpoint.is_ejected() {
            return;
        }
        if self.out >= self.most {
            self.detector.prevented.fetch_add(1, Relaxed);
            return;
        }
        let base = self.policy.base_ejection_time;
        let longest = self.policy.max_ejection_time.max(base);
        let before = endpoint.multiplier.load(Relaxed);
        // It grows no further than it makes a difference, or it would take as long to come down again.
        let grows = base.saturating_mul(before.into()) < longest;
        let nth = before.saturating_add(grows.into());
        let duration = base.saturating_mul(nth.into()).min(longest);
        endpoint.multiplier.store(nth, Relaxed);
        let until = millis(self.now.saturating_add(duration));
        endpoint.ejected_until.store(until, Relaxed);
        endpoint.ejected_by.store(rule as u8, Relaxed);
        endpoint.found_sick.store(!candidate.passes, Relaxed);
        forget(endpoint);
        self.out += 1;
        self.detector.ejections[rule as usize - 1].fetch_add(1, Relaxed);
        let ejection = Ejection {
            rule,
            because,
            duration,
        };
        (self.tell)(Event::Ejected(Arc::clone(endpoint), ejection));
    }
}

/// Its time is over, or it was found unhealthy meanwhile and is healthy again: that is newer than what it was ejected for (compare
/// Envoy's `successful_active_health_check_uneject_host`).
fn is_over(candidate: &Candidate<'_>, now: Duration) -> bool {
    let endpoint = candidate.endpoint;
    if !candidate.passes {
        endpoint.found_sick.store(true, Relaxed);
    }
    let recovered = candidate.passes && endpoint.found_sick.load(Relaxed);
    recovered || endpoint.ejected_until.load(Relaxed) <= millis(now)
}

/// An interval without an ejection makes the next one shorter.
fn decay(policy: &OutlierDetection, members: &[Candidate<'_>], now: Duration) {
    for endpoint in members.iter().map(|one| one.endpoint) {
        let multiplier = endpoint.multiplier.load(Relaxed);
        let since = Duration::from_millis(endpoint.ejected_until.load(Relaxed));
        if multiplier > 0 && !endpoint.is_ejected() && since.saturating_add(policy.interval) <= now
        {
            endpoint.multiplier.store(multiplier - 1, Relaxed);
        }
    }
}

/// What leaves or returns starts with clean counters.
fn forget(endpoint: &Endpoint) {
    forget_consecutive(endpoint);
    endpoint.suspect.store(0, Relaxed);
    endpoint.outcomes().store(0, Relaxed);
}

fn forget_consecutive(endpoint: &Endpoint) {
    for failures in endpoint.consecutive() {
        failures.store(0, Relaxed);
    }
}

fn consecutive(endpoint: &Endpoint, rule: Rule) -> u32 {
    let index = Rule::CONSECUTIVE.iter().position(|one| *one == rule);
    index.map_or(0, |index| endpoint.consecutive()[index].load(Relaxed))
}

fn ends_from(policy: &OutlierDetection, now: Duration) -> u64 {
    millis(now.saturating_add(policy.interval)).max(millis(now) + 1)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
