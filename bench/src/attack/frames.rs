//! HTTP/2 frames as raw bytes (RFC 9113 section 4.1), for clients that break what a library would keep.

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// `GET /` of `http://a` in HPACK: three fields of the static table and a literal authority (RFC 7541 appendix A, section 6.2.2).
pub(super) const GET: [u8; 6] = [0x82, 0x86, 0x84, 0x01, 1, b'a'];
/// The same as POST.
pub(super) const POST: [u8; 6] = [0x83, 0x86, 0x84, 0x01, 1, b'a'];
/// A literal field that is not indexed: `x: yyyyyyyyyyyyyyyy`.
pub(super) const FIELD: [u8; 20] = {
    let mut field = [b'y'; 20];
    field[0] = 0;
    field[1] = 1;
    field[2] = b'x';
    field[3] = 16;
    field
};

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a client begins with; `window` is its SETTINGS_INITIAL_WINDOW_SIZE where it is not the default.
pub(super) fn preface(window: Option<u32>) -> Vec<u8> {
    let mut settings = Vec::new();
    if let Some(window) = window {
        settings.extend([0, 4]);
        settings.extend(window.to_be_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &settings));
    bytes
}

/// A request, and that it is not wanted any more.
pub(super) fn opened_and_reset(stream: u32) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &GET);
    bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    bytes
}

/// Looks for GOAWAY in what a server sends.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    rest: Vec<u8>,
}

impl Scanner {
    /// The error code of a GOAWAY, once one has come whole. The graceful kind, with which more is to follow, does not count.
    pub(super) fn goaway(&mut self, bytes: &[u8]) -> Option<u32> {
        self.rest.extend_from_slice(bytes);
        let (mut at, mut found) = (0, None);
        while let Some([a, b, c, kind, _, _, _, _, _]) = self.rest.get(at..at + 9) {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some(payload) = self.rest.get(at + 9..at + 9 + length) else {
                break;
            };
            if let (GOAWAY, [_, _, _, _, code @ ..]) = (*kind, payload) {
                let code = code
                    .first_chunk::<4>()
                    .map(|code| u32::from_be_bytes(*code));
                found = code.or(found);
            }
            at += 9 + length;
        }
        self.rest.drain(..at);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goaway_is_found_however_the_bytes_are_cut() {
        let bytes = [
            frame(SETTINGS, 0, 0, &[]),
            frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11]),
        ]
        .concat();
        for cut in 0..bytes.len() {
            let mut scanner = Scanner::default();
            let first = scanner.goaway(&bytes[..cut]);
            assert_eq!(first, None, "cut at {cut}");
            assert_eq!(scanner.goaway(&bytes[cut..]), Some(11));
        }
    }
}
