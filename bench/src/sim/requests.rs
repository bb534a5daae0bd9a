//! The requests under way, in places that are used again; and how often each was acted upon.

use std::time::Duration;

use super::task::{Copy, Id};

/// One request.
#[derive(Debug)]
pub(super) struct Request<C> {
    generation: u32,
    pub(super) began: Duration,
    pub(super) idempotent: bool,
    /// Attempts begun.
    pub(super) attempts: u32,
    /// The attempt under way, for which the caller waits.
    pub(super) waits_for: Option<Copy>,
    /// Copies on the wire or in tasks, those given up included.
    pub(super) copies: u32,
    /// Times a task began to act upon it.
    pub(super) executions: u32,
    /// The policy's part; `None` once the caller has been answered.
    pub(super) call: Option<C>,
    /// It was not answered 2xx.
    pub(super) lost: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Requests<C> {
    places: Vec<Request<C>>,
    free: Vec<u32>,
}

impl<C> Requests<C> {
    pub(super) fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, began: Duration, idempotent: bool, call: C) -> Id {
        let fresh = |generation| Request {
            generation,
            began,
            idempotent,
            attempts: 0,
            waits_for: None,
            copies: 0,
            executions: 0,
            call: Some(call),
            lost: false,
        };
        if let Some(place) = self.free.pop() {
            let slot = &mut self.places[place as usize];
            let generation = slot.generation + 1;
            *slot = fresh(generation);
            return Id { place, generation };
        }
        let place =
            u32::try_from(self.places.len()).expect("memory ends long before 2^32 requests");
        self.places.push(fresh(0));
        Id {
            place,
            generation: 0,
        }
    }

    /// The request, if it is still known.
    pub(super) fn get(&mut self, id: Id) -> Option<&mut Request<C>> {
        let request = &mut self.places[id.place as usize];
        (request.generation == id.generation).then_some(request)
    }

    /// The request, if its caller waits for this copy of it.
    pub(super) fn waiting_for(&mut self, copy: Copy) -> Option<&mut Request<C>> {
        self.get(copy.request)
            .filter(|request| request.waits_for == Some(copy))
    }

    /// Forgets the request once its caller has been answered and no task holds a copy.
    pub(super) fn tidy(&mut self, id: Id) {
        let over = |request: &mut Request<C>| request.call.is_none() && request.copies == 0;
        if let Some(true) = self.get(id).map(over) {
            // The generation moves on at once, so that whoever still names it finds nothing.
            self.places[id.place as usize].generation += 1;
            self.free.push(id.place);
        }
    }

    /// Requests whose callers have not been answered.
    pub(super) fn unanswered(&self) -> usize {
        self.places
            .iter()
            .filter(|request| request.call.is_some())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_and_its_old_name_finds_nothing() {
        let mut requests = Requests::new();
        let first = requests.begin(Duration::ZERO, true, ());
        requests.tidy(first);
        let request = requests.get(first).expect("its caller still waits");
        request.call = None;
        request.copies = 1;
        requests.tidy(first);
        requests.get(first).expect("a task still holds it").copies = 0;
        requests.tidy(first);
        assert!(requests.get(first).is_none());
        let second = requests.begin(Duration::ZERO, true, ());
        assert_eq!(second.place, first.place);
        assert!(requests.get(first).is_none() && requests.get(second).is_some());
        assert_eq!(requests.unanswered(), 1);
    }
}
