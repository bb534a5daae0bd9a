//! xDS in, ACK and NACK out, through the check that keeps the last good configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_xds::identity::TRUST_BUNDLE;
use outrigger_xds::model::{Address, Direction, EndpointHealth, EndpointSet, Listener};
use outrigger_xds::transport::{ConnectionState, Sink};
use outrigger_xds::{Rejection, Resource, ResourceType};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::announce::Standing;
use super::names::{Vips, write_hosts};
use super::state::{StateDir, StateError};
use crate::config::accepted::{Accepted, Change, Named};
use crate::observe::ready::{Readiness, State};

/// The readiness task that the first configuration, from the control server or from disk, makes ready.
pub const CONFIGURATION: &str = "configuration";
/// A connected server that sends nothing has nothing for us: an empty namespace.
const NOTHING_COMES: Duration = Duration::from_secs(1);
/// Between two writes of the state file.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Takes a checked configuration into force; what it returns is refused by name.
pub trait Apply: Send {
    /// Everything else is in force when this returns; of what it refuses, the previous version stays.
    fn apply(&mut self, accepted: &Arc<Accepted>, change: &Change) -> Vec<Rejection>;
}

/// What a subscription needs besides the wire.
pub struct SubscriptionConfig {
    /// The sidecar's own part: the ingress side of its document.
    pub base: Accepted,
    /// The namespace, which the kept configuration must be of.
    pub namespace: String,
    /// Places VIPs.
    pub vips: Vips,
    /// Ports of the application: no alias with such a port is bound.
    pub container_ports: BTreeSet<u16>,
    /// Hosts file in which a block is managed.
    pub hosts_file: Option<PathBuf>,
    /// Keeps the last accepted configuration.
    pub state: Option<StateDir>,
    /// Told of everything.
    pub ready: Arc<Readiness>,
    /// Counts connections: after each the registry may have forgotten this task.
    pub reconnected: Arc<watch::Sender<u64>>,
    /// Instance id of this task.
    pub task_id: String,
    /// Told when this task, offered before, is DRAINING.
    pub standing: Standing,
}

/// The sink of the xDS client: what the wire says, merged with the sidecar's own part, is what runs.
pub struct Subscription<A> {
    config: SubscriptionConfig,
    apply: A,
    wire: Accepted,
    running: Arc<Accepted>,
    writer: Option<watch::Sender<Arc<Accepted>>>,
    writing: Option<JoinHandle<()>>,
}

impl<A: Apply> Subscription<A> {
    /// Applies the last accepted configuration at once, if there is one. Must be called within a tokio runtime.
    pub fn new(config: SubscriptionConfig, apply: A) -> Self {
        let waiting = "no configuration yet: none on disk, and the control server has not answered";
        config
            .ready
            .set(CONFIGURATION, State::Waiting(waiting.to_owned()));
        let kept = config
            .state
            .as_ref()
            .map_or(Ok(None), |state| state.load_accepted(&config.namespace));
        let writer = config.state.clone();
        let (writer, writing) = writer.map(|state| spawn_writer(state, &config)).unzip();
        let mut this = Self {
            config,
            apply,
            wire: Accepted::default(),
            running: Arc::default(),
            writer,
            writing,
        };
        match kept {
            Ok(Some((wire, written))) => {
                this.config.ready.set_state_written(written);
                this.put(wire, true);
                this.config.ready.set(CONFIGURATION, State::Ready);
            }
            Ok(None) => drop(this.put(Accepted::default(), true)),
            Err(error) => {
                this.config.ready.problem("state", error.to_string());
                this.put(Accepted::default(), true);
            }
        }
        this
    }

    /// Ends when this subscription is dropped and all it has accepted is on disk.
    pub fn writing(&mut self) -> Option<JoinHandle<()>> {
        self.writing.take()
    }

    /// Applies what another process has written since.
    pub fn reload(&mut self) -> Result<(), StateError> {
        let Some(state) = &self.config.state else {
            return Ok(());
        };
        self.config.vips = Vips::new(self.config.vips.cidr(), Some(state.clone()))?;
        if let Some((wire, written)) = state.load_accepted(&self.config.namespace)? {
            self.config.ready.set_state_written(written);
            self.put(wire, false);
            self.config.ready.set(CONFIGURATION, State::Ready);
        }
        Ok(())
    }

