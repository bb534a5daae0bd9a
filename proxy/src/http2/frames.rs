//! Where HTTP/2 frames begin in bytes that come in pieces, and what their heads say (RFC 9113 section 4.1).

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// ACK of SETTINGS and PING, END_STREAM of DATA and HEADERS.
pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

/// A frame's head (RFC 9113 section 4.1).
#[derive(Clone, Copy, Default)]
pub(super) struct Head {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) const SIZE: usize = 9;

    pub(super) fn read(bytes: [u8; Self::SIZE]) -> Self {
        let [a, b, c, kind, flags, s, t, u, v] = bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([s & 0x7f, t, u, v]),
        }
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Finds the heads in bytes that come in pieces.
#[derive(Clone, Copy, Default)]
pub(super) struct Frames {
    /// Bytes still to come of the frame under way, or of the preface.
    left: u32,
    partial: [u8; Head::SIZE],
    /// Bytes of the next head that are here.
    held: usize,
    /// The head of the frame under way.
    now: Head,
}

impl Frames {
    pub(super) fn after(preface: u32) -> Self {
        Self {
            left: preface,
            ..Self::default()
        }
    }

    /// The next head that ends within `bytes[*at..]`; `at` is moved behind it.
    pub(super) fn next(&mut self, bytes: &[u8], at: &mut usize) -> Option<Head> {
        let (here, left) = (bytes.len() - *at, self.left as usize);
        if left >= here {
            self.left -= here as u32;
            *at = bytes.len();
            return None;
        }
        *at += left;
        self.left = 0;
        let rest = &bytes[*at..];
        let head = match (self.held, rest.first_chunk()) {
            (0, Some(head)) => {
                *at += Head::SIZE;
                *head
            }
            _ => {
                let taken = rest.len().min(Head::SIZE - self.held);
                self.partial[self.held..self.held + taken].copy_from_slice(&rest[..taken]);
                self.held += taken;
                *at += taken;
                if self.held < Head::SIZE {
                    return None;
                }
                self.held = 0;
                self.partial
            }
        };
        let head = Head::read(head);
        self.left = head.length;
        self.now = head;
        Some(head)
    }

    /// A frame whose head has come, and of whose payload nothing has.
    pub(super) fn begun(&self) -> Option<Head> {
        (self.left > 0 && self.left == self.now.length).then_some(self.now)
    }

    /// Whether a frame has begun that is not DATA, or whose head does not tell yet.
    pub(super) fn is_within_head(&self) -> bool {
        self.held > 0 || self.left > 0 && self.now.kind != DATA
    }

    /// Whether a frame of ours could be put here.
    pub(super) fn is_between(&self) -> bool {
        self.left == 0 && self.held == 0
    }
}

/// Whether the frame is as long as its kind must be (RFC 9113 sections 6.1 to 6.9).
pub(super) const fn has_its_size(head: Head) -> bool {
    let padding = head.has(PADDED) as u32;
    match head.kind {
        DATA => head.length >= padding,
        HEADERS => head.length >= padding + 5 * (head.has(WITH_PRIORITY) as u32),
        PRIORITY => head.length == 5,
        RST_STREAM | WINDOW_UPDATE => head.length == 4,
        SETTINGS if head.has(ACK) => head.length == 0,
        SETTINGS => head.length.is_multiple_of(6),
        PUSH_PROMISE => head.length >= padding + 4,
        PING => head.length == 8,
        GOAWAY => head.length >= 8,
        _ => true,
    }
}

/// The header block fragment in the payload of HEADERS or CONTINUATION, as far as the payload is here; `None` where it cannot be.
pub(super) fn fragment(head: Head, payload: &[u8]) -> Option<&[u8]> {
    if head.kind == CONTINUATION {
        return Some(payload);
    }
    let padding = match payload.first() {
        Some(padding) if head.has(PADDED) => usize::from(*padding),
        _ => 0,
    };
    let before = usize::from(head.has(PADDED)) + 5 * usize::from(head.has(WITH_PRIORITY));
    let end = (head.length as usize).checked_sub(padding)?;
    payload.get(before.min(payload.len())..end.min(payload.len()))
}
