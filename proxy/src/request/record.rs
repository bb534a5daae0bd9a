//! The record of one request: what it holds while it lives, and what is counted when its last byte is through.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::worker::Worker;
use crate::error::Kind;
use crate::policy::endpoint::Lease;
use crate::policy::limits::Share;
use crate::policy::outlier::Outcome;
use crate::routing::snapshot::ListenerPolicy;
use crate::upstream::cluster::Cluster;
use crate::upstream::h1;
use crate::upstream::pool::IDLE_TIMEOUT;

/// What the answering attempt holds until the last byte.
pub(crate) struct Claim {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) lease: Lease,
    pub(crate) live: Share,
    /// Its timeout is the caller's own, and shorter than the route's.
    pub(crate) hasty: bool,
    pub(crate) status: StatusCode,
}

/// Opened when a request arrives; written by `Drop`.
pub(crate) struct Record {
    worker: Rc<Worker>,
    listener: Arc<ListenerPolicy>,
    started: Instant,
    bytes: u64,
    claim: Option<Claim>,
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
            started: worker.sweep.tick(),
            bytes: 0,
            claim: None,
        }
    }

    /// A task answered.
    pub(crate) fn answered(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    /// The sidecar itself answers, or breaks off a response under way.
    pub(crate) fn fail(&mut self, kind: Kind) {
        self.listener.metrics.shard(self.worker.id).error(kind);
        let blamed = |claim: &&Claim| {
            kind.blames_endpoint() && !(claim.hasty && kind == Kind::RequestTimeout)
        };
        if let Some(claim) = self.claim.as_ref().filter(blamed) {
            claim
                .cluster
                .report(claim.lease.endpoint(), Outcome::LocalOrigin);
        }
    }

    /// Whether the answer's status says that no data follows (RFC 9110 section 6.4.1). HEAD is h2's to see to.
    pub(crate) fn is_bodiless(&self) -> bool {
        let status = self.claim.as_ref().map(|claim| claim.status);
        matches!(
            status,
            Some(StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        )
    }

    /// Bytes of a body, either way.
    pub(crate) fn bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// The connection may carry another request.
    pub(crate) fn give_back(&self, (idle, keep_for): (h1::Idle, Option<Duration>)) {
        if let Some(claim) = &self.claim {
            let settings = claim.cluster.settings();
            let timeout = settings.idle_timeout.unwrap_or(IDLE_TIMEOUT);
            let timeout = keep_for.map_or(timeout, |keep_for| keep_for.min(timeout));
            let now = self.worker.sweep.now();
            let endpoint = claim.lease.endpoint();
            self.worker.pool.put(endpoint, idle, timeout, now);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let shard = self.listener.metrics.shard(self.worker.id);
        shard.finished.add(1);
        let Some(claim) = self.claim.take() else {
            return;
        };
        shard.bytes.add(self.bytes);
        let counts = claim.cluster.metrics.shard(self.worker.id);
        counts.moved(self.bytes, claim.lease.endpoint().is_cross_zone());
        counts.response(claim.status, self.worker.sweep.now() - self.started);
        drop((claim.lease, claim.live));
    }
}
