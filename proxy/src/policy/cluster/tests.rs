//! Membership, offering and ejection, in virtual time.

use super::super::endpoint::tests::{self as endpoint, model_endpoint};
use super::*;

fn cluster() -> Cluster {
    let settings = model::Cluster::new("shop/orders", model::Protocol::Http);
    Cluster::new(Arc::new(settings), "")
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 80))
}

fn set(cluster: &Cluster, members: &[(u8, EndpointHealth)]) -> bool {
    let members = endpoint::members(members);
    let set = members
        .iter()
        .map(|(address, endpoint)| (*address, endpoint));
    cluster.set_endpoints(set, Duration::ZERO)
}

fn pick(cluster: &Cluster, tried: &[u64]) -> Option<Lease> {
    cluster.pick(&mut rand::rng(), b"", tried)
}

use EndpointHealth::{Draining, Healthy, Unhealthy};

#[test]
fn an_empty_cluster_offers_nothing() {
    assert!(pick(&cluster(), &[]).is_none());
}

#[test]
fn a_draining_endpoint_is_not_offered_even_when_it_is_the_last() {
    let cluster = cluster();
    assert!(set(&cluster, &[(1, Draining)]));
    assert!(pick(&cluster, &[]).is_none());
}

#[test]
fn an_unhealthy_endpoint_is_offered_only_when_nothing_else_is_left() {
    let cluster = cluster();
    set(&cluster, &[(1, Unhealthy), (2, Healthy)]);
    for _ in 0..20 {
        let lease = pick(&cluster, &[]).expect("one endpoint is healthy");
        assert_eq!(lease.endpoint().address, address(2));
    }
    set(&cluster, &[(1, Unhealthy), (2, Draining)]);
    assert_eq!(
        pick(&cluster, &[]).map(|lease| lease.endpoint().address),
        Some(address(1))
    );
}

#[test]
fn a_second_attempt_avoids_the_first_host_unless_it_is_alone() {
    let cluster = cluster();
    set(&cluster, &[(1, Healthy), (2, Healthy)]);
    let first = pick(&cluster, &[]).expect("two are healthy").endpoint().id;
    for _ in 0..20 {
        assert_ne!(
            pick(&cluster, &[first])
                .expect("two are healthy")
                .endpoint()
                .id,
            first
        );
    }
    set(&cluster, &[(1, Healthy)]);
    let only = cluster.endpoints()[0].id;
    assert_eq!(
        pick(&cluster, &[only]).map(|lease| lease.endpoint().id),
        Some(only)
    );
}

#[test]
fn an_update_keeps_counters_of_what_stays_and_retires_what_goes() {
    let cluster = cluster();
    set(&cluster, &[(1, Healthy), (2, Healthy)]);
    let before = cluster.endpoints();
    assert!(set(&cluster, &[(1, Healthy)]));
    assert_eq!(cluster.endpoints()[0].id, before[0].id);
    assert!(before[1].retired.load(Relaxed));
    assert!(!set(&cluster, &[(1, Healthy), (2, Healthy)]));
    assert_ne!(
        cluster.endpoints()[1].id,
        before[1].id,
        "a re-added endpoint starts afresh"
    );
}

#[test]
fn five_failures_eject_for_thirty_seconds() {
    let cluster = cluster();
    set(&cluster, &[(1, Healthy), (2, Healthy)]);
    let bad = Arc::clone(&cluster.endpoints()[0]);
    let suspect: Vec<_> = (0..5)
        .map(|_| cluster.report(&bad, Outcome::LocalOrigin))
        .collect();
    assert_eq!(suspect, [false, false, false, false, true]);
    let mut told = Vec::new();
    let mut tell = |event: Event| match event {
        Event::Ejected(endpoint, ejection) => told.push((endpoint.id, Some(ejection.duration))),
        Event::Returned(endpoint) => told.push((endpoint.id, None)),
    };
    let thirty = Duration::from_secs(30);
    assert_eq!(cluster.maintain(Duration::ZERO, &mut tell), Some(thirty));
    assert!(
        (0..50).all(|_| { pick(&cluster, &[]).is_some_and(|lease| lease.endpoint().id != bad.id) })
    );
    let just_before = thirty - Duration::from_millis(1);
    assert_eq!(cluster.maintain(just_before, &mut tell), Some(thirty));
    assert_eq!(cluster.offered(), 1);
    let shorter_again = thirty + Duration::from_secs(10);
    assert_eq!(cluster.maintain(thirty, &mut tell), Some(shorter_again));
    assert_eq!(cluster.maintain(shorter_again, &mut tell), None);
    assert_eq!(cluster.offered(), 2);
    assert_eq!(told, [(bad.id, Some(thirty)), (bad.id, None)]);
}

