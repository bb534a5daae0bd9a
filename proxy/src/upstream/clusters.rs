//! All clusters of this sidecar: kept by name across updates, maintained on the control runtime.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_xds::model::{self, Address};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::cluster::Cluster;
use super::resolve::{self, Resolver};
use crate::config::tls::ClusterTls;
use crate::mutants::{self, Mutant};
use crate::observe::metrics::{Gauges, Metrics};
use crate::tls::Tls;

/// Addresses that DNS gave for the host names of one cluster.
type Resolved = Arc<Mutex<HashMap<(String, u16), Vec<SocketAddr>>>>;

struct Running {
    cluster: Arc<Cluster>,
    maintenance: AbortHandle,
    set: Option<Arc<model::EndpointSet>>,
    resolved: Resolved,
    watches: HashMap<(String, u16), AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.maintenance.abort();
        self.watches.values().for_each(AbortHandle::abort);
    }
}

/// One writer (configuration), many readers through the `Arc<Cluster>`s it hands out.
pub(crate) struct Clusters {
    running: Mutex<BTreeMap<String, Running>>,
    metrics: Arc<Metrics>,
    resolver: Arc<Resolver>,
    control: Handle,
    tls: Arc<Tls>,
    /// This sidecar's; empty when unknown.
    zone: String,
    /// Rises when an endpoint is retired; workers then tidy their pools.
    retired: watch::Sender<u64>,
}

