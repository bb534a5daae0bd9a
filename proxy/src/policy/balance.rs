//! The order in which endpoints are offered: our least-request, and pingora's stock selectors.
//!
//! pingora's `select_with` allocates and hashes on every pick; the selectors are built on the control runtime and the request
//! path uses their iterators directly. pingora panics when all weights are zero, so `build` never lets a zero weight in.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_xds::model::LbPolicy;
use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Consistent, RoundRobin};
use rand::Rng;

use super::endpoint::Endpoint;
use super::least_request::{LeastRequest, Weighted};
use super::zone::Zoned;

/// The weighted table of one selector never grows past this, whatever the weights are.
const MAX_TABLE: usize = 60_000;

/// A pingora backend that carries our endpoint.
pub(crate) fn backend(endpoint: &Arc<Endpoint>, weight: u32) -> Backend {
    let mut backend = Backend::new_with_weight(&endpoint.address.to_string(), weight as usize)
        .expect("a socket address that was printed parses again");
    backend.ext.insert(Arc::clone(endpoint));
    backend
}

/// The endpoint a backend carries.
pub(crate) fn endpoint_of(backend: &Backend) -> &Arc<Endpoint> {
    backend
        .ext
        .get()
        .expect("every backend is made by balance::backend, which puts the endpoint in")
}

/// The selector of endpoints that may be offered.
pub(crate) enum Selector {
    LeastRequest(LeastRequest),
    /// Least request that prefers the caller's zone.
    Zoned(Zoned),
    RoundRobin(Arc<RoundRobin>),
    RingHash(Arc<Consistent>),
}

impl Selector {
    /// Builds the selector for endpoints with their weights, of which none is 0; they are scaled to fit the table. Where
    /// `own_zone` is not empty, least request prefers it. `None` without endpoints.
    pub(crate) fn build(
        policy: LbPolicy,
        endpoints: &[(Arc<Endpoint>, u64)],
        own_zone: &str,
    ) -> Option<Self> {
        if endpoints.is_empty() {
            return None;
        }
        let weighted = scaled(endpoints);
        let backends = || -> BTreeSet<Backend> {
            let carried = |(endpoint, weight): &Weighted| backend(endpoint, *weight);
            weighted.iter().map(carried).collect()
        };
        Some(match policy {
            LbPolicy::LeastRequest => match Zoned::split(weighted, own_zone) {
                Ok(zoned) => Self::Zoned(zoned),
                Err(all) => Self::LeastRequest(LeastRequest::among(all.into())),
            },
            LbPolicy::RoundRobin => Self::RoundRobin(Arc::new(RoundRobin::build(&backends()))),
            LbPolicy::RingHash => Self::RingHash(Arc::new(Consistent::build(&backends()))),
        })
    }

    /// An endpoint that `accept` takes, as the policy prefers them; `count` is how many there are.
    pub(crate) fn find(
        &self,
        rng: &mut impl Rng,
        key: &[u8],
        count: usize,
        accept: impl Fn(&Endpoint) -> bool,
    ) -> Option<Arc<Endpoint>> {
        let owned = |(endpoint, _): &Weighted| Arc::clone(endpoint);
        match self {
            Self::LeastRequest(selection) => selection.find(rng, accept).map(owned),
            Self::Zoned(selection) => selection.find(rng, accept).map(owned),
            // The stock iterators repeat endpoints; four rounds find the last one with certainty for practical purposes,
            // and the caller's fallback covers the rest.
            Self::RoundRobin(selection) => first_accepted(selection.iter(key), count * 4, accept),
            Self::RingHash(selection) => first_accepted(selection.iter(key), count * 4, accept),
        }
    }
}

