//! Clusters and endpoints, from Envoy's protos.

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;

use crate::decode::{Problems, duration, host_port, metadata, number, parse, parsed, protocol};
use crate::decode_identity;
use crate::decode_policy;
use crate::encode::HTTP_OPTIONS;
use crate::hop::Tokens;
use crate::model::{
    Address, Cluster, Discovery, Endpoint, EndpointHealth, EndpointSet, LbPolicy, MAX_PRIORITY,
    Metadata, Protocol, ServicePolicy, ServiceRef,
};
use crate::resource::sort_endpoints;

pub(crate) fn cluster(
    mut message: cds::Cluster,
    problems: &mut Problems,
) -> Option<(Cluster, Option<EndpointSet>)> {
    let mut metadata = metadata(message.metadata.take());
    let options = message.typed_extension_protocol_options.get(HTTP_OPTIONS);
    let options: Option<upstream::HttpProtocolOptions> =
        options.and_then(|any| parse(any, "typed_extension_protocol_options", problems));
    let protocol = protocol(&metadata, problems).unwrap_or_else(|| implied_protocol(&options));
    if protocol == Protocol::Auto {
        let reason = "auto is only for listeners";
        problems.add("metadata.outrigger.protocol", reason);
    }
    let idle = options.and_then(|options| options.common_http_protocol_options);
    let idle_timeout = idle.and_then(|common| common.idle_timeout);
    let is_default = metadata.contains_key("connect_timeout");
    let connect_timeout = message.connect_timeout.filter(|_| !is_default);
    let service = match (metadata.remove("namespace"), metadata.remove("service")) {
        (Some(namespace), Some(name)) => Some(ServiceRef { namespace, name }),
        _ => None,
    };
    let discovery = discovery(&message, problems);
    let identities = decode_identity::identities(&mut message, problems);
    let lb = lb_policy(message.lb_policy, problems);
    let endpoints = match (discovery, message.load_assignment) {
        (Some(Discovery::StrictDns), Some(assignment)) => {
            load_assignment(assignment, true, problems)
        }
        (Some(Discovery::StrictDns), None) => {
            problems.add("load_assignment", "is missing in a STRICT_DNS cluster");
            None
        }
        (Some(Discovery::Eds) | None, _) => None,
    };
    let name = problems.need_text(message.name, "name");
    let connect_timeout = duration(connect_timeout, "connect_timeout", problems);
    let idle_timeout = duration(idle_timeout, "idle_timeout", problems);
    let outlier_detection = message
        .outlier_detection
        .map(|value| decode_policy::outlier_detection(value, problems));
    let health_check = message
        .health_checks
        .into_iter()
        .next()
        .and_then(|value| decode_policy::health_check(value, problems));
    let circuit_breakers =
        decode_policy::circuit_breakers(message.circuit_breakers, &metadata, problems);
    let (panic_threshold, zone_aware) =
        decode_policy::common_lb_config(message.common_lb_config, problems);
    let slow_start = decode_policy::slow_start(message.lb_config, problems);
    let value = Cluster {
        lb: lb?,
        discovery: discovery?,
        connect_timeout,
        idle_timeout,
        outlier_detection,
        health_check,
        circuit_breakers,
        panic_threshold,
        slow_start,
        zone_aware,
        service,
        identities,
        ..Cluster::new(name, protocol)
    };
    for error in ServicePolicy::of(&value).check(value.protocol) {
        let reason = error.explained();
        problems.add(error.field, reason);
    }
    // The set carries the cluster's name, whatever the inner message says.
    let named = endpoints.map(|set| EndpointSet {
        cluster: value.name.clone(),
        ..set
    });
    Some((value, named))
}

fn implied_protocol(options: &Option<upstream::HttpProtocolOptions>) -> Protocol {
    use upstream::http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    let explicit = options
        .as_ref()
        .and_then(|options| options.upstream_protocol_options.as_ref());
    match explicit {
        Some(ExplicitHttpConfig(config)) => match config.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Protocol::Http2,
            _ => Protocol::Http,
        },
        _ => Protocol::Http,
    }
}

fn discovery(message: &cds::Cluster, problems: &mut Problems) -> Option<Discovery> {
    use cds::cluster::{ClusterDiscoveryType::Type, DiscoveryType};
    let kind = match message.cluster_discovery_type {
        Some(Type(kind)) => DiscoveryType::try_from(kind).ok(),
        _ => None,
    };
    match kind {
        Some(DiscoveryType::Eds) => {
            let other = message
                .eds_cluster_config
                .as_ref()
                .map(|config| &config.service_name);
            if let Some(name) = other.filter(|name| !name.is_empty() && **name != message.name) {
                let reason = format!("{name:?} must be empty or the cluster's name");
                problems.add("eds_cluster_config.service_name", reason);
            }
            Some(Discovery::Eds)
        }
        Some(DiscoveryType::StrictDns) => Some(Discovery::StrictDns),
        _ => {
            problems.add("type", "is neither EDS nor STRICT_DNS");
            None
        }
    }
}

