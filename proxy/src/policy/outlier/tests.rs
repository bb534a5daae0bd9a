//! Every rule with 1, 2, 3 and 10 endpoints, and the times of ejections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::model::{self, EndpointHealth, FailurePercentage, SuccessRate};

use super::*;
use crate::policy::cluster::{Cluster, Event};
use crate::policy::endpoint::tests::model_endpoint;

/// Every rule is off.
pub(super) fn off() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 0,
        ..OutlierDetection::default()
    }
}

/// A policy with this rule alone, that few requests and hosts suffice for.
pub(super) fn only(rule: Rule) -> OutlierDetection {
    let mut policy = off();
    match rule {
        Rule::Consecutive5xx => policy.consecutive_5xx = 5,
        Rule::ConsecutiveGatewayFailure => policy.consecutive_gateway_failure = 5,
        Rule::ConsecutiveLocalOriginFailure => policy.consecutive_local_origin_failure = 5,
        Rule::SuccessRate => {
            policy.success_rate = Some(SuccessRate {
                minimum_hosts: 1,
                request_volume: 5,
                stdev_factor: 500,
            });
        }
        Rule::FailurePercentage => {
            policy.failure_percentage = Some(FailurePercentage {
                threshold: 60,
                minimum_hosts: 1,
                request_volume: 5,
            });
        }
    }
    policy
}

pub(super) fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, u8::try_from(n).expect("few")], 80))
}

fn settings(policy: &OutlierDetection) -> Arc<model::Cluster> {
    let mut settings = model::Cluster::new("shop/orders", model::Protocol::Http);
    settings.outlier_detection = Some(policy.clone());
    Arc::new(settings)
}

/// A cluster, its endpoints, and what it told.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) now: Duration,
}

impl World {
    pub(super) fn new(policy: &OutlierDetection, endpoints: usize) -> Self {
        let world = Self {
            cluster: Cluster::new(settings(policy), ""),
            now: Duration::ZERO,
        };
        world.set(&vec![EndpointHealth::Healthy; endpoints]);
        world.cluster.maintain(world.now, |_| {});
        world
    }

    fn set(&self, members: &[EndpointHealth]) {
        let all: Vec<_> = members
            .iter()
            .enumerate()
            .map(|(n, health)| (address(n), model_endpoint(address(n), 1, *health)))
            .collect();
        let each = all.iter().map(|(address, endpoint)| (*address, endpoint));
        self.cluster.set_endpoints(each, self.now);
    }

    fn endpoint(&self, n: usize) -> Arc<Endpoint> {
        let mut all = self.cluster.endpoints().into_iter();
        all.find(|endpoint| endpoint.address == address(n))
            .expect("it is a member")
    }

    /// So many outcomes of one endpoint; whether a pass was asked for.
    fn report(&self, n: usize, outcome: Outcome, times: u32) -> bool {
        let endpoint = self.endpoint(n);
        (0..times).fold(false, |asked, _| {
            self.cluster.report(&endpoint, outcome) || asked
        })
    }

    /// Time goes by; who was ejected, by what, and for how long.
    fn after(&mut self, seconds: u64) -> Vec<(Rule, u64)> {
        self.now += Duration::from_secs(seconds);
        let mut ejected = Vec::new();
        self.cluster.maintain(self.now, |event| {
            if let Event::Ejected(_, ejection) = event {
                ejected.push((ejection.rule, ejection.duration.as_secs()));
            }
        });
        ejected
    }

    fn out(&self) -> Vec<usize> {
        let out = |n: &usize| self.endpoint(*n).is_ejected();
        (0..self.cluster.endpoints().len()).filter(out).collect()
    }
}

const SIZES: [usize; 4] = [1, 2, 3, 10];

/// Ejections when `failing` of the endpoints fail, and the others do not, within one interval.
fn ejected(policy: &OutlierDetection, endpoints: usize, failing: usize) -> usize {
    let mut world = World::new(policy, endpoints);
    for n in 0..endpoints {
        let outcome = match n < failing {
            true => Outcome::LocalOrigin,
            false => Outcome::Success,
        };
        world.report(n, outcome, 5);
    }
    let told = world.after(10).len();
    assert_eq!(world.out().len(), told);
    told
}

