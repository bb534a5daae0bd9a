//! Which names a subscriber wants, from what it has: listeners name routes, routes name clusters, clusters name endpoints and the
//! roots that their identities are checked against.

use std::collections::BTreeSet;

use crate::identity::TRUST_BUNDLE;
use crate::model::{Discovery, EndpointSet, Target};
use crate::resource::{Resource, ResourceType, sort_endpoints};

/// What a resource refers to. Routes and clusters that several refer to come up several times.
pub fn references(resource: &Resource) -> Vec<(ResourceType, &str)> {
    match resource {
        Resource::Listener(listener) => match &listener.target {
            Target::Routes(name) => vec![(ResourceType::Routes, name.as_str())],
            Target::Cluster(name) => vec![(ResourceType::Cluster, name.as_str())],
        },
        Resource::Routes(config) => {
            let clusters = config.routes.iter().map(|route| route.cluster.as_str());
            clusters.map(|name| (ResourceType::Cluster, name)).collect()
        }
        Resource::Cluster(cluster) => {
            let endpoints = (ResourceType::Endpoints, cluster.name.as_str());
            let endpoints = (cluster.discovery == Discovery::Eds).then_some(endpoints);
            let roots = (ResourceType::Secret, TRUST_BUNDLE);
            let roots = (!cluster.identities.is_empty()).then_some(roots);
            endpoints.into_iter().chain(roots).collect()
        }
        Resource::Endpoints(_) | Resource::Secret(_) | Resource::Inbound(_) => Vec::new(),
    }
}

/// The names to subscribe to, by type: `always` and what is referred to. Listeners are subscribed to as a whole, so theirs stay empty.
///
/// `resources` gives every version in play of one name: the one in force and the one that waits.
pub(crate) fn wanted<'a, I>(
    always: &[(ResourceType, String)],
    resources: impl Fn(ResourceType) -> I,
) -> [BTreeSet<String>; ResourceType::COUNT]
where
    I: Iterator<Item = &'a Resource>,
{
    let mut wanted: [BTreeSet<String>; ResourceType::COUNT] = Default::default();
    for (kind, name) in always {
        wanted[*kind as usize].insert(name.clone());
    }
    // From those who refer to those referred to: what nobody wants any more wants nothing itself.
    let referring = [
        ResourceType::Listener,
        ResourceType::Routes,
        ResourceType::Cluster,
    ];
    for kind in referring {
        for resource in resources(kind) {
            let alive =
                kind == ResourceType::Listener || wanted[kind as usize].contains(resource.name());
            if alive {
                for (kind, name) in references(resource) {
                    wanted[kind as usize].insert(name.to_owned());
                }
            }
        }
    }
    wanted
}

/// What a new store tells, and what was known before and it has not told again; `None` if nothing is missing.
pub(crate) fn merge_endpoints(old: &EndpointSet, told: &EndpointSet) -> Option<EndpointSet> {
    let mut merged = told.clone();
    for endpoint in &old.endpoints {
        let told_again = told.endpoints.iter().any(|new| {
            let same_instance = !new.instance.is_empty() && new.instance == endpoint.instance;
            new.address == endpoint.address || same_instance
        });
        if !told_again {
            merged.endpoints.push(endpoint.clone());
        }
    }
    sort_endpoints(&mut merged);
    (merged.endpoints.len() > told.endpoints.len()).then_some(merged)
}
