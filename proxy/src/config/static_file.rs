//! The static file: the same model as the xDS decoder's, from TOML, without a control server.

mod hop;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::identity::{Authorization, TlsMode};
use outrigger_xds::model::{
    Address, Cluster, Direction, Discovery, Endpoint, EndpointSet, Inbound, Listener, MAX_PRIORITY,
    MAX_RETRIES, PathMatch, Protocol, RetryPolicy, Route, RouteConfig, ServicePolicy, Target,
};
use serde_json::Value;

use self::hop::Hop;
use super::accepted::Accepted;
use super::fields::{Fields, policy_errors};
use super::{ConfigError, ConfigErrors};

/// Reads and checks the file; reports all errors at once.
///
/// What is kept is copied by a thread of its own: glibc gives that thread a heap of its own, in which nothing lies between the
/// copies, and everything that reading took is free again as one piece.
pub fn load(path: &Path) -> Result<Accepted, ConfigErrors> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let read = parse_in(&text, path.parent().unwrap_or(Path::new("")))?;
            let copied = std::thread::spawn(move || read.copied()).join();
            Ok(copied.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        }
        Err(error) => {
            let error = ConfigError::new("--static", path.display().to_string(), error.to_string());
            Err(ConfigErrors(vec![error]))
        }
    }
}

/// What a route takes from its cluster: the file has no routes of its own.
struct Policy {
    per_request_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    retry: RetryPolicy,
}

/// Checks the text of a static file in the working directory.
pub fn parse(toml: &str) -> Result<Accepted, ConfigErrors> {
    parse_in(toml, Path::new(""))
}

/// Checks the text of a static file in `folder`.
fn parse_in(toml: &str, folder: &Path) -> Result<Accepted, ConfigErrors> {
    let value: Value = toml::from_str(toml).map_err(|error| {
        ConfigErrors(vec![ConfigError::new(
            "--static",
            "",
            format!("not TOML: {error}"),
        )])
    })?;
    let mut errors = Vec::new();
    let mut root = Fields::new("", value, &mut errors);
    let mut accepted = Accepted::default();
    let mut policies = BTreeMap::new();
    for fields in root.objects("cluster", &mut errors) {
        cluster(fields, folder, &mut accepted, &mut policies, &mut errors);
    }
    for fields in root.objects("listener", &mut errors) {
        listener(fields, folder, &mut accepted, &policies, &mut errors);
    }
    root.finish(&mut errors);
    if errors.is_empty() {
        Ok(accepted)
    } else {
        Err(ConfigErrors(errors))
    }
}

fn cluster(
    mut fields: Fields,
    folder: &Path,
    accepted: &mut Accepted,
    policies: &mut BTreeMap<String, Policy>,
    errors: &mut Vec<ConfigError>,
) {
    let name = fields.required_text("name", errors);
    let protocol = fields.parsed("protocol", errors, |text| match text.parse()? {
        Protocol::Auto => {
            Err("must be http, http2, grpc or tcp: an endpoint cannot be guessed".to_owned())
        }
        protocol => Ok(protocol),
    });
    let (endpoints, hops): (Vec<Endpoint>, Vec<Option<Hop>>) = fields
        .objects("endpoints", errors)
        .into_iter()
        .filter_map(|fields| endpoint(fields, errors))
        .unzip();
    let service = hop::service(hops.iter().flatten(), &fields.at("endpoints"), errors);
    let protocol = protocol.unwrap_or(Protocol::Http);
    // Before the service's own `tls`, which is a mode and no table.
    let tls = tls::cluster(&mut fields, folder, errors);
    let said = service_policy(&mut fields, protocol, errors);
    let policy = Policy {
        per_request_timeout: fields.duration("per_request_timeout", errors),
        idle_timeout: fields.duration("idle_timeout", errors),
        retry: said.retry.clone(),
    };
    let path = fields.at("name");
    fields.finish(errors);
    if accepted.clusters.contains_key(&name) {
        errors.push(ConfigError::new(
            path,
            name,
            "is the name of another cluster, too",
        ));
        return;
    }
    let named = endpoints
        .iter()
        .any(|endpoint| matches!(endpoint.address, Address::Host { .. }));
    let mut cluster = Cluster {
        discovery: if named {
            Discovery::StrictDns
        } else {
            Discovery::Eds
        },
        idle_timeout: policy.idle_timeout,
        service,
        ..Cluster::new(name.clone(), protocol)
    };
    said.apply(&mut cluster);
    let mut set = EndpointSet {
        cluster: name.clone(),
        endpoints,
    };
    for endpoint in &mut set.endpoints {
        endpoint.tls = tls.is_some();
    }
    outrigger_xds::resource::sort_endpoints(&mut set);
    if let Some(tls) = tls {
        accepted.tls.clusters.insert(name.clone(), tls);
    }
    policies.insert(name.clone(), policy);
    accepted.endpoints.insert(name.clone(), Arc::new(set));
    accepted.clusters.insert(name, Arc::new(cluster));
}

