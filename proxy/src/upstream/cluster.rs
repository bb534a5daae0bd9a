//! One service as this sidecar sees it: its endpoints, which of them may be offered, and how one is picked.
//!
//! Two levels: `members` is what the registry or the static file says; `ready` is what may be offered now, rebuilt on the control
//! runtime whenever membership, an ejection or a probe changes. The request path only reads `ready`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_xds::model::{self, EndpointHealth, LbPolicy};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::balance::Selector;
use super::endpoint::{Endpoint, Lease};
use super::health::Probes;
use super::outlier::{self, Outcome};
use crate::observe::metrics::{ClusterMetrics, Gauges};

/// Connections being made to one cluster at once, over all workers; beyond it requests are refused (`UO`).
pub(crate) const MAX_PENDING_CONNECTS: u32 = 1024;
/// Requests in flight to one cluster at once, over all workers; beyond it requests are refused (`UO`).
pub(crate) const MAX_LIVE_REQUESTS: u32 = 16_384;
/// Requests that may wait for a cluster whose endpoints have not arrived yet.
const MAX_WAITING: u32 = 1024;
/// Retries in flight that are always allowed, whatever the share says: all that a small sidecar has in flight may lie on one task
/// when it dies.
const RETRY_FLOOR: u32 = 32;
/// Retries in flight at most, as a share of live requests (percent).
const RETRY_SHARE: u32 = 20;

/// What may be offered at this moment.
struct Ready {
    selector: Selector,
    count: usize,
}

/// Active probes as they were asked for, and when the next pass is due.
type Probing = (model::HealthCheck, Arc<Probes>, Instant);

/// A member and what the registry says of it.
struct Member {
    endpoint: Arc<Endpoint>,
    weight: u32,
    health: EndpointHealth,
}

/// One service. It lives as long as its name is configured; policy and endpoints change inside it.
pub(crate) struct Cluster {
    /// The resource name.
    pub(crate) name: String,
    policy: ArcSwap<model::Cluster>,
    members: Mutex<Vec<Member>>,
    ready: ArcSwap<Ready>,
    /// Wakes the maintenance task: something about an endpoint changed.
    changed: Notify,
    /// Wakes requests that wait for the first endpoints.
    arrived: Notify,
    pending: AtomicBool,
    waiting: AtomicU32,
    started: Instant,
    live: AtomicU32,
    retrying: AtomicU32,
    connecting: AtomicU32,
    ejections: AtomicU64,
    /// What is counted per request.
    pub(crate) metrics: Arc<ClusterMetrics>,
}

impl Cluster {
    pub(crate) fn new(
        policy: impl Into<Arc<model::Cluster>>,
        metrics: Arc<ClusterMetrics>,
    ) -> Arc<Self> {
        let policy = policy.into();
        Arc::new(Self {
            name: policy.name.clone(),
            policy: ArcSwap::new(policy),
            members: Mutex::new(Vec::new()),
            ready: ArcSwap::from_pointee(Ready {
                selector: Selector::Empty,
                count: 0,
            }),
            changed: Notify::new(),
            arrived: Notify::new(),
            pending: AtomicBool::new(true),
            waiting: AtomicU32::new(0),
            started: Instant::now(),
            live: AtomicU32::new(0),
            retrying: AtomicU32::new(0),
            connecting: AtomicU32::new(0),
            ejections: AtomicU64::new(0),
            metrics,
        })
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> arc_swap::Guard<Arc<model::Cluster>> {
        self.policy.load()
    }

    /// The time one attempt to connect may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.policy
            .load()
            .connect_timeout
            .unwrap_or(model::DEFAULT_CONNECT_TIMEOUT)
    }

    /// Takes over a new policy; endpoints, counters and ejections stay.
    pub(crate) fn set_policy(&self, policy: Arc<model::Cluster>) {
        self.policy.store(policy);
        self.refresh();
        self.changed.notify_one();
    }

    /// Takes over new membership: an endpoint known by (address, instance) keeps its counters and ejections. Returns whether
    /// an endpoint was retired, so that the pools drop its idle connections.
    pub(crate) fn set_endpoints<'a>(
        &self,
        set: impl Iterator<Item = (SocketAddr, &'a model::Endpoint)>,
    ) -> bool {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known: HashMap<(SocketAddr, Box<str>), Arc<Endpoint>> = members
            .drain(..)
            .map(|member| {
                (
                    (member.endpoint.address, member.endpoint.instance.clone()),
                    member.endpoint,
                )
            })
            .collect();
        let mut retired = false;
        for (address, from) in set {
            let endpoint = known
                .remove(&(address, from.instance.as_str().into()))
                .unwrap_or_else(|| Arc::new(Endpoint::new(address, from)));
            let draining = from.health == EndpointHealth::Draining;
            retired |= draining;
            endpoint.retired.store(draining, Relaxed);
            members.push(Member {
                endpoint,
                weight: from.weight,
                health: from.health,
            });
        }
        for gone in known.into_values() {
            gone.retired.store(true, Relaxed);
            retired = true;
        }
        members.shrink_to_fit();
        drop(members);
        self.refresh();
        self.pending.store(false, Relaxed);
        self.arrived.notify_waiters();
        self.changed.notify_one();
        retired
    }