/// Picks of 10,000 that each endpoint gets.
fn parts(cluster: &Cluster) -> Vec<u32> {
    let ids: Vec<_> = cluster.endpoints().iter().map(|one| one.id).collect();
    let mut parts = vec![0; ids.len()];
    for _ in 0..10_000 {
        let lease = pick(cluster, &[]).expect("some are healthy");
        let index = ids.iter().position(|id| *id == lease.endpoint().id);
        parts[index.expect("it is a member")] += 1;
    }
    parts
}

fn set_at(cluster: &Cluster, members: &[u8], seconds: u64) {
    let model = |n: &u8| model_endpoint(address(*n), 1, Healthy);
    let endpoints: Vec<_> = members.iter().map(model).collect();
    let set = members.iter().map(|n| address(*n)).zip(&endpoints);
    cluster.set_endpoints(set, Duration::from_secs(seconds));
}

fn slow(lb: model::LbPolicy) -> Cluster {
    let settings = model::Cluster {
        lb,
        slow_start: Some(Duration::from_secs(100)),
        ..model::Cluster::new("shop/orders", model::Protocol::Http)
    };
    Cluster::new(Arc::new(settings), "")
}

#[test]
fn what_joins_others_grows_from_a_tenth_of_its_weight_to_all_of_it() {
    for lb in [model::LbPolicy::LeastRequest, model::LbPolicy::RoundRobin] {
        let cluster = slow(lb);
        set_at(&cluster, &[1], 0);
        set_at(&cluster, &[1, 2], 1000);
        let part = |cluster: &Cluster| f64::from(parts(cluster)[1]) / 10_000.0;
        let mut due = Some(Duration::from_secs(1000));
        let mut steps = 0;
        while let Some(now) = due {
            due = cluster.maintain(now, |_| ());
            let weight = ((now.as_secs_f64() - 1000.0) / 100.0).clamp(0.1, 1.0);
            let (expected, found) = (weight / (1.0 + weight), part(&cluster));
            assert!(
                (found - expected).abs() < 0.03,
                "{lb:?} at {now:?}: {found}, not {expected}"
            );
            steps += 1;
        }
        assert_eq!(steps, 21, "{lb:?}: it is due for each step, then no more");
    }
}

#[test]
fn the_first_endpoints_of_a_cluster_start_at_once() {
    let cluster = slow(model::LbPolicy::LeastRequest);
    set_at(&cluster, &[1, 2], 1000);
    assert_eq!(cluster.maintain(Duration::from_secs(1000), |_| ()), None);
    assert!(parts(&cluster).iter().all(|part| *part > 4500));
}

#[test]
fn what_returns_from_ejection_starts_slowly() {
    let cluster = slow(model::LbPolicy::LeastRequest);
    set_at(&cluster, &[1, 2], 0);
    let bad = Arc::clone(&cluster.endpoints()[0]);
    for _ in 0..5 {
        cluster.report(&bad, Outcome::LocalOrigin);
    }
    let back = cluster.maintain(Duration::ZERO, |_| ());
    let back = back.expect("its ejection ends");
    assert_eq!(parts(&cluster)[0], 0);
    cluster.maintain(back, |_| ());
    assert!((600..1300).contains(&parts(&cluster)[0]));
    cluster.maintain(back + Duration::from_secs(100), |_| ());
    assert!(parts(&cluster)[0] > 4500);
}

