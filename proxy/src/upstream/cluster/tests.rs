//! Waiting for the first endpoints, and the maintenance task's clock.

use model::EndpointHealth::{self, Healthy};

use super::*;
use crate::policy::endpoint::tests as endpoint;

fn cluster() -> Arc<Cluster> {
    let policy = model::Cluster::new("shop/orders", model::Protocol::Http);
    Cluster::new(policy, "", ClusterMetrics::unregistered())
}

fn set(cluster: &Cluster, members: &[(u8, EndpointHealth)]) -> bool {
    let members = endpoint::members(members);
    let set = members
        .iter()
        .map(|(address, endpoint)| (*address, endpoint));
    cluster.set_endpoints(set)
}

#[tokio::test(start_paused = true)]
async fn five_failures_eject_for_thirty_seconds() {
    let cluster = cluster();
    set(&cluster, &[(1, Healthy), (2, Healthy)]);
    let bad = Arc::clone(&cluster.core.endpoints()[0]);
    let task = tokio::spawn(Arc::clone(&cluster).maintain());
    for _ in 0..5 {
        cluster.report(&bad, Outcome::LocalOrigin);
    }
    while cluster.offered() == 2 {
        tokio::task::yield_now().await;
    }
    assert!((0..50).all(|_| {
        cluster
            .pick(&mut rand::rng(), b"", &[])
            .is_some_and(|lease| lease.endpoint().id != bad.id)
    }));
    let start = Instant::now();
    while cluster.offered() == 1 {
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
