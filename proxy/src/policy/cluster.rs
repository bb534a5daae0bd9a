//! One service as a caller sees it: its endpoints, which of them may be offered, and how one is picked. No I/O; time is an argument.
//!
//! Two levels: `members` is what the registry or the static file says; `ready` is what may be offered now, rebuilt off the request
//! path whenever membership, an ejection or a probe changes. A request only reads `ready`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use outrigger_xds::model::{self, EndpointHealth};
use rand::Rng;

use super::balance::Selector;
use super::endpoint::{Endpoint, Lease};
use super::limits::{Limits, Share};
use super::outlier::{self, Outcome};
use super::retry::{Attempts, Ended};

/// What may be offered at this moment.
struct Ready {
    selector: Selector,
    count: usize,
}

/// A member and what the registry says of it.
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) weight: u32,
    pub(crate) health: EndpointHealth,
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
}

/// What [`Cluster::maintain`] changed.
#[derive(Debug, Clone)]
pub enum Event {
    /// An endpoint is out for so long.
    Ejected(Arc<Endpoint>, Duration),
    /// Its ejection is over.
    Returned(Arc<Endpoint>),
}

/// What follows an attempt.
#[derive(Debug)]
pub enum Again {
    /// It was the last one: how it ended is how the request ends.
    No,
    /// The same, but only for want of budget.
    OverBudget,
    /// Another one after so long; the share is held from here until it has ended.
    After(Duration, Share),
}

/// The policy state of one service. Policy and endpoints change inside it.
pub struct Cluster {
    settings: ArcSwap<model::Cluster>,
    members: Mutex<Vec<Member>>,
    ready: ArcSwap<Ready>,
    limits: Arc<Limits>,
    ejections: AtomicU64,
}