/// The weights as small as they can be in the same proportions, and small enough for the table.
fn scaled(endpoints: &[(Arc<Endpoint>, u64)]) -> Vec<Weighted> {
    let weights = endpoints.iter().map(|(_, weight)| *weight);
    let common = weights.clone().fold(0, gcd).max(1);
    let total: u128 = weights.map(|weight| u128::from(weight / common)).sum();
    let scale = total.div_ceil(MAX_TABLE as u128).max(1);
    let fits = |weight: u64| (u128::from(weight / common) / scale).max(1) as u32;
    let each = endpoints.iter();
    each.map(|(endpoint, weight)| (Arc::clone(endpoint), fits(*weight)))
        .collect()
}

fn first_accepted(
    mut iter: impl BackendIter,
    steps: usize,
    accept: impl Fn(&Endpoint) -> bool,
) -> Option<Arc<Endpoint>> {
    for _ in 0..steps {
        let endpoint = endpoint_of(iter.next()?);
        if accept(endpoint) {
            return Some(Arc::clone(endpoint));
        }
    }
    None
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::{Lease, tests::endpoint};
    use super::*;

    fn endpoints(count: u8) -> Vec<(Arc<Endpoint>, u64)> {
        (1..=count).map(|n| (endpoint(n), 1)).collect()
    }

    fn selector(policy: LbPolicy, endpoints: &[(Arc<Endpoint>, u64)]) -> Selector {
        Selector::build(policy, endpoints, "").expect("there are endpoints")
    }

    const POLICIES: [LbPolicy; 3] = [
        LbPolicy::LeastRequest,
        LbPolicy::RoundRobin,
        LbPolicy::RingHash,
    ];

    #[test]
    fn one_endpoint_is_always_found() {
        for policy in POLICIES {
            let selector = selector(policy, &endpoints(1));
            assert!(
                selector
                    .find(&mut rand::rng(), b"key", 1, |_| true)
                    .is_some(),
                "{policy:?}"
            );
        }
    }

    #[test]
    fn the_only_acceptable_endpoint_of_ten_is_found() {
        for policy in POLICIES {
            let all = endpoints(10);
            let wanted = all[7].0.id;
            let selector = selector(policy, &all);
            for _ in 0..100 {
                let found = selector.find(&mut rand::rng(), b"key", 10, |endpoint| {
                    endpoint.id == wanted
                });
                assert_eq!(
                    found.map(|endpoint| endpoint.id),
                    Some(wanted),
                    "{policy:?}"
                );
            }
        }
    }

    #[test]
    fn least_request_prefers_the_idle_one_of_two() {
        let all = endpoints(2);
        let _busy = Lease::new(Arc::clone(&all[0].0));
        let selector = selector(LbPolicy::LeastRequest, &all);
        for _ in 0..100 {
            assert_eq!(
                selector
                    .find(&mut rand::rng(), b"", 2, |_| true)
                    .map(|found| found.id),
                Some(all[1].0.id)
            );
        }
    }

    #[test]
    fn ring_hash_sends_one_key_to_one_endpoint() {
        let selector = selector(LbPolicy::RingHash, &endpoints(10));
        let first = selector
            .find(&mut rand::rng(), b"/orders/7", 10, |_| true)
            .map(|found| found.id);
        assert!((0..20).all(|_| {
            selector
                .find(&mut rand::rng(), b"/orders/7", 10, |_| true)
                .map(|found| found.id)
                == first
        }));
    }

    #[test]
    fn round_robin_visits_all() {
        let selector = selector(LbPolicy::RoundRobin, &endpoints(3));
        let seen: BTreeSet<_> = (0..3)
            .filter_map(|_| {
                selector
                    .find(&mut rand::rng(), b"", 3, |_| true)
                    .map(|found| found.id)
            })
            .collect();
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn huge_weights_fit_the_table() {
        let mut all = endpoints(2);
        all[0].1 = u64::MAX;
        let Selector::LeastRequest(selection) = selector(LbPolicy::LeastRequest, &all) else {
            panic!("least request was asked for");
        };
        assert!(selection.table_len() <= MAX_TABLE + 2);
    }

    #[test]
    fn without_endpoints_there_is_nothing_to_select() {
        for policy in POLICIES {
            assert!(Selector::build(policy, &[], "").is_none());
        }
    }
}
