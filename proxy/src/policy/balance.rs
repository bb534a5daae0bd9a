//! The order in which endpoints are offered: our least-request as a `BackendSelection`, and pingora's stock selectors.
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

/// What least-request chooses among. On the request path this is an endpoint and its weight: a pingora backend costs some
/// 350 bytes more, on every task for every endpoint of every service.
pub(crate) trait Choice {
    fn endpoint(&self) -> &Arc<Endpoint>;
    fn weight(&self) -> usize;
}

impl Choice for Backend {
    fn endpoint(&self) -> &Arc<Endpoint> {
        endpoint_of(self)
    }

    fn weight(&self) -> usize {
        self.weight
    }
}

impl Choice for (Arc<Endpoint>, u32) {
    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }

    fn weight(&self) -> usize {
        self.1 as usize
    }
}

/// Power of two choices: two distinct endpoints at random (by weight), the one with fewer requests in flight first; then the
/// others in a random rotation, each once.
pub(crate) struct LeastRequest<C = Backend> {
    choices: Box<[C]>,
    /// Indices into `choices`, each as often as its weight; empty when all weights are equal.
    weighted: Box<[u16]>,
}

impl<C: Choice> LeastRequest<C> {
    fn among(choices: Box<[C]>) -> Self {
        let equal = choices
            .windows(2)
            .all(|pair| pair[0].weight() == pair[1].weight());
        let weighted = if equal {
            Box::default()
        } else {
            let repeat =
                |(index, choice): (usize, &C)| std::iter::repeat_n(index as u16, choice.weight());
            choices.iter().enumerate().flat_map(repeat).collect()
        };
        Self { choices, weighted }
    }

    fn order(self: &Arc<Self>, rng: &mut impl Rng) -> LeastRequestIter<C> {
        LeastRequestIter {
            first: self.first_choice(rng),
            selection: Arc::clone(self),
            step: 0,
        }
    }

    fn draw(&self, rng: &mut impl Rng) -> usize {
        if self.weighted.is_empty() {
            rng.random_range(0..self.choices.len())
        } else {
            usize::from(self.weighted[rng.random_range(0..self.weighted.len())])
        }
    }

    /// Whether `a` has fewer requests in flight for its weight than `b`.
    fn is_freer(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.choices[a], &self.choices[b]);
        let in_flight = |choice: &C| u64::from(choice.endpoint().in_flight());
        in_flight(a) * (b.weight() as u64) < in_flight(b) * (a.weight() as u64)
    }

    fn first_choice(&self, rng: &mut impl Rng) -> usize {
        let a = self.draw(rng);
        if self.choices.len() == 1 {
            return a;
        }
        let mut b = self.draw(rng);
        if a == b && self.weighted.is_empty() {
            b = (a + 1) % self.choices.len();
        }
        if self.is_freer(b, a) { b } else { a }
    }
}

impl BackendSelection for LeastRequest {
    type Iter = LeastRequestIter<Backend>;
    type Config = ();

    fn build(backends: &BTreeSet<Backend>) -> Self {
        Self::among(backends.iter().cloned().collect())
    }

    fn iter(self: &Arc<Self>, _key: &[u8]) -> Self::Iter {
        self.order(&mut rand::rng())
    }
}

/// See [`LeastRequest`].
pub(crate) struct LeastRequestIter<C> {
    selection: Arc<LeastRequest<C>>,
    first: usize,
    step: usize,
}

impl<C: Choice> LeastRequestIter<C> {
    fn advance(&mut self) -> Option<&C> {
        let count = self.selection.choices.len();
        if self.step >= count {
            return None;
        }
        let index = (self.first + self.step) % count;
        self.step += 1;
        Some(&self.selection.choices[index])
    }
}

impl BackendIter for LeastRequestIter<Backend> {
    fn next(&mut self) -> Option<&Backend> {
        self.advance()
    }
}

/// The selector of one cluster's ready endpoints.
pub(crate) enum Selector {
    /// Nothing can be offered.
    Empty,
    LeastRequest(Arc<LeastRequest<(Arc<Endpoint>, u32)>>),
    RoundRobin(Arc<RoundRobin>),
    RingHash(Arc<Consistent>),
}

