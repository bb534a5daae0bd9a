//! The record of one request: what it holds while it lives, and what is counted when its last byte is through.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use super::body::{AttemptBody, Replay};
use super::worker::Worker;
use crate::error::Kind;
use crate::routing::snapshot::ListenerPolicy;
use crate::upstream::cluster::{Cluster, Share};
use crate::upstream::endpoint::Lease;
use crate::upstream::outlier::Outcome;
use crate::upstream::pool::{Connection, IDLE_TIMEOUT};

/// What the answering attempt holds until the last byte.
pub(crate) struct Exchange {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) lease: Lease,
    pub(crate) live: Share,
    pub(crate) status: StatusCode,
    pub(crate) request: Replay,
    /// Given back to the pool when both messages are complete.
    pub(crate) connection: Connection<AttemptBody>,
}

/// Opened when a request arrives; written by `Drop`.
pub(crate) struct Record {
    worker: Rc<Worker>,
    listener: Arc<ListenerPolicy>,
    started: Instant,
    response_bytes: u64,
    complete: bool,
    exchange: Option<Exchange>,
}

impl Record {
    pub(crate) fn open(worker: &Rc<Worker>, listener: &Arc<ListenerPolicy>, grpc: bool) -> Self {
        let shard = listener.metrics.shard(worker.id);
        shard.requests.add(1);
        if grpc {
            shard.grpc_requests.add(1);
        }
        Self {
            worker: Rc::clone(worker),
            listener: Arc::clone(listener),
            started: Instant::now(),
            response_bytes: 0,
            complete: false,
            exchange: None,
        }
    }

    /// A task answered.
    pub(crate) fn answered(&mut self, exchange: Exchange) {
        self.exchange = Some(exchange);
    }

    /// The sidecar itself answers, or breaks off a response under way.
    pub(crate) fn fail(&mut self, kind: Kind) {
        self.listener.metrics.shard(self.worker.id).error(kind);
        if let Some(exchange) = self.exchange.as_ref().filter(|_| kind.blames_endpoint()) {
            exchange
                .cluster
                .report(exchange.lease.endpoint(), Outcome::Failure);
        }
    }

    pub(crate) fn response_bytes(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// The response's last byte was read.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let shard = self.listener.metrics.shard(self.worker.id);
        shard.finished.add(1);
        let Some(Exchange {
            cluster,
            lease,
            live,
            status,
            request,
            connection,
        }) = self.exchange.take()
        else {
            return;
        };
        let bytes = self.response_bytes + request.bytes();
        shard.bytes.add(bytes);
        let counts = cluster.metrics.shard(self.worker.id);
        counts.bytes.add(bytes);
        counts.response(status, self.started.elapsed());
        if self.complete && request.is_complete() {
            let timeout = cluster.policy().idle_timeout.unwrap_or(IDLE_TIMEOUT);
            self.worker.pool.put(lease.endpoint(), connection, timeout);
        }
        drop((lease, live));
    }
}
