//! The length of a body on the wire, and the chunked coding (RFC 9112 sections 6 and 7). No I/O.

use bytes::{Buf, Bytes, BytesMut};

use super::head::{self, Refused};
use crate::message::Part;
use crate::message::fields::Fields;

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
                    if buffer.len() < 2 {
                        return Ok(Decoded::More);
                    }
                    if &buffer[..2] != b"\r\n" {
                        return Err(Refused::Bad("a chunk does not end where its size says"));
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
    let extension = &line[digits..];
    let bad = Refused::Bad("a chunk's size is malformed");
    let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let starts = extension.trim_ascii_start().first();
    if digits == 0
        || digits > 16
        || extension.len() > MAX_SIZE_LINE
        || starts.is_some_and(|byte| *byte != b';')
        || (starts.is_none() && !extension.is_empty())
        || extension.iter().any(control)
    {
        return Err(bad);
    }
    let size = line[..digits].iter().fold(0u64, |size, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        size << 4 | u64::from(digit)
    });
    Ok(Some((size, end + 1)))
}

/// The trailer section, once it is complete: `Some(None)` when it is empty.
fn trailers(buffer: &mut BytesMut) -> Result<Option<Option<Fields>>, Refused> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Some(None));
    }
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        if buffer.len() > MAX_TRAILERS {
            return Err(Refused::TooLarge);
        }
        // Not one more byte is waited for when it is clear that no CRLF can come here.
        return if buffer.first().is_some_and(|byte| *byte == b'\n') {
            Err(Refused::Bad("a line ends in LF alone"))
        } else {
            Ok(None)
        };
    };
    let section = buffer.split_to(end + 4);
    head::trailers(&section).map(|fields| Some(Some(fields)))
}

#[cfg(test)]
mod tests;
