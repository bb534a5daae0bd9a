//! What h2 (0.4) does not look at, judged by the heads of the frames that pass: floods, and errors with the code that RFC 9113 names.
//!
//! h2 bounds header blocks, CONTINUATION, empty DATA and the resets it makes itself; it counts no SETTINGS, PING, PRIORITY,
//! WINDOW_UPDATE, RST_STREAM or unknown frames, and answers most connection errors with PROTOCOL_ERROR. No I/O here: bytes are
//! shown on their way in and out, and a verdict says how the connection ends.

use std::fmt;

use h2::Reason;
use tokio::time::Instant;

use super::frames::*;
use super::hpack::{after_status, examine, names_request, names_status, spells_pseudo};

mod undecodable;

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// Why a connection ends, and what the peer is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) code: Reason,
    why: &'static str,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.why, self.code)
    }
}

impl std::error::Error for Verdict {}

/// What a client that knows HTTP/2 sends before its first frame (RFC 9113 section 3.4).
const PREFACE: u32 = 24;
/// The largest frame we take: SETTINGS_MAX_FRAME_SIZE is left at its first value (RFC 9113 section 6.5.2).
const MAX_FRAME: u32 = 16 * 1024;
/// Streams of which it is remembered that the peer has ended them.
const REMEMBERED: usize = 32;

/// What a peer may spend on frames that ask for work and carry none; a purse is filled again by work and by time.
#[derive(Clone, Copy)]
enum Purse {
    /// SETTINGS, PING, PRIORITY, GOAWAY and unknown frames. Earned by DATA both ways and by messages that end: gRPC probes the
    /// bandwidth with one PING per burst of data.
    Control,
    /// WINDOW_UPDATE. Earned by messages that end, and by the DATA that it makes room for: gRPC's C core sends two for each small
    /// message, however many of them came in one frame. A window that opens in crumbs (CVE-2019-9511) is not told from those by its
    /// frames; it makes as many frames as it sends, each of them waits for the next, and nothing gathers but the body that waits.
    Windows,
    /// Requests taken back (CVE-2023-44487) and requests that we must reset. Earned by responses that end. A hop takes back what many
    /// callers give up, and each costs no more than the request did; bursts of them h2 ends before it hands the requests over.
    Resets,
}

/// Of each purse: what it holds at first and time fills it to, what work fills it to, and what a second adds. WINDOW_UPDATE may come
/// long after its DATA: a whole window of small messages is on its way at once, and earns them all.
const HOLDS: [u32; 3] = [1000, 10_000, 500];
const EARNED: [u32; 3] = [1000, 1 << 20, 500];
const PER_SECOND: [u32; 3] = [200, 2000, 1000];
const EMPTY: [&str; 3] = [
    "too many control frames",
    "too many WINDOW_UPDATE frames",
    "too many streams reset",
];
/// So many times as much for a hop: its callers may take back 100,000 requests a second, all on one connection.
const HOP: u32 = 100;
/// The price of a frame for which h2 visits all streams, or writes a line to the log.
const DEAR: u32 = 25;
/// The price of a stream that we must reset: nobody but the peer itself is at fault.
const FAULT: u32 = 4;
/// Of so many bytes of DATA each earns a WINDOW_UPDATE: gRPC's smallest message has five, for which two may come.
const CRUMB: u32 = 2;

/// Watches one connection.
pub(crate) struct Guard {
    side: Side,
    incoming: Frames,
    outgoing: Frames,
    /// The peer's first SETTINGS have come.
    greeted: bool,
    purses: [u32; 3],
    filled: Instant,
    /// PINGs of ours that are not answered.
    pings: u32,
    /// The highest stream the client has opened, and the lowest last stream a GOAWAY of ours has named.
    highest: u32,
    last: u32,
    /// The stream whose header block goes on in CONTINUATION, or 0.
    unfinished: u32,
    /// The peer has ended these last; a ring.
    ended: [u32; REMEMBERED],
    next: usize,
    /// What was sent has emptied a purse.
    spent: Option<Verdict>,
    /// What each purse holds and earns by time, as a multiple.
    worth: u32,
}

impl Guard {
    pub(crate) fn new(side: Side) -> Self {
        let (incoming, outgoing) = match side {
            Side::Server => (Frames::after(PREFACE), Frames::default()),
            Side::Client => (Frames::default(), Frames::after(PREFACE)),
        };
        Self {
            side,
            incoming,
            outgoing,
            greeted: false,
            purses: HOLDS,
            filled: Instant::now(),
            pings: 0,
            highest: 0,
            last: u32::MAX >> 1,
            unfinished: 0,
            ended: [0; REMEMBERED],
            next: 0,
            spent: None,
            worth: 1,
        }
    }

