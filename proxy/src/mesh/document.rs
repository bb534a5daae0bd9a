//! The ECS-shaped service-connect document, checked as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outrigger_xds::identity::TlsMode;
use outrigger_xds::model::{Protocol, ServicePolicy};
use serde_json::Value;

pub use self::ingress::{bind_address, ingress, ingress_ports};
use crate::config::fields::{Fields, policy_errors};
use crate::config::identity::SOURCES;
use crate::config::{ConfigError, ConfigErrors};

mod ingress;

/// The longest value of an attribute (Cloud Map's quota); a policy travels in one.
const MAX_ATTRIBUTE: usize = 1024;

/// What this task declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConnect {
    /// ECS cluster, a metrics label; empty when not given.
    pub cluster_name: String,
    /// ECS service, a metrics label; empty when not given.
    pub service_name: String,
    /// Namespace, when the document names one.
    pub namespace: Option<String>,
    /// Ports of the task definition.
    pub port_mappings: Vec<PortMapping>,
    /// Declared services; empty for a client or when `enabled` is false.
    pub services: Vec<Service>,
}

/// One port of the task definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// What `portName` refers to.
    pub name: String,
    /// Where the application listens.
    pub container_port: u16,
    /// `appProtocol`; unset is [`Protocol::Tcp`].
    pub protocol: Protocol,
}

/// One entry of `services`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The port mapping it is served from.
    pub port_name: String,
    /// Cloud Map service name.
    pub discovery_name: String,
    /// What clients dial.
    pub alias: Option<ClientAlias>,
    /// Where the ingress listens, when fixed.
    pub ingress_port_override: Option<u16>,
    /// `idleTimeoutSeconds`; zero is off.
    pub idle_timeout: Option<Duration>,
    /// `perRequestTimeoutSeconds`; zero is off.
    pub per_request_timeout: Option<Duration>,
    /// `policy`, the one field that ECS does not have; its callers' sidecars go by it.
    pub policy: ServicePolicy,
}

/// What clients dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAlias {
    /// Port of the alias in every task of the namespace.
    pub port: u16,
    /// Name; `None` is `discoveryName.namespace`.
    pub dns_name: Option<String>,
}

impl ServiceConnect {
    /// The port mapping of a declared service.
    pub fn port_mapping(&self, port_name: &str) -> Option<&PortMapping> {
        self.port_mappings
            .iter()
            .find(|mapping| mapping.name == port_name)
    }

    /// Ports the application listens on: the sidecar binds none of them.
    pub fn container_ports(&self) -> BTreeSet<u16> {
        self.port_mappings
            .iter()
            .map(|mapping| mapping.container_port)
            .collect()
    }

    /// Port mappings that a service is served from, each once, in the order of the services.
    pub fn served(&self) -> Vec<(&PortMapping, Vec<&Service>)> {
        let mut served: Vec<(&PortMapping, Vec<&Service>)> = Vec::new();
        for service in &self.services {
            let Some(mapping) = self.port_mapping(&service.port_name) else {
                continue;
            };
            match served
                .iter_mut()
                .find(|(known, _)| known.name == mapping.name)
            {
                Some((_, services)) => services.push(service),
                None => served.push((mapping, vec![service])),
            }
        }
        served
    }
}

/// Errors for services whose policy asks for what a sidecar without an identity cannot do.
pub(crate) fn needs_no_identity(document: Option<&ServiceConnect>, errors: &mut Vec<ConfigError>) {
    let services = document.into_iter().flat_map(|document| &document.services);
    for (index, service) in services.enumerate() {
        let mode = service.policy.tls;
        if mode != TlsMode::Disable {
            let field = format!("serviceConnectConfiguration.services[{index}].policy.tls");
            let reason = format!("needs an identity of this task: give the sidecar {SOURCES}");
            errors.push(ConfigError::new(field, mode.as_str(), reason));
        }
    }
}

