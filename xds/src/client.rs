//! What one subscriber has, what it asks for and what it believes; no I/O, time as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Delivered,
};
use tokio::time::Instant;

use crate::decode::{Decoded, decode};
use crate::encode_endpoints::node;
use crate::model::{Discovery, EndpointSet};
use crate::rejections;
use crate::resource::{Rejection, Resource, ResourceType, wire_version};
use crate::subscription::{merge_endpoints, references, wanted};
use crate::transport::NodeInfo;

/// How long after a reconnect a server with another epoch is not believed about what is gone (DESIGN section 4, liveness).
pub const NEW_EPOCH_GRACE: Duration = Duration::from_secs(60);

/// Resources by type and name that go out of force.
pub type Removed = Vec<(ResourceType, String)>;

/// Puts a change in force and says what it does not take.
pub type Apply<'a> = &'a mut dyn FnMut(Vec<Resource>, Removed) -> Vec<Rejection>;

/// One subscriber, across connections.
#[derive(Debug)]
pub struct Client {
    node: NodeInfo,
    /// Names that are wanted whoever refers to them.
    always: Vec<(ResourceType, String)>,
    types: [TypeState; ResourceType::COUNT],
    epoch: Option<String>,
    connected_at: Option<Instant>,
    grace_until: Option<Instant>,
    /// Endpoint sets as the server has them, while more than that is in force because of the grace.
    believed_later: BTreeMap<String, EndpointSet>,
}

#[derive(Debug, Default)]
struct TypeState {
    /// In force.
    held: BTreeMap<String, Held>,
    /// Decoded, but what it refers to has not come yet.
    waiting: BTreeMap<String, Held>,
    /// Wanted, and the server has it not (or only in a form that was rejected).
    absent: BTreeSet<String>,
    /// Gone for a server that is not believed yet.
    doomed: BTreeSet<String>,
    /// Subscribed to on this connection.
    subscribed: BTreeSet<String>,
    requested: bool,
}

#[derive(Debug, Clone)]
struct Held {
    version: String,
    resource: Resource,
}

impl Client {
    /// Starts from what was last accepted; the names of `always` are asked for whoever refers to them.
    pub fn new(
        node: NodeInfo,
        always: Vec<(ResourceType, String)>,
        initial: Vec<Resource>,
    ) -> Self {
        let mut types: [TypeState; ResourceType::COUNT] = Default::default();
        let endpoints: BTreeMap<&str, &EndpointSet> = initial
            .iter()
            .filter_map(|resource| match resource {
                Resource::Endpoints(set) => Some((set.cluster.as_str(), set)),
                _ => None,
            })
            .collect();
        for resource in &initial {
            let version = wire_version(resource, |name| endpoints.get(name).copied());
            let held = Held {
                version,
                resource: resource.clone(),
            };
            let state = &mut types[resource.resource_type() as usize];
            state.held.insert(resource.name().to_owned(), held);
        }
        Self {
            node,
            always,
            types,
            epoch: None,
            connected_at: None,
            grace_until: None,
            believed_later: BTreeMap::new(),
        }
    }

    /// The requests that open a stream; what is held is announced, so that it is not sent again.
    pub fn on_connect(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        self.connected_at = Some(now);
        for state in &mut self.types {
            state.absent.clear();
            // This server says anew what it lacks; an earlier one may have been another.
            state.doomed.clear();
            state.subscribed.clear();
            state.requested = false;
        }
        let mut requests = self.resubscribe();
        let listeners = &mut self.types[ResourceType::Listener as usize];
        listeners.requested = true;
        requests.push(DeltaDiscoveryRequest {
            type_url: ResourceType::Listener.type_url().to_owned(),
            initial_resource_versions: listeners.versions(|_| true),
            ..Default::default()
        });
        if let Some(first) = requests.first_mut() {
            first.node = Some(node(&self.node));
        }
        requests
    }

