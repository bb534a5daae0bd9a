//! A stream that gathers what is written during one turn of a connection, sent at the turn's end; and reads a lot at once.
//!
//! h2 (0.4) writes to its stream once per DATA frame of 256 bytes or more, and reads into what its buffer has left; no setting
//! changes either. So its writes are only appended here, and whoever polls the connection calls [`Outbox::send`] after each poll.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use super::guard::{Guard, Verdict};
use crate::tls::transport::Transport;

/// Bytes gathered before they are sent within the turn, and bytes asked of the socket at once.
const BUFFER: usize = 64 * 1024;
/// A write of so many bytes goes out at once, behind what was gathered before it. Below, a copy is cheaper than a system call:
/// 100 KB bodies in DATA frames of 16 KiB cost a third less gathered than sent one by one.
const LARGE: usize = 32 * 1024;
/// Buffers a thread keeps for the next turn of any of its connections.
const SPARE: usize = 16;
/// Slices of one vectored write; h2 gives two.
const SLICES: usize = 8;
/// Bytes that are taken in and thrown away behind a connection's end: closing before would reset our last words away.
const DISCARDED: usize = 1024 * 1024;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in a buffer that is held only while there are any.
#[derive(Default)]
struct Held {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Held {
    fn bytes(&self) -> &[u8] {
        self.buffer
            .as_ref()
            .map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    /// Room behind the bytes, where bytes do not have to be moved to make it.
    fn room(&self) -> usize {
        BUFFER - self.end
    }

    fn buffer(&mut self) -> &mut [u8] {
        self.buffer.get_or_insert_with(|| {
            let spare = SPARES.with_borrow_mut(Vec::pop);
            spare.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
        })
    }

    fn append(&mut self, bytes: &[u8]) {
        let (end, new_end) = (self.end, self.end + bytes.len());
        self.buffer()[end..new_end].copy_from_slice(bytes);
        self.end = new_end;
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            self.give_back();
        }
    }

    /// All that is held, and what has been consumed of it.
    fn all(&self) -> &[u8] {
        self.buffer
            .as_ref()
            .map_or(&[], |buffer| &buffer[..self.end])
    }

    fn give_back(&mut self) {
        (self.start, self.end) = (0, 0);
        let Some(buffer) = self.buffer.take() else {
            return;
        };
        // A thread that ends has no list any more.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(buffer);
            }
        });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