    /// Recomputes what may be offered. Off the request path.
    fn refresh(&self) {
        let policy = self.policy.load();
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let offered = |wanted: fn(&Member) -> bool| -> Vec<(Arc<Endpoint>, u32)> {
            members
                .iter()
                .filter(|member| {
                    member.health != EndpointHealth::Draining && member.weight > 0 && wanted(member)
                })
                .map(|member| (Arc::clone(&member.endpoint), member.weight))
                .collect()
        };
        let mut ready = offered(|member| {
            member.health == EndpointHealth::Healthy
                && !member.endpoint.is_ejected()
                && !member.endpoint.probed_unhealthy.load(Relaxed)
        });
        if ready.is_empty() {
            // Panic mode: better a doubtful task than none, but never one that is draining.
            ready = offered(|_| true);
        }
        let lb: LbPolicy = policy.lb;
        self.ready.store(Arc::new(Ready {
            selector: Selector::build(lb, &ready),
            count: ready.len(),
        }));
    }

    /// Waits until the cluster's endpoints have arrived once; at once when they have. The caller's deadline bounds it.
    pub(crate) async fn arrived(self: &Arc<Self>) -> Option<()> {
        if !self.pending.load(Relaxed) {
            return Some(());
        }
        let _place = Share::within(self, |cluster| &cluster.waiting, MAX_WAITING)?;
        let arrived = self.arrived.notified();
        if self.pending.load(Relaxed) {
            arrived.await;
        }
        Some(())
    }