#[test]
fn what_is_told_of_an_ejection_is_what_it_was_for_also_when_a_success_came_since() {
    let world = World::new(&only(Rule::Consecutive5xx), 2);
    assert!(world.report(0, Outcome::ServerError, 5));
    world.report(0, Outcome::Success, 1);
    let mut told = Vec::new();
    world.cluster.maintain(world.now, |event| {
        if let Event::Ejected(_, ejection) = event {
            told.push(ejection.because);
        }
    });
    assert_eq!(told, ["5 failures in a row"]);
}

#[test]
fn each_rule_ejects_the_one_that_fails_among_2_3_and_10_and_never_a_single_one() {
    for rule in Rule::ALL {
        let out = SIZES.map(|endpoints| ejected(&only(rule), endpoints, 1));
        assert_eq!(out, [0, 1, 1, 1], "{rule}");
    }
}

#[test]
fn when_all_fail_half_of_them_are_out_at_least_one_of_two_and_never_the_last() {
    for rule in Rule::ALL {
        let half = SIZES.map(|endpoints| ejected(&only(rule), endpoints, endpoints));
        let all = OutlierDetection {
            max_ejection_percent: 100,
            ..only(rule)
        };
        let all = SIZES.map(|endpoints| ejected(&all, endpoints, endpoints));
        let none = OutlierDetection {
            max_ejection_percent: 0,
            ..only(rule)
        };
        let none = SIZES.map(|endpoints| ejected(&none, endpoints, endpoints));
        if rule == Rule::SuccessRate {
            // Nobody is worse than the others.
            assert_eq!((half, all, none), ([0; 4], [0; 4], [0; 4]));
        } else {
            assert_eq!(
                (half, all, none),
                ([0, 1, 1, 5], [0, 1, 2, 9], [0, 1, 1, 1]),
                "{rule}"
            );
        }
    }
}

#[test]
fn no_rule_no_ejection() {
    for endpoints in SIZES {
        assert_eq!(ejected(&off(), endpoints, 1), 0);
    }
}

#[test]
fn a_draining_endpoint_counts_neither_among_all_nor_among_those_out() {
    for rule in Rule::ALL {
        let mut world = World::new(&only(rule), 3);
        // Two are left, and one of them may be out; the third's failures say nothing of them.
        world.set(&[
            EndpointHealth::Healthy,
            EndpointHealth::Healthy,
            EndpointHealth::Draining,
        ]);
        for (n, outcome) in [Outcome::LocalOrigin, Outcome::Success, Outcome::LocalOrigin]
            .into_iter()
            .enumerate()
        {
            world.report(n, outcome, 5);
        }
        assert_eq!(world.after(10).len(), 1, "{rule}");
        assert_eq!(world.out(), [0], "{rule}");
        // Of what is left now, one alone does not drain.
        world.set(&[EndpointHealth::Draining, EndpointHealth::Healthy]);
        world.report(1, Outcome::LocalOrigin, 5);
        assert_eq!(world.after(10), [], "{rule}");
        assert_eq!(world.out(), [0], "{rule}");
    }
}

#[test]
fn each_kind_of_failure_counts_for_the_rules_that_name_it() {
    use Outcome::{GatewayError, LocalOrigin, ServerError};
    for (rule, counted) in [
        (
            Rule::Consecutive5xx,
            &[ServerError, GatewayError, LocalOrigin][..],
        ),
        (
            Rule::ConsecutiveGatewayFailure,
            &[GatewayError, LocalOrigin],
        ),
        (Rule::ConsecutiveLocalOriginFailure, &[LocalOrigin]),
    ] {
        for outcome in [ServerError, GatewayError, LocalOrigin] {
            let world = World::new(&only(rule), 2);
            assert!(!world.report(0, outcome, 4), "{rule} {outcome:?}");
            let fifth = world.report(0, outcome, 1);
            assert_eq!(fifth, counted.contains(&outcome), "{rule} {outcome:?}");
        }
        for ends_the_row in [Outcome::Success, ServerError, GatewayError] {
            if counted.contains(&ends_the_row) {
                continue;
            }
            let world = World::new(&only(rule), 2);
            world.report(0, LocalOrigin, 4);
            world.report(0, ends_the_row, 1);
            assert!(
                !world.report(0, LocalOrigin, 4),
                "{rule} after {ends_the_row:?}"
            );
            assert!(world.report(0, LocalOrigin, 1), "{rule}");
        }
    }
}