/// Reads the document from JSON text (it starts with `{`) or from a file.
pub fn load(source: &str) -> Result<ServiceConnect, ConfigErrors> {
    if source.trim_start().starts_with('{') {
        return parse(source);
    }
    match std::fs::read_to_string(source) {
        Ok(text) => parse(&text),
        Err(error) => Err(ConfigErrors(vec![ConfigError::new(
            "--service-connect",
            source,
            error.to_string(),
        )])),
    }
}

/// Checks the document and reports all errors at once.
pub fn parse(json: &str) -> Result<ServiceConnect, ConfigErrors> {
    let wrong = |reason| ConfigErrors(vec![ConfigError::new("--service-connect", "", reason)]);
    let value: Value =
        serde_json::from_str(json).map_err(|error| wrong(format!("not JSON: {error}")))?;
    if !value.is_object() {
        return Err(wrong("must be a JSON object".to_owned()));
    }
    let mut errors = Vec::new();
    let mut root = Fields::new("", value, &mut errors);
    let mut document = ServiceConnect {
        cluster_name: root.text("clusterName", &mut errors).unwrap_or_default(),
        service_name: root.text("serviceName", &mut errors).unwrap_or_default(),
        namespace: None,
        port_mappings: root
            .objects("portMappings", &mut errors)
            .into_iter()
            .filter_map(|fields| port_mapping(fields, &mut errors))
            .collect(),
        services: Vec::new(),
    };
    unique(
        "portMappings",
        "name",
        document.port_mappings.iter().map(|mapping| &mapping.name),
        &mut errors,
    );
    match root.object("serviceConnectConfiguration", &mut errors) {
        Some(fields) => configuration(fields, &mut document, &mut errors),
        None => errors.push(ConfigError::new(
            "serviceConnectConfiguration",
            "",
            "is required",
        )),
    }
    root.finish(&mut errors);
    if errors.is_empty() {
        Ok(document)
    } else {
        Err(ConfigErrors(errors))
    }
}

fn port_mapping(mut fields: Fields, errors: &mut Vec<ConfigError>) -> Option<PortMapping> {
    let name = fields.parsed("name", errors, short_name);
    if name.is_none() {
        // Unnamed mappings are legal in ECS; Service Connect cannot refer to them, but their port is still the application's.
        fields.any("name");
    }
    let container_port = fields.port("containerPort", errors);
    if container_port.is_none() {
        errors.push(ConfigError::new(
            fields.at("containerPort"),
            "",
            "is required: a port from 1 to 65535",
        ));
    }
    let protocol = fields.parsed("appProtocol", errors, |text| match text {
        "http" => Ok(Protocol::Http),
        "http2" => Ok(Protocol::Http2),
        "grpc" => Ok(Protocol::Grpc),
        _ => Err("must be http, http2 or grpc (unset is TCP)".to_owned()),
    });
    fields.port("hostPort", errors);
    fields.parsed("protocol", errors, |text| match text {
        "tcp" => Ok(()),
        _ => Err("must be tcp: Service Connect carries nothing else".to_owned()),
    });
    fields.finish(errors);
    Some(PortMapping {
        name: name.unwrap_or_default(),
        container_port: container_port?,
        protocol: protocol.unwrap_or(Protocol::Tcp),
    })
}

fn configuration(mut fields: Fields, document: &mut ServiceConnect, errors: &mut Vec<ConfigError>) {
    let enabled = fields.boolean("enabled", errors);
    if enabled.is_none() {
        errors.push(ConfigError::new(
            fields.at("enabled"),
            "",
            "is required: true or false",
        ));
    }
    document.namespace = fields.text("namespace", errors);
    let services: Vec<Service> = fields
        .objects("services", errors)
        .into_iter()
        .map(|fields| service(fields, document, errors))
        .collect();
    let path = fields.at("services");
    unique(
        &path,
        "discoveryName",
        services.iter().map(|service| &service.discovery_name),
        errors,
    );
    if services.len() > 100 {
        errors.push(ConfigError::new(
            &path,
            services.len().to_string(),
            "at most 100 services",
        ));
    }
    // The container's log driver carries the sidecar's output; these two steer it and mean nothing to the sidecar itself.
    fields.object("logConfiguration", errors);
    fields.object("accessLogConfiguration", errors);
    fields.finish(errors);
    if enabled == Some(true) {
        document.services = services;
        overrides(&path, document, errors);
        same_inbound(&path, document, errors);
    }
}

