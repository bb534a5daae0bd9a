//! The length of a body on the wire, and the chunked coding (RFC 9112 sections 6 and 7). No I/O.

use bytes::{Buf, Bytes, BytesMut};

use super::head::{self, Refused};
use crate::message::Part;
use crate::message::fields::Fields;
use crate::message::head::MAX_LENGTH;
use crate::message::trailers::permitted;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; 0 where there is no body.
    Length(u64),
    Chunked,
    /// A response that lasts until its connection ends.
    UntilClose,
}

/// The longest chunk-size line, extensions included.
const MAX_SIZE_LINE: usize = 4 * 1024;
/// The largest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;

/// Where a body being read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    Length(u64),
    UntilClose,
    /// Before a chunk's size.
    Size,
    /// Within a chunk's data.
    Chunk(u64),
    /// Before the CRLF that ends a chunk's data.
    ChunkEnd,
    /// After the last chunk.
    Trailers,
    Done,
}

/// What came of a look at the buffer.
#[derive(Debug)]
pub(crate) enum Decoded {
    Part(Part),
    End,
    /// Nothing until more bytes come.
    More,
}

impl Decoder {
    pub(crate) const fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Size,
            Framing::UntilClose => Self::UntilClose,
        }
    }

    pub(crate) fn is_done(self) -> bool {
        self == Self::Done
    }

    /// Bytes still to come, where that is known.
    pub(crate) const fn remaining(self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(length),
            Self::Done => Some(0),
            _ => None,
        }
    }

    /// How many of the bytes that follow a head are its body, if all of it is there and nothing of it was taken.
    pub(crate) fn whole(self, bytes: &[u8]) -> Result<Option<usize>, Refused> {
        match self {
            Self::Done => Ok(Some(0)),
            Self::Length(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Ok((length <= bytes.len()).then_some(length))
            }
            Self::Size => whole_chunks(bytes),
            Self::UntilClose | Self::Chunk(_) | Self::ChunkEnd | Self::Trailers => Ok(None),
        }
    }

    /// Takes the next part out of `buffer`.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Refused> {
        loop {
            match *self {
                Self::Done => return Ok(Decoded::End),
                Self::UntilClose => {
                    return Ok(if buffer.is_empty() {
                        Decoded::More
                    } else {
                        Decoded::Part(Part::Data(buffer.split().freeze()))
                    });
                }
                Self::Length(left) => {
                    let Some(data) = take(buffer, left) else {
                        return Ok(Decoded::More);
                    };
                    let left = left - data.len() as u64;
                    *self = if left == 0 {
                        Self::Done
                    } else {
                        Self::Length(left)
                    };
                    return Ok(Decoded::Part(Part::Data(data)));
                }
                Self::Chunk(left) => {
                    let Some(data) = take(buffer, left) else {
                        return Ok(Decoded::More);
                    };
                    let left = left - data.len() as u64;
                    *self = if left == 0 {
                        Self::ChunkEnd
                    } else {
                        Self::Chunk(left)
                    };
                    return Ok(Decoded::Part(Part::Data(data)));
                }
                Self::ChunkEnd => {
                    if !ends_chunk(buffer)? {
                        return Ok(Decoded::More);
                    }
                    buffer.advance(2);
                    *self = Self::Size;
                }
                Self::Size => {
                    let Some((size, line)) = chunk_size(buffer)? else {
                        return Ok(Decoded::More);
                    };
                    buffer.advance(line);
                    *self = if size == 0 {
                        Self::Trailers
                    } else {
                        Self::Chunk(size)
                    };
                }
                Self::Trailers => {
                    let Some(fields) = trailers(buffer)? else {
                        return Ok(Decoded::More);
                    };
                    *self = Self::Done;
                    return Ok(match fields {
                        Some(fields) => Decoded::Part(Part::Trailers(fields)),
                        None => Decoded::End,
                    });
                }
            }
        }
    }
}

/// At most `left` bytes of what is there.
fn take(buffer: &mut BytesMut, left: u64) -> Option<Bytes> {
    let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    (length > 0).then(|| buffer.split_to(length).freeze())
}

