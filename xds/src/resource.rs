//! The resource types in publishing order, and the content hash that is a resource's version.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::{Cluster, Discovery, EndpointSet, Inbound, Listener, RouteConfig, TrustBundle};

/// Raised whenever `encode` writes the same model differently, so that old versions do not hide the change.
const ENCODER_VERSION: u8 = 2;

/// The resource types, in make-before-break order: what others refer to comes first. Removals go in reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// SDS.
    Secret,
    /// RDS.
    Routes,
    /// ECDS. A sidecar applies it to listeners of its own, which no other resource refers to.
    Inbound,
    /// LDS.
    Listener,
}

impl ResourceType {
    /// Every type, in publishing order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Secret,
        Self::Routes,
        Self::Inbound,
        Self::Listener,
    ];

    /// How many there are.
    pub(crate) const COUNT: usize = 6;

    /// Envoy's v3 type URL.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Inbound => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
        }
    }

    /// The type with this URL, if it is one of ours.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether what was received once stays in force when the server has it no longer: who may call, and whom to believe, never
    /// falls back to everybody.
    pub const fn is_kept(self) -> bool {
        match self {
            Self::Secret | Self::Inbound => true,
            Self::Cluster | Self::Endpoints | Self::Routes | Self::Listener => false,
        }
    }
}

/// One resource of any type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A service as its callers see it.
    Cluster(Cluster),
    /// The endpoints of one cluster.
    Endpoints(EndpointSet),
    /// Whom to believe.
    Secret(TrustBundle),
    /// The routes of one listener.
    Routes(RouteConfig),
    /// Who may call one service.
    Inbound(Inbound),
    /// An address to listen on.
    Listener(Listener),
}

impl Resource {
    /// The name, unique within its type.
    pub fn name(&self) -> &str {
        match self {
            Self::Cluster(cluster) => &cluster.name,
            Self::Endpoints(set) => &set.cluster,
            Self::Secret(bundle) => &bundle.name,
            Self::Routes(routes) => &routes.name,
            Self::Inbound(inbound) => &inbound.name,
            Self::Listener(listener) => &listener.name,
        }
    }

    /// Which type it is.
    pub const fn resource_type(&self) -> ResourceType {
        match self {
            Self::Cluster(_) => ResourceType::Cluster,
            Self::Endpoints(_) => ResourceType::Endpoints,
            Self::Secret(_) => ResourceType::Secret,
            Self::Routes(_) => ResourceType::Routes,
            Self::Inbound(_) => ResourceType::Inbound,
            Self::Listener(_) => ResourceType::Listener,
        }
    }

    /// A hash of the model (not of its encoding) and the encoder's version: equal content has an equal version everywhere.
    ///
    /// A `STRICT_DNS` cluster carries its endpoints; [`version_with`] hashes both.
    pub fn version(&self) -> String {
        hash(&[&self.canonical()])
    }

    fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("the model has string keys only and serialises into memory")
    }
}

/// The version of a cluster that carries its endpoints on the wire.
pub fn version_with(cluster: &Cluster, endpoints: &EndpointSet) -> String {
    let cluster = Resource::Cluster(cluster.clone()).canonical();
    let endpoints = Resource::Endpoints(endpoints.clone()).canonical();
    hash(&[&cluster, &endpoints])
}

/// The version under which a resource travels, a `STRICT_DNS` cluster with its endpoints.
pub(crate) fn wire_version<'a>(
    resource: &Resource,
    endpoints: impl Fn(&str) -> Option<&'a EndpointSet>,
) -> String {
    match resource {
        Resource::Cluster(cluster) if cluster.discovery == Discovery::StrictDns => {
            match endpoints(&cluster.name) {
                Some(set) => version_with(cluster, set),
                None => resource.version(),
            }
        }
        _ => resource.version(),
    }
}

/// Sorts endpoints by zone, address, instance and priority, the order that decoding restores.
pub fn sort_endpoints(set: &mut EndpointSet) {
    set.endpoints.sort_by(|a, b| {
        let key = (&a.zone, &a.address, &a.instance, a.priority);
        key.cmp(&(&b.zone, &b.address, &b.instance, b.priority))
    });
}

fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    hasher.update([ENCODER_VERSION]);
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Why one resource was not taken; the others of the same response are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{type_url} {name:?}: {field}: {reason}")]
pub struct Rejection {
    /// The type URL it arrived under.
    pub type_url: String,
    /// The resource's name; empty when a foreign client does not say.
    pub name: String,
    /// The field, in Envoy's spelling.
    pub field: String,
    /// What is wrong with the value, and the value.
    pub reason: String,
}