    /// For a peer that is a sidecar known by its hello: it speaks for many clients, whose limits it keeps itself.
    pub(crate) fn of_hop(side: Side) -> Self {
        Self {
            purses: HOLDS.map(|holds| holds * HOP),
            worth: HOP,
            ..Self::new(side)
        }
    }

    /// Sees no frames.
    #[cfg(test)]
    pub(crate) fn blind() -> Self {
        Self {
            incoming: Frames::after(u32::MAX),
            outgoing: Frames::after(u32::MAX),
            ..Self::new(Side::Server)
        }
    }

    /// Looks at what has come. An error says how much of it may still be handed on.
    pub(crate) fn received(&mut self, bytes: &[u8]) -> Result<(), (usize, Verdict)> {
        let mut at = 0;
        while let Some(head) = self.incoming.next(bytes, &mut at) {
            let payload = &bytes[at..bytes.len().min(at + head.length as usize)];
            self.judge(head, payload)
                .map_err(|verdict| (at.saturating_sub(Head::SIZE), verdict))?;
        }
        Ok(())
    }

    /// Looks at what was written. Where h2 says GOAWAY(PROTOCOL_ERROR) in it: at which byte that frame's payload begins.
    pub(crate) fn sent(&mut self, bytes: &[u8]) -> Option<usize> {
        let (mut at, mut blamed) = (0, None);
        while let Some(head) = self.outgoing.next(bytes, &mut at) {
            match head.kind {
                DATA if head.length > 0 => {
                    self.earn(Purse::Control, 1);
                    self.earn(Purse::Windows, 2 + head.length / CRUMB);
                }
                HEADERS if self.side == Side::Client => {
                    self.highest = self.highest.max(head.stream);
                    self.earn(Purse::Control, 2);
                }
                PING if !head.has(ACK) => self.pings += 1,
                RST_STREAM if self.side == Side::Server && blames(&bytes[at..]) => {
                    self.spent = self.spend(Purse::Resets, FAULT).err();
                }
                GOAWAY => {
                    if let Some((last, rest)) = bytes[at..].split_first_chunk() {
                        self.last = self.last.min(u32::from_be_bytes(*last));
                        let code = u32::from(Reason::PROTOCOL_ERROR).to_be_bytes();
                        blamed = rest.starts_with(&code).then_some(at);
                    }
                }
                _ => {}
            }
            if matches!(head.kind, DATA | HEADERS) && head.has(END_STREAM) {
                self.earn(Purse::Control, 1);
                self.earn(Purse::Windows, 2);
                self.earn(Purse::Resets, 1);
            }
        }
        blamed
    }

    /// Whether the peer owes the rest of its preface, of a header block, or of any frame but DATA, for which its stream waits.
    pub(super) fn is_owed(&self) -> bool {
        !self.greeted || self.unfinished != 0 || self.incoming.is_within_head()
    }

    /// How the connection ends for what was sent on it, if it does.
    pub(super) fn spent(&self) -> Option<Verdict> {
        self.spent
    }

    /// What the frames so far leave to come; for [`Self::is_undecodable`].
    pub(super) fn place(&self) -> Frames {
        self.incoming
    }

    /// Whether it is a header block that h2 could not decode when it gave up with PROTOCOL_ERROR while it read `bytes`, which begin
    /// at `place` (RFC 9113 section 4.3). What else it answers so has met the guard before, but for two things.
    #[cold]
    pub(super) fn is_undecodable(&self, place: Frames, bytes: &[u8]) -> bool {
        undecodable::is_undecodable(self.side, place, bytes, examine)
    }

    /// The connection's last frame, if there is room for one.
    pub(crate) fn goodbye(&self, code: Reason) -> Option<[u8; Head::SIZE + 8]> {
        let last = match self.side {
            Side::Server => self.highest.min(self.last),
            Side::Client => 0,
        };
        let mut frame = [0; Head::SIZE + 8];
        frame[2] = 8;
        frame[3] = GOAWAY;
        frame[9..13].copy_from_slice(&last.to_be_bytes());
        frame[13..].copy_from_slice(&u32::from(code).to_be_bytes());
        self.outgoing.is_between().then_some(frame)
    }

