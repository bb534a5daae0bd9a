//! Buffers of connections that have nothing under way, kept for the next one that has: an idle connection holds none.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};

/// What a connection starts reading with, in bytes.
pub(crate) const SMALL: usize = 8 * 1024;
/// The most a connection reads at once without the right to read more, in bytes.
pub(crate) const MEDIUM: usize = 2 * SMALL;
/// What opaque connections move at once, in bytes.
const SCRATCH: usize = 256 * 1024;
/// Buffers of each kind one worker keeps; more connections than this at once allocate theirs.
const KEPT: usize = 64;

/// Connections of one worker that may read much at once, at a time. Clients that do not read what they asked for keep such a
/// read waiting; beyond this many the rest reads little by little, slower and in little memory.
pub(crate) const MAX_LARGE: usize = 256;

/// The right to read much at once. What was read holds it too, for as long as somebody has not written it on.
#[derive(Debug)]
pub(crate) struct Large(Arc<AtomicUsize>);

impl Drop for Large {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A part of a body that came in a large read.
struct Held {
    data: Bytes,
    _large: Arc<Large>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// `data` with the right it was read by.
pub(crate) fn held(data: Bytes, large: &Arc<Large>) -> Bytes {
    let _large = Arc::clone(large);
    Bytes::from_owner(Held { data, _large })
}

/// One worker's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Atomic because what was read may be sent to another thread, as far as the compiler knows.
    large: Arc<AtomicUsize>,
    input: RefCell<Vec<BytesMut>>,
    output: RefCell<Vec<Vec<u8>>>,
    scratch: RefCell<Vec<u8>>,
}

impl Buffers {
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Whether [`Self::large`] would give it.
    pub(crate) fn has_large(&self) -> bool {
        self.large.load(Relaxed) < MAX_LARGE
    }

    /// The right to read much at once, if it is not given to too many.
    pub(crate) fn large(&self) -> Option<Arc<Large>> {
        self.has_large().then(|| {
            self.large.fetch_add(1, Relaxed);
            Arc::new(Large(Arc::clone(&self.large)))
        })
    }

    /// An empty buffer with room for [`SMALL`] bytes.
    pub(crate) fn input(&self) -> BytesMut {
        let spare = self.input.borrow_mut().pop();
        spare.unwrap_or_else(|| BytesMut::with_capacity(SMALL))
    }

    /// Takes an empty buffer back, unless it has grown or somebody still reads from it.
    pub(crate) fn give_input(&self, mut buffer: BytesMut) {
        let mut spare = self.input.borrow_mut();
        if spare.len() < KEPT && buffer.try_reclaim(SMALL) && buffer.capacity() <= 2 * SMALL {
            spare.push(buffer);
        }
    }

    /// A large buffer for bytes that are read and written within one turn; nobody else has it meanwhile.
    pub(crate) fn scratch(&self) -> RefMut<'_, Vec<u8>> {
        let mut scratch = self.scratch.borrow_mut();
        scratch.resize(SCRATCH, 0);
        scratch
    }

    /// An empty buffer to write from.
    pub(crate) fn output(&self) -> Vec<u8> {
        self.output.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes an output buffer back, unless it has grown.
    pub(crate) fn give_output(&self, mut buffer: Vec<u8>) {
        let mut spare = self.output.borrow_mut();
        if spare.len() < KEPT && buffer.capacity() <= 2 * SMALL {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_buffers_are_bounded_and_small() {
        let buffers = Buffers::new();
        for _ in 0..2 * KEPT {
            buffers.give_input(BytesMut::with_capacity(SMALL));
            buffers.give_output(Vec::with_capacity(SMALL));
        }
        assert_eq!(buffers.input.borrow().len(), KEPT);
        assert_eq!(buffers.output.borrow().len(), KEPT);
        let grown = Buffers::new();
        grown.give_input(BytesMut::with_capacity(64 * SMALL));
        grown.give_output(Vec::with_capacity(64 * SMALL));
        assert!(grown.input.borrow().is_empty() && grown.output.borrow().is_empty());
    }

    #[test]
    fn large_reads_are_bounded_and_what_they_brought_counts_until_it_is_gone() {
        let buffers = Buffers::new();
        let mut rights: Vec<_> = (0..MAX_LARGE).filter_map(|_| buffers.large()).collect();
        assert_eq!(rights.len(), MAX_LARGE);
        let last = rights.pop().expect("there is more than one");
        let part = held(Bytes::from_static(b"read"), &last);
        drop(last);
        assert!(buffers.large().is_none(), "the part is not written yet");
        assert!(!buffers.has_large());
        assert_eq!(part, "read");
        drop(part);
        assert!(buffers.large().is_some());
    }

    #[test]
    fn a_buffer_somebody_still_reads_from_is_not_kept() {
        let buffers = Buffers::new();
        let mut buffer = BytesMut::with_capacity(SMALL);
        buffer.extend_from_slice(&[0; SMALL]);
        let held = buffer.split().freeze();
        buffers.give_input(buffer);
        assert!(buffers.input.borrow().is_empty());
        drop(held);
    }
}