fn lb_policy(value: i32, problems: &mut Problems) -> Option<LbPolicy> {
    use cds::cluster::LbPolicy as Envoy;
    match Envoy::try_from(value) {
        Ok(Envoy::LeastRequest) => Some(LbPolicy::LeastRequest),
        Ok(Envoy::RoundRobin) => Some(LbPolicy::RoundRobin),
        Ok(Envoy::RingHash) => Some(LbPolicy::RingHash),
        other => {
            let shown = other.map_or(value.to_string(), |policy| policy.as_str_name().to_owned());
            let reason = format!("{shown} is none of LEAST_REQUEST, ROUND_ROBIN, RING_HASH");
            problems.add("lb_policy", reason);
            None
        }
    }
}

pub(crate) fn load_assignment(
    message: eds::ClusterLoadAssignment,
    host_names: bool,
    problems: &mut Problems,
) -> Option<EndpointSet> {
    let mut set = EndpointSet {
        cluster: problems.need_text(message.cluster_name, "cluster_name"),
        endpoints: Vec::new(),
    };
    for (i, locality) in message.endpoints.into_iter().enumerate() {
        if locality.priority > MAX_PRIORITY {
            let field = format!("endpoints[{i}].priority");
            let reason = format!("{} is more than {MAX_PRIORITY}", locality.priority);
            problems.add(field, reason);
        }
        let zone = locality
            .locality
            .map(|locality| locality.zone)
            .unwrap_or_default();
        for (j, lb) in locality.lb_endpoints.into_iter().enumerate() {
            let field = format!("endpoints[{i}].lb_endpoints[{j}]");
            set.endpoints.extend(endpoint(
                lb,
                &zone,
                locality.priority,
                host_names,
                &field,
                problems,
            ));
        }
    }
    sort_endpoints(&mut set);
    Some(set)
}

fn endpoint(
    lb: eds::LbEndpoint,
    zone: &str,
    priority: u32,
    host_names: bool,
    field: &str,
    problems: &mut Problems,
) -> Option<Endpoint> {
    let tls = decode_identity::endpoint_tls(lb.metadata.as_ref(), field, problems);
    let mut metadata = metadata(lb.metadata);
    let Some(eds::lb_endpoint::HostIdentifier::Endpoint(inner)) = lb.host_identifier else {
        problems.add(format!("{field}.endpoint"), "is missing");
        return None;
    };
    let (host, port) = host_port(
        inner.address,
        &format!("{field}.endpoint.address"),
        problems,
    )?;
    let address = match host.parse() {
        Ok(ip) => Address::Ip(std::net::SocketAddr::new(ip, port)),
        Err(_) if host_names && !host.is_empty() => Address::Host { host, port },
        Err(_) => {
            let reason = format!("{host:?} is not an IP address");
            problems.add(
                format!("{field}.endpoint.address.socket_address.address"),
                reason,
            );
            return None;
        }
    };
    let health = match metadata.remove("health") {
        Some(name) => core::HealthStatus::from_str_name(&name),
        None => core::HealthStatus::try_from(lb.health_status).ok(),
    };
    let health = match health {
        Some(
            core::HealthStatus::Healthy
            | core::HealthStatus::Unknown
            | core::HealthStatus::Degraded,
        ) => EndpointHealth::Healthy,
        Some(core::HealthStatus::Draining) => EndpointHealth::Draining,
        Some(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) | None => {
            EndpointHealth::Unhealthy
        }
    };
    Some(Endpoint {
        zone: zone.to_owned(),
        weight: parsed(&metadata, "weight", problems)
            .unwrap_or_else(|| number(lb.load_balancing_weight, 1)),
        priority: parsed(&metadata, "priority", problems).unwrap_or(priority),
        health,
        sidecar: parsed(&metadata, "sidecar", problems).unwrap_or(false),
        hop: hop(&metadata, field, problems),
        instance: metadata.remove("instance").unwrap_or_default(),
        tls,
        ..Endpoint::new(address)
    })
}

/// A version that is not spoken here is no error: such a sidecar takes plain HTTP as well.
fn hop(metadata: &Metadata, field: &str, problems: &mut Problems) -> Option<Tokens> {
    let read = Tokens::read(metadata.get("hop")?);
    // The value is a secret: the reason does without it.
    read.unwrap_or_else(|reason| {
        problems.add(format!("{field}.metadata.outrigger.hop"), reason);
        None
    })
}