    fn judge(&mut self, head: Head, payload: &[u8]) -> Result<(), Verdict> {
        if !self.greeted {
            if head.kind != SETTINGS || head.has(ACK) {
                return protocol("the first frame is not SETTINGS");
            }
            self.greeted = true;
        }
        if head.length > MAX_FRAME || !has_its_size(head) {
            return verdict(Reason::FRAME_SIZE_ERROR, "a frame has no size of its kind");
        }
        let continues = head.kind == CONTINUATION && head.stream == self.unfinished;
        if self.unfinished != 0 && !continues || head.kind == CONTINUATION && self.unfinished == 0 {
            return protocol("CONTINUATION is missing, or misplaced");
        }
        let of_stream = matches!(head.kind, DATA | HEADERS | PRIORITY | RST_STREAM);
        let of_connection = matches!(head.kind, SETTINGS | PING | GOAWAY);
        if of_stream && head.stream == 0 || of_connection && head.stream != 0 {
            return protocol(
                "a frame of a stream is on none, or one of the connection on a stream",
            );
        }
        match head.kind {
            DATA => self.data(head, payload),
            HEADERS => self.headers(head, payload),
            CONTINUATION => {
                self.unfinished = if head.has(END_HEADERS) {
                    0
                } else {
                    head.stream
                };
                Ok(())
            }
            // A client must not, and a server was told not to.
            PUSH_PROMISE => protocol("PUSH_PROMISE"),
            SETTINGS if head.has(ACK) => self.spend(Purse::Control, 1),
            SETTINGS => {
                self.spend(Purse::Control, DEAR)?;
                self.settings(payload)
            }
            PING if head.has(ACK) && self.pings == 0 => self.spend(Purse::Control, DEAR),
            PING => {
                self.pings -= u32::from(head.has(ACK));
                self.spend(Purse::Control, 1)
            }
            GOAWAY => self.spend(Purse::Control, DEAR),
            WINDOW_UPDATE => {
                self.not_idle(head.stream)?;
                if let Some(increment) = payload.first_chunk()
                    && u32::from_be_bytes(*increment) << 1 == 0
                {
                    return protocol("WINDOW_UPDATE by nothing");
                }
                self.spend(Purse::Windows, 1)
            }
            RST_STREAM => {
                self.not_idle(head.stream)?;
                self.end(head.stream);
                match self.side {
                    Side::Server => self.spend(Purse::Resets, 1),
                    // Each of a server's answers a request of ours.
                    Side::Client => self.spend(Purse::Control, 1),
                }
            }
            _ => self.spend(Purse::Control, 1 + head.length / 4096),
        }
    }

