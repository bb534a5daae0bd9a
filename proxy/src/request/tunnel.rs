//! After an upgrade (RFC 9110 section 7.8) or an extended CONNECT (RFC 8441): both ends are one pipe until both are done.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::record::Record;
use super::response::UpstreamBody;
use super::tcp;
use super::worker::Worker;
use crate::deadline::Deadline;
use crate::error::Kind;
use crate::http1::Stream;
use crate::http1::buffers::Buffers;
use crate::http2::body::Receiving;
use crate::http2::pipe::Pipe;
use crate::policy::limits::Share;

/// One end of the pipe: an HTTP/1.1 connection, or an HTTP/2 stream.
trait End: AsyncRead + AsyncWrite + Unpin {
    /// Breaks off, so that the peer does not take what it has for all there was.
    fn reset(self: Box<Self>);
}

impl End for Stream {
    fn reset(self: Box<Self>) {
        let (_, half) = self.into_inner();
        half.abort();
    }
}

impl End for Pipe {
    fn reset(mut self: Box<Self>) {
        Pipe::reset(&mut self);
    }
}

/// The task's end of the pipe. The request's record lives as long as it does.
pub(crate) struct Tunnel {
    task: Option<Box<dyn End>>,
    /// Its place among the cluster's connections, where it is the whole of one.
    _open: Option<Share>,
    /// What an HTTP/2 client sends on its stream.
    client: Option<Receiving>,
    record: Record,
    idle: Deadline,
    idle_timeout: Duration,
    buffers: Rc<Buffers>,
}

impl Tunnel {
    /// `client` is what follows an extended CONNECT.
    pub(crate) fn new(
        worker: &Rc<Worker>,
        task: UpstreamBody,
        client: Option<Receiving>,
        record: Record,
        idle_timeout: Duration,
    ) -> Self {
        let (task, open) = match task {
            UpstreamBody::H1(exchange) => match exchange.into_stream() {
                Some((stream, open)) => (Some(boxed(stream)), Some(open)),
                None => (None, None),
            },
            UpstreamBody::H2(exchange) => (exchange.into_pipe().map(boxed), None),
        };
        Self {
            task,
            _open: open,
            client,
            record,
            idle: worker.sweep.deadline(),
            idle_timeout,
            buffers: Rc::clone(&worker.buffers),
        }
    }

    /// Joins it with the client's connection; the client has been sent its 101.
    pub(crate) async fn run(self, client: Stream) {
        self.join(boxed(client)).await;
    }

    /// Joins it with the client's stream; the client has been sent its 200.
    pub(crate) async fn run_on_stream(mut self, sending: SendStream<Bytes>) {
        if let Some(receiving) = self.client.take() {
            self.join(boxed(Pipe::new(receiving, sending))).await;
        }
    }

    async fn join(mut self, mut client: Box<dyn End>) {
        let Some(mut task) = self.task.take() else {
            return;
        };
        let (idle, buffers) = (&self.idle, &self.buffers);
        let joined = tcp::copy(&mut client, &mut task, idle, self.idle_timeout, buffers);
        let (bytes, end) = joined.await;
        self.record.bytes(bytes);
        if let Err(error) = end {
            self.record.fail(error.kind);
            tracing::debug!(%error, "tunnel ended");
            if error.kind != Kind::IdleTimeout {
                client.reset();
                task.reset();
            }
        }
    }
}

fn boxed(end: impl End + 'static) -> Box<dyn End> {
    Box::new(end)
}
