//! One value behind an `ArcSwap`: every listener's routes with all names resolved, built before it is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_xds::hop::Identity;
use outrigger_xds::identity::TlsMode;
use outrigger_xds::model::{self, Direction, Listener, Protocol, Target};

use super::route::Route;
use crate::config::accepted::Accepted;
use crate::config::tls::ListenerTls;
use crate::observe::metrics::{ListenerMetrics, Metrics};
use crate::policy::authorize::Allowed;
use crate::tls::{Accepting, Tls};
use crate::upstream::cluster::Cluster;
use crate::upstream::clusters::Clusters;

/// Connections one listener accepts at once unless it says otherwise.
pub(crate) const MAX_CONNECTIONS: u32 = 10_000;
/// Requests under way at once on one listener unless it says otherwise: as many as it takes connections.
pub(crate) const MAX_REQUESTS: u32 = 10_000;
/// Largest request head in bytes unless the listener says otherwise.
pub(crate) const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// Longest request target in bytes unless the listener says otherwise; RFC 9112 section 3 asks for at least 8,000.
pub(crate) const MAX_URI_BYTES: u32 = 16 * 1024;

/// What a connection on one listener needs to know.
pub(crate) struct ListenerPolicy {
    pub(crate) name: String,
    pub(crate) direction: Direction,
    pub(crate) protocol: Protocol,
    /// In order of preference; empty for opaque TCP.
    pub(crate) routes: Vec<Arc<Route>>,
    /// Where opaque TCP goes: the TCP target, or the first route's cluster when detection ends in TCP.
    pub(crate) tcp: Option<Arc<Cluster>>,
    pub(crate) header_timeout: Duration,
    /// HTTP/1.1 alone: an HTTP/2 stream may be quiet while its request is incomplete.
    pub(crate) body_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) tcp_idle_timeout: Duration,
    pub(crate) max_connections: u32,
    pub(crate) max_requests: u32,
    pub(crate) max_header_bytes: u32,
    pub(crate) max_uri_bytes: u32,
    /// Who may call; `None` is everybody.
    pub(crate) authorization: Option<Allowed>,
    /// Whom hops are taken for, if they are.
    pub(crate) hop: Option<Identity>,
    /// What TLS it takes; `None` is none.
    pub(crate) tls: Option<Arc<Accepting>>,
    pub(crate) metrics: Arc<ListenerMetrics>,
}

impl ListenerPolicy {
    /// What connections are taken.
    pub(crate) fn tls_mode(&self) -> TlsMode {
        self.tls.as_ref().map_or(TlsMode::Disable, |tls| tls.mode)
    }

    /// For `/config`: what connections are taken now, and by what identity.
    pub(crate) fn describe_tls(&self) -> serde_json::Value {
        let mode = self.tls_mode();
        let identity = self.tls.as_ref().map(|tls| tls.identity());
        let ready = identity.is_some_and(|identity| identity.is_ready());
        let mut accepts = Vec::new();
        if ready && mode != TlsMode::Disable {
            accepts.push("tls");
        }
        if mode != TlsMode::Strict {
            accepts.push("plaintext");
        }
        serde_json::json!({
            "mode": mode,
            "identity": identity.and_then(|identity| identity.id()),
            "accepts": accepts,
        })
    }

    /// How TLS is taken, if it is.
    pub(crate) fn tls_taken(&self) -> Option<&Accepting> {
        let tls = self.tls.as_deref();
        tls.filter(|tls| tls.mode != TlsMode::Disable)
    }

    /// Whether nothing but TLS is taken.
    pub(crate) fn is_strict(&self) -> bool {
        self.tls_mode() == TlsMode::Strict
    }
}

/// A listener's place in the snapshot; a bound socket keeps it for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Slot(usize);

/// Everything a request reads, in one load.
#[derive(Default)]
pub(crate) struct Snapshot {
    listeners: Vec<Option<Arc<ListenerPolicy>>>,
}