    fn data(&mut self, head: Head, payload: &[u8]) -> Result<(), Verdict> {
        self.not_idle(head.stream)?;
        self.still_open(head.stream)?;
        let padding = match payload.first() {
            Some(padding) if head.has(PADDED) => 1 + u32::from(*padding),
            _ => 0,
        };
        if head.length < padding {
            return protocol("more padding than payload");
        }
        if head.length > padding {
            self.earn(Purse::Control, 1);
        }
        if head.has(END_STREAM) {
            self.end(head.stream);
        }
        Ok(())
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Verdict> {
        let Some(block) = fragment(head, payload) else {
            return protocol("more padding than payload");
        };
        if head.has(WITH_PRIORITY)
            && let Some(on) =
                payload[usize::from(head.has(PADDED)).min(payload.len())..].first_chunk()
            && u32::from_be_bytes(*on) << 1 == head.stream << 1
        {
            // h2 resets the stream and leaves the block undecoded: all blocks after it would be read wrongly.
            return protocol("a stream depends on itself");
        }
        if head.stream.is_multiple_of(2) {
            return protocol("an even stream");
        }
        self.unfinished = if head.has(END_HEADERS) {
            0
        } else {
            head.stream
        };
        let is_new = head.stream > self.highest;
        if is_new && self.side == Side::Client {
            return protocol("an answer to nothing");
        }
        if is_new {
            self.highest = head.stream;
        } else {
            self.still_open(head.stream)?;
            // A client's second block on a stream is trailers; a server's block begins with `:status`, or is trailers, too.
            let misplaced = match self.side {
                Side::Server => names_request(block) || names_status(block) || spells_pseudo(block),
                Side::Client => names_request(after_status(block)),
            };
            if misplaced {
                return protocol("a pseudo-header field where none may be");
            }
        }
        if head.has(END_STREAM) {
            self.end(head.stream);
        }
        Ok(())
    }

    /// Values that may not be (RFC 9113 section 6.5.2); h2 takes the first, and refuses the second with another code.
    fn settings(&self, payload: &[u8]) -> Result<(), Verdict> {
        for setting in payload.chunks_exact(6) {
            let [high, low, a, b, c, d] = *setting else {
                continue;
            };
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes([high, low]) {
                2 if self.side == Side::Client && value != 0 => {
                    return protocol("a server switches push on");
                }
                4 if value > u32::MAX >> 1 => {
                    return verdict(Reason::FLOW_CONTROL_ERROR, "a window above 2^31-1");
                }
                2 | 8 if value > 1 => return protocol("a setting is neither 0 nor 1"),
                5 if !(MAX_FRAME..1 << 24).contains(&value) => {
                    return protocol("frames of no possible size");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The peer sends no more on this stream.
    fn end(&mut self, stream: u32) {
        self.ended[self.next % REMEMBERED] = stream;
        self.next += 1;
    }

    /// Refuses DATA, RST_STREAM and WINDOW_UPDATE on a stream that nobody has opened (RFC 9113 section 5.1).
    fn not_idle(&self, stream: u32) -> Result<(), Verdict> {
        if stream > self.highest || stream != 0 && stream.is_multiple_of(2) {
            return protocol("a frame on an idle stream");
        }
        Ok(())
    }

    /// Refuses DATA and HEADERS behind END_STREAM or RST_STREAM (RFC 9113 section 5.1). Of what ended long ago, h2 says the same
    /// of the stream alone.
    fn still_open(&self, stream: u32) -> Result<(), Verdict> {
        if stream != 0 && self.ended.contains(&stream) {
            return verdict(
                Reason::STREAM_CLOSED,
                "a frame on a stream that its sender has ended",
            );
        }
        Ok(())
    }

    fn earn(&mut self, purse: Purse, amount: u32) {
        let most = EARNED[purse as usize].saturating_mul(self.worth);
        let purse = &mut self.purses[purse as usize];
        *purse = most.min(*purse + amount);
    }

    fn spend(&mut self, purse: Purse, amount: u32) -> Result<(), Verdict> {
        let index = purse as usize;
        if self.purses[index] < amount {
            self.refill();
        }
        match self.purses[index].checked_sub(amount) {
            Some(left) => {
                self.purses[index] = left;
                Ok(())
            }
            None => verdict(Reason::ENHANCE_YOUR_CALM, EMPTY[index]),
        }
    }

    /// Adds what time has earned. The clock is read only when a purse is empty.
    #[cold]
    fn refill(&mut self) {
        let now = Instant::now();
        let millis = now.duration_since(self.filled).as_millis().min(60_000) as u32;
        for (index, purse) in self.purses.iter_mut().enumerate() {
            let (holds, earned) = (HOLDS[index] * self.worth, PER_SECOND[index] * self.worth);
            let earned = u64::from(earned) * u64::from(millis) / 1000;
            let filled = holds.min(purse.saturating_add(u32::try_from(earned).unwrap_or(holds)));
            *purse = filled.max(*purse);
        }
        // What is left of a millisecond is lost, so that asking often earns nothing.
        self.filled = now;
    }
}

/// Whether a RST_STREAM of ours, with this payload, is for what the peer has sent. What an endpoint has done wrong is never passed on
/// with these codes. STREAM_CLOSED is none: what crosses a reset of ours on the way is answered with it (RFC 9113 section 5.1).
fn blames(payload: &[u8]) -> bool {
    let code = payload.first_chunk().map(|code| u32::from_be_bytes(*code));
    let code = code.map(Reason::from);
    code.is_some_and(|code| is_blame(code) && code != Reason::STREAM_CLOSED)
}

/// Whether the code says that the peer broke the protocol.
pub(super) fn is_blame(code: Reason) -> bool {
    matches!(
        code,
        Reason::PROTOCOL_ERROR
            | Reason::FLOW_CONTROL_ERROR
            | Reason::STREAM_CLOSED
            | Reason::FRAME_SIZE_ERROR
            | Reason::COMPRESSION_ERROR
    )
}

fn verdict(code: Reason, why: &'static str) -> Result<(), Verdict> {
    Err(Verdict { code, why })
}

fn protocol(why: &'static str) -> Result<(), Verdict> {
    verdict(Reason::PROTOCOL_ERROR, why)
}

#[cfg(test)]
mod tests;
