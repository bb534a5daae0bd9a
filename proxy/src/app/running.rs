//! What runs: clusters, the snapshot and the bound sockets, brought to what was accepted. The one writer of all three.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_xds::model::{Direction, Listener, Target};
use outrigger_xds::tls::{Identity, Roots};
use outrigger_xds::{Rejection, ResourceType};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::accepted::{Accepted, Change};
use crate::downstream::listener::{Bound, Workers, bind};
use crate::mesh::announce::TlsModes;
use crate::mesh::subscribe::Apply;
use crate::observe::metrics::Metrics;
use crate::observe::ready::{Readiness, State};
use crate::restart::{Inherited, Socket};
use crate::routing::snapshot::{Builder, Current};
use crate::upstream::clusters::Clusters;

/// The readiness task: every listener has been tried.
pub(crate) const LISTENERS: &str = "listeners";

/// Everything configuration changes.
pub(crate) struct Running {
    builder: Builder,
    current: Current,
    clusters: Arc<Clusters>,
    metrics: Arc<Metrics>,
    workers: Workers,
    ready: Arc<Readiness>,
    /// By listener name, with the address that was asked for.
    sockets: BTreeMap<String, (SocketAddr, Bound)>,
    wanted: Vec<Arc<Listener>>,
    /// Sockets of the process before, taken instead of binding new ones.
    pub(crate) inherited: Inherited,
    /// Cancelled when this process may accept.
    begin: CancellationToken,
    /// A successor accepts: nothing is bound any more.
    succeeded: bool,
    /// The structure has changed: what it took to get here is free by now.
    untidy: bool,
    /// Who believes what the control server says is to be believed.
    believing: Option<Arc<Identity>>,
    /// Of the listeners in force.
    modes: watch::Sender<TlsModes>,
    /// For `/config`.
    accepted: Arc<arc_swap::ArcSwap<Accepted>>,
}

impl Running {
    pub(crate) fn new(
        current: Current,
        clusters: Arc<Clusters>,
        metrics: Arc<Metrics>,
        workers: Workers,
        ready: Arc<Readiness>,
        believing: Option<Arc<Identity>>,
    ) -> Self {
        Self {
            builder: Builder::default(),
            current,
            clusters,
            metrics,
            workers,
            ready,
            sockets: BTreeMap::new(),
            wanted: Vec::new(),
            inherited: Inherited::default(),
            begin: CancellationToken::new(),
            succeeded: false,
            untidy: false,
            believing,
            modes: watch::Sender::default(),
            accepted: Arc::default(),
        }
    }

    /// What is in force, for `/config`.
    pub(crate) fn accepted(&self) -> Arc<arc_swap::ArcSwap<Accepted>> {
        Arc::clone(&self.accepted)
    }

    /// The TLS modes that listeners are in.
    pub(crate) fn modes(&self) -> watch::Receiver<TlsModes> {
        self.modes.subscribe()
    }

    /// The snapshot in force.
    pub(crate) fn current(&self) -> Current {
        Arc::clone(&self.current)
    }

