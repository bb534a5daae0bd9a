//! Membership, offering, ejection and the bounds of a cluster.

use super::super::endpoint::tests::model_endpoint;
use super::*;

fn cluster() -> Arc<Cluster> {
    let policy = model::Cluster::new("shop/orders", model::Protocol::Http);
    Cluster::new(policy, ClusterMetrics::unregistered())
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 80))
}

fn set(cluster: &Cluster, members: &[(u8, EndpointHealth)]) -> bool {
    let endpoints: Vec<_> = members
        .iter()
        .map(|(n, health)| model_endpoint(address(*n), 1, *health))
        .collect();
    cluster.set_endpoints(members.iter().map(|(n, _)| address(*n)).zip(&endpoints))
}

use EndpointHealth::{Draining, Healthy, Unhealthy};

#[test]
fn an_empty_cluster_offers_nothing() {
    assert!(cluster().pick(b"", &[]).is_none());
}

#[test]
fn a_draining_endpoint_is_not_offered_even_when_it_is_the_last() {
    let cluster = cluster();
    assert!(set(&cluster, &[(1, Draining)]));
    assert!(cluster.pick(b"", &[]).is_none());
}

#[test]
fn an_unhealthy_endpoint_is_offered_only_when_nothing_else_is_left() {
    let cluster = cluster();
    set(&cluster, &[(1, Unhealthy), (2, Healthy)]);
    for _ in 0..20 {
        let lease = cluster.pick(b"", &[]).expect("one endpoint is healthy");
        assert_eq!(lease.endpoint().address, address(2));
    }
    set(&cluster, &[(1, Unhealthy), (2, Draining)]);
    assert_eq!(
        cluster.pick(b"", &[]).map(|lease| lease.endpoint().address),
        Some(address(1))
    );
}

#[test]
fn a_second_attempt_avoids_the_first_host_unless_it_is_alone() {
    let cluster = cluster();
    set(&cluster, &[(1, Healthy), (2, Healthy)]);
    let first = cluster
        .pick(b"", &[])
        .expect("two are healthy")
        .endpoint()
        .id;
    for _ in 0..20 {
        assert_ne!(
            cluster
                .pick(b"", &[first])
                .expect("two are healthy")
                .endpoint()
                .id,
            first
        );
    }
    set(&cluster, &[(1, Healthy)]);
    let only = cluster.endpoints()[0].id;
    assert_eq!(
        cluster.pick(b"", &[only]).map(|lease| lease.endpoint().id),
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

#[tokio::test(start_paused = true)]
async fn five_failures_eject_for_thirty_seconds() {
    let cluster = cluster();
    set(&cluster, &[(1, Healthy), (2, Healthy)]);
    let bad = Arc::clone(&cluster.endpoints()[0]);
    let task = tokio::spawn(Arc::clone(&cluster).maintain());
    for _ in 0..5 {
        cluster.report(&bad, Outcome::Failure);
    }
    while cluster.ready.load().count == 2 {
        tokio::task::yield_now().await;
    }
    assert!((0..50).all(|_| {
        cluster
            .pick(b"", &[])
            .is_some_and(|lease| lease.endpoint().id != bad.id)
    }));
    let start = Instant::now();
    while cluster.ready.load().count == 1 {
        tokio::time::advance(Duration::from_millis(100)).await;
        tokio::task::yield_now().await;
    }
    assert!(
        (29..=31).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    task.abort();
}

#[test]
fn the_retry_budget_is_bounded() {
    let cluster = cluster();
    let held: Vec<_> = (0..RETRY_FLOOR)
        .map(|_| cluster.try_retry().expect("the floor is free"))
        .collect();
    assert!(cluster.try_retry().is_none());
    drop(held);
    assert!(cluster.try_retry().is_some());
}

#[test]
fn pending_connects_are_bounded() {
    let cluster = cluster();
    let held: Vec<_> = (0..MAX_PENDING_CONNECTS)
        .map_while(|_| cluster.try_connect())
        .collect();
    assert_eq!(held.len(), MAX_PENDING_CONNECTS as usize);
    assert!(cluster.try_connect().is_none());
}

#[tokio::test]
async fn a_cluster_is_pending_until_its_endpoints_have_come_once() {
    let cluster = cluster();
    assert!(cluster.is_pending());
    let waiting = tokio::spawn({
        let cluster = Arc::clone(&cluster);
        async move { cluster.arrived().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    set(&cluster, &[]);
    assert_eq!(waiting.await.ok().flatten(), Some(()));
    assert!(!cluster.is_pending());
}

#[tokio::test]
async fn requests_that_wait_for_a_cluster_are_bounded() {
    let cluster = cluster();
    let mut waiting = Vec::new();
    for _ in 0..MAX_WAITING {
        let cluster = Arc::clone(&cluster);
        waiting.push(tokio::spawn(async move { cluster.arrived().await }));
    }
    while cluster.waiting.load(Relaxed) < MAX_WAITING {
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.arrived().await, None, "one more is refused at once");
    set(&cluster, &[(1, Healthy)]);
    for one in waiting {
        assert_eq!(one.await.ok().flatten(), Some(()));
    }
}

#[test]
fn live_requests_are_bounded() {
    let cluster = cluster();
    let held: Vec<_> = (0..MAX_LIVE_REQUESTS)
        .map_while(|_| cluster.enter())
        .collect();
    assert_eq!(held.len(), MAX_LIVE_REQUESTS as usize);
    assert!(cluster.enter().is_none());
}