#[test]
fn shares_need_their_volume_and_their_hosts_within_one_interval() {
    for rule in [Rule::SuccessRate, Rule::FailurePercentage] {
        let mut policy = only(rule);
        if let Some(rule) = &mut policy.success_rate {
            rule.minimum_hosts = 3;
        }
        if let Some(rule) = &mut policy.failure_percentage {
            rule.minimum_hosts = 3;
        }
        assert_eq!(
            SIZES.map(|n| ejected(&policy, n, 1)),
            [0, 0, 1, 1],
            "{rule}"
        );
        let mut world = World::new(&policy, 3);
        for interval in 0..5 {
            (0..3).for_each(|n| {
                world.report(n, Outcome::Success, 4);
            });
            world.report(0, Outcome::LocalOrigin, 4);
            // Only one of three has five requests.
            assert_eq!(world.after(10), [], "{rule}, interval {interval}");
        }
    }
}

#[test]
fn success_rate_needs_a_deviation_as_large_as_its_factor_says() {
    let with = |stdev_factor| OutlierDetection {
        success_rate: Some(SuccessRate {
            minimum_hosts: 1,
            request_volume: 5,
            stdev_factor,
        }),
        ..off()
    };
    // One of ten at 0 %: the mean is 90 %, the deviation 30.
    assert_eq!(ejected(&with(2_990), 10, 1), 1);
    assert_eq!(ejected(&with(3_000), 10, 1), 0);
    // One of two: 50 and 50.
    assert_eq!(ejected(&with(999), 2, 1), 1);
    assert_eq!(ejected(&with(1_000), 2, 1), 0);
}

#[test]
fn a_share_of_failures_ejects_from_its_threshold_on() {
    for (failures, ejected) in [(5, 0), (6, 1)] {
        let mut world = World::new(&only(Rule::FailurePercentage), 2);
        world.report(0, Outcome::ServerError, failures);
        world.report(0, Outcome::Success, 10 - failures);
        assert_eq!(world.after(9), [], "the interval is not over");
        assert_eq!(world.after(1).len(), ejected, "{failures} of 10");
    }
}