fn service(
    mut fields: Fields,
    document: &ServiceConnect,
    errors: &mut Vec<ConfigError>,
) -> Service {
    let port_name = fields.required_text("portName", errors);
    let mapping = document.port_mapping(&port_name);
    if mapping.is_none() && !port_name.is_empty() {
        let reason = "is the name of no entry of portMappings";
        errors.push(ConfigError::new(fields.at("portName"), &port_name, reason));
    }
    let discovery_name = fields
        .parsed("discoveryName", errors, short_name)
        .unwrap_or_else(|| port_name.clone());
    let mut aliases = fields.objects("clientAliases", errors);
    if aliases.len() > 1 {
        let reason = "at most 1 alias for each service";
        errors.push(ConfigError::new(
            fields.at("clientAliases"),
            aliases.len().to_string(),
            reason,
        ));
    }
    let alias = (!aliases.is_empty())
        .then(|| client_alias(aliases.remove(0), errors))
        .flatten();
    let ingress_port_override = fields.port("ingressPortOverride", errors);
    let (idle_timeout, per_request_timeout) = fields
        .object("timeout", errors)
        .map_or((None, None), |fields| timeout(fields, mapping, errors));
    let policy = policy(&mut fields, mapping, errors);
    if let Some(tls) = fields.any("tls") {
        let reason = "AWS Private CA is not used here: say policy.tls = \"permissive\" or \"strict\", and give the sidecar an identity (--join-token, --tls-dir, …)";
        errors.push(ConfigError::new(fields.at("tls"), tls.to_string(), reason));
    }
    fields.finish(errors);
    Service {
        port_name,
        discovery_name,
        alias,
        ingress_port_override,
        idle_timeout,
        per_request_timeout,
        policy,
    }
}

fn policy(
    fields: &mut Fields,
    mapping: Option<&PortMapping>,
    errors: &mut Vec<ConfigError>,
) -> ServicePolicy {
    let Some(table) = fields.any("policy") else {
        return ServicePolicy::default();
    };
    let path = fields.at("policy");
    // Without a port mapping, which is an error of its own, no protocol stands against anything.
    let protocol = mapping.map_or(Protocol::Grpc, |mapping| mapping.protocol);
    let policy = ServicePolicy::from_json(table, protocol);
    if let Ok(policy) = &policy {
        let text = policy.to_json().to_string();
        if text.len() > MAX_ATTRIBUTE {
            let reason = format!(
                "takes {} characters, and an attribute in the registry holds {MAX_ATTRIBUTE}",
                text.len()
            );
            errors.push(ConfigError::new(&path, "", reason));
        }
    }
    policy.unwrap_or_else(|wrong| {
        errors.extend(policy_errors(&path, wrong));
        ServicePolicy::default()
    })
}

fn client_alias(mut fields: Fields, errors: &mut Vec<ConfigError>) -> Option<ClientAlias> {
    let port = fields.port("port", errors);
    if port.is_none() {
        errors.push(ConfigError::new(
            fields.at("port"),
            "",
            "is required: a port from 1 to 65535",
        ));
    }
    let dns_name = fields.parsed("dnsName", errors, dns_name);
    if let Some(rules) = fields.any("testTrafficRules") {
        let reason = "test traffic is not built yet: green tasks would get production traffic";
        errors.push(ConfigError::new(
            fields.at("testTrafficRules"),
            rules.to_string(),
            reason,
        ));
    }
    fields.finish(errors);
    Some(ClientAlias {
        port: port?,
        dns_name,
    })
}

