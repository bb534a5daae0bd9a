//! What one delta ADS stream has been told and what it is told next; no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Delivered,
};

use crate::rejections;
use crate::resource::{Rejection, ResourceType};
use crate::set::{Encoded, ResourceSet};
use crate::subscription::references;

/// Names one stream may subscribe to or announce per type; more are refused, to bound what a client can make us keep.
pub const MAX_NAMES: usize = 100_000;

/// One stream's state.
#[derive(Debug)]
pub struct Stream {
    epoch: String,
    nonces: u64,
    /// It is a stock Envoy, which acknowledges a changed cluster only when it has been given the cluster's endpoints, again if need
    /// be, or after 15 s ("resource warming", Envoy's xDS protocol page).
    warms: bool,
    types: [TypeState; ResourceType::COUNT],
}

#[derive(Debug, Default)]
struct TypeState {
    requested: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client has (or has refused), by version.
    known: BTreeMap<String, String>,
    /// What it had when it came, until it has asked for all that this refers to.
    brought: BTreeSet<String>,
    /// Names it asked for and was told do not exist.
    absent: BTreeSet<String>,
    in_flight: Option<InFlight>,
    /// Everything up to this sequence is acknowledged.
    acknowledged: u64,
    /// Names whose newest version was refused; an empty one stands for a refusal that named nothing.
    refused: BTreeSet<String>,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    /// The sequence it brings the client to, if it says all there is to say.
    completes: Option<u64>,
}

/// What a type's subscriber lacks.
#[derive(Default)]
struct Lacking<'a> {
    changed: Vec<(&'a str, &'a Arc<Encoded>)>,
    removed: Vec<String>,
    absent: Vec<String>,
}

/// A request that ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: more than {MAX_NAMES} names")]
pub struct TooManyNames {
    /// The request's field.
    pub field: &'static str,
}

impl Stream {
    /// A new stream; `epoch` goes out as `control_plane.identifier`.
    pub fn new(epoch: String) -> Self {
        Self {
            epoch,
            nonces: 0,
            warms: false,
            types: Default::default(),
        }
    }

    /// Takes a request; what it rejects is returned. Types that are not ours are ignored.
    pub fn on_request(
        &mut self,
        request: DeltaDiscoveryRequest,
    ) -> Result<Vec<Rejection>, TooManyNames> {
        if let Some(node) = &request.node {
            self.warms = node.user_agent_name == "envoy";
        }
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return Ok(Vec::new());
        };
        let state = &mut self.types[kind as usize];
        let rejections = state.acknowledge(&request);
        state.subscribe(kind, request)?;
        Ok(rejections)
    }

    /// The next response, if there is one to send now. Call until `None` after every request and every publication.
    pub fn poll(&mut self, set: &ResourceSet, sequence: u64) -> Option<DeltaDiscoveryResponse> {
        if self.has_asked_for_all(set) {
            self.types
                .iter_mut()
                .for_each(|state| state.brought.clear());
        }
        let lacking = ResourceType::ALL.map(|kind| self.types[kind as usize].lacking(kind, set));
        let adds =
            |lacking: &Lacking<'_>| !lacking.changed.is_empty() || !lacking.absent.is_empty();
        let mut warming = false;
        for kind in ResourceType::ALL {
            let state = &self.types[kind as usize];
            // What comes later may refer to this; it waits until the client has it.
            if state.in_flight.is_some() {
                warming = self.warms && kind == ResourceType::Cluster;
                if warming {
                    continue;
                }
                return None;
            }
            if warming && !matches!(kind, ResourceType::Endpoints | ResourceType::Secret) {
                return None;
            }
            let lacking = &lacking[kind as usize];
            if adds(lacking) {
                let completes = lacking.removed.is_empty().then_some(sequence);
                return Some(self.respond(kind, lacking, false, completes));
            }
        }
        for kind in ResourceType::ALL.into_iter().rev() {
            let lacking = &lacking[kind as usize];
            if !lacking.removed.is_empty() {
                return Some(self.respond(kind, lacking, true, Some(sequence)));
            }
        }
        for state in self.types.iter_mut().filter(|state| state.requested) {
            state.acknowledged = state.acknowledged.max(sequence);
        }
        None
    }

    /// Everything that this stream subscribes to is acknowledged, or refused, at this sequence.
    ///
    /// 0 while a client that came with resources has not asked again for all that they refer to: what it has of that may be old.
    pub fn acknowledged(&self) -> u64 {
        if self.types.iter().any(|state| !state.brought.is_empty()) {
            return 0;
        }
        let asked = self.types.iter().filter(|state| state.requested);
        asked
            .map(|state| state.acknowledged)
            .min()
            .unwrap_or_default()
    }

    /// What the client refuses of this type as it is now: it goes on with what it had before. An empty name is a foreign client's
    /// refusal, which may be of anything.
    pub fn refused(&self, kind: ResourceType) -> &BTreeSet<String> {
        &self.types[kind as usize].refused
    }

    fn has_asked_for_all(&self, set: &ResourceSet) -> bool {
        let brought = ResourceType::ALL.into_iter().flat_map(|kind| {
            let state = &self.types[kind as usize];
            // Of what it refuses it asks for nothing.
            let taken =
                |name: &&String| !state.refused.contains(*name) && !state.refused.contains("");
            let names = state.brought.iter().filter(taken);
            names.filter_map(move |name| set.get(kind, name))
        });
        let mut references = brought.flat_map(|encoded| references(&encoded.resource));
        references.all(|(kind, name)| {
            let state = &self.types[kind as usize];
            state.wildcard || state.names.contains(name)
        })
    }

    fn respond(
        &mut self,
        kind: ResourceType,
        lacking: &Lacking<'_>,
        removals: bool,
        completes: Option<u64>,
    ) -> DeltaDiscoveryResponse {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let state = &mut self.types[kind as usize];
        state.in_flight = Some(InFlight {
            nonce: nonce.clone(),
            completes,
        });
        let mut response = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce,
            control_plane: Some(ControlPlane {
                identifier: self.epoch.clone(),
            }),
            ..Default::default()
        };
        if removals {
            response.removed_resources.clone_from(&lacking.removed);
            for name in &lacking.removed {
                state.known.remove(name);
                state.refused.remove(name);
                if state.names.contains(name) {
                    state.absent.insert(name.clone());
                }
            }
            return response;
        }
        if self.warms && kind == ResourceType::Cluster {
            let endpoints = &mut self.types[ResourceType::Endpoints as usize];
            for (name, _) in &lacking.changed {
                endpoints.known.remove(*name);
            }
        }
        let state = &mut self.types[kind as usize];
        response.removed_resources.clone_from(&lacking.absent);
        state.absent.extend(lacking.absent.iter().cloned());
        for (name, encoded) in &lacking.changed {
            let version = encoded.version.clone();
            state.known.insert((*name).to_owned(), version.clone());
            state.absent.remove(*name);
            state.refused.remove(*name);
            response.resources.push(Delivered {
                name: (*name).to_owned(),
                version,
                resource: Some(encoded.any.clone()),
                ..Default::default()
            });
        }
        response
    }
}

