//! What is counted: per-worker shards that only their worker writes, summed when somebody scrapes.
//!
//! Families carry the names Service Connect publishes to CloudWatch (`SERVICE_CONNECT.md` 1.4); what AWS lacks is
//! `outrigger_*`. Handles are resolved when configuration is applied: the request path looks nothing up and takes no lock
//! (prometheus-client's own histogram is a mutex, hence the plain arrays and a custom `Collector`).

mod expose;
mod identity;
mod security;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;

pub(crate) use self::identity::IdentityCounts;
use self::security::{AccessCounts, Security};
use crate::error::Kind;

/// A counter with one writer: a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of `TargetResponseTime` in microseconds; the last bucket is unbounded.
const BOUNDS_US: [u64; 20] = [
    200, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 25_000, 50_000, 75_000, 100_000,
    250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 15_000_000, 60_000_000,
];

#[derive(Debug, Default)]
struct Histogram {
    buckets: [Count; BOUNDS_US.len() + 1],
    sum_us: Count,
}

impl Histogram {
    fn observe(&self, elapsed: Duration) {
        let us = elapsed.as_micros() as u64;
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)].add(1);
        self.sum_us.add(us);
    }
}

/// One worker's counts for one upstream service (egress).
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ClusterShard {
    /// Responses by class, 1xx to 5xx.
    status: [Count; 5],
    response_time: Histogram,
    /// Bytes of bodies both ways.
    bytes: Count,
    /// Those of them that crossed the border of this sidecar's zone, and the requests that did.
    cross_zone_bytes: Count,
    cross_zone_requests: Count,
    /// Attempts beyond the first.
    pub(crate) retries: Count,
    /// Connections made.
    pub(crate) connects: Count,
    /// TLS handshakes with the service's tasks that failed, for whatever reason.
    pub(crate) tls_errors: Count,
}

impl ClusterShard {
    /// One response, after its last byte.
    pub(crate) fn response(&self, status: http::StatusCode, elapsed: Duration) {
        if let Some(class) = self
            .status
            .get(usize::from(status.as_u16() / 100).wrapping_sub(1))
        {
            class.add(1);
        }
        self.response_time.observe(elapsed);
    }

    /// What one request or opaque connection moved both ways.
    pub(crate) fn moved(&self, bytes: u64, cross_zone: bool) {
        self.bytes.add(bytes);
        if cross_zone {
            self.cross_zone_bytes.add(bytes);
            self.cross_zone_requests.add(1);
        }
    }
}

/// One worker's counts for one listener.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ListenerShard {
    pub(crate) requests: Count,
    pub(crate) grpc_requests: Count,
    /// Requests whose last byte is through; `requests` less this is what is in flight.
    pub(crate) finished: Count,
    pub(crate) connections: Count,
    pub(crate) closed_connections: Count,
    pub(crate) refused_connections: Count,
    pub(crate) bytes: Count,
    /// Connections whose TLS handshake is through.
    pub(crate) tls_connections: Count,
    /// Connections taken without TLS.
    pub(crate) plaintext_connections: Count,
    /// TLS handshakes of clients that failed, for whatever reason.
    pub(crate) tls_errors: Count,
    pub(crate) access: AccessCounts,
    errors: [Count; Kind::ALL.len()],
}

impl ListenerShard {
    /// One request that this sidecar itself answered with an error.
    pub(crate) fn error(&self, kind: Kind) {
        self.errors[kind as usize].add(1);
    }
}

/// Per-worker shards of one labelled thing.
#[derive(Debug)]
pub(crate) struct Sharded<T> {
    labels: Vec<(&'static str, String)>,
    shards: Box<[T]>,
}

impl<T: Default> Sharded<T> {
    fn new(workers: usize, labels: Vec<(&'static str, String)>) -> Arc<Self> {
        Arc::new(Self {
            labels,
            shards: (0..workers).map(|_| T::default()).collect(),
        })
    }

    /// The shard that only `worker` writes.
    pub(crate) fn shard(&self, worker: usize) -> &T {
        &self.shards[worker]
    }

    fn sum(&self, of: impl Fn(&T) -> &Count) -> u64 {
        self.shards.iter().map(|shard| of(shard).get()).sum()
    }
}

pub(crate) type ClusterMetrics = Sharded<ClusterShard>;
pub(crate) type ListenerMetrics = Sharded<ListenerShard>;

#[cfg(test)]
impl<T: Default> Sharded<T> {
    /// Counts that nobody scrapes.
    pub(crate) fn unregistered() -> Arc<Self> {
        Self::new(1, Vec::new())
    }
}

impl ListenerMetrics {
    /// Whether at most `limit` requests are under way, that of the asking worker included. A worker that stays within its
    /// equal share reads nobody's counts but its own.
    pub(crate) fn is_within(&self, worker: usize, limit: u32) -> bool {
        let (own, limit) = (&self.shards[worker], u64::from(limit));
        let under_way = own.requests.get() - own.finished.get();
        under_way <= limit / self.shards.len() as u64 || in_flight(self) <= limit
    }
}

/// What an upstream cluster knows about itself beyond the shards; read at scrape time.
pub(crate) trait Gauges: Send + Sync {
    /// (rule, ejections so far)
    fn ejections(&self) -> Vec<(&'static str, u64)>;
    /// Ejections not made: as many endpoints were out as may be.
    fn ejections_prevented(&self) -> u64;
    fn ejected_now(&self) -> u64;
    /// (address, requests so far)
    fn endpoints(&self) -> Vec<(String, u64)>;
    /// (circuit breaker, what it refused so far)
    fn refused(&self) -> Vec<(&'static str, u64)>;
    /// Requests that the service was found to take at once, and its least latency, where that is looked at.
    fn concurrency(&self) -> Option<(u32, Option<Duration>)>;
}

/// A cluster's counts, and what it knows about itself.
type Exposed = (Arc<ClusterMetrics>, Option<Arc<dyn Gauges>>);
type ByName<T> = Mutex<BTreeMap<String, T>>;

/// Whom the counts belong to: the calling or serving ECS service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owner {
    /// `ServiceName`.
    pub(crate) service: String,
    /// `ClusterName` (the ECS cluster).
    pub(crate) cluster: String,
}

/// What is going on at some listeners.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Requests and opaque connections under way.
    pub(crate) in_flight: u64,
    /// Connections open.
    pub(crate) connections: u64,
    /// Requests and opaque connections so far.
    pub(crate) requests: u64,
}

/// All counts of this process.
pub(crate) struct Metrics {
    workers: usize,
    owner: Owner,
    clusters: ByName<Exposed>,
    listeners: ByName<Arc<ListenerMetrics>>,
    security: Security,
    /// Of this task's requests for a certificate; shown once there was one.
    pub(crate) identity: Arc<IdentityCounts>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    pub(crate) fn new(workers: usize, owner: Owner) -> Arc<Self> {
        Arc::new(Self {
            workers,
            owner,
            clusters: Mutex::default(),
            listeners: Mutex::default(),
            security: Security::default(),
            identity: Arc::default(),
        })
    }

