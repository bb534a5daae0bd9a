//! The memory of futures that are done, kept for the next of the same kind.
//!
//! A request's story is some kilobytes: too much to lie in every idle connection, and for glibc too large an allocation to be
//! made anew each time (above 1 KiB it tidies its bins first).

use std::any::Any;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Places kept; more stories at once than this allocate theirs.
const KEPT: usize = 64;

type Place<F> = Pin<Box<Option<F>>>;

/// One worker's spare places: a `Vec<Place<F>>` of the one kind of future it is used with, which has no name to write here.
#[derive(Default)]
pub(crate) struct Spare(RefCell<Option<Box<dyn Any>>>);

/// A future in its place.
pub(crate) struct Placed<F>(Place<F>);

impl Spare {
    fn with<F: 'static, T>(&self, then: impl FnOnce(&mut Vec<Place<F>>) -> T) -> Option<T> {
        let mut places = self.0.borrow_mut();
        let places = places.get_or_insert_with(|| Box::new(Vec::<Place<F>>::new()));
        places.downcast_mut().map(then)
    }

    /// Moves the future to a place of its own.
    pub(crate) fn put<F: Future + 'static>(&self, future: F) -> Placed<F> {
        match self.with(Vec::pop).flatten() {
            Some(mut place) => {
                place.set(Some(future));
                Placed(place)
            }
            None => Placed(Box::pin(Some(future))),
        }
    }
}

impl<F: Future + 'static> Placed<F> {
    /// Runs the future, and gives its place back.
    pub(crate) async fn run(mut self, spare: &Spare) -> F::Output {
        let output = poll_fn(|cx| match self.0.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        })
        .await;
        self.0.set(None);
        spare.with(|places| {
            if places.len() < KEPT {
                places.push(self.0);
            }
        });
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn double(number: u32) -> u32 {
        tokio::task::yield_now().await;
        2 * number
    }

    #[tokio::test]
    async fn a_place_is_used_again_and_their_number_is_bounded() {
        let spare = Spare::default();
        let mut placed = Vec::new();
        for number in 0..2 * KEPT as u32 {
            placed.push((number, spare.put(double(number))));
        }
        for (number, placed) in placed {
            assert_eq!(placed.run(&spare).await, 2 * number);
        }
        let mut places = 0;
        let sample = spare.put(double(0));
        count(&spare, &sample, &mut places);
        assert_eq!(places, KEPT - 1);
    }

    fn count<F: Future + 'static>(spare: &Spare, _: &Placed<F>, places: &mut usize) {
        spare.with::<F, _>(|kept| *places = kept.len());
    }
}