impl TypeState {
    fn acknowledge(&mut self, request: &DeltaDiscoveryRequest) -> Vec<Rejection> {
        // An answer to anything but the response in flight is stale.
        let Some(answered) = self
            .in_flight
            .take_if(|sent| sent.nonce == request.response_nonce)
        else {
            return Vec::new();
        };
        if let Some(sequence) = answered.completes {
            self.acknowledged = self.acknowledged.max(sequence);
        }
        // What is refused stays in `known`: it is sent again when it has changed, not before.
        let Some(status) = &request.error_detail else {
            self.refused.remove("");
            return Vec::new();
        };
        let rejections = rejections::from_status(&request.type_url, status);
        let names = rejections.iter().map(|rejection| &rejection.name);
        let delivered = names.filter(|name| name.is_empty() || self.known.contains_key(*name));
        self.refused.extend(delivered.cloned());
        rejections
    }

    fn subscribe(
        &mut self,
        kind: ResourceType,
        request: DeltaDiscoveryRequest,
    ) -> Result<(), TooManyNames> {
        if !self.requested {
            self.requested = true;
            // A first request that names nothing asks for everything, where the protocol has that (LDS, CDS).
            let has_wildcard = matches!(kind, ResourceType::Listener | ResourceType::Cluster);
            self.wildcard = has_wildcard && request.resource_names_subscribe.is_empty();
            if request.initial_resource_versions.len() > MAX_NAMES {
                let field = "initial_resource_versions";
                return Err(TooManyNames { field });
            }
            self.known = request.initial_resource_versions.into_iter().collect();
            self.brought = self.known.keys().cloned().collect();
        }
        for name in request.resource_names_unsubscribe {
            if name == "*" {
                self.wildcard = false;
                self.known.retain(|known, _| self.names.contains(known));
            }
            self.names.remove(&name);
            self.absent.remove(&name);
            if !self.wildcard {
                self.known.remove(&name);
            }
        }
        for name in request.resource_names_subscribe {
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            if !self.names.insert(name.clone()) {
                // Asking again for what was asked for means that the client no longer has it.
                self.known.remove(&name);
            }
            self.absent.remove(&name);
        }
        if self.names.len() > MAX_NAMES {
            let field = "resource_names_subscribe";
            return Err(TooManyNames { field });
        }
        Ok(())
    }

    fn lacking<'a>(&self, kind: ResourceType, set: &'a ResourceSet) -> Lacking<'a> {
        let mut lacking = Lacking::default();
        if !self.requested {
            return lacking;
        }
        let differs =
            |name: &str, encoded: &Encoded| self.known.get(name) != Some(&encoded.version);
        if self.wildcard {
            let all = set.iter(kind);
            lacking.changed = all
                .filter(|(name, encoded)| differs(name, encoded))
                .collect();
        } else {
            let named = self.names.iter().filter_map(|name| set.entry(kind, name));
            lacking.changed = named
                .filter(|(name, encoded)| differs(name, encoded))
                .collect();
        }
        let gone = |name: &&String| set.get(kind, name).is_none();
        lacking.removed = self.known.keys().filter(gone).cloned().collect();
        let untold =
            |name: &&String| !self.known.contains_key(*name) && !self.absent.contains(*name);
        lacking.absent = self
            .names
            .iter()
            .filter(gone)
            .filter(untold)
            .cloned()
            .collect();
        lacking
    }
}

#[cfg(test)]
mod tests;
