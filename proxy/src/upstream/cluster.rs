//! One service of this sidecar: the policy core with a clock and with those who wait: requests for the first endpoints, and the task
//! on the control runtime that ejects, probes and lets back in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use outrigger_xds::model::{self, EndpointHealth, ServiceRef};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::health::{Prober, Probes};
use crate::mutants::{self, Mutant};
use crate::observe::metrics::{ClusterMetrics, Gauges};
use crate::policy::cluster::{self as policy, Event, Member};
use crate::policy::endpoint::Endpoint;
use crate::policy::limits::{Breaker, Usage};
use crate::policy::outlier::{self, Outcome};
use crate::tls::dial::Dialling;

/// Requests that may wait for a cluster whose endpoints have not arrived yet.
const MAX_WAITING: u32 = 1024;

/// One service. It lives as long as its name is configured; policy and endpoints change inside it.
pub(crate) struct Cluster {
    /// The resource name.
    pub(crate) name: String,
    core: policy::Cluster,
    /// How those of its endpoints are spoken to that take TLS.
    tls: ArcSwapOption<Dialling>,
    /// Wakes the maintenance task: something about an endpoint changed.
    changed: Arc<Notify>,
    /// Wakes requests that wait for the first endpoints.
    arrived: Notify,
    pending: AtomicBool,
    waiting: AtomicU32,
    started: Instant,
    /// What is counted per request.
    pub(crate) metrics: Arc<ClusterMetrics>,
}

/// The decisions are the core's.
impl Deref for Cluster {
    type Target = policy::Cluster;

    fn deref(&self) -> &policy::Cluster {
        &self.core
    }
}

impl Cluster {
    /// `zone` is this sidecar's; empty when unknown.
    pub(crate) fn new(
        settings: impl Into<Arc<model::Cluster>>,
        zone: &str,
        metrics: Arc<ClusterMetrics>,
    ) -> Arc<Self> {
        let settings = settings.into();
        Arc::new(Self {
            name: settings.name.clone(),
            core: policy::Cluster::new(settings, zone),
            tls: ArcSwapOption::empty(),
            changed: Arc::default(),
            arrived: Notify::new(),
            pending: AtomicBool::new(true),
            waiting: AtomicU32::new(0),
            started: Instant::now(),
            metrics,
        })
    }

