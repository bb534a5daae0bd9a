//! Buffers of connections that have nothing under way, kept for the next one that has: an idle connection holds none.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;

use bytes::BytesMut;

/// What a connection starts reading with, in bytes.
pub(crate) const SMALL: usize = 8 * 1024;
/// What opaque connections move at once, in bytes.
const SCRATCH: usize = 256 * 1024;
/// Buffers of each kind one worker keeps; more connections than this at once allocate theirs.
const KEPT: usize = 64;

/// One worker's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    input: RefCell<Vec<BytesMut>>,
    output: RefCell<Vec<Vec<u8>>>,
    scratch: RefCell<Vec<u8>>,
}

impl Buffers {
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
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