#[test]
fn an_endpoint_that_moves_to_another_zone_or_instance_is_another_one() {
    let cluster = Cluster::new(
        Arc::new(model::Cluster::new("shop/orders", model::Protocol::Http)),
        "a",
    );
    let mut ids = std::collections::BTreeSet::new();
    for (zone, instance, crosses) in [("", "1", false), ("a", "1", false), ("b", "2", true)] {
        let endpoint = model::Endpoint {
            zone: zone.to_owned(),
            instance: instance.to_owned(),
            ..model_endpoint(address(1), 1, Healthy)
        };
        cluster.set_endpoints([(address(1), &endpoint)].into_iter(), Duration::ZERO);
        let only = Arc::clone(&cluster.endpoints()[0]);
        assert_eq!(only.is_cross_zone(), crosses, "{zone:?}");
        ids.insert(only.id);
    }
    assert_eq!(ids.len(), 3);
}

#[test]
fn weight_zero_is_never_offered_and_all_zero_offers_nobody() {
    for lb in [
        model::LbPolicy::LeastRequest,
        model::LbPolicy::RoundRobin,
        model::LbPolicy::RingHash,
    ] {
        let cluster = slow(lb);
        let endpoints = [0, 3, 0].map(|weight| model_endpoint(address(1), weight, Healthy));
        let set = (1..).map(address).zip(&endpoints);
        cluster.set_endpoints(set, Duration::ZERO);
        assert_eq!(parts(&cluster), [0, 10_000, 0], "{lb:?}");
        let none = (1..).map(address).zip(&endpoints[..1]);
        cluster.set_endpoints(none, Duration::ZERO);
        assert!(pick(&cluster, &[]).is_none(), "{lb:?}");
        assert_eq!(cluster.offered(), 0);
    }
}

#[test]
fn a_request_goes_to_the_next_priority_once_the_first_is_ejected() {
    let cluster = cluster();
    let endpoints = [0, 1].map(|priority| model::Endpoint {
        priority,
        ..model_endpoint(address(1), 1, Healthy)
    });
    let set = (1..).map(address).zip(&endpoints);
    cluster.set_endpoints(set, Duration::ZERO);
    assert_eq!(parts(&cluster), [10_000, 0]);
    let first = Arc::clone(&cluster.endpoints()[0]);
    for _ in 0..5 {
        cluster.report(&first, Outcome::LocalOrigin);
    }
    cluster.maintain(Duration::ZERO, |_| ());
    assert_eq!(parts(&cluster), [0, 10_000]);
}

#[test]
fn what_a_service_takes_is_looked_at_where_it_is_asked_for_and_it_speaks_http() {
    let asked = |protocol, adaptive: Option<u32>| {
        let adaptive = adaptive.map(|min_concurrency| model::AdaptiveConcurrency {
            min_concurrency,
            ..model::AdaptiveConcurrency::default()
        });
        Arc::new(model::Cluster {
            circuit_breakers: model::CircuitBreakers {
                adaptive_concurrency: adaptive,
                ..model::CircuitBreakers::default()
            },
            ..model::Cluster::new("shop/orders", protocol)
        })
    };
    let most = |cluster: &Cluster| {
        let entered = std::iter::from_fn(|| cluster.enter()).take(100);
        entered.collect::<Vec<_>>().len()
    };
    let tcp = Cluster::new(asked(model::Protocol::Tcp, Some(2)), "");
    assert_eq!((most(&tcp), tcp.concurrency()), (100, None));
    let http = Cluster::new(asked(model::Protocol::Http, None), "");
    for (adaptive, entered) in [(None, 100), (Some(2), 2), (Some(5), 5), (None, 100)] {
        http.set_settings(asked(model::Protocol::Http, adaptive), Duration::ZERO);
        assert_eq!(most(&http), entered, "{adaptive:?}");
        assert_eq!(http.is_adaptive(), adaptive.is_some());
    }
}