    /// The time one attempt to connect may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.settings()
            .connect_timeout
            .unwrap_or(model::DEFAULT_CONNECT_TIMEOUT)
    }

    /// The service behind it; what a static file does not say of one is empty, and its name the cluster's.
    pub(crate) fn service(&self) -> ServiceRef {
        let service = self.settings().service.clone();
        service.unwrap_or_else(|| ServiceRef {
            namespace: String::new(),
            name: self.name.clone(),
        })
    }

    /// How those of its endpoints are spoken to that take TLS; `None` where this sidecar has nothing to prove itself by.
    pub(crate) fn tls(&self) -> Option<Arc<Dialling>> {
        self.tls.load_full()
    }

    /// Takes over how endpoints are spoken to that take TLS. Sessions are kept where nothing has changed.
    pub(crate) fn set_tls(&self, tls: Option<Dialling>) {
        let tls = tls.map(Arc::new);
        if *self.tls.load() != tls {
            self.tls.store(tls);
            self.changed.notify_one();
        }
    }

    /// Takes over new settings; endpoints, counters and ejections stay.
    pub(crate) fn set_settings(&self, settings: Arc<model::Cluster>) {
        self.core.set_settings(settings, self.started.elapsed());
        self.changed.notify_one();
    }

    /// Takes over new membership. Returns whether an endpoint was retired, so that the pools drop its idle connections.
    pub(crate) fn set_endpoints<'a>(
        &self,
        set: impl Iterator<Item = (SocketAddr, &'a model::Endpoint)>,
    ) -> bool {
        let retired = self.core.set_endpoints(set, self.started.elapsed());
        self.pending.store(false, Relaxed);
        self.arrived.notify_waiters();
        self.changed.notify_one();
        retired
    }

    /// Waits until the cluster's endpoints have arrived once; at once when they have. The caller's deadline bounds it.
    pub(crate) async fn arrived(self: &Arc<Self>) -> Option<()> {
        if !self.pending.load(Relaxed) {
            return Some(());
        }
        let _place = Waiting::begin(&self.waiting)?;
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

    /// When a request begins whose latency is looked at.
    pub(crate) fn begin_sample(&self) -> Option<Instant> {
        self.core.is_adaptive().then(Instant::now)
    }

    /// Its response head has come, or was waited for as long as it may be.
    pub(crate) fn end_sample(&self, begun: Option<Instant>) {
        if let Some(begun) = begun {
            self.core
                .answered(begun - self.started, self.started.elapsed());
        }
    }

    /// Outlier detection sees every attempt.
    pub(crate) fn report(&self, endpoint: &Endpoint, outcome: Outcome) {
        if !mutants::is(Mutant::NoEjection) && self.core.report(endpoint, outcome) {
            self.changed.notify_one();
        }
    }

    fn tell(&self, event: Event) {
        let cluster = &self.name;
        match event {
            Event::Ejected(endpoint, ejection) => {
                let (address, instance) = (endpoint.address, &endpoint.instance);
                let (rule, because) = (ejection.rule.as_str(), ejection.because);
                let seconds = ejection.duration.as_secs_f64();
                tracing::warn!(cluster, endpoint = %address, instance, rule, seconds, "endpoint ejected: {because}");
            }
            Event::Returned(endpoint) => {
                let instance = &endpoint.instance;
                tracing::info!(cluster, endpoint = %endpoint.address, instance, "ejection over");
            }
        }
    }

    /// Ejects, probes and lets back in, for as long as the cluster is configured. Runs on the control runtime.
    ///
    /// What it rarely waits for is boxed: there is such a task for every service, and most have neither probes nor ejections.
    pub(crate) async fn maintain(self: Arc<Self>) {
        let mut probes: Option<Box<Probes>> = None;
        loop {
            self.probe(&mut probes);
            match self.maintain_core() {
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

    /// Probes whom the settings ask to probe. One that drains is left in peace.
    fn probe(&self, probes: &mut Option<Box<Probes>>) {
        let settings = self.settings();
        let Some(check) = &settings.health_check else {
            // Dropped, they take their verdicts with them.
            *probes = None;
            return;
        };
        let service = self.service();
        let prober = Prober::new(check, settings.protocol, &service.name);
        let prober = prober.by_tls(service, self.tls());
        if probes
            .as_ref()
            .is_none_or(|probes| *probes.prober != prober)
        {
            *probes = Some(Box::new(Probes::new(prober, Arc::clone(&self.changed))));
        }
        if let Some(probes) = probes {
            let probed = |member: &Member| {
                (member.health != EndpointHealth::Draining).then(|| Arc::clone(&member.endpoint))
            };
            probes.set_endpoints(self.members(probed).into_iter().flatten());
        }
    }

    fn maintain_core(&self) -> Option<Instant> {
        let next = self
            .core
            .maintain(self.started.elapsed(), |event| self.tell(event));
        next.map(|next| self.started + next)
    }

    /// For `/clusters`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let settings = self.settings();
        let now = self.started.elapsed();
        let endpoints = self.members(|member| {
            let ejection = outlier::ejected_by(&member.endpoint).map(|rule| {
                let until = Duration::from_millis(member.endpoint.ejected_until.load(Relaxed));
                let left = until.saturating_sub(now).as_secs_f64();
                serde_json::json!({ "rule": rule.as_str(), "seconds_left": left })
            });
            serde_json::json!({
                "address": member.endpoint.address.to_string(),
                "instance": member.endpoint.instance,
                "zone": member.endpoint.zone,
                "cross_zone": member.endpoint.is_cross_zone(),
                "priority": member.priority,
                "weight": member.weight,
                "tls": member.endpoint.takes_tls(),
                "health": member.health,
                "ejected": ejection.is_some(),
                "ejection": ejection,
                "probed_unhealthy": member.endpoint.probed_unhealthy.load(Relaxed),
                "in_flight": member.endpoint.in_flight(),
                "requests": member.endpoint.requests(),
            })
        });
        serde_json::json!({
            "name": self.name,
            "protocol": settings.protocol,
            "lb": settings.lb,
            "tls": self.tls().map(|tls| tls.describe()),
            "offered": self.offered(),
            "circuit_breakers": self.describe_breakers(),
            "min_rtt_ms": self.min_rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
            "ejections": Gauges::ejections(self).into_iter().collect::<BTreeMap<_, _>>(),
            "ejections_prevented": self.ejections_prevented(),
            "endpoints": endpoints,
        })
    }
}

impl Cluster {
    /// Under way, allowed and refused so far, by breaker.
    fn describe_breakers(&self) -> serde_json::Map<String, serde_json::Value> {
        let usage = self.usage();
        let off = |usage: &&Usage| usage.breaker == Breaker::Concurrency && !self.is_adaptive();
        let each = usage.iter().filter(|usage| !off(usage)).map(|usage| {
            let state = serde_json::json!({
                "in_use": usage.held,
                "limit": usage.limit,
                "refused": usage.refused,
            });
            (usage.breaker.as_str().to_owned(), state)
        });
        each.collect()
    }
}

impl Gauges for Cluster {
    fn refused(&self) -> Vec<(&'static str, u64)> {
        let each = self.usage();
        each.map(|usage| (usage.breaker.as_str(), usage.refused))
            .into()
    }

    fn concurrency(&self) -> Option<(u32, Option<Duration>)> {
        Some((self.core.concurrency()?, self.min_rtt()))
    }

    fn ejections(&self) -> Vec<(&'static str, u64)> {
        let by_rule = self.core.ejections().into_iter();
        by_rule
            .map(|(rule, count)| (rule.as_str(), count))
            .collect()
    }

    fn ejections_prevented(&self) -> u64 {
        self.core.ejections_prevented()
    }

    fn ejected_now(&self) -> u64 {
        let out = self
            .core
            .members(|member| u64::from(member.endpoint.is_ejected()));
        out.into_iter().sum()
    }

    fn endpoints(&self) -> Vec<(String, u64)> {
        self.core
            .endpoints()
            .iter()
            .map(|endpoint| (endpoint.address.to_string(), endpoint.requests()))
            .collect()
    }
}

/// A place among those who wait for a cluster, given back by `Drop`.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicU32) -> Option<Self> {
        let before = waiting.fetch_add(1, Relaxed);
        let place = Self(waiting);
        (before < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
