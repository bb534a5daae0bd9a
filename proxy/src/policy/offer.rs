//! What may be offered at this moment: which priority level a request goes to, and who of it takes part. Rebuilt off the request
//! path.
//!
//! Envoy's rules ("Priority levels", "Panic threshold"): a level is available by its share of healthy endpoints times 1.4. Level 0
//! is used as far as it is available, what it cannot take falls to the next. While all levels together are not fully available, one
//! whose healthy share is below the panic threshold offers all that do not drain, as if they were healthy; without any healthy
//! endpoint all levels do, each by its number of endpoints, whatever the threshold is (Envoy's own default of 50 would too).

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_xds::model;
use rand::Rng;

use super::balance::Selector;
use super::endpoint::Endpoint;

/// Healthy endpoints count this much in percent (Envoy's `overprovisioning_factor`).
const OVERPROVISIONING: usize = 140;

/// An endpoint that does not drain and has weight.
pub(crate) struct Eligible {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) weight: u64,
    pub(crate) priority: u32,
    pub(crate) healthy: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Offer {
    levels: Box<[Level]>,
    count: usize,
}

struct Level {
    /// Of 100 requests, as many go to this level or one before it.
    up_to: usize,
    selector: Selector,
    count: usize,
}

impl Offer {
    /// `own_zone` is empty where it is not known.
    pub(crate) fn build(
        settings: &model::Cluster,
        own_zone: &str,
        eligible: impl Iterator<Item = Eligible>,
    ) -> Self {
        let mut by_priority: BTreeMap<u32, Vec<Eligible>> = BTreeMap::new();
        for one in eligible {
            let level = by_priority.entry(one.priority).or_default();
            level.push(one);
        }
        let is_healthy = |one: &&Eligible| one.healthy;
        let healthy = |level: &Vec<Eligible>| level.iter().filter(is_healthy).count();
        let sizes: Vec<_> = by_priority
            .values()
            .map(|level| (healthy(level), level.len()))
            .collect();
        let (loads, available) = loads(&sizes);
        let mut levels = Vec::new();
        let mut up_to = 0;
        for ((load, (healthy, total)), eligible) in
            loads.into_iter().zip(sizes).zip(by_priority.into_values())
        {
            if load == 0 {
                continue;
            }
            up_to += load;
            let threshold = usize::from(settings.panic_threshold);
            let panic = available == 0 || (available < 100 && healthy * 100 < threshold * total);
            let offered: Vec<_> = eligible
                .into_iter()
                .filter(|one| panic || one.healthy)
                .map(|one| (one.endpoint, one.weight))
                .collect();
            // Where doubtful endpoints must do, those of the own zone are no better.
            let aware = settings.zone_aware && !panic;
            let zone = if aware { own_zone } else { "" };
            levels.extend(
                Selector::build(settings.lb, &offered, zone).map(|selector| Level {
                    up_to,
                    selector,
                    count: offered.len(),
                }),
            );
        }
        let count = levels.iter().map(|level| level.count).sum();
        Self {
            levels: levels.into(),
            count,
        }
    }

    /// How many endpoints may be offered.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// An endpoint that `accept` takes; of another level when the request's own has none.
    pub(crate) fn find(
        &self,
        rng: &mut impl Rng,
        key: &[u8],
        accept: impl Fn(&Endpoint) -> bool,
    ) -> Option<Arc<Endpoint>> {
        let drawn = match &*self.levels {
            [] => return None,
            [_] => 0,
            levels => {
                let draw = rng.random_range(0..100);
                levels.partition_point(|level| level.up_to <= draw)
            }
        };
        let (before, from) = self.levels.split_at(drawn);
        let mut levels = from.iter().chain(before);
        levels.find_map(|level| level.selector.find(rng, key, level.count, &accept))
    }
}

