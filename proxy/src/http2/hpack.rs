//! What is to be known of header blocks outside h2: whether a head is too large to send, and why a block was refused: not HPACK, or
//! HPACK of a message that is none. The second is asked only of a connection that is lost already.
//!
//! h2 (0.4) answers both with PROTOCOL_ERROR; RFC 9113 section 4.3 wants COMPRESSION_ERROR for the first. No tables are kept here: an
//! index into the dynamic table is taken for good.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

/// What a header block is, as far as can be seen without the dynamic table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Fine,
    /// It is decoded, and h2 cannot hold what comes of it.
    Malformed,
    Undecodable,
}

/// The static table's last place, and the last that a dynamic table of 4096 bytes can have behind it (RFC 7541 sections 2.3.3, 4.1).
const STATIC: usize = 61;
const LAST: usize = STATIC + TABLE / 32;
/// SETTINGS_HEADER_TABLE_SIZE, which is left at its first value.
const TABLE: usize = 4096;

/// Looks through the block to its first fault. One that is not `whole` may break off.
pub(super) fn examine(block: &[u8], whole: bool) -> Block {
    let mut rest = Rest(block);
    let mut has_fields = false;
    while let Some(first) = rest.0.first().copied() {
        match field(&mut rest, first, has_fields) {
            Ok(true) => {}
            Ok(false) => return Block::Malformed,
            Err(Fault::Short) if !whole => return Block::Fine,
            Err(_) => return Block::Undecodable,
        }
        has_fields |= first & 0xe0 != 0x20;
    }
    Block::Fine
}

enum Fault {
    Short,
    Wrong,
}

/// One representation (RFC 7541 section 6); whether its name and value can be a field's.
fn field(rest: &mut Rest<'_>, first: u8, has_fields: bool) -> Result<bool, Fault> {
    let bits = match first {
        0x80.. => 7,
        0x40.. => 6,
        0x20.. => 5,
        _ => 4,
    };
    let index = rest.integer(bits)?;
    match bits {
        7 if index == 0 => return Err(Fault::Wrong),
        5 if has_fields || index > TABLE => return Err(Fault::Wrong),
        5 => return Ok(true),
        _ if index > LAST => return Err(Fault::Wrong),
        7 => return Ok(true),
        _ => {}
    }
    let name = if index == 0 {
        Some(rest.string()?)
    } else {
        None
    };
    let value = rest.string()?;
    Ok(match (name.as_deref(), index) {
        (Some(b":method"), _) | (None, 2 | 3) => Method::from_bytes(&value).is_ok(),
        (Some(b":status"), _) | (None, 8..=14) => StatusCode::from_bytes(&value).is_ok(),
        (Some(b":authority" | b":path" | b":scheme" | b":protocol"), _) | (None, 1..=7) => {
            std::str::from_utf8(&value).is_ok()
        }
        (Some(name), _) => {
            HeaderName::from_lowercase(name).is_ok() && HeaderValue::from_bytes(&value).is_ok()
        }
        (None, _) => HeaderValue::from_bytes(&value).is_ok(),
    })
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> Result<u8, Fault> {
        let (first, rest) = self.0.split_first().ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer with a prefix of so many bits (RFC 7541 section 5.1), of four bytes behind it at most, as h2 has it.
    fn integer(&mut self, bits: u32) -> Result<usize, Fault> {
        let most = (1 << bits) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Wrong)
    }

    /// RFC 7541 section 5.2.
    fn string(&mut self) -> Result<Vec<u8>, Fault> {
        let huffman = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Fault::Short)?;
        self.0 = rest;
        if huffman {
            decode(text).ok_or(Fault::Wrong)
        } else {
            Ok(text.to_vec())
        }
    }
}

/// Bits of each symbol's code (RFC 7541 appendix B); the codes themselves follow, for they are canonical: in the order of their lengths,
/// and of the symbols within a length. EOS, the 257th symbol, has 30 and comes last.
#[rustfmt::skip]
const BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The longest code of a symbol that may be in a text.
const LONGEST: usize = 30;

