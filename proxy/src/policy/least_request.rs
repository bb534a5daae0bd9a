//! Power of two choices: of two endpoints drawn at random by weight, the one with fewer requests in flight for its weight.
//!
//! Without load every endpoint gets exactly its weight's share: the second is only taken when it is strictly freer. The two
//! are distinct, and an endpoint that is not accepted is drawn anew, never replaced by its neighbour, who would get a double share.

use std::collections::BTreeSet;
use std::sync::Arc;

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use rand::Rng;

use super::balance::endpoint_of;
use super::endpoint::Endpoint;

/// Draws before every endpoint is looked at in turn. Only what few endpoints accept comes that far.
const DRAWS: usize = 16;

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

/// An endpoint and its weight.
pub(crate) type Weighted = (Arc<Endpoint>, u32);

impl Choice for Weighted {
    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }

    fn weight(&self) -> usize {
        self.1 as usize
    }
}

/// Whether `a` has fewer requests in flight for its weight than `b`.
fn is_freer(a: &impl Choice, b: &impl Choice) -> bool {
    let (a_load, b_load) = (a.endpoint().in_flight(), b.endpoint().in_flight());
    u64::from(a_load) * (b.weight() as u64) < u64::from(b_load) * (a.weight() as u64)
}

/// See the module.
pub(crate) struct LeastRequest<C = Backend> {
    choices: Box<[C]>,
    /// Indices into `choices`, each as often as its weight; empty when all weights are equal.
    table: Box<[u16]>,
    /// Where each choice begins in the table, and its end.
    starts: Box<[u32]>,
}

impl<C: Choice> LeastRequest<C> {
    /// None of the weights is 0.
    pub(crate) fn among(choices: Box<[C]>) -> Self {
        let equal = choices
            .windows(2)
            .all(|pair| pair[0].weight() == pair[1].weight());
        let (mut table, mut starts) = (Vec::new(), Vec::new());
        if !equal {
            starts.push(0);
            for (index, choice) in choices.iter().enumerate() {
                table.extend(std::iter::repeat_n(index as u16, choice.weight()));
                starts.push(table.len() as u32);
            }
        }
        Self {
            choices,
            table: table.into(),
            starts: starts.into(),
        }
    }

    /// Entries of the weighted table.
    #[cfg(test)]
    pub(crate) fn table_len(&self) -> usize {
        self.table.len()
    }

    /// The freer of two that `accept` takes, or the only one.
    pub(crate) fn find(
        &self,
        rng: &mut impl Rng,
        accept: impl Fn(&Endpoint) -> bool,
    ) -> Option<&C> {
        Some(&self.choices[self.index(rng, accept)?])
    }

    fn index(&self, rng: &mut impl Rng, accept: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let accepted = |index: &usize| accept(self.choices[*index].endpoint());
        let drawn = (0..DRAWS).map(|_| self.draw(rng)).find(accepted);
        let Some(a) = drawn else {
            let (count, start) = (self.choices.len(), rng.random_range(0..self.choices.len()));
            return (start..count).chain(0..start).find(accepted);
        };
        if self.choices.len() == 1 {
            return Some(a);
        }
        let drawn = (0..DRAWS).map(|_| self.draw_other(rng, a)).find(accepted);
        let freer = drawn.filter(|b| is_freer(&self.choices[*b], &self.choices[a]));
        Some(freer.unwrap_or(a))
    }

    fn draw(&self, rng: &mut impl Rng) -> usize {
        if self.table.is_empty() {
            rng.random_range(0..self.choices.len())
        } else {
            usize::from(self.table[rng.random_range(0..self.table.len())])
        }
    }

    /// Another one than `first`, of at least two.
    fn draw_other(&self, rng: &mut impl Rng, first: usize) -> usize {
        if self.table.is_empty() {
            let other = rng.random_range(0..self.choices.len() - 1);
            other + usize::from(other >= first)
        } else {
            let start = self.starts[first] as usize;
            let own = self.starts[first + 1] as usize - start;
            let other = rng.random_range(0..self.table.len() - own);
            usize::from(self.table[if other < start { other } else { other + own }])
        }
    }
}

impl BackendSelection for LeastRequest {
    type Iter = LeastRequestIter;
    type Config = ();

    fn build(backends: &BTreeSet<Backend>) -> Self {
        Self::among(backends.iter().cloned().collect())
    }

    fn iter(self: &Arc<Self>, _key: &[u8]) -> Self::Iter {
        let rng = &mut rand::rng();
        LeastRequestIter {
            first: self.index(rng, |_| true),
            next: self.draw(rng),
            left: self.choices.len(),
            selection: Arc::clone(self),
        }
    }
}

/// The order in which pingora's `select_with` is offered endpoints: the choice, then all from a random one on. The request path
/// asks [`LeastRequest::find`].
pub(crate) struct LeastRequestIter {
    selection: Arc<LeastRequest>,
    first: Option<usize>,
    next: usize,
    left: usize,
}

impl BackendIter for LeastRequestIter {
    fn next(&mut self) -> Option<&Backend> {
        let index = match self.first.take() {
            Some(first) => first,
            None => {
                self.left = self.left.checked_sub(1)?;
                self.next = (self.next + 1) % self.selection.choices.len();
                self.next
            }
        };
        Some(&self.selection.choices[index])
    }
}