type Timeouts = (Option<Duration>, Option<Duration>);

fn timeout(
    mut fields: Fields,
    mapping: Option<&PortMapping>,
    errors: &mut Vec<ConfigError>,
) -> Timeouts {
    let most = 2_147_483_647;
    let idle = fields.number("idleTimeoutSeconds", 0..=most, errors);
    let per_request = fields.number("perRequestTimeoutSeconds", 0..=most, errors);
    if let (Some(seconds), Some(Protocol::Tcp)) =
        (per_request, mapping.map(|mapping| mapping.protocol))
    {
        let reason = "cannot be set without an appProtocol: TCP has no requests";
        errors.push(ConfigError::new(
            fields.at("perRequestTimeoutSeconds"),
            seconds.to_string(),
            reason,
        ));
    }
    fields.finish(errors);
    (
        idle.map(Duration::from_secs),
        per_request.map(Duration::from_secs),
    )
}

fn overrides(path: &str, document: &ServiceConnect, errors: &mut Vec<ConfigError>) {
    let mut owners: BTreeMap<u16, &str> = BTreeMap::new();
    let mut chosen: BTreeMap<&str, u16> = BTreeMap::new();
    for (index, service) in document.services.iter().enumerate() {
        let Some(port) = service.ingress_port_override else {
            continue;
        };
        let mut wrong = |reason: String| {
            let field = format!("{path}[{index}].ingressPortOverride");
            errors.push(ConfigError::new(field, port.to_string(), reason));
        };
        if document.container_ports().contains(&port) {
            wrong("is a containerPort: the application listens there".to_owned());
        }
        if let Some(owner) = owners
            .insert(port, &service.port_name)
            .filter(|owner| *owner != service.port_name)
        {
            wrong(format!("is already the ingress port of {owner:?}"));
        }
        if chosen
            .insert(&service.port_name, port)
            .is_some_and(|other| other != port)
        {
            wrong("another service of the same portName has a different one".to_owned());
        }
    }
}

/// A plaintext caller does not say which of the services behind a port it means, so what holds for one must hold for all.
fn same_inbound(path: &str, document: &ServiceConnect, errors: &mut Vec<ConfigError>) {
    let mut first: BTreeMap<&str, &Service> = BTreeMap::new();
    for (index, service) in document.services.iter().enumerate() {
        let first = *first.entry(&service.port_name).or_insert(service);
        let mut wrong = |field: &str, said: String| {
            let (name, other) = (&service.discovery_name, &first.discovery_name);
            let port = &service.port_name;
            errors.push(ConfigError::new(
                format!("{path}[{index}].policy.{field}"),
                said,
                format!("{name:?} and {other:?} share the port {port:?} and must say the same"),
            ));
        };
        if service.policy.tls != first.policy.tls {
            wrong("tls", service.policy.tls.to_string());
        }
        if service.policy.authorization != first.policy.authorization {
            let said = service.policy.to_json()["authorization"].to_string();
            wrong("authorization", said);
        }
    }
}

fn unique<'a>(
    path: &str,
    field: &str,
    names: impl Iterator<Item = &'a String>,
    errors: &mut Vec<ConfigError>,
) {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if !name.is_empty() && !seen.insert(name) {
            errors.push(ConfigError::new(
                format!("{path}[{index}].{field}"),
                name,
                "is used twice",
            ));
        }
    }
}

fn short_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if text.is_empty() || text.len() > 64 || text.starts_with('-') || !text.chars().all(allowed) {
        return Err("must be 1 to 64 characters a-z 0-9 _ - and not begin with -".to_owned());
    }
    Ok(text.to_owned())
}

fn dns_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
    if text.is_empty() || text.len() > 127 || !text.chars().all(allowed) {
        return Err("must be 1 to 127 characters a-z 0-9 _ . -".to_owned());
    }
    if text == "localhost" || text.ends_with(".localhost") {
        return Err("localhost is always this machine".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
