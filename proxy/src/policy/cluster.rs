//! One service as a caller sees it: its endpoints, which of them may be offered, and how one is picked. No I/O; time is an argument.
//!
//! Two levels: `members` is what the registry or the static file says; `ready` is what may be offered now, rebuilt off the request
//! path whenever membership, an ejection or a probe changes. A request only reads `ready`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use outrigger_xds::hop::Tokens;
use outrigger_xds::model::{self, EndpointHealth};
use rand::Rng;

use super::adaptive::Adaptive;
use super::endpoint::{Endpoint, Lease};
use super::limits::{Breaker, Limits, Share, Usage};
use super::offer::{Eligible, Offer};
use super::outlier::{self, Candidate, Detector, Ejection, Outcome, Rule};
use super::retry::{Attempts, Ended};
use super::slow_start;

/// By which an endpoint is known again: where its sidecar has other tokens, it is another process, and what was open to one that has
/// come to take TLS is not.
type Identity = (SocketAddr, Box<str>, Box<str>, Option<Tokens>, bool);

/// A member and what the registry says of it.
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
    pub(crate) health: EndpointHealth,
    /// Whether it was healthy when last looked at: what becomes so starts slowly.
    was_healthy: bool,
    /// When its slow start began; `None` is over.
    slow_since: Option<Duration>,
}

impl Member {
    fn is_offered(&self) -> bool {
        self.health != EndpointHealth::Draining && self.weight > 0
    }

    fn is_healthy(&self) -> bool {
        self.health == EndpointHealth::Healthy
            && !self.endpoint.is_ejected()
            && !self.endpoint.probed_unhealthy.load(Relaxed)
    }

    /// Notes whether it is healthy. Returns that, and what it carries of its weight, in percent.
    fn look(&mut self, slow_start: Option<Duration>, now: Duration) -> (bool, u32) {
        let healthy = self.is_healthy();
        if healthy && !self.was_healthy {
            self.slow_since = Some(now);
        }
        self.was_healthy = healthy;
        let percent = match (slow_start, self.slow_since) {
            (Some(window), Some(since)) => slow_start::percent(window, now.saturating_sub(since)),
            _ => 100,
        };
        if percent == 100 {
            self.slow_since = None;
        }
        (healthy, percent)
    }
}

/// What [`Cluster::maintain`] changed.
#[derive(Debug, Clone)]
pub enum Event {
    /// An endpoint is out.
    Ejected(Arc<Endpoint>, Ejection),
    /// Its ejection is over.
    Returned(Arc<Endpoint>),
}

/// The policy state of one service. Policy and endpoints change inside it.
pub struct Cluster {
    settings: ArcSwap<model::Cluster>,
    /// The caller's; empty when unknown.
    zone: Box<str>,
    members: Mutex<Vec<Member>>,
    ready: ArcSwap<Offer>,
    limits: Arc<Limits>,
    adaptive: ArcSwapOption<Adaptive>,
    detector: Detector,
}

