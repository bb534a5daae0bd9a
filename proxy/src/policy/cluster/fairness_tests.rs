//! Who gets how much: chi-square over a million seeded picks.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::endpoint::tests::model_endpoint;
use super::*;
use outrigger_xds::model::LbPolicy;

const PICKS: u32 = 1_000_000;

/// The statistic that one in a thousand fair selectors exceeds (Wilson and Hilferty's approximation).
fn critical(degrees: usize) -> f64 {
    let degrees = degrees as f64;
    let part = 2.0 / (9.0 * degrees);
    degrees * (1.0 - part + 3.09 * part.sqrt()).powi(3)
}

/// Whether the counts are what chance makes of these shares. What has no share must have no count.
fn assert_fair(counts: &[u32], shares: &[f64], what: &str) {
    let (picks, all) = (counts.iter().sum::<u32>(), shares.iter().sum::<f64>());
    let mut chi_square = 0.0;
    for (count, share) in counts.iter().zip(shares) {
        let expected = f64::from(picks) * share / all;
        if expected == 0.0 {
            assert_eq!(*count, 0, "{what}: {counts:?} for {shares:?}");
        } else {
            chi_square += (f64::from(*count) - expected).powi(2) / expected;
        }
    }
    let degrees = shares.iter().filter(|share| **share > 0.0).count() - 1;
    let limit = critical(degrees);
    assert!(
        chi_square <= limit,
        "{what}: {counts:?} for {shares:?}: {chi_square:.1} is above {limit:.1}"
    );
}

/// Endpoints of these zones and weights, seen from zone a.
fn cluster(lb: LbPolicy, members: &[(&str, u32)]) -> Cluster {
    let settings = model::Cluster {
        lb,
        ..model::Cluster::new("shop/orders", model::Protocol::Http)
    };
    let cluster = Cluster::new(Arc::new(settings), "a");
    let set: Vec<_> = members
        .iter()
        .zip(1..)
        .map(|((zone, weight), n)| {
            let address = SocketAddr::from(([127, 0, 0, n], 80));
            let endpoint = model::Endpoint {
                zone: (*zone).to_owned(),
                ..model_endpoint(address, *weight, EndpointHealth::Healthy)
            };
            (address, endpoint)
        })
        .collect();
    let set = set.iter().map(|(address, endpoint)| (*address, endpoint));
    cluster.set_endpoints(set, Duration::ZERO);
    cluster
}

fn weighted(lb: LbPolicy, weights: &[u32]) -> Cluster {
    let members: Vec<_> = weights.iter().map(|weight| ("", *weight)).collect();
    cluster(lb, &members)
}

/// How often each endpoint is picked, each pick given back at once.
fn counts(cluster: &Cluster, tried: &[u64]) -> Vec<u32> {
    let ids: Vec<_> = cluster.endpoints().iter().map(|one| one.id).collect();
    let mut counts = vec![0; ids.len()];
    let rng = &mut SmallRng::seed_from_u64(20);
    for _ in 0..PICKS {
        let lease = cluster.pick(rng, b"key", tried).expect("some are healthy");
        let index = ids.iter().position(|id| *id == lease.endpoint().id);
        counts[index.expect("it is a member")] += 1;
    }
    counts
}

#[test]
fn equal_endpoints_without_load_get_equal_parts() {
    for lb in [LbPolicy::LeastRequest, LbPolicy::RoundRobin] {
        for n in [2, 3, 10] {
            let cluster = weighted(lb, &vec![1; n]);
            assert_fair(&counts(&cluster, &[]), &vec![1.0; n], &format!("{lb:?}"));
        }
    }
}

#[test]
fn each_gets_its_weights_part_and_weight_zero_nothing() {
    for lb in [LbPolicy::LeastRequest, LbPolicy::RoundRobin] {
        let cluster = weighted(lb, &[1, 2, 7, 0]);
        let shares = [1.0, 2.0, 7.0, 0.0];
        assert_fair(&counts(&cluster, &[]), &shares, &format!("{lb:?}"));
    }
}

#[test]
fn the_part_of_one_that_was_tried_goes_to_all_others_alike() {
    let equal = weighted(LbPolicy::LeastRequest, &[1; 5]);
    let tried = [equal.endpoints()[1].id];
    let shares = [1.0, 0.0, 1.0, 1.0, 1.0];
    assert_fair(&counts(&equal, &tried), &shares, "one of five");

    let unequal = weighted(LbPolicy::LeastRequest, &[1, 2, 7, 4]);
    let tried = [unequal.endpoints()[2].id];
    let shares = [1.0, 2.0, 0.0, 4.0];
    assert_fair(&counts(&unequal, &tried), &shares, "by weight");

    let most = weighted(LbPolicy::LeastRequest, &[1; 10]);
    let ids: Vec<_> = most.endpoints().iter().map(|one| one.id).collect();
    let tried: Vec<_> = [0, 1, 3, 4, 5, 7, 9].map(|index| ids[index]).into();
    let shares = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0];
    assert_fair(&counts(&most, &tried), &shares, "seven of ten");
}

#[test]
fn what_a_busy_one_is_spared_goes_to_all_others_alike() {
    let cluster = weighted(LbPolicy::LeastRequest, &[1; 5]);
    let busy = Arc::clone(&cluster.endpoints()[1]);
    let _lease = Lease::new(busy);
    // Whoever is drawn beside it is freer.
    let shares = [1.0, 0.0, 1.0, 1.0, 1.0];
    assert_fair(&counts(&cluster, &[]), &shares, "one of five is busy");
}

#[test]
fn what_a_zone_cannot_carry_goes_to_all_others_alike() {
    // A sixth of the weight for a third of the callers.
    let zones = ["a", "b", "b", "c", "c", "c"].map(|zone| (zone, 1));
    let cluster = cluster(LbPolicy::LeastRequest, &zones);
    let shares = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1];
    assert_fair(&counts(&cluster, &[]), &shares, "half stays");
}

#[test]
fn round_robin_and_ring_hash_know_no_zones() {
    let zones = ["a", "b", "c"].map(|zone| (zone, 1));
    let robin = cluster(LbPolicy::RoundRobin, &zones);
    assert_fair(&counts(&robin, &[]), &[1.0; 3], "round robin");

    let ring = cluster(LbPolicy::RingHash, &zones);
    let found = |ring: &Cluster| -> Vec<_> {
        let keys = (0..1000_u32).map(u32::to_be_bytes);
        let picks = keys.map(|key| ring.pick(&mut rand::rng(), &key, &[]));
        picks
            .map(|lease| lease.expect("all are healthy").endpoint().id)
            .collect()
    };
    let aware = found(&ring);
    let settings = model::Cluster {
        zone_aware: false,
        ..model::Cluster::clone(&ring.settings())
    };
    ring.set_settings(Arc::new(settings), Duration::ZERO);
    assert_eq!(found(&ring), aware);
}

#[test]
fn without_zone_awareness_all_get_equal_parts() {
    let cluster = cluster(LbPolicy::LeastRequest, &[("a", 1), ("b", 1), ("c", 1)]);
    let settings = model::Cluster {
        zone_aware: false,
        ..model::Cluster::clone(&cluster.settings())
    };
    cluster.set_settings(Arc::new(settings), Duration::ZERO);
    assert_fair(&counts(&cluster, &[]), &[1.0; 3], "no zones");
}