impl Selector {
    /// Builds the selector for endpoints with their weights. Weight zero is left out; weights are scaled to fit the table.
    pub(crate) fn build(policy: LbPolicy, endpoints: &[(Arc<Endpoint>, u32)]) -> Self {
        let total: u64 = endpoints.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if total == 0 {
            return Self::Empty;
        }
        let common = endpoints
            .iter()
            .fold(0, |divisor, (_, weight)| gcd(divisor, *weight))
            .max(1);
        let scale = (total / u64::from(common))
            .div_ceil(MAX_TABLE as u64)
            .max(1);
        let scaled = |weight: u32| (u64::from(weight / common) / scale).max(1) as u32;
        let offered = endpoints.iter().filter(|(_, weight)| *weight > 0);
        let backends = || -> BTreeSet<Backend> {
            let carried = |(endpoint, weight): &(_, _)| backend(endpoint, scaled(*weight));
            offered.clone().map(carried).collect()
        };
        match policy {
            LbPolicy::LeastRequest => {
                let chosen = |(endpoint, weight): &(_, _)| (Arc::clone(endpoint), scaled(*weight));
                let choices = offered.map(chosen).collect();
                Self::LeastRequest(Arc::new(LeastRequest::among(choices)))
            }
            LbPolicy::RoundRobin => Self::RoundRobin(Arc::new(RoundRobin::build(&backends()))),
            LbPolicy::RingHash => Self::RingHash(Arc::new(Consistent::build(&backends()))),
        }
    }

    /// Offers endpoints in the policy's order until `accept` takes one; each is offered at least once before it gives up.
    pub(crate) fn find(
        &self,
        rng: &mut impl Rng,
        key: &[u8],
        count: usize,
        accept: impl Fn(&Endpoint) -> bool,
    ) -> Option<Arc<Endpoint>> {
        match self {
            Self::Empty => None,
            Self::LeastRequest(selection) => {
                let mut order = selection.order(rng);
                while let Some((endpoint, _)) = order.advance() {
                    if accept(endpoint) {
                        return Some(Arc::clone(endpoint));
                    }
                }
                None
            }
            // The stock iterators repeat endpoints; four rounds find the last one with certainty for practical purposes,
            // and the caller's fallback covers the rest.
            Self::RoundRobin(selection) => first_accepted(selection.iter(key), count * 4, accept),
            Self::RingHash(selection) => first_accepted(selection.iter(key), count * 4, accept),
        }
    }
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

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::{Lease, tests::endpoint};
    use super::*;

    fn endpoints(count: u8) -> Vec<(Arc<Endpoint>, u32)> {
        (1..=count).map(|n| (endpoint(n), 1)).collect()
    }

    const POLICIES: [LbPolicy; 3] = [
        LbPolicy::LeastRequest,
        LbPolicy::RoundRobin,
        LbPolicy::RingHash,
    ];

    #[test]
    fn one_endpoint_is_always_found() {
        for policy in POLICIES {
            let selector = Selector::build(policy, &endpoints(1));
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
            let selector = Selector::build(policy, &all);
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
    fn weight_zero_is_never_offered_and_all_zero_is_empty() {
        for policy in POLICIES {
            let mut all = endpoints(2);
            all[0].1 = 0;
            let zero = all[0].0.id;
            let selector = Selector::build(policy, &all);
            assert!((0..50).all(|_| {
                selector
                    .find(&mut rand::rng(), b"k", 2, |_| true)
                    .is_some_and(|found| found.id != zero)
            }));
            all[1].1 = 0;
            assert!(
                Selector::build(policy, &all)
                    .find(&mut rand::rng(), b"k", 2, |_| true)
                    .is_none()
            );
        }
    }

    #[test]
    fn least_request_prefers_the_idle_one_of_two() {
        let all = endpoints(2);
        let _busy = Lease::new(Arc::clone(&all[0].0));
        let selector = Selector::build(LbPolicy::LeastRequest, &all);
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
        let selector = Selector::build(LbPolicy::RingHash, &endpoints(10));
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
        let selector = Selector::build(LbPolicy::RoundRobin, &endpoints(3));
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
        all[0].1 = u32::MAX;
        all[1].1 = 1;
        let Selector::LeastRequest(selection) = Selector::build(LbPolicy::LeastRequest, &all)
        else {
            panic!("least request was asked for");
        };
        assert!(selection.weighted.len() <= MAX_TABLE + 2);
    }
}
