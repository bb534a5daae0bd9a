//! HTTP/2 by hand: frames and header blocks that are whatever a case wants them to be, and a reader that judges nothing.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No read waits longer: a case that hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;
/// END_STREAM and END_HEADERS.
pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;

pub(crate) const PROTOCOL_ERROR: u32 = 0x1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 0x3;
pub(crate) const STREAM_CLOSED: u32 = 0x5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 0x6;
pub(crate) const REFUSED_STREAM: u32 = 0x7;
pub(crate) const CANCEL: u32 = 0x8;
pub(crate) const COMPRESSION_ERROR: u32 = 0x9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;

/// One frame, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Four bytes of the payload as a number.
    pub(crate) fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).expect("the frame is longer");
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    }

    /// Whether it ends its sender's half of the stream.
    pub(crate) fn ends(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.has(END_STREAM)
    }
}

/// A frame whose head says `length`, whatever the payload's is.
pub(crate) fn frame_of(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_of(payload.len(), kind, flags, stream, payload)
}

pub(crate) fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in pairs {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(crate) fn ping(payload: &[u8; 8]) -> Vec<u8> {
    frame(PING, 0, 0, payload)
}

pub(crate) fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(
        GOAWAY,
        0,
        0,
        &[last.to_be_bytes(), code.to_be_bytes()].concat(),
    )
}

pub(crate) fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(
        PRIORITY,
        0,
        stream,
        &[&on.to_be_bytes()[..], &[weight]].concat(),
    )
}

/// An integer with a prefix of `bits` (RFC 7541 section 5.1).
pub(crate) fn integer(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1usize << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut bytes = vec![first | most as u8];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push(rest as u8 & 0x7f | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

pub(crate) fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = integer(0, 7, text.len());
    bytes.extend(text);
    bytes
}

/// A literal that is not indexed, with its name spelt out (RFC 7541 section 6.2.2).
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

/// The same, entered into the dynamic table (section 6.2.1).
pub(crate) fn indexed_literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0x40][..], &string(name), &string(value)].concat()
}

pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let literals = fields
        .iter()
        .map(|(name, value)| literal(name.as_bytes(), value.as_bytes()));
    literals.collect::<Vec<_>>().concat()
}

/// A request's pseudo-header fields and then `fields`.
pub(crate) fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "app"),
    ];
    block(&[&pseudo, fields].concat())
}

/// One connection.
pub(crate) struct Conn {
    stream: TcpStream,
    /// What has come and is not yet a frame.
    came: Vec<u8>,
    /// Frames that came while SETTINGS were exchanged.
    kept: VecDeque<Frame>,
    /// The peer's first SETTINGS.
    pub(crate) settings: Vec<(u16, u32)>,
    /// The last status that the peer has spelt out.
    status: u16,
}

