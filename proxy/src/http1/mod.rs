//! HTTP/1.1 on the wire (RFC 9112), either side: strict heads on httparse, bodies, and the two halves of a connection.
//!
//! Parsing and framing do no I/O; [`reader`] and [`writer`] are the only parts that touch a socket.

pub(crate) mod body;
pub(crate) mod buffers;
pub(crate) mod head;
pub(crate) mod reader;
mod target;
pub(crate) mod writer;

use std::io::Cursor;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, Chain, Join, join};

use crate::tls::transport::{ReadHalf, WriteHalf};

/// A connection that does not speak HTTP any more, with what was read of it beyond the last message.
pub(crate) type Stream = Join<Chain<Cursor<BytesMut>, ReadHalf>, WriteHalf>;

/// Both halves as one stream; everything of the writer's must be written. `None` after an abort.
pub(crate) fn into_stream(reader: reader::Reader, writer: writer::Writer) -> Option<Stream> {
    let (read, first) = reader.into_parts();
    Some(join(Cursor::new(first).chain(read), writer.into_half()?))
}
