//! After 101 Switching Protocols (RFC 9110 section 7.8): both connections are one pipe until both ends are done.

use std::rc::Rc;
use std::time::Duration;

use super::body::AttemptBody;
use super::record::Record;
use super::tcp;
use super::worker::Worker;
use crate::deadline::Deadline;
use crate::http1::Stream;
use crate::http1::buffers::Buffers;
use crate::upstream::h1::Exchange;

/// The task's end of the pipe. The request's record lives as long as it does.
pub(crate) struct Tunnel {
    task: Option<Stream>,
    record: Record,
    idle: Deadline,
    idle_timeout: Duration,
    buffers: Rc<Buffers>,
}

impl Tunnel {
    pub(crate) fn new(
        worker: &Rc<Worker>,
        exchange: Exchange<AttemptBody>,
        record: Record,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            task: exchange.into_stream(),
            record,
            idle: worker.sweep.deadline(),
            idle_timeout,
            buffers: Rc::clone(&worker.buffers),
        }
    }

    /// Joins it with the client's end; the client has been sent its 101.
    pub(crate) async fn run(mut self, mut client: Stream) {
        let Some(task) = &mut self.task else { return };
        let (idle, buffers) = (&self.idle, &self.buffers);
        let joined = tcp::copy(&mut client, task, idle, self.idle_timeout, buffers);
        let (bytes, end) = joined.await;
        self.record.bytes(bytes);
        if let Err(error) = end {
            self.record.fail(error.kind);
            tracing::debug!(%error, "upgraded connection ended");
        }
    }
}