    /// What was accepted last: not sent again when it has not changed.
    pub fn initial(&self) -> Vec<Resource> {
        let wire = self.wire.clone();
        fn owned<T: Clone>(named: Named<T>) -> impl Iterator<Item = T> {
            named.into_values().map(Arc::unwrap_or_clone)
        }
        let clusters = owned(wire.clusters).map(Resource::Cluster);
        let endpoints = owned(wire.endpoints).map(Resource::Endpoints);
        let trust = owned(wire.trust).map(Resource::Secret);
        let routes = owned(wire.routes).map(Resource::Routes);
        let inbound = owned(wire.inbound).map(Resource::Inbound);
        let listeners = owned(wire.listeners).map(Resource::Listener);
        clusters
            .chain(endpoints)
            .chain(trust)
            .chain(routes)
            .chain(inbound)
            .chain(listeners)
            .collect()
    }

    /// What is asked for whoever refers to it: the roots, and the policies of the services of this task.
    pub fn always(&self) -> Vec<(ResourceType, String)> {
        let listeners = self.config.base.listeners.values();
        let own: BTreeSet<_> = listeners
            .filter_map(|listener| listener.inbound.clone())
            .collect();
        let policies = own.into_iter().map(|name| (ResourceType::Inbound, name));
        let roots = (ResourceType::Secret, TRUST_BUNDLE.to_owned());
        [roots].into_iter().chain(policies).collect()
    }

    /// Makes `wire` what runs, except what is refused.
    fn put(&mut self, wire: Accepted, first: bool) -> Vec<Rejection> {
        let next = Arc::new(self.placed(&wire));
        let change = next.change_from(&self.running);
        let before = std::mem::replace(&mut self.wire, wire);
        if change.is_empty() && !first {
            return Vec::new();
        }
        let rejections = self.apply.apply(&next, &change);
        for rejection in &rejections {
            revert(&mut self.wire, &before, rejection);
        }
        self.running = if rejections.is_empty() {
            next
        } else {
            Arc::new(self.placed(&self.wire.clone()))
        };
        self.write_hosts();
        rejections
    }

    /// The sidecar's own part and the wire's, with every VIP in its place and without what cannot be bound here.
    fn placed(&mut self, wire: &Accepted) -> Accepted {
        let mut next = Accepted {
            listeners: BTreeMap::new(),
            ..wire.clone()
        };
        let mut problems = BTreeSet::new();
        for listener in wire.listeners.values() {
            match self.place(listener, wire) {
                Ok(placed) => drop(next.listeners.insert(placed.name.clone(), placed)),
                Err(reason) => {
                    let key = format!("alias/{}", listener.name);
                    self.config.ready.problem(key.as_str(), reason);
                    problems.insert(key);
                }
            }
        }
        self.config.ready.clear_others("alias/", &problems);
        next.merge(self.config.base.clone());
        next
    }

    fn place(
        &mut self,
        listener: &Arc<Listener>,
        wire: &Accepted,
    ) -> Result<Arc<Listener>, String> {
        let port = listener.address.port();
        if self.config.container_ports.contains(&port) {
            return Err(format!(
                "not bound: the application of this task listens on port {port} itself"
            ));
        }
        let everywhere =
            |own: &&Arc<Listener>| own.address.ip().is_unspecified() && own.address.port() == port;
        if let Some(own) = self.config.base.listeners.values().find(everywhere) {
            return Err(format!(
                "not bound: {} listens on port {port} of every address",
                own.name
            ));
        }
        let Some(offset) = listener.vip_offset else {
            return Ok(Arc::clone(listener));
        };
        let name = vip_name(listener);
        let address = self.config.vips.place(name, offset).or_else(|_| {
            self.config.vips.retain(
                &wire
                    .listeners
                    .values()
                    .map(|one| vip_name(one).to_owned())
                    .collect(),
            );
            self.config.vips.place(name, offset)
        });
        let address = address.map_err(|error| error.to_string())?;
        Ok(Arc::new(Listener {
            address: (address, port).into(),
            ..Listener::clone(listener)
        }))
    }

