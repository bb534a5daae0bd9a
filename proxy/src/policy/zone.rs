//! Which zone a request stays in: P2C least-request with a preference for the caller's own zone.
//!
//! Two rules, of which neither needs to know the other callers (Envoy's needs a cluster of them):
//! 1. **What the zone can carry, carries the zone.** Callers are taken to be spread evenly over the zones that have endpoints.
//!    Where the own zone has at least its part of the healthy weight, all requests prefer it; where it has less, only as many
//!    as its weight can carry, and the others prefer the rest. One task in each of two zones is each zone's own part.
//! 2. **Load overrules.** The preferred side is left for the other while its best endpoint has, for its weight, [`FACTOR`] times as
//!    much in flight as the other side's best would have with this request. Of equal endpoints each so keeps `FACTOR` requests
//!    at once whatever happens; a zone that saturates answers more slowly, has more in flight for it, and only the excess
//!    goes elsewhere. An endpoint that is ejected or gone has no weight, which rule 1 sees.
//!
//! How it fails: callers that are not spread evenly (all in one zone) overload that zone's endpoints, until each caller has
//! `FACTOR` requests in flight at each of them for every one it has elsewhere: latency there is at most about `FACTOR` times the others'
//! before it spills. Callers that never have several requests in flight do not spill at all; `zone_aware = false` is for those.
//! Endpoints without a zone are a zone of their own that is nobody's. Round robin and ring hash know no zones: the one is asked for
//! to treat all alike, the other to find the same endpoint from everywhere.

use rand::Rng;

use super::endpoint::Endpoint;
use super::least_request::{LeastRequest, Weighted};

/// In flight for its weight on the preferred side, as a multiple of the other side's, beyond which a request changes sides.
const FACTOR: u64 = 4;

/// Draws below this are certain.
const ALWAYS: u32 = u32::MAX;

/// The two sides of a caller's zone border. Neither is empty.
pub(crate) struct Zoned {
    local: Side,
    elsewhere: Side,
    /// Of [`ALWAYS`] draws, as many prefer the own zone.
    prefer_local: u32,
}

struct Side {
    endpoints: LeastRequest,
    heaviest: u64,
}

impl Side {
    fn new(endpoints: Vec<Weighted>) -> Self {
        let heaviest = endpoints.iter().map(|(_, weight)| u64::from(*weight)).max();
        Self {
            endpoints: LeastRequest::among(endpoints.into()),
            heaviest: heaviest.unwrap_or_default(),
        }
    }

    /// Whether any endpoint of this side may be so much freer that `choice` is left for it.
    fn may_relieve(&self, choice: &Weighted) -> bool {
        is_overloaded(choice, 0, self.heaviest)
    }
}

impl Zoned {
    /// Splits endpoints between the caller's zone and the others; gives them back where there is nothing to split.
    pub(crate) fn split(endpoints: Vec<Weighted>, own_zone: &str) -> Result<Self, Vec<Weighted>> {
        let is_local = |(endpoint, _): &Weighted| *endpoint.zone == *own_zone;
        let locals = endpoints.iter().filter(|one| is_local(one)).count();
        if own_zone.is_empty() || locals == 0 || locals == endpoints.len() {
            return Err(endpoints);
        }
        let mut zones: Vec<&str> = endpoints.iter().map(|(one, _)| &*one.zone).collect();
        zones.sort_unstable();
        zones.dedup();
        let zones = zones.len() as u64;
        let weigh = |of: &dyn Fn(&&Weighted) -> bool| -> u64 {
            let weights = endpoints.iter().filter(of);
            weights.map(|(_, weight)| u64::from(*weight)).sum()
        };
        let prefer_local = preference(weigh(&|one| is_local(one)), weigh(&|_| true), zones);
        let (local, elsewhere) = endpoints.into_iter().partition(is_local);
        Ok(Self {
            local: Side::new(local),
            elsewhere: Side::new(elsewhere),
            prefer_local,
        })
    }