impl Snapshot {
    /// All that there are.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = &Arc<ListenerPolicy>> {
        self.listeners.iter().flatten()
    }

    /// The listener at `slot`, unless it was removed.
    pub(crate) fn listener(&self, slot: Slot) -> Option<&Arc<ListenerPolicy>> {
        self.listeners.get(slot.0)?.as_ref()
    }
}

/// The snapshot in force.
pub(crate) type Current = Arc<ArcSwap<Snapshot>>;

/// Why a listener cannot be used; the others are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) listener: String,
    pub(crate) field: &'static str,
    pub(crate) reason: String,
}

/// Builds snapshots; remembers which slot belongs to which name.
#[derive(Default)]
pub(crate) struct Builder {
    slots: HashMap<String, Slot>,
    /// What listeners take, kept while nothing changes: sessions are resumed by what an acceptor knows.
    taken: HashMap<String, Taken>,
}

/// Where a listener's TLS comes from.
#[derive(Clone, PartialEq, Eq)]
enum Asked {
    /// The static file.
    Files(ListenerTls),
    /// The service's policy in the mesh, with the sidecar's own identity.
    Mesh(TlsMode),
}

/// What a listener takes, and what that was made of.
struct Taken {
    asked: Asked,
    protocol: Protocol,
    hop: Option<Identity>,
    accepting: Arc<Accepting>,
}

impl Builder {
    /// The slot of a listener's name.
    pub(crate) fn slot(&mut self, name: &str) -> Slot {
        let next = Slot(self.slots.len());
        *self.slots.entry(name.to_owned()).or_insert(next)
    }

    /// Resolves every listener. One that refers to what is not there is left out and named.
    pub(crate) fn build(
        &mut self,
        accepted: &Accepted,
        clusters: &Arc<Clusters>,
        metrics: &Metrics,
    ) -> (Snapshot, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut listeners: Vec<Option<Arc<ListenerPolicy>>> = Vec::new();
        for listener in accepted.listeners.values() {
            let slot = self.slot(&listener.name);
            let tls = self.accepting(listener, accepted, clusters.tls());
            match resolve(listener, tls, accepted, clusters, metrics) {
                Ok(policy) => {
                    if listeners.len() <= slot.0 {
                        listeners.resize(slot.0 + 1, None);
                    }
                    listeners[slot.0] = Some(Arc::new(policy));
                }
                Err(problem) => problems.push(problem),
            }
        }
        self.taken
            .retain(|name, _| accepted.listeners.contains_key(name));
        show(&listeners, clusters.tls(), metrics);
        (Snapshot { listeners }, problems)
    }

    /// What TLS a listener takes.
    fn accepting(
        &mut self,
        listener: &Listener,
        accepted: &Accepted,
        tls: &Tls,
    ) -> Option<Arc<Accepting>> {
        let asked = asked(listener, accepted)?;
        let same = self.taken.get(&listener.name).filter(|made| {
            made.asked == asked && made.protocol == listener.protocol && made.hop == listener.hop
        });
        if let Some(made) = same {
            return Some(Arc::clone(&made.accepting));
        }
        let (protocol, hop) = (listener.protocol, listener.hop.as_ref());
        let accepting = match &asked {
            Asked::Files(asked) => tls.accepting(asked, protocol, hop),
            Asked::Mesh(mode) => tls.accepting_in_mesh(*mode, protocol, hop),
        };
        let made = Taken {
            asked,
            protocol: listener.protocol,
            hop: listener.hop.clone(),
            accepting: Arc::new(accepting),
        };
        let accepting = Arc::clone(&made.accepting);
        self.taken.insert(listener.name.clone(), made);
        Some(accepting)
    }
}

fn asked(listener: &Listener, accepted: &Accepted) -> Option<Asked> {
    if let Some(asked) = accepted.tls.listeners.get(&listener.name) {
        return Some(Asked::Files(asked.clone()));
    }
    let inbound = accepted.inbound.get(listener.inbound.as_ref()?)?;
    (inbound.tls != TlsMode::Disable).then_some(Asked::Mesh(inbound.tls))
}