/// How many of 100 requests each level takes, by its healthy and all its endpoints; and how far all levels are available,
/// in percent.
fn loads(sizes: &[(usize, usize)]) -> (Vec<usize>, usize) {
    // One healthy endpoint is more than none, however many are sick.
    let least = |healthy: &usize| usize::from(*healthy > 0);
    let health = |(healthy, total): &(usize, usize)| {
        (healthy * OVERPROVISIONING / total).clamp(least(healthy), 100)
    };
    let available = sizes.iter().map(health).sum::<usize>().min(100);
    let all: usize = sizes.iter().map(|(_, total)| total).sum();
    let mut left = 100;
    let mut take = |share: usize| {
        let taken = share.min(left);
        left -= taken;
        taken
    };
    let mut loads: Vec<usize> = sizes
        .iter()
        .map(|size| {
            let by_size = size.1 * 100 / all;
            take(
                (health(size) * 100)
                    .checked_div(available)
                    .unwrap_or(by_size),
            )
        })
        .collect();
    // What rounding left over.
    if let Some(first) = loads.iter_mut().find(|load| **load > 0) {
        *first += left;
    }
    (loads, available)
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::tests::endpoint;
    use super::*;
    use outrigger_xds::model::LbPolicy;

    const POLICIES: [LbPolicy; 3] = [
        LbPolicy::LeastRequest,
        LbPolicy::RoundRobin,
        LbPolicy::RingHash,
    ];

    /// Levels of so many healthy ones among all; endpoints are numbered from 1 on, healthy ones first in each level.
    fn offer(settings: &model::Cluster, levels: &[(u8, u8)]) -> Offer {
        let mut number = 0;
        let eligible = levels
            .iter()
            .zip(0..)
            .flat_map(|((healthy, total), level)| {
                (0..*total)
                    .map(|n| {
                        number += 1;
                        Eligible {
                            endpoint: endpoint(number),
                            weight: 1,
                            priority: level,
                            healthy: n < *healthy,
                        }
                    })
                    .collect::<Vec<_>>()
            });
        Offer::build(settings, "", eligible)
    }

    fn settings(panic_threshold: u8) -> model::Cluster {
        model::Cluster {
            panic_threshold,
            ..model::Cluster::new("shop/orders", model::Protocol::Http)
        }
    }

    /// Numbers of the endpoints that ten thousand picks found.
    fn found(offer: &Offer) -> Vec<u8> {
        let last_octet = |endpoint: Arc<Endpoint>| match endpoint.address.ip() {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        let rng = &mut rand::rng();
        let picks = (0..10_000).filter_map(|_| offer.find(rng, b"key", |_| true));
        let numbers: std::collections::BTreeSet<_> = picks.map(last_octet).collect();
        numbers.into_iter().collect()
    }

    /// The table of Envoy's documentation, "Priority levels".
    #[test]
    fn load_falls_to_the_next_level_as_envoy_documents_it() {
        for (healthy, expected, available) in [
            (vec![100, 100], vec![100, 0], 100),
            (vec![72, 72], vec![100, 0], 100),
            (vec![71, 71], vec![99, 1], 100),
            (vec![50, 50], vec![70, 30], 100),
            (vec![25, 100], vec![35, 65], 100),
            (vec![25, 25], vec![50, 50], 70),
            (vec![0, 100], vec![0, 100], 100),
            (vec![0, 0, 20], vec![0, 0, 100], 28),
            (vec![100, 100, 100], vec![100, 0, 0], 100),
        ] {
            let sizes: Vec<_> = healthy.iter().map(|healthy| (*healthy, 100)).collect();
            assert_eq!(loads(&sizes), (expected, available), "{healthy:?}");
        }
    }

    #[test]
    fn without_any_healthy_endpoint_levels_share_by_their_size_and_nothing_is_lost_to_rounding() {
        assert_eq!(loads(&[(0, 1), (0, 1), (0, 1)]), (vec![34, 33, 33], 0));
        assert_eq!(loads(&[(0, 300), (0, 100)]), (vec![75, 25], 0));
        assert_eq!(loads(&[]), (vec![], 0));
    }

    #[test]
    fn a_level_with_too_few_healthy_endpoints_shares_with_the_next() {
        let offer = offer(&settings(0), &[(1, 2), (1, 1)]);
        assert_eq!(found(&offer), [1, 3]);
        assert_eq!(offer.count(), 2);
    }

    #[test]
    fn the_next_level_takes_over_when_the_first_is_gone_and_not_before() {
        assert_eq!(found(&offer(&settings(0), &[(0, 2), (2, 2)])), [3, 4]);
        assert_eq!(found(&offer(&settings(0), &[(2, 2), (2, 2)])), [1, 2]);
    }

    #[test]
    fn below_the_panic_threshold_all_are_offered_and_above_it_only_the_healthy() {
        let levels = [(2, 10)];
        assert_eq!(found(&offer(&settings(20), &levels)), [1, 2]);
        assert_eq!(found(&offer(&settings(21), &levels)).len(), 10);
        assert_eq!(found(&offer(&settings(0), &levels)), [1, 2]);
        let enough = "0.8 times 1.4 is all that is needed";
        assert_eq!(
            found(&offer(&settings(90), &[(8, 10)])).len(),
            8,
            "{enough}"
        );
    }

    #[test]
    fn one_healthy_endpoint_of_many_is_offered_alone_unless_the_threshold_says_otherwise() {
        assert_eq!(found(&offer(&settings(0), &[(1, 200)])), [1]);
        assert_eq!(found(&offer(&settings(1), &[(1, 200)])).len(), 200);
        assert_eq!(loads(&[(1, 200), (100, 100)]), (vec![1, 99], 100));
    }

    #[test]
    fn with_none_healthy_all_are_offered_whatever_the_threshold() {
        for threshold in [0, 50, 100] {
            assert_eq!(found(&offer(&settings(threshold), &[(0, 2)])), [1, 2]);
        }
    }

    #[test]
    fn panic_in_one_level_leaves_the_healthy_ones_of_another_alone() {
        // 14 % + 56 % are available: both get traffic, only the first is below 30 %.
        let offer = offer(&settings(30), &[(1, 10), (4, 10)]);
        assert_eq!(
            found(&offer),
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
        );
    }

    #[test]
    fn a_request_whose_level_has_been_tried_goes_to_another() {
        for lb in POLICIES {
            let settings = model::Cluster { lb, ..settings(0) };
            let offer = offer(&settings, &[(1, 2), (1, 1)]);
            let only = endpoint(3).address;
            for _ in 0..50 {
                let found = offer.find(&mut rand::rng(), b"key", |one| one.address == only);
                assert!(found.is_some(), "{lb:?}");
            }
        }
    }

    #[test]
    fn without_candidates_nothing_is_found() {
        let offer = offer(&settings(0), &[]);
        assert!(found(&offer).is_empty());
        assert_eq!(offer.count(), 0);
    }
}