impl Cluster {
    /// A cluster without endpoints.
    pub fn new(settings: Arc<model::Cluster>) -> Self {
        Self {
            settings: ArcSwap::new(settings),
            members: Mutex::new(Vec::new()),
            ready: ArcSwap::from_pointee(Ready {
                selector: Selector::Empty,
                count: 0,
            }),
            limits: Arc::default(),
            ejections: AtomicU64::new(0),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Guard<Arc<model::Cluster>> {
        self.settings.load()
    }

    /// Takes over new settings; endpoints, counters and ejections stay.
    pub fn set_settings(&self, settings: Arc<model::Cluster>) {
        self.settings.store(settings);
        self.refresh();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over new membership: an endpoint known by (address, instance) keeps its counters and ejections. Returns whether
    /// an endpoint was retired, so that the pools drop its idle connections.
    pub fn set_endpoints<'a>(
        &self,
        set: impl Iterator<Item = (SocketAddr, &'a model::Endpoint)>,
    ) -> bool {
        let mut members = self.lock();
        let mut known: HashMap<(SocketAddr, Box<str>), Arc<Endpoint>> = members
            .drain(..)
            .map(|member| {
                let endpoint = member.endpoint;
                ((endpoint.address, endpoint.instance.clone()), endpoint)
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
        retired
    }

    /// Recomputes what may be offered.
    fn refresh(&self) {
        let settings = self.settings.load();
        let members = self.lock();
        let offered = |wanted: fn(&Member) -> bool| -> Vec<(Arc<Endpoint>, u32)> {
            members
                .iter()
                .filter(|member| member.is_offered() && wanted(member))
                .map(|member| (Arc::clone(&member.endpoint), member.weight))
                .collect()
        };
        let mut ready = offered(Member::is_healthy);
        if ready.is_empty() {
            // Panic mode: better a doubtful task than none, but never one that is draining.
            ready = offered(|_| true);
        }
        self.ready.store(Arc::new(Ready {
            selector: Selector::build(settings.lb, &ready),
            count: ready.len(),
        }));
    }

    /// Picks an endpoint that is not among `tried`; if all were tried, the policy's first choice again.
    pub fn pick(&self, rng: &mut impl Rng, key: &[u8], tried: &[u64]) -> Option<Lease> {
        let ready = self.ready.load();
        let fresh = ready.selector.find(rng, key, ready.count, |endpoint| {
            !tried.contains(&endpoint.id)
        });
        let endpoint = match fresh {
            Some(endpoint) => endpoint,
            None => ready.selector.find(rng, key, ready.count, |_| true)?,
        };
        Some(Lease::new(endpoint))
    }

    /// Outlier detection sees every attempt. Returns whether [`Self::maintain`] has something to do now.
    pub fn report(&self, endpoint: &Endpoint, outcome: Outcome) -> bool {
        let settings = self.settings.load();
        let Some(detection) = &settings.outlier_detection else {
            return false;
        };
        let suspect = outlier::record(detection, endpoint, outcome);
        if suspect {
            endpoint.suspect.store(true, Relaxed);
        }
        suspect
    }

    /// Ejects what requests have found failing, lets back in whose time is over, and rebuilds what may be offered. `now` is the
    /// time since the cluster began. Tells what changed, and when it is to be called again at the latest.
    pub fn maintain(&self, now: Duration, mut tell: impl FnMut(Event)) -> Option<Duration> {
        self.eject_suspects(now, &mut tell);
        let next = self.release_due(now, &mut tell);
        self.refresh();
        next
    }

    /// Ejects suspects, as far as the cluster may spare them.
    fn eject_suspects(&self, now: Duration, tell: &mut impl FnMut(Event)) {
        let settings = self.settings.load();
        let Some(detection) = &settings.outlier_detection else {
            return;
        };
        let members = self.lock();
        let offered = |member: &&Member| member.health != EndpointHealth::Draining;
        let total = members.iter().filter(offered).count();
        let ejected = |member: &&Member| member.endpoint.is_ejected();
        let mut out = members.iter().filter(ejected).count();
        for member in members.iter() {
            let endpoint = &member.endpoint;
            if !endpoint.suspect.swap(false, Relaxed) {
                continue;
            }
            if let Some(length) = outlier::eject(detection, endpoint, out, total, now) {
                out += 1;
                self.ejections.fetch_add(1, Relaxed);
                tell(Event::Ejected(Arc::clone(endpoint), length));
            }
        }
    }

    /// Lets back in whose ejection is over; returns when the next one ends.
    fn release_due(&self, now: Duration, tell: &mut impl FnMut(Event)) -> Option<Duration> {
        let members = self.lock();
        for member in members.iter() {
            if outlier::release(&member.endpoint, now) {
                tell(Event::Returned(Arc::clone(&member.endpoint)));
            }
        }
        let until = |member: &Member| member.endpoint.ejected_until.load(Relaxed);
        let next = members.iter().map(until).filter(|until| *until > 0).min()?;
        Some(Duration::from_millis(next))
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
        self.ready.load().count
    }

    /// Ejections so far.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// One more request, if there may be one.
    pub fn enter(&self) -> Option<Share> {
        self.limits.enter(&self.settings.load().circuit_breakers)
    }

    /// One more retry, if the budget has one.
    pub fn try_retry(&self) -> Option<Share> {
        self.limits.retry(&self.settings.load().circuit_breakers)
    }

    /// Whether another attempt is made after one that `ended` so: the rules of [`Attempts`] first, then the budget.
    pub fn again(&self, attempts: &Attempts<'_>, ended: Ended, rng: &mut impl Rng) -> Again {
        match attempts.next(ended, rng) {
            None => Again::No,
            Some(wait) => self
                .try_retry()
                .map_or(Again::OverBudget, |share| Again::After(wait, share)),
        }
    }

    /// One more request that waits for a connection, if there may be one.
    pub fn try_connect(&self) -> Option<Share> {
        self.limits.connect(&self.settings.load().circuit_breakers)
    }
}

#[cfg(test)]
mod tests;