    /// Whether its endpoints have never come.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Relaxed)
    }

    /// Picks an endpoint that is not among `tried`; if all were tried, the policy's first choice again.
    pub(crate) fn pick(&self, key: &[u8], tried: &[u64]) -> Option<Lease> {
        let ready = self.ready.load();
        let fresh = ready
            .selector
            .find(key, ready.count, |endpoint| !tried.contains(&endpoint.id));
        let endpoint = match fresh {
            Some(endpoint) => endpoint,
            None => ready.selector.find(key, ready.count, |_| true)?,
        };
        Some(Lease::new(endpoint))
    }

    /// Outlier detection sees every attempt.
    pub(crate) fn report(&self, endpoint: &Endpoint, outcome: Outcome) {
        let policy = self.policy.load();
        let Some(detection) = &policy.outlier_detection else {
            return;
        };
        if outlier::record(detection, endpoint, outcome) {
            endpoint.suspect.store(true, Relaxed);
            self.changed.notify_one();
        }
    }

    /// Ejects what the request path has found failing, as far as the cluster may spare it. Runs on the control runtime.
    fn eject_suspects(&self) {
        let policy = self.policy.load();
        let Some(detection) = &policy.outlier_detection else {
            return;
        };
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let offered = |member: &&Member| member.health != EndpointHealth::Draining;
        let total = members.iter().filter(offered).count();
        let mut out = members
            .iter()
            .filter(|member| member.endpoint.is_ejected())
            .count();
        for member in members.iter() {
            let endpoint = &member.endpoint;
            if !endpoint.suspect.swap(false, Relaxed) {
                continue;
            }
            if let Some(length) = outlier::eject(detection, endpoint, out, total, self.now()) {
                out += 1;
                self.ejections.fetch_add(1, Relaxed);
                let (cluster, seconds) = (&self.name, length.as_secs());
                tracing::warn!(cluster, endpoint = %endpoint.address, seconds, "endpoint ejected");
            }
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Rebuilds `ready` after ejections and probes, for as long as the cluster is configured. Runs on the control runtime.
    ///
    /// What it rarely waits for is boxed: there is such a task for every service, and most have neither probes nor ejections.
    pub(crate) async fn maintain(self: Arc<Self>) {
        let mut probes: Option<Box<Probing>> = None;
        let mut pass: Option<tokio::task::JoinHandle<()>> = None;
        loop {
            self.renew(&mut probes);
            self.eject_suspects();
            let released = self.release_due();
            if let Some(probing) = &mut probes {
                let (check, probes, due) = &mut **probing;
                Box::pin(probes.set_members(&self.endpoints())).await;
                let over = pass
                    .as_ref()
                    .is_none_or(tokio::task::JoinHandle::is_finished);
                if Instant::now() >= *due {
                    if over {
                        // A task of its own: one mute endpoint must not hold up ejections.
                        let (probes, cluster) = (Arc::clone(probes), Arc::clone(&self));
                        pass = Some(tokio::spawn(async move {
                            if probes.run().await {
                                cluster.changed.notify_one();
                            }
                        }));
                    }
                    *due = Instant::now() + check.interval;
                }
            }
            self.refresh();
            let wake = [released, probes.as_ref().map(|probing| probing.2)]
                .into_iter()
                .flatten()
                .min();
            match wake {
                None => self.changed.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = Box::pin(tokio::time::sleep_until(at)) => {}
                        () = self.changed.notified() => {}
                    }
                }
            }
        }
    }

    /// Makes the probes anew when the policy asks for others.
    fn renew(&self, probes: &mut Option<Box<Probing>>) {
        let check = self.policy.load().health_check.clone();
        if probes.as_ref().map(|probing| &probing.0) == check.as_ref() {
            return;
        }
        for endpoint in self.endpoints() {
            endpoint.probed_unhealthy.store(false, Relaxed);
        }
        *probes = check.map(|check| {
            let made = Arc::new(Probes::new(&check, &self.name));
            Box::new((check, made, Instant::now()))
        });
    }

    /// Lets back in whose ejection is over; returns when the next one ends.
    fn release_due(&self) -> Option<Instant> {
        let now = self.now();
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        for member in members.iter() {
            if outlier::release(&member.endpoint, now) {
                tracing::info!(cluster = self.name, endpoint = %member.endpoint.address, "ejection over");
            }
        }
        let until = |member: &Member| member.endpoint.ejected_until.load(Relaxed);
        let next = members.iter().map(until).filter(|until| *until > 0).min()?;
        Some(self.started + Duration::from_millis(next))
    }

    /// All members, whatever their state.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members
            .iter()
            .map(|member| Arc::clone(&member.endpoint))
            .collect()
    }

    /// For `/clusters`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let policy = self.policy.load();
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoints: Vec<_> = members
            .iter()
            .map(|member| {
                serde_json::json!({
                    "address": member.endpoint.address.to_string(),
                    "instance": member.endpoint.instance,
                    "zone": member.endpoint.zone,
                    "weight": member.weight,
                    "health": member.health,
                    "ejected": member.endpoint.is_ejected(),
                    "probed_unhealthy": member.endpoint.probed_unhealthy.load(Relaxed),
                    "in_flight": member.endpoint.in_flight(),
                    "requests": member.endpoint.requests(),
                })
            })
            .collect();
        serde_json::json!({
            "name": self.name,
            "protocol": policy.protocol,
            "lb": policy.lb,
            "offered": self.ready.load().count,
            "ejections": self.ejections.load(Relaxed),
            "endpoints": endpoints,
        })
    }

    /// Counts one live request until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Share> {
        Share::within(self, |cluster| &cluster.live, MAX_LIVE_REQUESTS)
    }

    /// Claims a place in the retry budget: 20 % of live requests, never fewer than the floor.
    pub(crate) fn try_retry(self: &Arc<Self>) -> Option<Share> {
        let allowed = (self.live.load(Relaxed) * RETRY_SHARE / 100).max(RETRY_FLOOR);
        Share::within(self, |cluster| &cluster.retrying, allowed)
    }

    /// Claims a place among the connections being made.
    pub(crate) fn try_connect(self: &Arc<Self>) -> Option<Share> {
        Share::within(self, |cluster| &cluster.connecting, MAX_PENDING_CONNECTS)
    }
}

impl Gauges for Cluster {
    fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    fn endpoints(&self) -> Vec<(String, u64)> {
        let endpoints = Cluster::endpoints(self);
        endpoints
            .iter()
            .map(|endpoint| (endpoint.address.to_string(), endpoint.requests()))
            .collect()
    }
}

/// One count of a cluster's counter, given back by `Drop`.
pub(crate) struct Share {
    cluster: Arc<Cluster>,
    counter: fn(&Cluster) -> &AtomicU32,
}

impl Share {
    fn within(
        cluster: &Arc<Cluster>,
        counter: fn(&Cluster) -> &AtomicU32,
        most: u32,
    ) -> Option<Self> {
        let before = counter(cluster).fetch_add(1, Relaxed);
        let share = Self {
            cluster: Arc::clone(cluster),
            counter,
        };
        (before < most).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        (self.counter)(&self.cluster).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
