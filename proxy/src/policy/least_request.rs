//! Power of two choices: of two endpoints drawn at random by weight, the one with fewer requests in flight for its weight.
//!
//! Without load every endpoint gets exactly its weight's share: the second is only taken when it is strictly freer. The two
//! are distinct, and an endpoint that is not accepted is drawn anew, never replaced by its neighbour, who would get a double share.

use std::sync::Arc;

use rand::Rng;

use super::endpoint::Endpoint;

/// Draws before every endpoint is looked at in turn. Only what few endpoints accept comes that far.
const DRAWS: usize = 16;

/// An endpoint and its weight. A pingora backend would cost some 350 bytes more, on every task for every endpoint of every service.
pub(crate) type Weighted = (Arc<Endpoint>, u32);

/// Whether `a` has fewer requests in flight for its weight than `b`.
fn is_freer((a, a_weight): &Weighted, (b, b_weight): &Weighted) -> bool {
    let (a_load, b_load) = (a.in_flight(), b.in_flight());
    u64::from(a_load) * u64::from(*b_weight) < u64::from(b_load) * u64::from(*a_weight)
}

/// See the module.
pub(crate) struct LeastRequest {
    choices: Box<[Weighted]>,
    /// Indices into `choices`, each as often as its weight; empty when all weights are equal.
    table: Box<[u16]>,
    /// Where each choice begins in the table, and its end.
    starts: Box<[u32]>,
}

impl LeastRequest {
    /// None of the weights is 0.
    pub(crate) fn among(choices: Box<[Weighted]>) -> Self {
        let equal = choices.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let (mut table, mut starts) = (Vec::new(), Vec::new());
        if !equal {
            starts.push(0);
            for (index, (_, weight)) in choices.iter().enumerate() {
                table.extend(std::iter::repeat_n(index as u16, *weight as usize));
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
    ) -> Option<&Weighted> {
        Some(&self.choices[self.index(rng, accept)?])
    }

    fn index(&self, rng: &mut impl Rng, accept: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let accepted = |index: &usize| accept(&self.choices[*index].0);
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