/// The size on a chunk's first line, and how long that line is (RFC 9112 section 7.1).
fn chunk_size(bytes: &[u8]) -> Result<Option<(u64, usize)>, Refused> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return if bytes.len() > MAX_SIZE_LINE {
            Err(Refused::Bad("a chunk's first line is too long"))
        } else {
            Ok(None)
        };
    };
    let Some(line) = bytes[..end].strip_suffix(b"\r") else {
        return Err(Refused::Bad("a chunk's first line ends in LF alone"));
    };
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let extensions = &line[digits..];
    let well_formed = (1..=16).contains(&digits)
        && (extensions.is_empty()
            || (extensions.len() <= MAX_SIZE_LINE && are_extensions(extensions)));
    let size = line[..digits.min(16)].iter().fold(0u64, |size, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        size << 4 | u64::from(digit)
    });
    if !well_formed || size > MAX_LENGTH {
        return Err(Refused::Bad("a chunk's size is malformed"));
    }
    Ok(Some((size, end + 1)))
}

/// RFC 9112 section 7.1.1: any number of `;name`, `;name=token` and `;name="quoted"`. Nobody reads them, but who stands behind us
/// might see the end of their line elsewhere.
fn are_extensions(mut text: &[u8]) -> bool {
    while !text.is_empty() {
        let Some(after) = blank(text).strip_prefix(b";") else {
            return false;
        };
        let Some(after) = token(blank(after)) else {
            return false;
        };
        text = after;
        if let Some(value) = blank(after).strip_prefix(b"=") {
            let value = blank(value);
            match token(value).or_else(|| quoted(value)) {
                Some(after) => text = after,
                None => return false,
            }
        }
    }
    true
}

/// What follows the white space at the start.
fn blank(text: &[u8]) -> &[u8] {
    let length = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
    &text[length.count()..]
}

/// What follows the token at the start (RFC 9110 section 5.6.2).
fn token(text: &[u8]) -> Option<&[u8]> {
    let is_token = |byte: &&u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let length = text.iter().take_while(is_token).count();
    (length > 0).then(|| &text[length..])
}

/// What follows the quoted string at the start (RFC 9110 section 5.6.4).
fn quoted(text: &[u8]) -> Option<&[u8]> {
    let mut inside = text.strip_prefix(b"\"")?;
    loop {
        inside = match inside {
            [b'"', after @ ..] => return Some(after),
            [b'\\', byte, after @ ..] if is_text(*byte) => after,
            [b'\\', ..] => return None,
            [byte, after @ ..] if is_text(*byte) => after,
            _ => return None,
        }
    }
}

const fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// Whether the line end after a chunk's data is there.
fn ends_chunk(bytes: &[u8]) -> Result<bool, Refused> {
    match bytes {
        [b'\r', b'\n', ..] => Ok(true),
        [] | [b'\r'] => Ok(false),
        _ => Err(Refused::Bad("a chunk does not end where its size says")),
    }
}

/// How many bytes a chunked body takes, if all of it is there.
fn whole_chunks(bytes: &[u8]) -> Result<Option<usize>, Refused> {
    let mut rest = bytes;
    loop {
        let Some((size, line)) = chunk_size(rest)? else {
            return Ok(None);
        };
        rest = &rest[line..];
        if size == 0 {
            let end = trailers_end(rest)?.map(|end| (bytes.len() - rest.len(), end));
            let Some((start, end)) = end else {
                return Ok(None);
            };
            if end > 2 {
                head::trailers(&rest[..end])?;
            }
            return Ok(Some(start + end));
        }
        let data = usize::try_from(size).unwrap_or(usize::MAX);
        let Some((_, after)) = rest.split_at_checked(data) else {
            return Ok(None);
        };
        if !ends_chunk(after)? {
            return Ok(None);
        }
        rest = &after[2..];
    }
}

/// Where the trailer section ends, once it is complete.
fn trailers_end(bytes: &[u8]) -> Result<Option<usize>, Refused> {
    if bytes.starts_with(b"\r\n") {
        return Ok(Some(2));
    }
    let end = memchr::memmem::find(bytes, b"\r\n\r\n").map(|end| end + 4);
    if end.unwrap_or(bytes.len()) > MAX_TRAILERS {
        return Err(Refused::TooLarge);
    }
    // Not one more byte is waited for when it is clear that what came cannot become one.
    if end.is_none() && !head::ends_lines_in_crlf(bytes) {
        return Err(Refused::Bad("a line ends in LF alone"));
    }
    Ok(end)
}

/// The trailer section, once it is complete: `Some(None)` when nothing of it passes.
fn trailers(buffer: &mut BytesMut) -> Result<Option<Option<Fields>>, Refused> {
    match trailers_end(buffer)? {
        None => Ok(None),
        Some(2) => {
            buffer.advance(2);
            Ok(Some(None))
        }
        Some(end) => {
            let section = buffer.split_to(end);
            let fields = head::trailers(&section)?;
            Ok(Some(permitted(fields)))
        }
    }
}

#[cfg(test)]
mod tests;
