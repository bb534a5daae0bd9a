//! Messages between the two processes: a length, JSON, and the descriptors that travel with its first byte.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::RestartError;
use super::sockets::{Label, Socket};

/// Sockets in one message; the kernel takes at most 253 (SCM_MAX_FD, unix(7)).
pub(super) const BATCH: usize = 64;
/// A whole message: a batch of sockets whose names are 1 KiB each fits.
const MAX_MESSAGE: usize = 128 * 1024;
/// Bytes read at once.
const READ: usize = 16 * 1024;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(super) enum Message {
    Hello {
        version: u32,
        #[serde(default)]
        node: String,
        #[serde(default)]
        network: String,
        #[serde(default)]
        nonce: String,
    },
    Challenge {
        nonce: String,
        proof: String,
    },
    Proof {
        proof: String,
    },
    Sockets {
        sockets: Vec<Label>,
        last: bool,
    },
    TakeOver,
    Refused {
        reason: String,
    },
}

/// One connection between two processes.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    /// Of the other end; 0 when it cannot be seen from here.
    pub(super) process: i32,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
        Self {
            stream,
            process: process.unwrap_or_default(),
            bytes: Vec::new(),
            descriptors: VecDeque::new(),
        }
    }

    pub(super) async fn send(&self, message: &Message) -> io::Result<()> {
        self.send_with(message, &[]).await
    }

    /// All sockets, in as many messages as it takes; at least one.
    pub(super) async fn send_sockets(&self, sockets: &[Socket]) -> io::Result<()> {
        let mut batches = sockets.chunks(BATCH).peekable();
        loop {
            let batch = batches.next().unwrap_or_default();
            let last = batches.peek().is_none();
            let message = Message::Sockets {
                sockets: batch.iter().map(|one| one.label.clone()).collect(),
                last,
            };
            let descriptors: Vec<_> = batch.iter().map(|one| one.descriptor.as_fd()).collect();
            self.send_with(&message, &descriptors).await?;
            if last {
                return Ok(());
            }
        }
    }

    /// As much as goes out without waiting: for the last word of a process that is leaving.
    pub(super) fn send_now(&self, message: &Message) -> io::Result<()> {
        let bytes = frame(message)?;
        let sent = self.stream.try_write(&bytes)?;
        if sent == bytes.len() {
            return Ok(());
        }
        Err(io::ErrorKind::WriteZero.into())
    }

    async fn send_with(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = frame(message)?;
        let mut sent = 0;
        while sent < bytes.len() {
            let with = if sent == 0 { descriptors } else { &[] };
            let write = || write(&self.stream, &bytes[sent..], with);
            sent += self.stream.async_io(Interest::WRITABLE, write).await?;
        }
        Ok(())
    }

    /// The next message; `None` when the other side has ended.
    pub(super) async fn receive(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.parse()? {
                return Ok(Some(message));
            }
            let mut bytes = [0; READ];
            let mut descriptors = Vec::new();
            let read = || read(&self.stream, &mut bytes, &mut descriptors);
            let length = self.stream.async_io(Interest::READABLE, read).await?;
            self.descriptors.extend(descriptors);
            // A batch that is being read, and the next one's, which may come along.
            if self.descriptors.len() > 2 * BATCH {
                return Err(invalid("descriptors came that no message speaks of"));
            }
            if length == 0 {
                return match self.bytes.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            self.bytes.extend_from_slice(&bytes[..length]);
        }
    }

    /// [`Self::send`], with an error that names the other side. One that has refused and gone meanwhile is heard out.
    pub(super) async fn tell(&mut self, message: &Message) -> Result<(), RestartError> {
        let Err(error) = self.send(message).await else {
            return Ok(());
        };
        match self.receive().await {
            Ok(Some(Message::Refused { reason })) => Err(RestartError::Refused {
                process: self.process,
                reason,
            }),
            _ => Err(self.failed(error)),
        }
    }

    /// [`Self::receive`]; a refusal and an end are errors.
    pub(super) async fn hear(&mut self) -> Result<Message, RestartError> {
        match self.receive().await {
            Ok(Some(Message::Refused { reason })) => Err(RestartError::Refused {
                process: self.process,
                reason,
            }),
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.gone("ended the conversation")),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Tells the other side why, so that it can be read in both logs.
    pub(super) fn refuse(&self, reason: impl Into<String>) -> RestartError {
        let reason = reason.into();
        let refused = Message::Refused {
            reason: reason.clone(),
        };
        // It may have gone; the reason is told here in any case.
        let _ = self.send_now(&refused);
        RestartError::Refusing {
            process: self.process,
            reason,
        }
    }

    pub(super) fn failed(&self, source: io::Error) -> RestartError {
        RestartError::Io {
            process: self.process,
            source,
        }
    }

    pub(super) fn gone(&self, what: &'static str) -> RestartError {
        RestartError::Gone {
            process: self.process,
            what,
        }
    }

    /// What was labelled and what came with it.
    pub(super) fn sockets(&mut self, labels: Vec<Label>) -> io::Result<Vec<Socket>> {
        if labels.len() > self.descriptors.len() {
            return Err(invalid("fewer descriptors came than were named"));
        }
        let with = |(label, descriptor)| Socket { label, descriptor };
        let descriptors = self.descriptors.drain(..labels.len());
        Ok(labels.into_iter().zip(descriptors).map(with).collect())
    }

    fn parse(&mut self) -> io::Result<Option<Message>> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(invalid("a message is too long"));
        }
        let Some(text) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(text)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn frame(message: &Message) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    if text.len() > MAX_MESSAGE {
        return Err(invalid("a message would be too long"));
    }
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(text);
    Ok(bytes)
}

fn write(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(invalid("too many descriptors for one message"));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    Ok(sent?)
}

fn read(
    stream: &UnixStream,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(with) = message {
            descriptors.extend(with);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(invalid(
            "descriptors were lost: is the limit of open files reached?",
        ));
    }
    Ok(received.bytes)
}
