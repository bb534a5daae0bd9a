//! An immutable, consistent and already encoded set of resources, shared by all nodes of a namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::encode::{encode, encode_with};
use crate::model::{Address, Cluster, Discovery, EndpointSet, Target};
use crate::resource::{Resource, ResourceType, sort_endpoints, version_with};

/// One resource with its version and its encoding.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Content hash.
    pub version: String,
    /// What goes on the wire.
    pub any: Any,
    /// The model it was made from.
    pub resource: Resource,
}

/// Why a set may not be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource_type:?} {name:?}: {reason}")]
pub struct Inconsistency {
    /// Type of the resource at fault.
    pub resource_type: ResourceType,
    /// Its name.
    pub name: String,
    /// What does not fit, with the name it refers to.
    pub reason: String,
}

/// What changed between two sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Added or changed, in publishing order.
    pub changed: Vec<(ResourceType, String)>,
    /// No longer there, in reverse publishing order.
    pub removed: Vec<(ResourceType, String)>,
}

type Models = [BTreeMap<String, Resource>; ResourceType::COUNT];

/// Resources by type and name. Cloning shares the encodings.
#[derive(Debug, Clone, Default)]
pub struct ResourceSet {
    types: [BTreeMap<String, Arc<Encoded>>; ResourceType::COUNT],
}

impl ResourceSet {
    /// Encodes a model; refused unless [`Self::consistent`].
    pub fn from_model(
        resources: impl IntoIterator<Item = Resource>,
    ) -> Result<Self, Vec<Inconsistency>> {
        Self::default().rebuilt(resources)
    }

    /// The same for a later model: what is unchanged keeps its encoding.
    pub fn rebuilt(
        &self,
        resources: impl IntoIterator<Item = Resource>,
    ) -> Result<Self, Vec<Inconsistency>> {
        let mut models: Models = Default::default();
        let mut problems = Vec::new();
        for mut resource in resources {
            if let Resource::Endpoints(set) = &mut resource {
                sort_endpoints(set);
            }
            let (kind, name) = (resource.resource_type(), resource.name().to_owned());
            if models[kind as usize]
                .insert(name.clone(), resource)
                .is_some()
            {
                let reason = "there are two of this name".to_owned();
                problems.push(Inconsistency {
                    resource_type: kind,
                    name,
                    reason,
                });
            }
        }
        let mut set = Self::default();
        for kind in ResourceType::ALL {
            for (name, resource) in &models[kind as usize] {
                let inline = inline_endpoints(resource, &models);
                let encoded = self.reuse_or_encode(resource, inline);
                set.types[kind as usize].insert(name.clone(), encoded);
            }
        }
        problems.extend(set.consistent());
        if problems.is_empty() {
            Ok(set)
        } else {
            Err(problems)
        }
    }

    fn reuse_or_encode(&self, resource: &Resource, inline: Option<&EndpointSet>) -> Arc<Encoded> {
        let old = self.get(resource.resource_type(), resource.name());
        if let (Some(old), None) = (old, inline)
            && old.resource == *resource
            && !is_strict_dns(&old.resource)
        {
            return Arc::clone(old);
        }
        let (version, any) = match (resource, inline) {
            (Resource::Cluster(cluster), Some(endpoints)) => (
                version_with(cluster, endpoints),
                encode_with(cluster, endpoints),
            ),
            _ => (resource.version(), encode(resource)),
        };
        match old {
            Some(old) if old.version == version => Arc::clone(old),
            _ => Arc::new(Encoded {
                version,
                any,
                resource: resource.clone(),
            }),
        }
    }

    /// One resource.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Encoded>> {
        self.types[kind as usize].get(name)
    }

    /// One resource with the set's own copy of its name.
    pub(crate) fn entry(&self, kind: ResourceType, name: &str) -> Option<(&str, &Arc<Encoded>)> {
        let (name, encoded) = self.types[kind as usize].get_key_value(name)?;
        Some((name, encoded))
    }

    /// All resources of a type, by name.
    pub fn iter(&self, kind: ResourceType) -> impl Iterator<Item = (&str, &Arc<Encoded>)> {
        self.types[kind as usize]
            .iter()
            .map(|(name, encoded)| (name.as_str(), encoded))
    }

    /// How many resources of all types.
    pub fn len(&self) -> usize {
        self.types.iter().map(BTreeMap::len).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every reference that leads nowhere. Clusters may lack the trust bundle: who has none then speaks to none of their
    /// endpoints, and the other services need not wait for it.
    pub fn consistent(&self) -> Vec<Inconsistency> {
        let all = self.types.iter().flat_map(BTreeMap::values);
        all.flat_map(|encoded| self.problems_of(&encoded.resource))
            .collect()
    }

    fn problems_of(&self, resource: &Resource) -> Vec<Inconsistency> {
        let missing = |kind, name: &str| {
            let reason = format!("refers to {kind:?} {name:?}, which does not exist");
            self.get(kind, name).is_none().then_some(reason)
        };
        let reasons: Vec<String> = match resource {
            Resource::Listener(listener) => match &listener.target {
                Target::Routes(name) => missing(ResourceType::Routes, name).into_iter().collect(),
                Target::Cluster(name) => missing(ResourceType::Cluster, name).into_iter().collect(),
            },
            Resource::Routes(config) => config
                .routes
                .iter()
                .filter_map(|route| missing(ResourceType::Cluster, &route.cluster))
                .collect(),
            Resource::Cluster(cluster) => missing(ResourceType::Endpoints, &cluster.name)
                .into_iter()
                .collect(),
            Resource::Endpoints(set) => self.host_names_in_eds(set).into_iter().collect(),
            Resource::Secret(_) | Resource::Inbound(_) => Vec::new(),
        };
        let inconsistency = |reason| Inconsistency {
            resource_type: resource.resource_type(),
            name: resource.name().to_owned(),
            reason,
        };
        reasons.into_iter().map(inconsistency).collect()
    }

    fn host_names_in_eds(&self, set: &EndpointSet) -> Option<String> {
        let cluster = self.get(ResourceType::Cluster, &set.cluster)?;
        if is_strict_dns(&cluster.resource) {
            return None;
        }
        let host = set
            .endpoints
            .iter()
            .find(|endpoint| matches!(endpoint.address, Address::Host { .. }))?;
        Some(format!(
            "{} is a host name, which only a STRICT_DNS cluster may have",
            host.address
        ))
    }

    /// What a subscriber that has `older` needs in order to have this set.
    pub fn diff(&self, older: &Self) -> Diff {
        let mut diff = Diff::default();
        for kind in ResourceType::ALL {
            for (name, encoded) in self.iter(kind) {
                if older
                    .get(kind, name)
                    .is_none_or(|old| old.version != encoded.version)
                {
                    diff.changed.push((kind, name.to_owned()));
                }
            }
        }
        for kind in ResourceType::ALL.into_iter().rev() {
            let gone = older
                .iter(kind)
                .filter(|(name, _)| self.get(kind, name).is_none());
            diff.removed
                .extend(gone.map(|(name, _)| (kind, name.to_owned())));
        }
        diff
    }
}

fn is_strict_dns(resource: &Resource) -> bool {
    matches!(
        resource,
        Resource::Cluster(Cluster {
            discovery: Discovery::StrictDns,
            ..
        })
    )
}

fn inline_endpoints<'a>(resource: &Resource, models: &'a Models) -> Option<&'a EndpointSet> {
    if !is_strict_dns(resource) {
        return None;
    }
    match models[ResourceType::Endpoints as usize].get(resource.name()) {
        Some(Resource::Endpoints(set)) => Some(set),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
