//! The ingress side that follows from a task's document: its ports, listeners and local clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::hop::{self, Identity, Tokens};
use outrigger_xds::model::{
    Address, Cluster, Direction, Endpoint, EndpointSet, Inbound, LbPolicy, Listener, PathMatch,
    Protocol, RetryPolicy, Route, RouteConfig, ServiceRef, Target,
};

use super::{Service, ServiceConnect};
use crate::config::accepted::Accepted;
use crate::config::{ConfigError, ConfigErrors, MeshConfig};

/// First and last port that an ingress without `ingressPortOverride` may get.
const INGRESS_PORTS: std::ops::RangeInclusive<u16> = 15000..=15999;

/// The ports of the ingress listeners, by port name: `ingressPortOverride`, else the one of `kept` when it is still free,
/// else a free one of 15000–15999 that is no containerPort. Where this process has inherited a socket, the port is free for it.
pub fn ingress_ports(
    document: &ServiceConnect,
    address: IpAddr,
    kept: &BTreeMap<String, u16>,
    inherited: &BTreeSet<SocketAddr>,
) -> Result<BTreeMap<String, u16>, ConfigErrors> {
    let mut taken = document.container_ports();
    taken.extend(
        document
            .services
            .iter()
            .filter_map(|service| service.ingress_port_override),
    );
    let mut ports = BTreeMap::new();
    let bind = bind_address(address);
    let is_free = |port| {
        inherited.contains(&SocketAddr::new(bind, port)) || TcpListener::bind((bind, port)).is_ok()
    };
    for (mapping, services) in document.served() {
        let fixed = services
            .iter()
            .find_map(|service| service.ingress_port_override);
        let port = fixed.or_else(|| {
            let kept = kept
                .get(&mapping.name)
                .copied()
                .filter(|port| INGRESS_PORTS.contains(port));
            kept.into_iter()
                .chain(INGRESS_PORTS)
                .find(|port| !taken.contains(port) && is_free(*port))
        });
        let Some(port) = port else {
            let reason =
                "no free port from 15000 to 15999 for its ingress; set ingressPortOverride";
            return Err(ConfigErrors(vec![ConfigError::new(
                "portMappings.name",
                &mapping.name,
                reason,
            )]));
        };
        taken.insert(port);
        ports.insert(mapping.name.clone(), port);
    }
    Ok(ports)
}

/// Where the ingress listens: on the task's address, or on all of them when that one is not local (bridge mode, NAT).
pub fn bind_address(address: IpAddr) -> IpAddr {
    if TcpListener::bind((address, 0)).is_ok() {
        return address;
    }
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The ingress side: a listener `ingress/<portName>` and a cluster `local/<portName>` for each port name that is served.
pub fn ingress(
    document: &ServiceConnect,
    mesh: &MeshConfig,
    ports: &BTreeMap<String, u16>,
    tokens: Tokens,
) -> Accepted {
    let mut accepted = Accepted::default();
    let bind = bind_address(mesh.address);
    for (mapping, services) in document.served() {
        let (Some(port), Some(first)) = (ports.get(&mapping.name), services.first()) else {
            continue;
        };
        let name = format!("ingress/{}", mapping.name);
        let cluster = format!("local/{}", mapping.name);
        let idle_timeout = longest(services.iter().map(|service| service.idle_timeout));
        let target = if mapping.protocol.is_http() {
            let per_request = longest(services.iter().map(|service| service.per_request_timeout));
            accepted.routes.insert(
                name.clone(),
                Arc::new(local_routes(&name, &cluster, per_request, idle_timeout)),
            );
            Target::Routes(name.clone())
        } else {
            Target::Cluster(cluster.clone())
        };
        let (direction, address) = (Direction::Ingress, SocketAddr::new(bind, *port));
        let inbound = inbound(first, mesh);
        let listener = Listener {
            idle_timeout,
            inbound: Some(inbound.name.clone()),
            // Where bytes are opaque, TLS alone says which task is meant.
            hop: Some(identity(&services, mesh, tokens)),
            ..Listener::new(name.clone(), direction, address, mapping.protocol, target)
        };
        accepted.listeners.insert(name, Arc::new(listener));
        let inbound = (inbound.name.clone(), Arc::new(inbound));
        accepted.inbound.extend([inbound]);
        let application = SocketAddr::new(mesh.app_address, mapping.container_port);
        accepted.endpoints.insert(
            cluster.clone(),
            Arc::new(local_endpoint(&cluster, application, mesh)),
        );
        let service = ServiceRef {
            namespace: mesh.namespace.clone(),
            name: first.discovery_name.clone(),
        };
        accepted.clusters.insert(
            cluster.clone(),
            Arc::new(local_cluster(cluster, mapping.protocol, service)),
        );
    }
    accepted
}

/// Every service behind the port may be meant.
fn identity(services: &[&Service], mesh: &MeshConfig, tokens: Tokens) -> Identity {
    let target = |service: &&Service| {
        let (namespace, task) = (&mesh.namespace, &mesh.task_id);
        hop::target(namespace, &service.discovery_name, task)
    };
    Identity {
        targets: services.iter().map(target).collect(),
        tokens,
    }
}

/// What holds until the control server says what is declared, and what that cannot lower. Services that share a port say the same of it.
fn inbound(service: &Service, mesh: &MeshConfig) -> Inbound {
    Inbound {
        name: format!("{}/{}", mesh.namespace, service.discovery_name),
        tls: service.policy.tls,
        authorization: service.policy.authorization.clone(),
    }
}

/// Services that share a port share its ingress: the one with the longest patience decides, and zero (off) is the longest.
fn longest(timeouts: impl Iterator<Item = Option<Duration>> + Clone) -> Option<Duration> {
    if timeouts
        .clone()
        .any(|timeout| timeout == Some(Duration::ZERO))
    {
        return Some(Duration::ZERO);
    }
    timeouts.flatten().max()
}

fn local_routes(
    name: &str,
    cluster: &str,
    per_request: Option<Duration>,
    idle: Option<Duration>,
) -> RouteConfig {
    let route = Route {
        hosts: Vec::new(),
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        cluster: cluster.to_owned(),
        per_request_timeout: per_request,
        idle_timeout: idle,
        retry: RetryPolicy::off(),
    };
    RouteConfig {
        name: name.to_owned(),
        routes: vec![route],
    }
}

fn local_endpoint(cluster: &str, application: SocketAddr, mesh: &MeshConfig) -> EndpointSet {
    let endpoint = Endpoint {
        zone: mesh.zone.clone(),
        instance: mesh.task_id.clone(),
        ..Endpoint::new(Address::Ip(application))
    };
    EndpointSet {
        cluster: cluster.to_owned(),
        endpoints: vec![endpoint],
    }
}

fn local_cluster(name: String, protocol: Protocol, service: ServiceRef) -> Cluster {
    Cluster {
        lb: LbPolicy::RoundRobin,
        outlier_detection: None,
        service: Some(service),
        ..Cluster::new(name, protocol)
    }
}
