//! Random outcomes, time and membership: what holds of every ejection.

use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::model::{self, EndpointHealth};
use proptest::collection::vec;
use proptest::prelude::*;

use super::detector::most_ejected;
use super::tests::{World, address, off, only};
use super::*;
use crate::policy::cluster::Event;
use crate::policy::endpoint::tests::model_endpoint;

const MEMBERS: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    /// So many outcomes of one endpoint.
    Report(usize, Outcome, u32),
    /// Milliseconds go by.
    Wait(u64),
    /// Which endpoints there are, and how they are; `None` is absent.
    Members([Option<EndpointHealth>; MEMBERS]),
    /// These rules are on; none: detection is off.
    Rules([bool; 5]),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(Outcome::Success),
        Just(Outcome::ServerError),
        Just(Outcome::GatewayError),
        Just(Outcome::LocalOrigin),
    ];
    let member = prop_oneof![
        1 => Just(None),
        4 => Just(Some(EndpointHealth::Healthy)),
        1 => Just(Some(EndpointHealth::Unhealthy)),
        1 => Just(Some(EndpointHealth::Draining)),
    ];
    prop_oneof![
        12 => (0..MEMBERS, outcome, 1..8_u32).prop_map(|(n, outcome, times)| Step::Report(n, outcome, times)),
        6 => (0..40_000_u64).prop_map(Step::Wait),
        2 => vec(member, MEMBERS).prop_map(|all| Step::Members(all.try_into().expect("as many"))),
        1 => any::<[bool; 5]>().prop_map(Step::Rules),
    ]
}

fn policy(rules: [bool; 5], percent: u8) -> Option<OutlierDetection> {
    let mut policy = OutlierDetection {
        max_ejection_percent: percent,
        ..off()
    };
    for (rule, on) in Rule::ALL.into_iter().zip(rules) {
        let alone = only(rule);
        if on {
            policy.consecutive_5xx += alone.consecutive_5xx;
            policy.consecutive_gateway_failure += alone.consecutive_gateway_failure;
            policy.consecutive_local_origin_failure += alone.consecutive_local_origin_failure;
            policy.success_rate = alone.success_rate.or(policy.success_rate);
            policy.failure_percentage = alone.failure_percentage.or(policy.failure_percentage);
        }
    }
    rules.contains(&true).then_some(policy)
}

fn set_policy(world: &World, policy: Option<&OutlierDetection>) {
    let mut settings = model::Cluster::new("shop/orders", model::Protocol::Http);
    settings.outlier_detection = policy.cloned();
    world.cluster.set_settings(Arc::new(settings), world.now);
}

fn set_members(world: &World, members: &[Option<EndpointHealth>; MEMBERS]) {
    let present = members.iter().enumerate();
    let all: Vec<_> = present
        .filter_map(|(n, health)| {
            Some((
                address(n),
                model_endpoint(address(n), 1, health.as_ref().copied()?),
            ))
        })
        .collect();
    let each = all.iter().map(|(address, endpoint)| (*address, endpoint));
    world.cluster.set_endpoints(each, world.now);
}

/// One pass, and what must hold after it.
fn pass(world: &World, rules: [bool; 5], percent: u8) -> Result<Option<Duration>, TestCaseError> {
    let policy = policy(rules, percent);
    let mut ejected = Vec::new();
    let next = world.cluster.maintain(world.now, |event| match event {
        Event::Ejected(endpoint, ejection) => ejected.push((endpoint, ejection)),
        Event::Returned(_) => {}
    });
    for (endpoint, ejection) in &ejected {
        prop_assert!(
            rules[ejection.rule as usize - 1],
            "{} is off",
            ejection.rule
        );
        prop_assert!(endpoint.is_ejected());
        let longest = policy
            .as_ref()
            .map_or(Duration::ZERO, |policy| policy.max_ejection_time);
        prop_assert!(ejection.duration <= longest);
    }
    let offered = world.cluster.members(|member| {
        (member.health != EndpointHealth::Draining).then(|| Arc::clone(&member.endpoint))
    });
    let offered: Vec<_> = offered.into_iter().flatten().collect();
    let out = offered
        .iter()
        .filter(|endpoint| endpoint.is_ejected())
        .count();
    if let (false, Some(policy)) = (ejected.is_empty(), &policy) {
        prop_assert!(out <= most_ejected(policy, offered.len()), "{out} are out");
        prop_assert!(out < offered.len(), "all are out");
    }
    for endpoint in world.cluster.endpoints() {
        let until = Duration::from_millis(endpoint.ejected_until.load(Relaxed));
        prop_assert!(
            !endpoint.is_ejected() || until > world.now,
            "over, and still out"
        );
        prop_assert!(
            !endpoint.is_ejected() || next.is_some_and(|next| next <= until),
            "nobody would come back for it"
        );
        prop_assert!(
            policy.is_some() || !endpoint.is_ejected(),
            "detection is off"
        );
    }
    Ok(next)
}

proptest! {
    #[test]
    fn whatever_happens_an_ejection_is_lawful_and_ends(
        percent in 0..=100_u8,
        steps in vec(step(), 1..120),
    ) {
        let mut rules = [true; 5];
        let mut world = World::new(&policy(rules, percent).expect("rules are on"), MEMBERS);
        for step in steps {
            match step {
                Step::Report(n, outcome, times) => {
                    let known = world.cluster.endpoints();
                    if let Some(endpoint) = known.iter().find(|one| one.address == address(n)) {
                        for _ in 0..times {
                            world.cluster.report(endpoint, outcome);
                        }
                    }
                }
                Step::Wait(ms) => world.now += Duration::from_millis(ms),
                Step::Members(members) => set_members(&world, &members),
                Step::Rules(on) => {
                    rules = on;
                    set_policy(&world, policy(rules, percent).as_ref());
                }
            }
            pass(&world, rules, percent)?;
        }
        // Quiet, as often as it asks to be called: everybody returns, and what was is forgotten.
        set_policy(&world, policy([true, false, false, false, false], percent).as_ref());
        let mut passes = 0;
        while let Some(next) = pass(&world, [true, false, false, false, false], percent)? {
            prop_assert!(next > world.now, "{next:?} is not later than {:?}", world.now);
            world.now = next;
            passes += 1;
            prop_assert!(passes < 1_000, "it never comes to rest");
        }
        for endpoint in world.cluster.endpoints() {
            prop_assert!(!endpoint.is_ejected());
            prop_assert_eq!(endpoint.multiplier.load(Relaxed), 0);
        }
    }
}