    /// Brings everything to `accepted`. What a listener asks for and cannot have is named; the rest is in force on return.
    pub(crate) fn take(&mut self, accepted: &Arc<Accepted>, change: &Change) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        if change.structure {
            let local = local_clusters(accepted);
            for cluster in accepted.clusters.values() {
                let (name, tls) = (&cluster.name, &accepted.tls.clusters);
                self.clusters
                    .set_settings(cluster, tls.get(name), local.contains(name));
            }
            accepted
                .endpoints
                .values()
                .for_each(|set| self.clusters.set_endpoints(set));
            rejections = self.restructure(accepted);
            self.forget(accepted);
            self.untidy = true;
        } else {
            let changed = change
                .endpoints
                .iter()
                .filter_map(|name| accepted.endpoints.get(name));
            changed.for_each(|set| self.clusters.set_endpoints(set));
        }
        if change.trust {
            rejections.extend(self.believe(accepted));
        }
        self.accepted.store(Arc::clone(accepted));
        self.ready.set(LISTENERS, State::Ready);
        rejections
    }

    /// The roots that are trusted from now on. When none are said any more, those of before stay.
    fn believe(&self, accepted: &Accepted) -> Option<Rejection> {
        let (identity, bundle) = (self.believing.as_ref()?, accepted.trust_bundle()?);
        let wrong = match Roots::from_pem(bundle.roots.as_bytes()) {
            Ok(roots) => {
                let kept = !self.begin.is_cancelled();
                if kept
                    && identity
                        .roots()
                        .is_some_and(|held| are_strange(&held, &roots))
                {
                    tracing::warn!("the kept roots are of another CA than the identity; not used");
                    return None;
                }
                identity.set_roots(roots);
                return None;
            }
            Err(wrong) => wrong,
        };
        Some(Rejection {
            type_url: ResourceType::Secret.type_url().to_owned(),
            name: bundle.name.clone(),
            field: "roots".to_owned(),
            reason: wrong.to_string(),
        })
    }

    /// Sockets of removed listeners close, then the new snapshot is in force, then new sockets open.
    fn restructure(&mut self, accepted: &Accepted) -> Vec<Rejection> {
        let (snapshot, problems) = self.builder.build(accepted, &self.clusters, &self.metrics);
        let refused: BTreeSet<&str> = problems
            .iter()
            .map(|problem| problem.listener.as_str())
            .collect();
        let usable = |listener: &&Arc<Listener>| !refused.contains(listener.name.as_str());
        self.wanted = accepted
            .listeners
            .values()
            .filter(usable)
            .cloned()
            .collect();
        self.sockets.retain(|name, (asked, _)| {
            let wanted = accepted.listeners.get(name).filter(usable);
            wanted.is_some_and(|listener| listener.address == *asked)
        });
        let listeners = snapshot.listeners();
        let modes: TlsModes = listeners
            .map(|listener| (listener.name.clone(), listener.tls_mode()))
            .collect();
        self.current.store(Arc::new(snapshot));
        self.modes.send_if_modified(|before| {
            let changed = *before != modes;
            *before = modes;
            changed
        });
        self.bind_missing();
        let rejection = |problem: &crate::routing::snapshot::Problem| Rejection {
            type_url: ResourceType::Listener.type_url().to_owned(),
            name: problem.listener.clone(),
            field: problem.field.to_owned(),
            reason: problem.reason.clone(),
        };
        problems.iter().map(rejection).collect()
    }

    /// Whether the structure has changed since this was last asked.
    pub(crate) fn was_restructured(&mut self) -> bool {
        std::mem::take(&mut self.untidy)
    }

    /// Connections open on all workers.
    pub(crate) fn connections(&self) -> u64 {
        self.workers.connections()
    }

    /// From now on this process accepts. What it did not want of the process before is closed.
    pub(crate) fn begin(&mut self) {
        self.inherited = Inherited::default();
        self.begin.cancel();
    }

    /// The listening sockets, for a successor.
    pub(crate) fn lend(&self) -> io::Result<Vec<Socket>> {
        let lend = |(name, (asked, bound)): (&String, &(SocketAddr, Bound))| {
            let socket = bound.socket.try_clone()?;
            Ok(Socket::new(name, Some(*asked), socket))
        };
        self.sockets.iter().map(lend).collect()
    }

    /// Accepts no more, for ever: a successor does. What is connected stays. Each token is cancelled when its loop has ended.
    pub(crate) fn succeed(&mut self) -> Vec<CancellationToken> {
        self.succeeded = true;
        let sockets = std::mem::take(&mut self.sockets).into_values();
        sockets.map(|(_, bound)| bound.close()).collect()
    }

    /// Binds what is wanted and not bound; called again from time to time, since what was in the way may have gone.
    pub(crate) fn bind_missing(&mut self) {
        if self.succeeded {
            return;
        }
        let mut failed = BTreeSet::new();
        for listener in &self.wanted {
            let (name, address) = (&listener.name, &listener.address);
            if self.sockets.contains_key(name) {
                continue;
            }
            let inherited = self.inherited.listener(name, *address);
            let adopted = inherited.is_some();
            let socket = inherited.map_or_else(|| bind(*address), Ok);
            let slot = self.builder.slot(name);
            match socket.and_then(|socket| self.workers.listen(socket, slot, &self.begin)) {
                Ok(bound) => {
                    tracing::info!(listener = name, address = %bound.address, adopted, "listening");
                    self.sockets.insert(name.clone(), (*address, bound));
                }
                Err(error) => {
                    let key = format!("listener/{name}");
                    self.ready.problem(
                        key.as_str(),
                        format!("{address} cannot be bound: {}", advice(&error, *address)),
                    );
                    failed.insert(key);
                }
            }
        }
        self.ready.clear_others("listener/", &failed);
    }

    /// Clusters and label sets that nothing refers to any more.
    fn forget(&self, accepted: &Accepted) {
        let listened = accepted
            .listeners
            .values()
            .filter_map(|listener| match &listener.target {
                Target::Cluster(name) => Some(name.as_str()),
                Target::Routes(_) => None,
            });
        let routed = accepted
            .routes
            .values()
            .flat_map(|config| &config.routes)
            .map(|route| route.cluster.as_str());
        let named: BTreeSet<&str> = listened
            .chain(routed)
            .chain(accepted.clusters.keys().map(String::as_str))
            .collect();
        self.clusters.retain(|name| named.contains(name));
        self.metrics.retain(
            |name| named.contains(name),
            |name| accepted.listeners.contains_key(name),
        );
    }
}

