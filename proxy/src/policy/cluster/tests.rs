//! Membership, offering and ejection, in virtual time.

use super::super::endpoint::tests::model_endpoint;
use super::*;

fn cluster() -> Cluster {
    let settings = model::Cluster::new("shop/orders", model::Protocol::Http);
    Cluster::new(Arc::new(settings), "")
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 80))
}

fn set(cluster: &Cluster, members: &[(u8, EndpointHealth)]) -> bool {
    let endpoints: Vec<_> = members
        .iter()
        .map(|(n, health)| model_endpoint(address(*n), 1, *health))
        .collect();
    let set = members.iter().map(|(n, _)| address(*n)).zip(&endpoints);
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
        Event::Ejected(endpoint, length) => told.push((endpoint.id, Some(length))),
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
    assert_eq!(cluster.maintain(thirty, &mut tell), None);
    assert_eq!(cluster.offered(), 2);
    assert_eq!(told, [(bad.id, Some(thirty)), (bad.id, None)]);
}