    fn owner_labels(&self) -> [(&'static str, String); 2] {
        [
            ("ServiceName", self.owner.service.clone()),
            ("ClusterName", self.owner.cluster.clone()),
        ]
    }

    /// The counts of an upstream service; `discovery_name` is what callers know it by.
    pub(crate) fn cluster(&self, name: &str, discovery_name: &str) -> Arc<ClusterMetrics> {
        let mut clusters = locked(&self.clusters);
        let (metrics, _) = clusters.entry(name.to_owned()).or_insert_with(|| {
            let mut labels = vec![("TargetDiscoveryName", discovery_name.to_owned())];
            labels.extend(self.owner_labels());
            (Sharded::new(self.workers, labels), None)
        });
        Arc::clone(metrics)
    }

    /// Counts for a cluster that is this task's own application: nobody scrapes them, the listener's are the task's.
    pub(crate) fn local_cluster(&self) -> Arc<ClusterMetrics> {
        Sharded::new(self.workers, Vec::new())
    }

    /// Adds what a cluster knows about itself.
    pub(crate) fn watch_cluster(&self, name: &str, gauges: Arc<dyn Gauges>) {
        if let Some((_, slot)) = locked(&self.clusters).get_mut(name) {
            *slot = Some(gauges);
        }
    }

    /// The counts of a listener. Egress listeners are told apart by the same label as ingress ones: their service.
    pub(crate) fn listener(
        &self,
        name: &str,
        direction: &'static str,
        discovery_name: &str,
    ) -> Arc<ListenerMetrics> {
        let mut listeners = locked(&self.listeners);
        let metrics = listeners.entry(name.to_owned()).or_insert_with(|| {
            let mut labels = vec![
                ("Direction", direction.to_owned()),
                ("DiscoveryName", discovery_name.to_owned()),
            ];
            labels.extend(self.owner_labels());
            Sharded::new(self.workers, labels)
        });
        Arc::clone(metrics)
    }

    /// Forgets what is no longer configured, so that label sets stay bounded.
    pub(crate) fn retain(&self, cluster: impl Fn(&str) -> bool, listener: impl Fn(&str) -> bool) {
        locked(&self.clusters).retain(|name, _| cluster(name));
        // What still has requests in flight counts for the drain.
        locked(&self.listeners).retain(|name, metrics| listener(name) || in_flight(metrics) > 0);
    }

    /// What is going on at the listeners of one direction.
    pub(crate) fn traffic(&self, direction: &str) -> Traffic {
        let mut traffic = Traffic::default();
        for listener in locked(&self.listeners).values() {
            if listener.labels[0].1 != direction {
                continue;
            }
            // The end first, as in `in_flight`.
            let closed = listener.sum(|shard| &shard.closed_connections);
            let opened = listener.sum(|shard| &shard.connections);
            traffic.connections += opened.saturating_sub(closed);
            traffic.in_flight += in_flight(listener);
            traffic.requests += listener.sum(|shard| &shard.requests);
        }
        traffic
    }

    /// OpenMetrics text of everything.
    pub(crate) fn render(self: &Arc<Self>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(self)));
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => text,
            Err(error) => format!("# encoding failed: {error}\n# EOF\n"),
        }
    }
}

fn in_flight(listener: &ListenerMetrics) -> u64 {
    // In this order: what starts and finishes in between is counted too much, never too little.
    let finished = listener.sum(|shard| &shard.finished);
    let requests = listener.sum(|shard| &shard.requests);
    requests.saturating_sub(finished)
}

#[cfg(test)]
mod tests;
