//! The event queue: what is due when, in virtual time. Events of one moment happen in the order in which they were put in.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Events by time.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Due<E>>,
    put: u64,
    now: Duration,
}

#[derive(Debug)]
struct Due<E> {
    at: Duration,
    nth: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            put: 0,
            now: Duration::ZERO,
        }
    }

    /// The time of the event that was taken last.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// Puts an event at a time; what is late is due now.
    pub(super) fn at(&mut self, at: Duration, event: E) {
        self.put += 1;
        let at = at.max(self.now);
        let nth = self.put;
        self.heap.push(Due { at, nth, event });
    }

    /// Puts an event so much later than now.
    pub(super) fn after(&mut self, wait: Duration, event: E) {
        self.at(self.now.saturating_add(wait), event);
    }

    /// Takes the next event that is due by `end`, and moves the time on.
    pub(super) fn next(&mut self, end: Duration) -> Option<E> {
        if self.heap.peek()?.at > end {
            return None;
        }
        let due = self.heap.pop()?;
        self.now = due.at;
        Some(due.event)
    }
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    /// The heap gives the greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.nth).cmp(&(self.at, self.nth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn events_come_by_time_and_within_a_moment_in_their_order() {
        let mut queue = Queue::new();
        for (at, event) in [(3, 'c'), (1, 'a'), (3, 'd'), (2, 'b'), (3, 'e')] {
            queue.at(SECOND * at, event);
        }
        let order: String = std::iter::from_fn(|| queue.next(SECOND * 9)).collect();
        assert_eq!(order, "abcde");
        assert_eq!(queue.now(), SECOND * 3);
    }

    #[test]
    fn nothing_happens_in_the_past_or_after_the_end() {
        let mut queue = Queue::new();
        queue.at(SECOND * 2, 'a');
        assert_eq!(queue.next(SECOND), None);
        assert_eq!(queue.next(SECOND * 2), Some('a'));
        queue.at(SECOND, 'b');
        queue.after(Duration::MAX, 'c');
        assert_eq!(queue.next(SECOND * 2), Some('b'));
        assert_eq!(queue.now(), SECOND * 2);
        assert_eq!(queue.next(SECOND * 100), None);
    }
}