    /// Endpoints that would come straight back to this sidecar. Its own ingress is no such: a service may call itself.
    fn looping(&self, set: &EndpointSet) -> Option<Rejection> {
        let egress = |listener: &&Arc<Listener>| listener.direction == Direction::Egress;
        set.endpoints
            .iter()
            .enumerate()
            .find_map(|(index, endpoint)| {
                let Address::Ip(address) = endpoint.address else {
                    return None;
                };
                let in_vips =
                    matches!(address.ip(), IpAddr::V4(ip) if self.config.vips.cidr().contains(&ip));
                let own = self
                    .running
                    .listeners
                    .values()
                    .filter(egress)
                    .any(|listener| listener.address == address);
                (in_vips || own).then(|| Rejection {
                    type_url: ResourceType::Endpoints.type_url().to_owned(),
                    name: set.cluster.clone(),
                    field: format!("endpoints[{index}].address"),
                    reason: format!("{address} is an address of this sidecar itself: a loop"),
                })
            })
    }

    /// Whether somebody else takes this task out. What is left of an earlier run's end is there before this one is registered.
    fn note_own(&self, next: &EndpointSet) {
        let draining = |set: &EndpointSet| {
            let mut endpoints = set.endpoints.iter();
            let own = endpoints.find(|endpoint| endpoint.instance == self.config.task_id);
            own.map(|endpoint| endpoint.health == EndpointHealth::Draining)
        };
        let before = self.wire.endpoints.get(&next.cluster);
        let turns = draining(next) == Some(true)
            && before.is_some_and(|before| draining(before) == Some(false));
        if turns && self.config.standing.registered.is_cancelled() {
            tracing::info!(service = next.cluster, "this task is DRAINING");
            self.config.standing.taken_out.cancel();
        }
    }

    fn write_hosts(&self) {
        let Some(path) = &self.config.hosts_file else {
            return;
        };
        let mut names: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for listener in self
            .running
            .listeners
            .values()
            .filter(|one| one.direction == Direction::Egress)
        {
            names
                .entry(listener.address.ip())
                .or_default()
                .extend(listener.names.iter().cloned());
        }
        let entries: Vec<_> = names
            .into_iter()
            .map(|(ip, names)| (ip, names.into_iter().collect()))
            .collect();
        let ready = &self.config.ready;
        match write_hosts(path, &entries) {
            Ok(refused) => {
                ready.clear("hosts-file");
                let keys = refused
                    .iter()
                    .map(|(name, _)| format!("name/{name}"))
                    .collect();
                ready.clear_others("name/", &keys);
                for (name, reason) in refused {
                    ready.problem(format!("name/{name}"), reason);
                }
            }
            Err(error) => ready.problem("hosts-file", format!("{}: {error}", path.display())),
        }
    }
}

impl<A: Apply> Sink for Subscription<A> {
    fn apply(
        &mut self,
        changed: Vec<Resource>,
        removed: Vec<(ResourceType, String)>,
    ) -> Vec<Rejection> {
        let mut wire = self.wire.clone();
        let mut rejections = Vec::new();
        for resource in changed {
            match resource {
                Resource::Cluster(cluster) => drop(
                    wire.clusters
                        .insert(cluster.name.clone(), Arc::new(cluster)),
                ),
                Resource::Secret(bundle) => {
                    drop(wire.trust.insert(bundle.name.clone(), Arc::new(bundle)))
                }
                Resource::Routes(routes) => {
                    drop(wire.routes.insert(routes.name.clone(), Arc::new(routes)))
                }
                Resource::Inbound(inbound) => {
                    drop(wire.inbound.insert(inbound.name.clone(), Arc::new(inbound)))
                }
                Resource::Listener(listener) => drop(
                    wire.listeners
                        .insert(listener.name.clone(), Arc::new(listener)),
                ),
                Resource::Endpoints(set) => {
                    self.note_own(&set);
                    match self.looping(&set) {
                        Some(rejection) => rejections.push(rejection),
                        None => drop(wire.endpoints.insert(set.cluster.clone(), Arc::new(set))),
                    }
                }
            }
        }
        for (kind, name) in removed {
            remove(&mut wire, kind, &name);
        }
        rejections.extend(self.put(wire, false));
        let mut keys = BTreeSet::new();
        for rejection in &rejections {
            let key = format!("rejected/{}", rejection.name);
            self.config
                .ready
                .problem(key.as_str(), rejection.to_string());
            keys.insert(key);
        }
        self.config.ready.clear_others("rejected/", &keys);
        self.config.ready.set(CONFIGURATION, State::Ready);
        if let Some(writer) = &self.writer {
            writer.send_replace(Arc::new(self.wire.clone()));
        }
        rejections
    }

