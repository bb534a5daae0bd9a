//! Which header blocks are in what came last on a connection that is lost, and whether one could not be decoded.

use super::Side;
use crate::http2::frames::*;
use crate::http2::hpack::Block;

/// Whether a header block in `bytes`, which begin at `place`, is no HPACK. Each block is shown to `examine` once, with whether it is
/// whole: a block may be cut into as many frames as its sender likes, and so no byte is looked at twice.
pub(super) fn is_undecodable(
    side: Side,
    mut place: Frames,
    bytes: &[u8],
    mut examine: impl FnMut(&[u8], bool) -> Block,
) -> bool {
    let (mut block, mut unfinished, mut blocks, mut at) = (Vec::new(), false, 0, 0);
    let mut next = place.begun().or_else(|| place.next(bytes, &mut at));
    while let Some(head) = next {
        let payload = &bytes[at..bytes.len().min(at + head.length as usize)];
        match head.kind {
            HEADERS | CONTINUATION => {
                block.extend_from_slice(fragment(head, payload).unwrap_or_default());
                unfinished = !head.has(END_HEADERS);
                if !unfinished {
                    match examine(&block, true) {
                        Block::Undecodable => return true,
                        Block::Malformed => return false,
                        Block::Fine => {}
                    }
                    block.clear();
                    blocks += 1;
                }
            }
            // DATA before a head, and a last stream that grows.
            DATA | GOAWAY if side == Side::Client => return false,
            _ => {}
        }
        next = place.next(bytes, &mut at);
    }
    if unfinished {
        match examine(&block, false) {
            Block::Undecodable => return true,
            Block::Malformed => return false,
            Block::Fine => {}
        }
    }
    // No fault to be seen: a field that refers to what the dynamic table does not hold.
    blocks > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = &(payload.len() as u32).to_be_bytes()[1..];
        [length, &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Bytes that were examined, and how often.
    fn examined(bytes: &[u8]) -> (usize, usize) {
        let (mut total, mut times) = (0, 0);
        is_undecodable(Side::Server, Frames::default(), bytes, |block, _| {
            total += block.len();
            times += 1;
            Block::Fine
        });
        (total, times)
    }

    #[test]
    fn a_block_in_many_frames_is_examined_once() {
        let lost = frame(HEADERS, END_HEADERS, &[0xbe]);
        let long = frame(HEADERS, 0, &[0; 16_000]);
        let empty = vec![frame(CONTINUATION, 0, &[]); 4000].concat();
        let last = frame(CONTINUATION, END_HEADERS, &[0; 10]);
        let endless = [&lost[..], &long, &empty].concat();
        assert_eq!(examined(&endless), (16_001, 2));
        assert_eq!(examined(&[&endless[..], &last].concat()), (16_011, 2));
    }
}
