//! From the registry to resources: what every sidecar of a namespace is to know; pure and sorted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use outrigger_xds::Resource;
use outrigger_xds::identity::TlsMode;
use outrigger_xds::model::{
    Address, Cluster, Direction, Discovery, Endpoint, EndpointHealth, EndpointSet, HealthCheck,
    Inbound, Listener, PathMatch, Probe, Route, RouteConfig, ServiceRef, Target, TrustBundle,
};

use crate::registry::{Declaration, Instance, InstanceHealth, Registry, Service, declaration};

/// Where an instance without AWS_INSTANCE_PORT is reached, if its service has no alias either.
const DEFAULT_PORT: u16 = 80;

/// The resources of a namespace, with the roots that are trusted; none for a namespace that does not exist.
pub(crate) fn resources(
    registry: &Registry,
    namespace: &str,
    trust: Option<&TrustBundle>,
) -> Vec<Resource> {
    let Ok(row) = registry.namespace_named(namespace) else {
        return Vec::new();
    };
    registry
        .services_in(&row.id)
        .flat_map(|service| of_service(registry, namespace, service))
        .chain(trust.cloned().map(Resource::Secret))
        .collect()
}

fn of_service(registry: &Registry, namespace: &str, service: &Service) -> Vec<Resource> {
    let declared = declaration(service);
    let name = format!("{namespace}/{}", service.name);
    let endpoints = endpoints(registry, service, &declared);
    let named = endpoints
        .iter()
        .any(|endpoint| matches!(endpoint.address, Address::Host { .. }));
    let mut cluster = Cluster {
        discovery: if named {
            Discovery::StrictDns
        } else {
            Discovery::Eds
        },
        health_check: health_check(service),
        service: Some(ServiceRef {
            namespace: namespace.to_owned(),
            name: service.name.clone(),
        }),
        identities: declared.identities.clone(),
        ..Cluster::new(name.clone(), declared.protocol)
    };
    declared.policy.apply(&mut cluster);
    let mut resources = vec![
        Resource::Cluster(cluster),
        Resource::Endpoints(EndpointSet {
            cluster: name.clone(),
            endpoints,
        }),
    ];
    resources.extend(inbound(&name, &declared));
    resources.extend(alias(registry, namespace, name, &declared));
    resources
}

/// What its tasks do with those who call them, also where that is nothing: a sidecar is to know. Of a declaration that cannot be
/// read nothing is said, so that what was said before stays.
fn inbound(name: &str, declared: &Declaration<'_>) -> Option<Resource> {
    let policy = &declared.policy;
    declared.is_read.then(|| {
        Resource::Inbound(Inbound {
            name: name.to_owned(),
            tls: policy.tls,
            authorization: policy.authorization.clone(),
        })
    })
}

/// The listener of the service's alias, and its routes if requests can be told apart.
fn alias(
    registry: &Registry,
    namespace: &str,
    cluster: String,
    declared: &Declaration<'_>,
) -> Vec<Resource> {
    let (Some(dns_name), Some(port)) = (declared.dns_name(), declared.port()) else {
        return Vec::new();
    };
    let Some(offset) = registry.vip(namespace, dns_name) else {
        return Vec::new();
    };
    let [high, low] = offset.to_be_bytes();
    let name = format!("{namespace}/{dns_name}:{port}");
    let http = declared.protocol.is_http();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 255, high, low)), port);
    let target = if http {
        Target::Routes(name.clone())
    } else {
        Target::Cluster(cluster.clone())
    };
    let (direction, protocol) = (Direction::Egress, declared.protocol);
    let listener = Listener {
        names: vec![dns_name.to_owned()],
        vip_offset: Some(offset),
        idle_timeout: if http { None } else { declared.idle_timeout },
        ..Listener::new(name.clone(), direction, address, protocol, target)
    };
    let routes = http.then(|| {
        Resource::Routes(RouteConfig {
            name,
            routes: vec![route(cluster, declared)],
        })
    });
    routes
        .into_iter()
        .chain([Resource::Listener(listener)])
        .collect()
}

fn route(cluster: String, declared: &Declaration<'_>) -> Route {
    Route {
        hosts: Vec::new(),
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        cluster,
        per_request_timeout: declared.per_request_timeout,
        idle_timeout: declared.idle_timeout,
        retry: declared.policy.retry.clone(),
    }
}

fn health_check(service: &Service) -> Option<HealthCheck> {
    let config = service.health_check.as_ref()?;
    Some(HealthCheck {
        probe: match config.kind == "HTTP" {
            true => Probe::Http(config.path.clone().unwrap_or_else(|| "/".to_owned())),
            false => Probe::Tcp,
        },
        interval: std::time::Duration::from_secs(10),
        timeout: std::time::Duration::from_secs(1),
        healthy_threshold: 1,
        unhealthy_threshold: config.failure_threshold.unwrap_or(1),
    })
}

fn endpoints(registry: &Registry, service: &Service, declared: &Declaration<'_>) -> Vec<Endpoint> {
    let of = |instance: &Instance| {
        let port = instance.port().or(declared.port()).unwrap_or(DEFAULT_PORT);
        let address = match (instance.ip(), instance.cname()) {
            (Some(ip), _) => Address::Ip(SocketAddr::new(ip, port)),
            (None, Some(host)) => Address::Host {
                host: host.to_owned(),
                port,
            },
            // Known to Cloud Map alone: there is no address to send a request to.
            (None, None) => return None,
        };
        Some(Endpoint {
            zone: instance.zone().to_owned(),
            weight: instance.weight(),
            priority: instance.priority(),
            health: match registry.health(instance) {
                InstanceHealth::Healthy => EndpointHealth::Healthy,
                InstanceHealth::Unhealthy => EndpointHealth::Unhealthy,
                InstanceHealth::Draining => EndpointHealth::Draining,
            },
            instance: instance.id.clone(),
            sidecar: instance.sidecar(),
            hop: instance.hop(),
            tls: takes_tls(instance, declared),
            ..Endpoint::new(address)
        })
    };
    registry
        .instances_of(&service.id)
        .filter_map(|instance| of(instance))
        .collect()
}

/// The service wants it, and the task says that it has one of the service's identities.
fn takes_tls(instance: &Instance, declared: &Declaration<'_>) -> bool {
    let of_service = |id: &str| declared.identities.iter().any(|own| own.as_str() == id);
    declared.policy.tls != TlsMode::Disable && instance.tls().is_some_and(of_service)
}

#[cfg(test)]
mod tests;