    fn connection(&mut self, state: ConnectionState) {
        let ready = self.config.ready.clone();
        match state {
            ConnectionState::Connected { server, epoch } => {
                tracing::info!(server, epoch, "control server connected");
                ready.clear("control-server");
                self.config.reconnected.send_modify(|count| *count += 1);
                tokio::spawn(async move {
                    tokio::time::sleep(NOTHING_COMES).await;
                    ready.set(CONFIGURATION, State::Ready);
                });
            }
            ConnectionState::Disconnected { reason, .. } => ready.problem("control-server", reason),
        }
    }
}

/// What a VIP belongs to: the name, whatever its ports.
fn vip_name(listener: &Listener) -> &str {
    listener.names.first().unwrap_or(&listener.name)
}

fn remove(wire: &mut Accepted, kind: ResourceType, name: &str) {
    match kind {
        ResourceType::Cluster => drop(wire.clusters.remove(name)),
        ResourceType::Endpoints => drop(wire.endpoints.remove(name)),
        ResourceType::Secret => drop(wire.trust.remove(name)),
        ResourceType::Routes => drop(wire.routes.remove(name)),
        ResourceType::Inbound => drop(wire.inbound.remove(name)),
        ResourceType::Listener => drop(wire.listeners.remove(name)),
    }
}

fn revert(wire: &mut Accepted, before: &Accepted, rejection: &Rejection) {
    fn back<T: Clone>(now: &mut BTreeMap<String, T>, before: &BTreeMap<String, T>, name: &str) {
        match before.get(name) {
            Some(value) => drop(now.insert(name.to_owned(), value.clone())),
            None => drop(now.remove(name)),
        }
    }
    let name = &rejection.name;
    match ResourceType::from_type_url(&rejection.type_url) {
        Some(ResourceType::Cluster) => back(&mut wire.clusters, &before.clusters, name),
        Some(ResourceType::Endpoints) => back(&mut wire.endpoints, &before.endpoints, name),
        Some(ResourceType::Secret) => back(&mut wire.trust, &before.trust, name),
        Some(ResourceType::Inbound) => back(&mut wire.inbound, &before.inbound, name),
        Some(ResourceType::Routes) => back(&mut wire.routes, &before.routes, name),
        Some(ResourceType::Listener) => back(&mut wire.listeners, &before.listeners, name),
        None => {}
    }
}

/// Writes the newest state, at once when the last write is long ago and otherwise a second after it, or when it is the last.
fn spawn_writer(
    state: StateDir,
    config: &SubscriptionConfig,
) -> (watch::Sender<Arc<Accepted>>, JoinHandle<()>) {
    let (sender, mut newest) = watch::channel(Arc::new(Accepted::default()));
    let (namespace, ready) = (config.namespace.clone(), config.ready.clone());
    let writing = tokio::spawn(async move {
        let mut more = false;
        while more || newest.changed().await.is_ok() {
            let accepted = newest.borrow_and_update().clone();
            let (state, namespace, now) = (state.clone(), namespace.clone(), SystemTime::now());
            let write = move || state.save_accepted(&namespace, &accepted, now);
            let written: Result<Result<(), StateError>, _> =
                tokio::task::spawn_blocking(write).await;
            match written {
                Ok(Ok(())) => {
                    ready.set_state_written(now);
                    ready.clear("state");
                }
                Ok(Err(error)) => ready.problem("state", error.to_string()),
                Err(error) => ready.problem("state", error.to_string()),
            }
            more = false;
            let last = async {
                while newest.changed().await.is_ok() {
                    more = true;
                }
            };
            // Either way what is newest then is written next, if there is any.
            let _ = tokio::time::timeout(WRITE_INTERVAL, last).await;
        }
    });
    (sender, writing)
}

#[cfg(test)]
mod tests;