impl Clusters {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        resolver: Arc<Resolver>,
        control: Handle,
        zone: &str,
        tls: Arc<Tls>,
    ) -> Arc<Self> {
        Arc::new(Self {
            zone: zone.to_owned(),
            running: Mutex::default(),
            metrics,
            resolver,
            control,
            tls,
            retired: watch::Sender::new(0),
        })
    }

    /// Changes whenever pools should look for connections to close.
    pub(crate) fn retirements(&self) -> watch::Receiver<u64> {
        self.retired.subscribe()
    }

    /// The cluster of that name; if it is not known yet, one that waits for its endpoints. `local`: it is the own application.
    pub(crate) fn get(self: &Arc<Self>, name: &str, local: bool) -> Arc<Cluster> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            &self
                .entry(&mut running, &Arc::new(unknown(name)), local)
                .cluster,
        )
    }

    /// Who this sidecar is, for its connections.
    pub(crate) fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// Takes over a cluster's policy, and what a static file says of TLS to its endpoints.
    pub(crate) fn set_settings(
        self: &Arc<Self>,
        policy: &Arc<model::Cluster>,
        by_files: Option<&ClusterTls>,
        local: bool,
    ) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = self.entry(&mut running, policy, local);
        let tls = self.tls.dialling(policy, by_files);
        if let Some(tls) = &tls {
            self.metrics.watch(tls.identity());
        }
        entry.cluster.set_tls(tls);
        if *entry.cluster.settings() != *policy {
            entry.cluster.set_settings(Arc::clone(policy));
        }
    }

    /// Takes over a cluster's endpoints.
    pub(crate) fn set_endpoints(self: &Arc<Self>, set: &Arc<model::EndpointSet>) {
        let set = &match mutants::is(Mutant::PlainHop) {
            true => without_hops(set),
            false => Arc::clone(set),
        };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = running.get_mut(&set.cluster) else {
            return;
        };
        if entry.set.as_ref() == Some(set) {
            return;
        }
        entry.set = Some(Arc::clone(set));
        self.watch_hosts(entry);
        self.apply(entry);
    }

    /// Drops every cluster that `keep` does not name.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = running.len();
        running.retain(|name, entry| {
            let kept = keep(name);
            if !kept {
                entry.cluster.set_endpoints(std::iter::empty());
            }
            kept
        });
        if running.len() < before {
            self.retired.send_modify(|generation| *generation += 1);
        }
    }

    /// For `/clusters`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .values()
            .map(|entry| entry.cluster.describe())
            .collect()
    }

    fn entry<'a>(
        self: &Arc<Self>,
        running: &'a mut BTreeMap<String, Running>,
        policy: &Arc<model::Cluster>,
        local: bool,
    ) -> &'a mut Running {
        running.entry(policy.name.clone()).or_insert_with(|| {
            let discovery_name = policy
                .service
                .as_ref()
                .map_or(policy.name.as_str(), |service| service.name.as_str());
            let metrics = if local {
                self.metrics.local_cluster()
            } else {
                self.metrics.cluster(&policy.name, discovery_name)
            };
            let cluster = Cluster::new(Arc::clone(policy), &self.zone, metrics);
            if !local {
                self.metrics
                    .watch_cluster(&policy.name, Arc::clone(&cluster) as Arc<dyn Gauges>);
            }
            let maintenance = self
                .control
                .spawn(Arc::clone(&cluster).maintain())
                .abort_handle();
            Running {
                cluster,
                maintenance,
                set: None,
                resolved: Resolved::default(),
                watches: HashMap::new(),
            }
        })
    }

    /// One DNS watch per host name among the endpoints (Envoy's STRICT_DNS).
    fn watch_hosts(self: &Arc<Self>, entry: &mut Running) {
        let hosts: Vec<(String, u16)> = entry
            .set
            .iter()
            .flat_map(|set| &set.endpoints)
            .filter_map(|endpoint| match &endpoint.address {
                Address::Host { host, port } => Some((host.clone(), *port)),
                Address::Ip(_) => None,
            })
            .collect();
        entry.watches.retain(|key, watch| {
            let kept = hosts.contains(key);
            if !kept {
                watch.abort();
            }
            kept
        });
        entry
            .resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| hosts.contains(key));
        for key in hosts {
            let clusters = Arc::downgrade(self);
            let (name, resolved) = (entry.cluster.name.clone(), Arc::clone(&entry.resolved));
            let changed = move |key: (String, u16), addresses: Vec<SocketAddr>| {
                resolved
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(key, addresses);
                if let Some(clusters) = clusters.upgrade() {
                    clusters.reapply(&name);
                }
            };
            entry.watches.entry(key.clone()).or_insert_with(|| {
                let _control = self.control.enter();
                let (host, port) = key.clone();
                let told = move |addresses| changed(key.clone(), addresses);
                resolve::watch(Arc::clone(&self.resolver), host, port, told).abort_handle()
            });
        }
    }

    fn reapply(&self, name: &str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = running.get(name) {
            self.apply(entry);
        }
    }

    fn apply(&self, entry: &Running) {
        let Some(set) = &entry.set else { return };
        let resolved = entry
            .resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let flat = set.endpoints.iter().flat_map(|endpoint| {
            let addresses = match &endpoint.address {
                Address::Ip(address) => vec![*address],
                Address::Host { host, port } => resolved
                    .get(&(host.clone(), *port))
                    .cloned()
                    .unwrap_or_default(),
            };
            addresses
                .into_iter()
                .map(move |address| (address, endpoint))
        });
        let waiting_for_dns = set
            .endpoints
            .iter()
            .any(|endpoint| matches!(endpoint.address, Address::Host { .. }))
            && resolved.is_empty();
        if waiting_for_dns {
            return;
        }
        if entry.cluster.set_endpoints(flat) {
            self.retired.send_modify(|generation| *generation += 1);
        }
    }
}

/// For a test of what holds without the hop.
fn without_hops(set: &model::EndpointSet) -> Arc<model::EndpointSet> {
    let mut set = set.clone();
    for endpoint in &mut set.endpoints {
        endpoint.hop = None;
    }
    Arc::new(set)
}

/// What a cluster is until its policy arrives: nothing is known of it but the name.
fn unknown(name: &str) -> model::Cluster {
    model::Cluster::new(name, model::Protocol::Http)
}