/// Tells the metrics which modes and identities are in use.
fn show(listeners: &[Option<Arc<ListenerPolicy>>], tls: &Tls, metrics: &Metrics) {
    let ingress = || {
        let listeners = listeners.iter().flatten();
        listeners.filter(|listener| listener.direction == Direction::Ingress)
    };
    let mode = |listener: &Arc<ListenerPolicy>| (listener.name.clone(), listener.tls_mode());
    metrics.set_tls_modes(ingress().map(mode).collect());
    let taken = ingress().filter_map(|listener| listener.tls.as_ref());
    let identities = taken.map(|tls| tls.identity()).chain(tls.own());
    identities.for_each(|identity| metrics.watch(identity));
}

fn resolve(
    listener: &Listener,
    tls: Option<Arc<Accepting>>,
    accepted: &Accepted,
    clusters: &Arc<Clusters>,
    metrics: &Metrics,
) -> Result<ListenerPolicy, Problem> {
    let problem = |field, reason: String| Problem {
        listener: listener.name.clone(),
        field,
        reason,
    };
    let local = listener.direction == Direction::Ingress;
    let inbound = match &listener.inbound {
        Some(name) => Some(accepted.inbound.get(name).ok_or_else(|| {
            problem(
                "inbound",
                format!("the policy {name:?} of who may call does not exist"),
            )
        })?),
        None => None,
    };
    let (routes, tcp, first) = match &listener.target {
        Target::Cluster(name) => (
            Vec::new(),
            Some(clusters.get(name, local)),
            Some(name.as_str()),
        ),
        Target::Routes(name) => {
            let config = accepted.routes.get(name).ok_or_else(|| {
                problem(
                    "target",
                    format!("route configuration {name:?} does not exist"),
                )
            })?;
            let routes = config
                .routes
                .iter()
                .map(|route| Route::new(route, clusters.get(&route.cluster, local)).map(Arc::new))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|reason| problem("routes", reason))?;
            let tcp = routes.first().map(|route| Arc::clone(&route.cluster));
            (
                routes,
                tcp,
                config.routes.first().map(|route| route.cluster.as_str()),
            )
        }
    };
    let service = first
        .and_then(|name| accepted.clusters.get(name))
        .and_then(|cluster| cluster.service.as_ref());
    let discovery_name = service.map_or(first.unwrap_or(&listener.name), |service| {
        service.name.as_str()
    });
    let direction = listener.direction;
    let default_idle = model::DEFAULT_HTTP_IDLE_TIMEOUT;
    Ok(ListenerPolicy {
        name: listener.name.clone(),
        direction,
        protocol: listener.protocol,
        routes,
        tcp,
        header_timeout: listener
            .header_timeout
            .unwrap_or(model::DEFAULT_HEADER_TIMEOUT),
        body_timeout: listener.body_timeout.unwrap_or(model::DEFAULT_BODY_TIMEOUT),
        idle_timeout: listener.idle_timeout.unwrap_or(default_idle),
        tcp_idle_timeout: listener
            .idle_timeout
            .unwrap_or(model::DEFAULT_TCP_IDLE_TIMEOUT),
        max_connections: listener.max_connections.unwrap_or(MAX_CONNECTIONS),
        max_requests: listener.max_requests.unwrap_or(MAX_REQUESTS),
        max_header_bytes: listener.max_header_bytes.unwrap_or(MAX_HEADER_BYTES),
        max_uri_bytes: listener.max_uri_bytes.unwrap_or(MAX_URI_BYTES),
        authorization: inbound
            .and_then(|inbound| inbound.authorization.as_ref())
            .map(Allowed::new),
        // Opaque bytes have no hello; their TLS names the task.
        hop: listener
            .hop
            .clone()
            .filter(|_| listener.protocol != Protocol::Tcp),
        tls,
        metrics: metrics.listener(&listener.name, direction.as_str(), discovery_name),
    })
}

#[cfg(test)]
mod tests;