/// The settings that every way in has, and `retries` and `retry_non_idempotent`, which only this file has outside of `retry`.
fn service_policy(
    fields: &mut Fields,
    protocol: Protocol,
    errors: &mut Vec<ConfigError>,
) -> ServicePolicy {
    let mut table = ServicePolicy::FIELDS.to_vec();
    // Who may call is said by the listener that is called.
    table.retain(|field| !["tls", "authorization"].contains(field));
    let table = fields.take(&table);
    for (short, long) in [
        ("retries", "num_retries"),
        ("retry_non_idempotent", "retry_non_idempotent"),
    ] {
        if fields.has(short) && table.pointer(&format!("/retry/{long}")).is_some() {
            let reason = format!("is said by retry.{long}, too");
            errors.push(ConfigError::new(fields.at(short), "", reason));
        }
    }
    let most = u64::from(MAX_RETRIES);
    let retries = fields.number("retries", 0..=most, errors);
    let non_idempotent = fields.boolean("retry_non_idempotent", errors);
    let mut policy = ServicePolicy::from_json(table, protocol).unwrap_or_else(|wrong| {
        errors.extend(policy_errors(fields.path(), wrong));
        ServicePolicy::default()
    });
    if let Some(retries) = retries.and_then(|count| u32::try_from(count).ok()) {
        policy.retry.num_retries = retries;
    }
    if let Some(non_idempotent) = non_idempotent {
        policy.retry.retry_non_idempotent = non_idempotent;
    }
    policy
}

fn endpoint(mut fields: Fields, errors: &mut Vec<ConfigError>) -> Option<(Endpoint, Option<Hop>)> {
    let missing = fields.required_text("address", errors);
    let address =
        (!missing.is_empty())
            .then(|| address(&missing))
            .and_then(|parsed| match parsed {
                Ok(address) => Some(address),
                Err(reason) => {
                    errors.push(ConfigError::new(fields.at("address"), &missing, reason));
                    None
                }
            });
    let zone = fields.text("zone", errors).unwrap_or_default();
    let weight = fields.count("weight", 0, errors).unwrap_or(1);
    let priority = fields.number("priority", 0..=MAX_PRIORITY.into(), errors);
    let hop = Hop::read(&mut fields, errors);
    fields.finish(errors);
    let endpoint = Endpoint {
        zone,
        weight,
        priority: priority
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(0),
        instance: hop
            .as_ref()
            .map_or_else(String::new, |hop| hop.instance.clone()),
        sidecar: hop.is_some(),
        hop: hop.as_ref().map(|hop| hop.tokens),
        ..Endpoint::new(address?)
    };
    Some((endpoint, hop))
}

fn address(text: &str) -> Result<Address, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err("port 0 cannot be dialled".to_owned())
        } else {
            Ok(Address::Ip(address))
        };
    }
    let wrong = || "must be an address or a host name with a port, like 127.0.0.2:8080".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(wrong)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(wrong());
    }
    Ok(Address::Host {
        host: host.to_ascii_lowercase(),
        port,
    })
}

