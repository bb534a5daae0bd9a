//! Fuzz targets for everything that reads what strangers send.
//!
//! Each module is one target: `check` takes any bytes and panics when what it says of itself does not hold. `cargo test -p
//! outrigger-fuzz` replays the committed corpus through all of them; `fuzz_targets/` are the same for libFuzzer. README.md says
//! how they are run.

pub mod cloudmap;
pub mod detect;
pub mod differential;
pub mod document;
pub mod h1_request;
pub mod h1_response;
pub mod h2_head;
pub mod reference;
pub mod replay;
pub mod xds;

/// The bytes in pieces of `step`, or for 0 of lengths from 1 to 32 that depend on the bytes.
fn pieces(bytes: &[u8], step: usize) -> Vec<&[u8]> {
    let (mut rest, mut pieces) = (bytes, Vec::new());
    let mut hash = 0x811c_9dc5_u32;
    while !rest.is_empty() {
        hash = (hash ^ u32::from(rest[0])).wrapping_mul(0x0100_0193);
        let length = if step == 0 {
            1 + (hash >> 16) as usize % 32
        } else {
            step
        };
        let (piece, later) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    pieces
}

/// Panics where a head on the wire has a CR, LF or NUL beside the line ends of its first line, its fields and its end.
fn assert_lines(head: &[u8], fields: usize) {
    let shown = String::from_utf8_lossy(head);
    let lines: Vec<_> = head.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), fields + 3, "lines that no field is: {shown:?}");
    for line in &lines[..lines.len() - 1] {
        let line = line.strip_suffix(b"\r").expect("every LF follows a CR");
        let bad = |byte: &u8| matches!(byte, b'\r' | 0);
        assert!(!line.iter().any(bad), "a bare CR or a NUL: {shown:?}");
    }
}