/// How many symbols have a code of so many bits.
const CODES: [u32; LONGEST + 1] = {
    let mut codes = [0; LONGEST + 1];
    let mut symbol = 0;
    while symbol < BITS.len() {
        codes[BITS[symbol] as usize] += 1;
        symbol += 1;
    }
    codes
};

/// The symbols in the order of their codes.
const SYMBOLS: [u8; 256] = {
    let mut symbols = [0; 256];
    let (mut place, mut bits) = (0, 0);
    while bits <= LONGEST {
        let mut symbol = 0;
        while symbol < BITS.len() {
            if BITS[symbol] as usize == bits {
                symbols[place] = symbol as u8;
                place += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    symbols
};

/// Text in Huffman code; `None` with EOS in it, or with a padding that is too long or not of ones.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() * 8 / 5);
    let (mut code, mut length, mut ones) = (0u32, 0, true);
    // The first code of the length, and the place of its symbol.
    let (mut first, mut place) = (0u32, 0usize);
    for bit in text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
    {
        (code, length, ones) = (code << 1 | u32::from(bit), length + 1, ones && bit == 1);
        first <<= 1;
        let offset = code.checked_sub(first)?;
        if offset < CODES[length] {
            decoded.push(SYMBOLS[place + offset as usize]);
            (code, length, ones, first, place) = (0, 0, true, 0, 0);
        } else if length >= LONGEST {
            return None;
        } else {
            first += CODES[length];
            place += CODES[length] as usize;
        }
    }
    (length < 8 && ones).then_some(decoded)
}

/// Bytes of a head, as a header list counts them and as HPACK writes it, that a peer is trusted to take. h2 shows no peer's
/// SETTINGS_MAX_HEADER_LIST_SIZE, and one that is sent more may end the connection for all its streams.
const MOST: usize = 64 * 1024;

/// Whether a head of these pseudo-header fields and fields may be sent.
pub(crate) fn fits(pseudo: &[(&str, &str)], fields: &HeaderMap) -> bool {
    let all = || {
        let pseudo = pseudo.iter();
        let pseudo = pseudo.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let fields = fields.iter();
        pseudo.chain(fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
    };
    // RFC 9113 section 6.5.2.
    let list: usize = all()
        .map(|(name, value)| name.len() + value.len() + OVERHEAD)
        .sum();
    // No code is longer than four bytes.
    list <= MOST / 4 || list <= MOST && all().map(written).sum::<usize>() <= MOST
}

/// What a header list counts for a field beside its name and value.
const OVERHEAD: usize = 32;

/// Bytes of the field as a literal at most: h2 (0.4) writes all text in Huffman code, also where that is longer, up to fourfold.
fn written((name, value): (&[u8], &[u8])) -> usize {
    // The representation's first byte, and the lengths (RFC 7541 sections 5.1, 5.2, 6.2).
    let around = 1 + 4 + 4;
    let bits = |text: &[u8]| -> usize {
        let bits = text
            .iter()
            .map(|byte| usize::from(BITS[usize::from(*byte)]));
        bits.sum()
    };
    around + bits(name).div_ceil(8) + bits(value).div_ceil(8)
}

/// Whether the header block's first field has the name of a request's pseudo-header field by its place in the static table (RFC 7541
/// appendix A). One that refers to the dynamic table is not known here; h2 passes none on from where it may not be.
pub(super) fn names_request(block: &[u8]) -> bool {
    // Indexed, and the three kinds of literal with an indexed name (RFC 7541 section 6).
    matches!(
        block.first(),
        Some(0x81..=0x87 | 0x41..=0x47 | 0x01..=0x07 | 0x11..=0x17)
    )
}

/// The same of `:status`.
pub(super) fn names_status(block: &[u8]) -> bool {
    matches!(
        block.first(),
        Some(0x88..=0x8e | 0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e)
    )
}

/// Whether the header block's first field is a literal whose name begins with a colon, as it is or in Huffman code (1011100).
pub(super) fn spells_pseudo(block: &[u8]) -> bool {
    match *block {
        [0x40 | 0x00 | 0x10, length, first, ..] if length & 0x80 == 0 => first == b':',
        [0x40 | 0x00 | 0x10, _, first, ..] => first >> 1 == 0b101_1100,
        _ => false,
    }
}

/// The header block behind a `:status` at its beginning.
pub(super) fn after_status(block: &[u8]) -> &[u8] {
    match *block {
        [0x88..=0x8e, ref rest @ ..] => rest,
        [
            0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e,
            length,
            ref rest @ ..,
        ] => rest.get(usize::from(length & 0x7f)..).unwrap_or_default(),
        _ => block,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_looked_through_to_its_first_fault() {
        let name = |name: &[u8]| [&[0x40, name.len() as u8][..], name, &[1, b'x']].concat();
        for (block, what) in [
            (vec![0x82, 0x86, 0x84, 0xbe], Block::Fine),
            (vec![0x20, 0x3f, 0xe1, 0x1f, 0x82], Block::Fine),
            (name(b"x-test"), Block::Fine),
            (name(b"X-Test"), Block::Malformed),
            (name(b":test"), Block::Malformed),
            (name(b""), Block::Malformed),
            (vec![0x44, 3, b'/', b'a', b'\n'], Block::Fine),
            (vec![0x5f, 1, b'\n'], Block::Malformed),
            (vec![0x48, 3, b'2', b'x', b'x'], Block::Malformed),
            (vec![0x80], Block::Undecodable),
            (vec![0xff, 0xff, 0x7f], Block::Undecodable),
            (vec![0xff, 0x80, 0x80, 0x80, 0x80, 0x00], Block::Undecodable),
            (vec![0x82, 0x20], Block::Undecodable),
            (vec![0x3f, 0xe2, 0x1f], Block::Undecodable),
            (vec![0x40], Block::Undecodable),
            (vec![0x40, 9, b'x'], Block::Undecodable),
        ] {
            assert_eq!(examine(&block, true), what, "{block:x?}");
        }
        assert_eq!(examine(&[0x40, 9, b'x'], false), Block::Fine);
    }

    #[test]
    fn huffman_code_is_read_as_the_rfc_writes_it() {
        // RFC 7541 appendix C.4.
        let host = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decode(&host).as_deref(), Some(&b"www.example.com"[..]));
        assert_eq!(
            decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).as_deref(),
            Some(&b"no-cache"[..])
        );
        assert_eq!(decode(&[]).as_deref(), Some(&b""[..]));
        // A byte of padding, padding of zeros, and EOS.
        for wrong in [&[0x1f, 0xff][..], &[0x18], &[0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decode(wrong), None, "{wrong:x?}");
        }
    }

    #[test]
    fn a_head_is_measured_as_a_list_and_as_it_is_written() {
        let head = |value: &[u8], count: usize| {
            let value = HeaderValue::from_bytes(value).unwrap();
            let field = (HeaderName::from_static("x"), value);
            let mut fields = HeaderMap::new();
            for _ in 0..count {
                fields.append(field.0.clone(), field.1.clone());
            }
            fits(&[], &fields)
        };
        // 33 beside the value, of MOST.
        assert!(head(&[b'a'; MOST - 33], 1));
        assert!(!head(&[b'a'; MOST - 32], 1));
        assert!(head(b"", MOST / 33));
        assert!(!head(b"", MOST / 33 + 1));
        // 15 bits of each, of 8.
        assert!(head(&[b'{'; 34_000], 1));
        assert!(!head(&[b'{'; 36_000], 1));
        // Pseudo-header fields count.
        let path = "{".repeat(36_000);
        assert!(!fits(&[(":path", &path)], &HeaderMap::new()));
    }
}