#[test]
fn ejections_grow_from_30_to_300_seconds() {
    let mut world = World::new(&only(Rule::Consecutive5xx), 2);
    let mut lengths = Vec::new();
    for _ in 0..12 {
        world.report(0, Outcome::LocalOrigin, 5);
        let (_, length) = world.after(0)[0];
        lengths.push(length);
        assert_eq!(world.after(length), []);
        assert!(world.out().is_empty());
    }
    assert_eq!(
        lengths,
        [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    );
}

#[test]
fn each_interval_without_an_ejection_takes_one_base_time_off_the_next() {
    let mut world = World::new(&only(Rule::Consecutive5xx), 2);
    let eject = |world: &mut World| {
        world.report(0, Outcome::LocalOrigin, 5);
        let (_, length) = world.after(0)[0];
        world.after(length);
        length
    };
    assert_eq!([(); 4].map(|()| eject(&mut world)), [30, 60, 90, 120]);
    // Less than an interval takes nothing off.
    world.after(9);
    assert_eq!(eject(&mut world), 150);
    for _ in 0..3 {
        world.after(10);
    }
    assert_eq!(eject(&mut world), 90, "5 less 3, and one more");
    for _ in 0..3 {
        world.after(10);
    }
    assert_eq!(eject(&mut world), 30, "nothing is left of the past");
    for _ in 0..2 {
        world.after(10);
    }
    let next = world.cluster.maintain(world.now, |_| {});
    assert_eq!(next, None, "nobody is out, and nothing decays any more");
}

#[test]
fn a_base_time_beyond_the_maximum_is_the_maximum() {
    let mut world = World::new(
        &OutlierDetection {
            base_ejection_time: Duration::from_secs(400),
            ..only(Rule::Consecutive5xx)
        },
        2,
    );
    world.report(0, Outcome::LocalOrigin, 5);
    assert_eq!(world.after(0), [(Rule::Consecutive5xx, 400)]);
}

#[test]
fn an_older_ejections_end_does_not_end_the_current_one() {
    let mut world = World::new(&only(Rule::Consecutive5xx), 2);
    world.report(0, Outcome::LocalOrigin, 5);
    world.after(0);
    world.after(30);
    world.report(0, Outcome::LocalOrigin, 5);
    world.after(0);
    // A timer of the first ejection that comes late.
    world.after(0);
    world.after(59);
    assert_eq!(world.out(), [0]);
    world.after(1);
    assert!(world.out().is_empty());
}

#[test]
fn what_returns_starts_with_clean_counters() {
    for rule in Rule::ALL {
        let mut world = World::new(&only(rule), 2);
        world.report(0, Outcome::LocalOrigin, 5);
        world.report(1, Outcome::Success, 5);
        assert_eq!(world.after(10).len(), 1, "{rule}");
        // Requests that were on their way fail, too, and panic mode may send more.
        world.report(0, Outcome::LocalOrigin, 7);
        assert_eq!(world.after(30), [], "{rule}");
        assert!(world.out().is_empty(), "{rule}");
        assert!(!world.report(0, Outcome::LocalOrigin, 4), "{rule}");
        world.report(1, Outcome::Success, 5);
        assert_eq!(world.after(10), [], "{rule}");
    }
}

#[test]
fn what_is_found_unhealthy_and_then_healthy_while_it_is_out_returns_at_once() {
    use EndpointHealth::{Healthy, Unhealthy};
    let mut world = World::new(&only(Rule::Consecutive5xx), 3);
    world.report(0, Outcome::LocalOrigin, 5);
    assert_eq!(world.after(0).len(), 1);
    world.set(&[Healthy; 3]);
    world.after(1);
    assert_eq!(world.out(), [0], "that it is healthy is nothing new");
    world.set(&[Unhealthy, Healthy, Healthy]);
    world.after(1);
    assert_eq!(world.out(), [0]);
    world.set(&[Healthy; 3]);
    world.after(1);
    assert!(world.out().is_empty());
}

#[test]
fn a_removed_and_added_endpoint_starts_afresh() {
    let mut world = World::new(&only(Rule::Consecutive5xx), 2);
    world.report(1, Outcome::LocalOrigin, 5);
    assert_eq!(world.after(0).len(), 1);
    world.set(&[EndpointHealth::Healthy]);
    world.after(0);
    world.set(&[EndpointHealth::Healthy; 2]);
    assert!(world.out().is_empty());
    world.report(1, Outcome::LocalOrigin, 5);
    assert_eq!(world.after(0), [(Rule::Consecutive5xx, 30)]);
}

#[test]
fn switched_off_it_lets_everybody_back_in() {
    let mut world = World::new(&only(Rule::Consecutive5xx), 2);
    world.report(0, Outcome::LocalOrigin, 5);
    assert_eq!(world.after(0).len(), 1);
    let mut settings = model::Cluster::clone(&settings(&off()));
    settings.outlier_detection = None;
    world.cluster.set_settings(Arc::new(settings), world.now);
    world.after(0);
    assert!(world.out().is_empty());
    assert_eq!(world.cluster.offered(), 2);
}

#[test]
fn what_fired_and_what_the_maximum_prevented_is_counted_and_told_in_words() {
    let mut world = World::new(&only(Rule::FailurePercentage), 3);
    for n in 0..3 {
        world.report(n, Outcome::ServerError, 20);
    }
    world.now += Duration::from_secs(10);
    let mut told = Vec::new();
    world.cluster.maintain(world.now, |event| {
        if let Event::Ejected(_, ejection) = event {
            told.push(ejection.because);
        }
    });
    assert_eq!(told, ["100.0 % of 20 requests failed, 60 % are too many"]);
    assert_eq!(
        world.cluster.ejections()[4],
        (Rule::FailurePercentage, 1),
        "the others are 0"
    );
    assert_eq!(world.cluster.ejections_prevented(), 2);
}