fn listener(
    mut fields: Fields,
    folder: &Path,
    accepted: &mut Accepted,
    policies: &BTreeMap<String, Policy>,
    errors: &mut Vec<ConfigError>,
) {
    let name = fields.required_text("name", errors);
    let direction = fields.parsed("direction", errors, |text| match text {
        "egress" => Ok(Direction::Egress),
        "ingress" => Ok(Direction::Ingress),
        _ => Err("must be egress or ingress".to_owned()),
    });
    let given = fields.required_text("address", errors);
    let address = given.parse::<SocketAddr>().ok();
    if address.is_none() && !given.is_empty() {
        let reason = "must be an address with port, like 127.255.0.1:80";
        errors.push(ConfigError::new(fields.at("address"), &given, reason));
    }
    let protocol = fields
        .parsed("protocol", errors, str::parse)
        .unwrap_or(Protocol::Auto);
    let cluster = fields.required_text("cluster", errors);
    let policy = policies.get(&cluster);
    if policy.is_none() && !cluster.is_empty() {
        errors.push(ConfigError::new(
            fields.at("cluster"),
            &cluster,
            "is the name of no cluster",
        ));
    }
    let header_timeout = fields.duration("header_timeout", errors);
    let body_timeout = fields.duration("body_timeout", errors);
    let idle_timeout = fields.duration("idle_timeout", errors);
    let max_connections = fields.count("max_connections", 1, errors);
    let max_requests = fields.count("max_requests", 1, errors);
    let max_header_bytes = fields.count("max_header_bytes", 256, errors);
    let max_uri_bytes = fields.count("max_uri_bytes", 64, errors);
    let hop = Hop::read(&mut fields, errors);
    if hop.is_some() && protocol == Protocol::Tcp {
        let reason = "is spoken by HTTP alone, and this listener takes opaque TCP";
        errors.push(ConfigError::new(fields.at("hop"), "", reason));
    }
    let tls = tls::listener(&mut fields, folder, errors);
    let authorization = authorization(&mut fields, direction, protocol, errors);
    let path = fields.at("name");
    let at_address = fields.at("address");
    fields.finish(errors);
    if accepted.listeners.contains_key(&name) {
        errors.push(ConfigError::new(
            path,
            name,
            "is the name of another listener, too",
        ));
        return;
    }
    let (Some(address), Some(policy)) = (address, policy) else {
        return;
    };
    let same = |other: &&Arc<Listener>| address.port() != 0 && other.address == address;
    if let Some(other) = accepted.listeners.values().find(same) {
        let reason = format!("is the address of listener {:?}, too", other.name);
        errors.push(ConfigError::new(at_address, given, reason));
    }
    let target = if protocol == Protocol::Tcp {
        Target::Cluster(cluster)
    } else {
        accepted.routes.insert(
            name.clone(),
            Arc::new(routes(&name, cluster, policy, idle_timeout)),
        );
        Target::Routes(name.clone())
    };
    let direction = direction.unwrap_or(Direction::Egress);
    let inbound = authorization.map(|authorization| {
        let inbound = Inbound {
            name: name.clone(),
            tls: TlsMode::Disable,
            authorization: Some(authorization),
        };
        accepted.inbound.insert(name.clone(), Arc::new(inbound));
        name.clone()
    });
    let listener = Listener {
        inbound,
        header_timeout,
        body_timeout,
        idle_timeout: idle_timeout.or(policy.idle_timeout),
        max_connections,
        max_requests,
        max_header_bytes,
        max_uri_bytes,
        hop: hop.as_ref().map(Hop::identity),
        ..Listener::new(name.clone(), direction, address, protocol, target)
    };
    if let Some(tls) = tls {
        accepted.tls.listeners.insert(name.clone(), tls);
    }
    accepted.listeners.insert(name, Arc::new(listener));
}

/// Who may call what an ingress listener stands for.
fn authorization(
    fields: &mut Fields,
    direction: Option<Direction>,
    protocol: Protocol,
    errors: &mut Vec<ConfigError>,
) -> Option<Authorization> {
    let table = fields.take(&["authorization"]);
    let said = table.get("authorization")?.to_string();
    if direction == Some(Direction::Egress) {
        let reason = "is asked of callers, and an egress listener has the application alone";
        errors.push(ConfigError::new(fields.at("authorization"), said, reason));
    }
    // What is detected to be HTTP has requests.
    let protocol = match protocol {
        Protocol::Auto => Protocol::Http,
        protocol => protocol,
    };
    let policy = ServicePolicy::from_json(table, protocol);
    let policy = policy
        .map_err(|wrong| errors.extend(policy_errors(fields.path(), wrong)))
        .ok()?;
    policy.authorization
}

fn routes(
    name: &str,
    cluster: String,
    policy: &Policy,
    idle_timeout: Option<Duration>,
) -> RouteConfig {
    let route = Route {
        hosts: Vec::new(),
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        cluster,
        per_request_timeout: policy.per_request_timeout,
        idle_timeout: policy.idle_timeout.or(idle_timeout),
        retry: policy.retry.clone(),
    };
    RouteConfig {
        name: name.to_owned(),
        routes: vec![route],
    }
}

#[cfg(test)]
mod tests;