impl Cluster {
    /// A cluster without endpoints; `zone` is the caller's, empty when unknown.
    pub fn new(settings: Arc<model::Cluster>, zone: &str) -> Self {
        let adaptive = concurrency_asked(&settings);
        Self {
            settings: ArcSwap::new(settings),
            zone: zone.into(),
            members: Mutex::new(Vec::new()),
            ready: ArcSwap::default(),
            limits: Arc::default(),
            adaptive: ArcSwapOption::new(adaptive.map(|asked| Arc::new(Adaptive::new(asked)))),
            detector: Detector::default(),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Guard<Arc<model::Cluster>> {
        self.settings.load()
    }

    /// Takes over new settings; endpoints, counters and ejections stay. `now`, here and below, is the time since the cluster began.
    pub fn set_settings(&self, settings: Arc<model::Cluster>, now: Duration) {
        let asked = concurrency_asked(&settings);
        let current = self.adaptive.load_full();
        if current.as_ref().map(|adaptive| adaptive.settings()) != asked.as_ref() {
            let adaptive = asked.map(|asked| Arc::new(Adaptive::new(asked)));
            self.adaptive.store(adaptive);
        }
        self.settings.store(settings);
        self.refresh(now);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over new membership: an endpoint known by (address, instance, zone, tokens, TLS) keeps its counters and ejections. Those that
    /// come to others start slowly, where that is asked for. Returns whether an endpoint was retired, so that the pools drop its
    /// idle connections.
    pub fn set_endpoints<'a>(
        &self,
        set: impl Iterator<Item = (SocketAddr, &'a model::Endpoint)>,
        now: Duration,
    ) -> bool {
        let mut members = self.lock();
        let first = members.is_empty();
        let mut known: HashMap<Identity, Member> = members
            .drain(..)
            .map(|member| {
                let endpoint = &member.endpoint;
                let (instance, zone) = (endpoint.instance.clone(), endpoint.zone.clone());
                let hop = endpoint.hop.as_deref().copied();
                let tls = endpoint.takes_tls();
                ((endpoint.address, instance, zone, hop, tls), member)
            })
            .collect();
        let mut retired = false;
        for (address, from) in set {
            let key = (
                address,
                from.instance.as_str().into(),
                from.zone.as_str().into(),
                from.hop,
                from.tls,
            );
            let (endpoint, was_healthy, slow_since) = match known.remove(&key) {
                Some(member) => (member.endpoint, member.was_healthy, member.slow_since),
                None => {
                    let endpoint = Endpoint::new(address, from, &self.zone);
                    (Arc::new(endpoint), first, None)
                }
            };
            let draining = from.health == EndpointHealth::Draining;
            retired |= draining;
            endpoint.retired.store(draining, Relaxed);
            members.push(Member {
                endpoint,
                weight: from.weight,
                priority: from.priority,
                health: from.health,
                was_healthy,
                slow_since,
            });
        }
        for gone in known.into_values() {
            gone.endpoint.retired.store(true, Relaxed);
            retired = true;
        }
        members.shrink_to_fit();
        drop(members);
        self.refresh(now);
        retired
    }

    /// Recomputes what may be offered. Returns when that changes by itself: a slow start has its next step.
    fn refresh(&self, now: Duration) -> Option<Duration> {
        let settings = self.settings.load();
        let mut members = self.lock();
        let eligible = members.iter_mut().filter_map(|member| {
            let (healthy, percent) = member.look(settings.slow_start, now);
            member.is_offered().then(|| Eligible {
                endpoint: Arc::clone(&member.endpoint),
                weight: u64::from(member.weight) * u64::from(percent),
                priority: member.priority,
                healthy,
            })
        });
        let offer = Offer::build(&settings, &self.zone, eligible);
        self.ready.store(Arc::new(offer));
        let slow = members.iter().any(|member| member.slow_since.is_some());
        let window = settings.slow_start.filter(|_| slow)?;
        Some(now + slow_start::step(window))
    }

    /// Picks an endpoint that is not among `tried`; if all were tried, the policy's first choice again.
    pub fn pick(&self, rng: &mut impl Rng, key: &[u8], tried: &[u64]) -> Option<Lease> {
        let ready = self.ready.load();
        let fresh = |endpoint: &Endpoint| !tried.contains(&endpoint.id);
        let found = ready.find(rng, key, fresh);
        let endpoint = match found {
            Some(endpoint) => endpoint,
            None => ready.find(rng, key, |_| true)?,
        };
        Some(Lease::new(endpoint))
    }

    /// Outlier detection sees every attempt. Returns whether [`Self::maintain`] has something to do now.
    pub fn report(&self, endpoint: &Endpoint, outcome: Outcome) -> bool {
        let settings = self.settings.load();
        let Some(detection) = &settings.outlier_detection else {
            return false;
        };
        outlier::record(detection, endpoint, outcome)
    }

    /// Ejects what the rules of outlier detection find, lets back in whose time is over, and rebuilds what may be offered. Tells
    /// what changed, and when it is to be called again at the latest.
    pub fn maintain(&self, now: Duration, mut tell: impl FnMut(Event)) -> Option<Duration> {
        let settings = self.settings.load();
        let members = self.lock();
        let candidates: Vec<Candidate<'_>> = members
            .iter()
            .map(|member| Candidate {
                endpoint: &member.endpoint,
                counts: member.is_offered(),
                passes: member.health != EndpointHealth::Unhealthy
                    && !member.endpoint.probed_unhealthy.load(Relaxed),
            })
            .collect();
        let policy = settings.outlier_detection.as_ref();
        let next = self.detector.run(policy, &candidates, now, &mut tell);
        drop(candidates);
        drop(members);
        let step = self.refresh(now);
        [next, step].into_iter().flatten().min()
    }

    /// All members, whatever their state.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let each = |member: &Member| Arc::clone(&member.endpoint);
        self.lock().iter().map(each).collect()
    }

    /// Looks at every member.
    pub(crate) fn members<T>(&self, each: impl FnMut(&Member) -> T) -> Vec<T> {
        self.lock().iter().map(each).collect()
    }

    /// How many endpoints may be offered.
    pub fn offered(&self) -> usize {
        self.ready.load().count()
    }

    /// Ejections so far, by rule.
    pub fn ejections(&self) -> [(Rule, u64); Rule::ALL.len()] {
        let counts = self.detector.ejections();
        std::array::from_fn(|index| (Rule::ALL[index], counts[index]))
    }

    /// Ejections that the maximum of what may be out has prevented.
    pub fn ejections_prevented(&self) -> u64 {
        self.detector.prevented()
    }

    /// One more request, if there may be one.
    pub fn enter(&self) -> Option<Share> {
        let settings = self.settings.load();
        let breakers = &settings.circuit_breakers;
        let adaptive = breakers.adaptive_concurrency.is_some();
        let concurrency = adaptive.then(|| self.concurrency()).flatten();
        self.limits.enter(breakers, concurrency.unwrap_or(u32::MAX))
    }

    /// Whether [`Self::answered`] is to be told of requests.
    pub fn is_adaptive(&self) -> bool {
        let settings = self.settings.load();
        settings.circuit_breakers.adaptive_concurrency.is_some()
    }

    /// A request that began at `begun` has its response head, or has waited for it as long as it may.
    pub fn answered(&self, begun: Duration, now: Duration) {
        if let Some(adaptive) = &*self.adaptive.load() {
            adaptive.record(begun, now);
        }
    }

    /// Requests that the service was found to take at once, where that is looked at.
    pub fn concurrency(&self) -> Option<u32> {
        let adaptive = self.adaptive.load();
        adaptive.as_ref().map(|adaptive| adaptive.limit())
    }

    /// Its least latency, where that is looked at and once it was measured.
    pub fn min_rtt(&self) -> Option<Duration> {
        self.adaptive.load().as_ref()?.min_rtt()
    }

    /// One more retry, if the budget has one.
    pub fn try_retry(&self) -> Option<Share> {
        self.limits.retry(&self.settings.load().circuit_breakers)
    }

    /// The wait before another attempt after one that `ended` so, if one is made: the rules of [`Attempts`] first, then the budget.
    /// The share is held from here until that attempt has ended.
    pub fn again(
        &self,
        attempts: &Attempts<'_>,
        ended: Ended,
        rng: &mut impl Rng,
    ) -> Option<(Duration, Share)> {
        let wait = attempts.next(ended, rng)?;
        Some((wait, self.try_retry()?))
    }

    /// One more request that waits for a connection, if there may be one.
    pub fn try_connect(&self) -> Option<Share> {
        self.limits.connect(&self.settings.load().circuit_breakers)
    }

    /// One more connection, if there may be one; held for as long as it is open. `only`: it is for a request, and nothing else is
    /// under way to the endpoint.
    pub fn try_open(&self, only: bool) -> Option<Share> {
        let settings = self.settings.load();
        self.limits.open(&settings.circuit_breakers, only)
    }

    /// Every breaker's state.
    pub fn usage(&self) -> [Usage; Breaker::ALL.len()] {
        let settings = self.settings.load();
        self.limits
            .usage(&settings.circuit_breakers, self.concurrency())
    }
}

/// What is asked for, where there are answers whose latency can be looked at.
fn concurrency_asked(settings: &model::Cluster) -> Option<model::AdaptiveConcurrency> {
    let asked = &settings.circuit_breakers.adaptive_concurrency;
    asked.clone().filter(|_| settings.protocol.is_http())
}

#[cfg(test)]
mod fairness_tests;
#[cfg(test)]
mod tests;