    /// Takes a response: puts in force what it can, and returns the ACK or NACK and changed subscriptions.
    pub fn on_response(
        &mut self,
        now: Instant,
        response: DeltaDiscoveryResponse,
        apply: Apply<'_>,
    ) -> Vec<DeltaDiscoveryRequest> {
        let plane = response.control_plane.as_ref();
        self.on_epoch(plane.map_or("", |plane| plane.identifier.as_str()));
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..Default::default()
        };
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            let rejection = Rejection {
                type_url: response.type_url,
                name: String::new(),
                field: "type_url".to_owned(),
                reason: "was not asked for".to_owned(),
            };
            answer.error_detail = Some(rejections::to_status(&[rejection]));
            return vec![answer];
        };
        let mut rejected = Vec::new();
        for delivered in response.resources {
            rejected.extend(self.take(kind, delivered));
        }
        let mut removed = Vec::new();
        for name in response.removed_resources {
            removed.extend(self.take_removal(now, kind, name));
        }
        let changed = self.release(now);
        rejected.extend(self.put_in_force(changed, removed, apply));
        if !rejected.is_empty() {
            answer.error_detail = Some(rejections::to_status(&rejected));
        }
        // The ACK goes last: a server that has it knows of all that we want because of this response.
        let mut requests = self.settle(apply);
        requests.push(answer);
        requests
    }

    /// When [`Self::on_time`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.grace_until
    }

    /// Ends the grace of a new epoch: what is still missing is dropped.
    pub fn on_time(&mut self, now: Instant, apply: Apply<'_>) -> Vec<DeltaDiscoveryRequest> {
        if self.grace_until.is_none_or(|until| now < until) {
            return Vec::new();
        }
        self.grace_until = None;
        let mut removed = Vec::new();
        for kind in ResourceType::ALL.into_iter().rev() {
            let doomed = std::mem::take(&mut self.types[kind as usize].doomed);
            removed.extend(doomed.into_iter().map(|name| (kind, name)));
        }
        let endpoints = &mut self.types[ResourceType::Endpoints as usize];
        let mut changed = Vec::new();
        for (name, set) in std::mem::take(&mut self.believed_later) {
            if let Some(held) = endpoints.held.get(&name) {
                let version = held.version.clone();
                let resource = Resource::Endpoints(set);
                changed.push(Held { version, resource });
            }
        }
        self.put_in_force(changed, removed, apply);
        self.settle(apply)
    }

    /// Everything in force, in make-before-break order.
    pub fn held(&self) -> impl Iterator<Item = &Resource> {
        let all = self.types.iter().flat_map(|state| state.held.values());
        all.map(|held| &held.resource)
    }

    /// The control server's epoch, once one has answered.
    pub fn epoch(&self) -> Option<&str> {
        self.epoch.as_deref()
    }

    /// The server has said which store it speaks for.
    pub fn on_epoch(&mut self, epoch: &str) {
        if self.epoch.as_deref() == Some(epoch) {
            return;
        }
        self.epoch = Some(epoch.to_owned());
        let nothing_to_lose = self.types.iter().all(|state| state.held.is_empty());
        let until = self.connected_at.map(|at| at + NEW_EPOCH_GRACE);
        self.grace_until = until.filter(|_| !nothing_to_lose);
    }

    fn take(&mut self, kind: ResourceType, delivered: Delivered) -> Vec<Rejection> {
        let state = &mut self.types[kind as usize];
        let missing = || Rejection {
            type_url: kind.type_url().to_owned(),
            name: delivered.name.clone(),
            field: "resource".to_owned(),
            reason: "is missing".to_owned(),
        };
        let decoded = match &delivered.resource {
            Some(any) if any.type_url == kind.type_url() => decode(&delivered.name, any),
            Some(_) | None => Err(vec![missing()]),
        };
        state.doomed.remove(&delivered.name);
        let Decoded {
            resource,
            endpoints,
        } = match decoded {
            Ok(decoded) => decoded,
            Err(problems) => {
                // Nothing waits for what is known to be bad.
                state.absent.insert(delivered.name);
                return problems;
            }
        };
        state.absent.remove(&delivered.name);
        let version = delivered.version;
        let held = Held { version, resource };
        state.waiting.insert(delivered.name.clone(), held);
        if let Some(set) = endpoints {
            let held = Held {
                version: String::new(),
                resource: Resource::Endpoints(set),
            };
            let inline = &mut self.types[ResourceType::Endpoints as usize];
            inline.waiting.insert(delivered.name, held);
        }
        Vec::new()
    }

    fn take_removal(
        &mut self,
        now: Instant,
        kind: ResourceType,
        name: String,
    ) -> Option<(ResourceType, String)> {
        let not_believed = self.in_grace(now);
        let state = &mut self.types[kind as usize];
        state.waiting.remove(&name);
        state.absent.insert(name.clone());
        if !state.held.contains_key(&name) || kind.is_kept() {
            return None;
        }
        if not_believed {
            state.doomed.insert(name);
            return None;
        }
        Some((kind, name))
    }

    fn in_grace(&self, now: Instant) -> bool {
        self.grace_until.is_some_and(|until| now < until)
    }

    /// Takes from `waiting` what refers to nothing that is still to come.
    fn release(&mut self, now: Instant) -> Vec<Held> {
        let mut ready = Vec::new();
        for kind in ResourceType::ALL {
            let waiting = &self.types[kind as usize].waiting;
            let names: Vec<&String> = waiting.keys().collect();
            let can_go = names
                .into_iter()
                .filter(|name| self.complete(&waiting[*name].resource));
            ready.extend(can_go.map(|name| (kind, name.clone())));
        }
        let mut released = Vec::new();
        for (kind, name) in ready {
            if let Some(mut held) = self.types[kind as usize].waiting.remove(&name) {
                self.keep_old_endpoints(now, &mut held);
                released.push(held);
            }
        }
        released
    }

    fn complete(&self, resource: &Resource) -> bool {
        references(resource).into_iter().all(|(kind, name)| {
            let state = &self.types[kind as usize];
            match state.waiting.get(name) {
                Some(waiting) => self.complete(&waiting.resource),
                None => state.held.contains_key(name) || state.absent.contains(name),
            }
        })
    }

    /// A store with a new epoch may not have heard of all endpoints again yet.
    fn keep_old_endpoints(&mut self, now: Instant, held: &mut Held) {
        let in_grace = self.in_grace(now);
        let Resource::Endpoints(set) = &mut held.resource else {
            return;
        };
        self.believed_later.remove(&set.cluster);
        let old = self.types[ResourceType::Endpoints as usize]
            .held
            .get(&set.cluster);
        let Some(Resource::Endpoints(old)) = old.filter(|_| in_grace).map(|held| &held.resource)
        else {
            return;
        };
        if let Some(merged) = merge_endpoints(old, set) {
            let told = std::mem::replace(set, merged);
            self.believed_later.insert(told.cluster.clone(), told);
        }
    }

    fn put_in_force(
        &mut self,
        changed: Vec<Held>,
        removed: Removed,
        apply: Apply<'_>,
    ) -> Vec<Rejection> {
        if changed.is_empty() && removed.is_empty() {
            return Vec::new();
        }
        for (kind, name) in &removed {
            self.types[*kind as usize].held.remove(name);
        }
        let resources = changed.iter().map(|held| held.resource.clone()).collect();
        let rejected = apply(resources, removed);
        for held in changed {
            let kind = held.resource.resource_type();
            let name = held.resource.name();
            let refused = rejected
                .iter()
                .any(|rejection| rejection.type_url == kind.type_url() && rejection.name == name);
            let state = &mut self.types[kind as usize];
            if refused {
                state.absent.insert(name.to_owned());
            } else {
                state.held.insert(name.to_owned(), held);
            }
        }
        rejected
    }

    /// Drops what nobody refers to any more, and asks for what is referred to now.
    fn settle(&mut self, apply: Apply<'_>) -> Vec<DeltaDiscoveryRequest> {
        let requests = self.resubscribe();
        self.types[ResourceType::Listener as usize].absent.clear();
        let mut orphans = Vec::new();
        let kinds = [
            ResourceType::Routes,
            ResourceType::Cluster,
            ResourceType::Endpoints,
            ResourceType::Secret,
            ResourceType::Inbound,
        ];
        for kind in kinds {
            let strict_dns = self.strict_dns();
            let state = &mut self.types[kind as usize];
            let carried =
                |name: &String| kind == ResourceType::Endpoints && strict_dns.contains(name);
            let wanted = |name: &String| state.subscribed.contains(name) || carried(name);
            let unwanted: Vec<String> = state
                .held
                .keys()
                .filter(|name| !wanted(name))
                .cloned()
                .collect();
            state
                .waiting
                .retain(|name, _| state.subscribed.contains(name) || carried(name));
            state.absent.retain(|name| state.subscribed.contains(name));
            state.doomed.retain(|name| state.subscribed.contains(name));
            for name in unwanted {
                state.held.remove(&name);
                self.believed_later.remove(&name);
                orphans.push((kind, name));
            }
        }
        if !orphans.is_empty() {
            orphans.sort_by(|a, b| b.cmp(a));
            apply(Vec::new(), orphans);
        }
        requests
    }

    /// Clusters whose endpoints come with them.
    fn strict_dns(&self) -> BTreeSet<String> {
        let clusters = &self.types[ResourceType::Cluster as usize];
        let all = clusters.held.values().chain(clusters.waiting.values());
        let names = all.filter_map(|held| match &held.resource {
            Resource::Cluster(cluster) if cluster.discovery == Discovery::StrictDns => {
                Some(cluster.name.clone())
            }
            _ => None,
        });
        names.collect()
    }

    fn resubscribe(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let wanted = wanted(&self.always, |kind| {
            let state = &self.types[kind as usize];
            let all = state.held.values().chain(state.waiting.values());
            all.map(|held| &held.resource)
        });
        let mut requests = Vec::new();
        for (kind, wanted) in ResourceType::ALL.into_iter().zip(wanted) {
            if kind != ResourceType::Listener {
                requests.extend(self.types[kind as usize].subscribe(kind, wanted));
            }
        }
        requests
    }
}

impl TypeState {
    fn subscribe(
        &mut self,
        kind: ResourceType,
        wanted: BTreeSet<String>,
    ) -> Option<DeltaDiscoveryRequest> {
        if wanted == self.subscribed {
            return None;
        }
        let mut request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: wanted.difference(&self.subscribed).cloned().collect(),
            resource_names_unsubscribe: self.subscribed.difference(&wanted).cloned().collect(),
            ..Default::default()
        };
        if !self.requested {
            self.requested = true;
            request.initial_resource_versions = self.versions(|name| wanted.contains(name));
        }
        self.subscribed = wanted;
        Some(request)
    }

    fn versions(&self, of: impl Fn(&String) -> bool) -> std::collections::HashMap<String, String> {
        let newest = self.held.iter().chain(&self.waiting);
        let versions = newest.filter(|(name, held)| of(name) && !held.version.is_empty());
        versions
            .map(|(name, held)| (name.clone(), held.version.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests;