struct Gathering<S> {
    stream: S,
    read: Held,
    unsent: Held,
    /// What a write met. Nothing is sent any more, and it is told when all has been read that had come: a GOAWAY may be among it,
    /// which says what was not processed (RFC 9113 section 6.8).
    failed: Option<io::Error>,
    /// Bytes have come since somebody last asked; and at all.
    has_read: bool,
    begun: bool,
    guard: Guard,
    /// Where the bytes in `read` begin, for the guard. They stay to the end of the turn, also when they are consumed.
    place: Frames,
    /// How the connection ends; told with the next read.
    verdict: Option<Verdict>,
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        if total < LARGE {
            while self.failed.is_none() && total > self.unsent.room() {
                if let Err(error) = ready!(self.poll_some(cx, &[])) {
                    self.fail(error, cx);
                }
            }
            if self.failed.is_some() {
                return Poll::Ready(Ok(total));
            }
            for slice in slices {
                let start = self.unsent.end;
                self.unsent.append(slice);
                if let Some(goaway) = self.guard.sent(slice)
                    && self.guard.is_undecodable(self.place, self.read.all())
                {
                    let code = start + goaway + 4;
                    let reason = u32::from(Reason::COMPRESSION_ERROR).to_be_bytes();
                    self.unsent.buffer()[code..code + 4].copy_from_slice(&reason);
                }
            }
            if self.verdict.is_none() && self.guard.spent().is_some() {
                self.verdict = self.guard.spent();
                cx.waker().wake_by_ref();
            }
            return Poll::Ready(Ok(total));
        }
        while self.failed.is_none() {
            let taken = match ready!(self.poll_some(cx, slices)) {
                Ok(taken) => taken,
                Err(error) => {
                    self.fail(error, cx);
                    break;
                }
            };
            if taken > 0 {
                let mut left = taken;
                for slice in slices {
                    let sent = left.min(slice.len());
                    self.guard.sent(&slice[..sent]);
                    left -= sent;
                }
                return Poll::Ready(Ok(taken));
            }
        }
        Poll::Ready(Ok(total))
    }

    /// Nothing is sent any more; whoever reads is woken to hear of it.
    fn fail(&mut self, error: io::Error, cx: &Context<'_>) {
        self.unsent.give_back();
        self.failed = Some(error);
        cx.waker().wake_by_ref();
    }

    /// One write of what was gathered and then the slices; of the slices, so many bytes were taken.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let before = self.unsent.len();
        let mut all = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let gathered = IoSlice::new(self.unsent.bytes());
        for slice in std::iter::once(&gathered)
            .chain(slices)
            .filter(|slice| !slice.is_empty())
            .take(SLICES)
        {
            all[count] = *slice;
            count += 1;
        }
        let stream = Pin::new(&mut self.stream);
        let written = ready!(stream.poll_write_vectored(cx, &all[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unsent.consume(written.min(before));
        Poll::Ready(Ok(written.saturating_sub(before)))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent.len() > 0 {
            ready!(self.poll_some(cx, &[]))?;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// The stream as h2 sees it.
pub(crate) struct Batched<S>(Rc<RefCell<Gathering<S>>>);

/// What sends the bytes that the stream's user has written.
pub(crate) struct Outbox<S>(Rc<RefCell<Gathering<S>>>);

/// Wraps the stream. Writes below 32 KiB are sent when the outbox is told to, or 64 KiB have gathered. What the guard objects to is
/// an error of the kind `InvalidData` for who reads.
pub(crate) fn batched<S>(stream: S, guard: Guard) -> (Batched<S>, Outbox<S>) {
    let gathering = Rc::new(RefCell::new(Gathering {
        stream,
        read: Held::default(),
        unsent: Held::default(),
        failed: None,
        has_read: false,
        begun: false,
        place: guard.place(),
        guard,
        verdict: None,
    }));
    (Batched(Rc::clone(&gathering)), Outbox(gathering))
}

impl<S: AsyncWrite + Unpin> Outbox<S> {
    /// Sends what was gathered. What a full socket does not take stays: the task is woken when it has room, and calls again.
    pub(crate) fn send(&self, cx: &mut Context<'_>) {
        let mut gathering = self.0.borrow_mut();
        if gathering.read.len() == 0 {
            gathering.read.give_back();
        }
        if let Poll::Ready(Err(error)) = gathering.poll_drain(cx) {
            gathering.fail(error, cx);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Outbox<S> {
    /// Says goodbye with the verdict's code if there is one, and waits for the peer to close, taking in what it still sends for a
    /// while. For a connection that ends by the peer's fault; h2 must be done with it.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>, discarded: &mut usize) -> Poll<()> {
        let gathering = &mut *self.0.borrow_mut();
        if let Some(verdict) = gathering.verdict.take()
            && let Some(frame) = gathering.guard.goodbye(verdict.code)
            && frame.len() <= gathering.unsent.room()
        {
            gathering.unsent.append(&frame);
        }
        if ready!(gathering.poll_drain(cx)).is_err() {
            return Poll::Ready(());
        }
        let stream = &mut gathering.stream;
        if ready!(Pin::new(&mut *stream).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        while *discarded < DISCARDED {
            let mut much = ReadBuf::new(gathering.read.buffer());
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut much));
            let count = much.filled().len();
            if read.is_err() || count == 0 {
                break;
            }
            *discarded += count;
        }
        Poll::Ready(())
    }
}

impl<S> Outbox<S> {
    /// Whether bytes have come since this was last asked.
    pub(crate) fn has_read(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().has_read)
    }

    /// Whether the peer is in the middle of what the header timeout is for.
    pub(crate) fn is_owed(&self) -> bool {
        self.0.borrow().guard.is_owed()
    }

    /// Whether the peer has said anything at all.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.borrow().begun
    }
}

impl Outbox<Transport> {
    /// Something that looks at the socket and keeps nothing of it open.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Rc::downgrade(&self.0))
    }
}

/// Looks at a connection's socket.
pub(crate) struct Watch(Weak<RefCell<Gathering<Transport>>>);

impl Watch {
    /// Whether the kernel holds nothing that came, not even the connection's end. Always a system call.
    pub(crate) fn is_quiet_now(&self) -> bool {
        self.0.upgrade().is_some_and(|gathering| {
            let gathering = gathering.borrow();
            gathering.failed.is_none() && gathering.stream.is_silent()
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Batched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gathering = &mut *self.0.borrow_mut();
        let (stream, read) = (Pin::new(&mut gathering.stream), &mut gathering.read);
        if read.len() == 0 {
            if let Some(verdict) = gathering.verdict {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, verdict)));
            }
            let mut much = ReadBuf::new(read.buffer());
            let polled = stream.poll_read(cx, &mut much);
            let count = much.filled().len();
            if count == 0 {
                return match gathering.failed.take() {
                    Some(error) if polled.is_ready() => Poll::Ready(Err(error)),
                    failed => {
                        gathering.failed = failed;
                        polled
                    }
                };
            }
            (read.start, read.end) = (0, count);
            gathering.has_read = true;
            gathering.begun = true;
            gathering.place = gathering.guard.place();
            if let Err((good, verdict)) = gathering.guard.received(read.bytes()) {
                gathering.verdict = Some(verdict);
                read.end = good;
                if good == 0 {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, verdict)));
                }
            }
        }
        let fits = read.len().min(buf.remaining());
        buf.put_slice(&read.bytes()[..fits]);
        read.start += fits;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Leaves the bytes to the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.borrow_mut();
        if let Some(error) = gathering.failed.take() {
            return Poll::Ready(Err(error));
        }
        ready!(gathering.poll_drain(cx))?;
        Pin::new(&mut gathering.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