impl Conn {
    pub(crate) fn of(stream: TcpStream) -> Self {
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&stream, Some(PATIENCE)).expect("a timeout can be set");
        }
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Self {
            stream,
            came: Vec::new(),
            kept: VecDeque::new(),
            settings: Vec::new(),
            status: 0,
        }
    }

    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("the listener is bound"))
    }

    /// Sends all of it; the peer may have closed before.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends as long as the peer takes it; how much that was.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(crate) fn send_all(&mut self, frames: &[Vec<u8>]) {
        self.send(&frames.concat());
    }

    pub(crate) fn shutdown(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// The next frame; `None` when the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.kept.pop_front().or_else(|| self.read())
    }

    fn read(&mut self) -> Option<Frame> {
        let head = self.exactly(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.exactly(length)?;
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            stream,
            payload,
        };
        if std::env::var_os("HTTP2_FRAMES_TRACE").is_some() {
            eprintln!("  <- {frame:?}");
        }
        Some(frame)
    }

    /// So many bytes; `None` when the connection has ended before.
    pub(crate) fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut piece = [0; 16 * 1024];
        while self.came.len() < count {
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.came.extend(&piece[..read]),
                Err(error) if is_end(error.kind()) => return None,
                Err(error) => panic!("nothing more came within {PATIENCE:?}: {error}"),
            }
        }
        Some(self.came.drain(..count).collect())
    }

    /// What comes behind the preface and SETTINGS: GOAWAY.
    pub(crate) fn after_preface(&mut self) -> Frame {
        assert_eq!(self.exactly(PREFACE.len()).as_deref(), Some(PREFACE));
        self.find("GOAWAY", |frame| frame.kind == GOAWAY)
    }

    /// The first frame of those that are here that `wanted` takes, without waiting for more.
    pub(crate) fn come(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        self.stream.set_nonblocking(true).expect("it can be set");
        let mut piece = [0; 16 * 1024];
        while let Ok(read @ 1..) = self.stream.read(&mut piece) {
            self.came.extend(&piece[..read]);
        }
        self.stream.set_nonblocking(false).expect("it can be set");
        while let Some(head) = self.came.first_chunk::<4>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if self.came.len() < 9 + length {
                return None;
            }
            let frame = self.next()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
        None
    }

    /// The first frame that `wanted` takes; frames before it are let go.
    pub(crate) fn find(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut before = Vec::new();
        while let Some(frame) = self.next() {
            if wanted(&frame) {
                return frame;
            }
            before.push((frame.kind, frame.flags, frame.stream, frame.payload.len()));
        }
        panic!(
            "the connection ended without {what}; (kind, flags, stream, length) before: {before:?}"
        );
    }

    /// As a client: preface and SETTINGS both ways, acknowledged.
    pub(crate) fn greet(&mut self, pairs: &[(u16, u32)]) {
        self.send(PREFACE);
        self.exchange_settings(pairs);
    }

    /// As a server: the same.
    pub(crate) fn welcome(&mut self, pairs: &[(u16, u32)]) {
        assert_eq!(self.exactly(PREFACE.len()).as_deref(), Some(PREFACE));
        self.exchange_settings(pairs);
    }

    fn exchange_settings(&mut self, pairs: &[(u16, u32)]) {
        self.send(&settings(pairs));
        let theirs = self.find("SETTINGS", |frame| frame.kind == SETTINGS);
        assert!(!theirs.has(ACK), "the first frame is SETTINGS without ACK");
        self.settings = theirs
            .payload
            .chunks_exact(6)
            .map(|pair| {
                (
                    u16::from_be_bytes([pair[0], pair[1]]),
                    u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]),
                )
            })
            .collect();
        self.send(&frame(SETTINGS, ACK, 0, &[]));
        let mut kept = VecDeque::new();
        loop {
            match self.next().expect("SETTINGS are acknowledged") {
                frame if frame.kind == SETTINGS && frame.has(ACK) => break,
                frame => kept.push_back(frame),
            }
        }
        self.kept = kept;
    }

    /// Waits for the ACK of SETTINGS of ours.
    pub(crate) fn acknowledged(&mut self) {
        self.find("ACK of SETTINGS", |frame| {
            frame.kind == SETTINGS && frame.has(ACK)
        });
    }

    /// The connection is in order: it answers a PING.
    pub(crate) fn pinged(&mut self) {
        let payload = *b"are-you?";
        self.send(&ping(&payload));
        let pong = self.find("the answer to a PING", |frame| {
            frame.kind == PING && frame.payload == payload
        });
        assert!(pong.has(ACK));
    }

    /// Sends the bytes again and again until the peer takes no more, or has taken `most`.
    pub(crate) fn push(&mut self, bytes: &[u8], most: usize) {
        self.stream.set_nonblocking(true).expect("it can be set");
        let (mut pushed, mut refused) = (0, 0);
        while pushed < most && refused < 1000 {
            match self.stream.write(bytes) {
                // A piece of a frame is as good: only the amount counts, but frames must stay whole.
                Ok(written) if written == bytes.len() => pushed += written,
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    refused += 1;
                    std::thread::yield_now();
                }
                Err(_) => break,
            }
        }
        self.stream.set_nonblocking(false).expect("it can be set");
    }

    /// The status of a response whose head is `frame`, as this connection's other end encodes it.
    pub(crate) fn status_of(&mut self, frame: &Frame) -> u16 {
        let updates = frame
            .payload
            .iter()
            .take_while(|byte| **byte & 0xe0 == 0x20);
        match frame.payload[updates.count()..] {
            [0x88, ..] => 200,
            [0x89, ..] => 204,
            [0x8a, ..] => 206,
            [0x8b, ..] => 304,
            [0x8c, ..] => 400,
            [0x8d, ..] => 404,
            [0x8e, ..] => 500,
            [0x48 | 0x08 | 0x18, length, ref text @ ..] => {
                let text = &text[..usize::from(length & 0x7f)];
                self.status = if length & 0x80 == 0 {
                    digits(text)
                } else {
                    huffman_digits(text)
                };
                self.status
            }
            // It has been entered before.
            [0xbe..=0xff, ..] => self.status,
            _ => panic!("no status at the beginning of {frame:?}"),
        }
    }
}

fn digits(text: &[u8]) -> u16 {
    let text = std::str::from_utf8(text).expect("a status is text");
    text.parse().expect("a status is a number")
}

/// Three digits in Huffman code (RFC 7541 appendix B): 0 to 2 have five bits, the others six.
fn huffman_digits(text: &[u8]) -> u16 {
    let mut bits = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut take = |count: usize| {
        bits.by_ref()
            .take(count)
            .fold(0, |code, bit| code << 1 | bit)
    };
    let mut status = 0;
    for _ in 0..3 {
        let code = take(5);
        let digit = if code < 3 {
            code
        } else {
            (code << 1 | take(1)) - 0b011001 + 3
        };
        status = status * 10 + digit;
    }
    status
}

/// What a read says of a connection that the peer has closed, with or without its bytes unread.
fn is_end(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}
