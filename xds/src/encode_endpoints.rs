//! From endpoints to `ClusterLoadAssignment`, and from a node to `Node`.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;

use crate::encode::{envoy_metadata, number, string_struct};
use crate::encode_identity::{SOCKET_MATCH, takes_tls};
use crate::model::{Address, Endpoint, EndpointHealth, EndpointSet, Metadata};
use crate::transport::NodeInfo;

pub(crate) fn load_assignment(set: &EndpointSet) -> eds::ClusterLoadAssignment {
    let mut localities: BTreeMap<(u32, &str), Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in &set.endpoints {
        let locality = (endpoint.priority, endpoint.zone.as_str());
        localities.entry(locality).or_default().push(endpoint);
    }
    let priorities: BTreeSet<u32> = localities.keys().map(|(priority, _)| *priority).collect();
    // gRPC refuses, and Envoy advises against, priorities that leave numbers out.
    let ranks: BTreeMap<u32, u32> = priorities.into_iter().zip(0..).collect();
    eds::ClusterLoadAssignment {
        cluster_name: set.cluster.clone(),
        endpoints: localities
            .into_iter()
            .map(|((priority, zone), endpoints)| locality(zone, ranks[&priority], &endpoints))
            .collect(),
        ..Default::default()
    }
}

fn locality(zone: &str, rank: u32, endpoints: &[&Endpoint]) -> eds::LocalityLbEndpoints {
    let weight = endpoints
        .iter()
        .fold(0u32, |sum, endpoint| sum.saturating_add(endpoint.weight));
    eds::LocalityLbEndpoints {
        // gRPC drops endpoints without a locality and localities without a weight.
        locality: Some(core::Locality {
            zone: zone.to_owned(),
            ..Default::default()
        }),
        load_balancing_weight: Some(number(weight.max(1))),
        priority: rank,
        lb_endpoints: endpoints
            .iter()
            .map(|endpoint| lb_endpoint(endpoint, rank))
            .collect(),
        ..Default::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint, rank: u32) -> eds::LbEndpoint {
    let mut metadata = Metadata::from([("sidecar".into(), endpoint.sidecar.to_string())]);
    if !endpoint.instance.is_empty() {
        metadata.insert("instance".into(), endpoint.instance.clone());
    }
    if let Some(tokens) = &endpoint.hop {
        metadata.insert("hop".into(), tokens.to_string());
    }
    if endpoint.priority != rank {
        metadata.insert("priority".into(), endpoint.priority.to_string());
    }
    let mut health = match endpoint.health {
        EndpointHealth::Healthy => core::HealthStatus::Healthy,
        EndpointHealth::Unhealthy => core::HealthStatus::Unhealthy,
        EndpointHealth::Draining => core::HealthStatus::Draining,
    };
    if endpoint.weight == 0 {
        // Envoy refuses weight 0; draining is what it offers to nobody.
        metadata.insert("weight".into(), "0".into());
        metadata.insert("health".into(), health.as_str_name().to_owned());
        health = core::HealthStatus::Draining;
    }
    let mut metadata = envoy_metadata(metadata).unwrap_or_default();
    if endpoint.tls {
        let keys = &mut metadata.filter_metadata;
        keys.insert(SOCKET_MATCH.to_owned(), takes_tls());
    }
    let address = match &endpoint.address {
        Address::Ip(address) => socket_address(&address.ip().to_string(), address.port()),
        Address::Host { host, port } => socket_address(host, *port),
    };
    eds::LbEndpoint {
        health_status: health.into(),
        metadata: Some(metadata),
        load_balancing_weight: Some(number(endpoint.weight.max(1))),
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(eds::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
    }
}

pub(crate) fn socket_address(address: &str, port: u16) -> core::Address {
    let socket = core::SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    core::Address {
        address: Some(core::address::Address::SocketAddress(socket)),
    }
}

/// Who a subscriber is, as Envoy says it.
pub(crate) fn node(info: &NodeInfo) -> core::Node {
    let metadata = [
        ("namespace", info.namespace.as_str()),
        ("incarnation", info.incarnation.as_str()),
        ("secret", info.secret.as_str()),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    let metadata: Metadata = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    core::Node {
        id: info.id.clone(),
        cluster: info.service.clone(),
        metadata: Some(string_struct(metadata)),
        locality: Some(core::Locality {
            zone: info.zone.clone(),
            ..Default::default()
        }),
        user_agent_name: "outrigger".to_owned(),
        ..Default::default()
    }
}