    pub(crate) fn find(
        &self,
        rng: &mut impl Rng,
        accept: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Weighted> {
        let stays = self.prefer_local == ALWAYS || rng.random::<u32>() < self.prefer_local;
        let (first, second) = if stays {
            (&self.local, &self.elsewhere)
        } else {
            (&self.elsewhere, &self.local)
        };
        let Some(preferred) = first.endpoints.find(rng, &accept) else {
            return second.endpoints.find(rng, &accept);
        };
        if !second.may_relieve(preferred) {
            return Some(preferred);
        }
        let other = second.endpoints.find(rng, &accept);
        let relief = other.filter(|other| {
            let in_flight = u64::from(other.0.in_flight());
            is_overloaded(preferred, in_flight, other.1.into())
        });
        Some(relief.unwrap_or(preferred))
    }
}

/// Rule 2, against another endpoint's requests in flight and weight.
fn is_overloaded((preferred, its_weight): &Weighted, in_flight: u64, weight: u64) -> bool {
    let own = u64::from(preferred.in_flight());
    own * weight >= FACTOR * (in_flight + 1) * u64::from(*its_weight)
}

/// Rule 1: the own zone's weight against an even part of all.
fn preference(local: u64, total: u64, zones: u64) -> u32 {
    let carried = u128::from(local) * u128::from(zones) * u128::from(ALWAYS);
    u32::try_from(carried / u128::from(total)).unwrap_or(ALWAYS)
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::{Lease, tests::endpoint_in};
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn zoned(zones: &[(&str, u32)]) -> Zoned {
        let endpoints = zones.iter().zip(1..);
        let endpoints = endpoints.map(|((zone, weight), n)| (endpoint_in(zone, n), *weight));
        let split = Zoned::split(endpoints.collect(), "a");
        split.unwrap_or_else(|_| panic!("{zones:?} has two sides"))
    }

    /// How many of so many requests stay in zone a, where each takes so many picks' time.
    fn stay(zoned: &Zoned, picks: usize, concurrency: usize) -> usize {
        let rng = &mut SmallRng::seed_from_u64(7);
        let mut under_way = std::collections::VecDeque::new();
        let mut local = 0;
        for _ in 0..picks {
            if under_way.len() == concurrency {
                under_way.pop_front();
            }
            let (found, _) = zoned.find(rng, |_| true).expect("all are accepted");
            local += usize::from(&*found.zone == "a");
            under_way.push_back(Lease::new(found.clone()));
        }
        local
    }

    #[test]
    fn one_task_in_each_of_two_zones_keeps_all_that_is_not_much_at_once() {
        let zoned = zoned(&[("a", 1), ("b", 1)]);
        assert_eq!(stay(&zoned, 10_000, FACTOR as usize), 10_000);
    }

    #[test]
    fn much_at_once_spills_and_the_other_zone_gets_at_least_its_fifth() {
        let local = stay(&zoned(&[("a", 1), ("b", 1)]), 100_000, 100);
        assert!((78_000..82_000).contains(&local), "{local} of 100,000");
    }

    #[test]
    fn a_zone_with_a_small_part_of_the_weight_keeps_what_it_can_carry() {
        // A tenth of the weight for a third of the callers.
        let weights = [("a", 1), ("b", 4), ("c", 5)];
        let local = stay(&zoned(&weights), 100_000, 1);
        assert!((29_000..31_000).contains(&local), "{local} of 100,000");
    }

    #[test]
    fn a_task_that_does_not_answer_is_left_for_the_other_zone() {
        let zoned = zoned(&[("a", 1), ("b", 1)]);
        let rng = &mut SmallRng::seed_from_u64(7);
        let mut stuck = Vec::new();
        for _ in 0..1000 {
            let (found, _) = zoned.find(rng, |_| true).expect("all are accepted");
            if &*found.zone == "a" {
                stuck.push(Lease::new(found.clone()));
            }
        }
        assert_eq!(stuck.len(), FACTOR as usize);
    }

    #[test]
    fn a_retry_goes_to_the_other_zone_when_the_own_one_was_tried() {
        let zoned = zoned(&[("a", 1), ("b", 1)]);
        let found = zoned.find(&mut rand::rng(), |one| &*one.zone != "a");
        assert!(found.is_some_and(|(found, _)| &*found.zone == "b"));
    }

    #[test]
    fn one_zone_or_none_known_is_nothing_to_split() {
        for (zones, own) in [(["a", "a"], "a"), (["b", "c"], "a"), (["a", "b"], "")] {
            let endpoints = zones.iter().zip(1..);
            let endpoints = endpoints.map(|(zone, n)| (endpoint_in(zone, n), 1));
            assert!(Zoned::split(endpoints.collect(), own).is_err(), "{zones:?}");
        }
    }

    #[test]
    fn the_even_part_of_a_zone_and_more_is_kept_whole() {
        assert_eq!(preference(1, 2, 2), ALWAYS);
        assert_eq!(preference(1, 3, 3), ALWAYS);
        assert_eq!(preference(9, 10, 2), ALWAYS);
        assert_eq!(preference(1, 4, 2), ALWAYS / 2);
    }
}