impl Apply for Running {
    fn apply(&mut self, accepted: &Arc<Accepted>, change: &Change) -> Vec<Rejection> {
        self.take(accepted, change)
    }
}

/// A handle that both the subscription and the binder can hold.
#[derive(Clone)]
pub(crate) struct Shared(Arc<std::sync::Mutex<Running>>);

impl Shared {
    pub(crate) fn new(running: Running) -> Self {
        Self(Arc::new(std::sync::Mutex::new(running)))
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Apply for Shared {
    fn apply(&mut self, accepted: &Arc<Accepted>, change: &Change) -> Vec<Rejection> {
        self.lock().take(accepted, change)
    }
}

/// Whether no root is among both: a rotation leaves one for a while, another CA does not.
fn are_strange(held: &Roots, others: &Roots) -> bool {
    let held = held.fingerprints();
    !others.fingerprints().iter().any(|one| held.contains(one))
}

/// Clusters that stand for this task's own application: reached from ingress listeners alone.
fn local_clusters(accepted: &Accepted) -> BTreeSet<String> {
    let mut local = BTreeSet::new();
    let mut remote = BTreeSet::new();
    for listener in accepted.listeners.values() {
        let names = match &listener.target {
            Target::Cluster(name) => vec![name.clone()],
            Target::Routes(name) => {
                let routes = accepted
                    .routes
                    .get(name)
                    .map_or(&[][..], |config| &config.routes);
                routes.iter().map(|route| route.cluster.clone()).collect()
            }
        };
        if listener.direction == Direction::Ingress {
            local.extend(names)
        } else {
            remote.extend(names)
        }
    }
    local.difference(&remote).cloned().collect()
}

fn advice(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied if address.port() < 1024 => format!(
            "{error}: ports below 1024 need CAP_NET_BIND_SERVICE or net.ipv4.ip_unprivileged_port_start <= {}",
            address.port()
        ),
        io::ErrorKind::AddrInUse => format!(
            "{error}: something listens there already; an application on 0.0.0.0:{} counts too",
            address.port()
        ),
        _ => error.to_string(),
    }
}
