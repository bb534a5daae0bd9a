//! From Envoy's v3 protos to the checked model: every problem of a resource is found, each with its field and the reason.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{self, Any, UInt32Value, value::Kind};
use prost::Message;

use crate::decode_cluster::{cluster, load_assignment};
use crate::decode_identity::{inbound, secret};
use crate::decode_listener::{listener, route_config};
use crate::encode::METADATA;
use crate::model::{EndpointSet, Metadata, Protocol};
use crate::resource::{Rejection, Resource, ResourceType};
use crate::transport::NodeInfo;

/// What one `Any` held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The resource itself.
    pub resource: Resource,
    /// The endpoints that a `STRICT_DNS` cluster carries.
    pub endpoints: Option<EndpointSet>,
}

/// Decodes the resource that was delivered as `name`; the error has every problem found.
pub fn decode(name: &str, any: &Any) -> Result<Decoded, Vec<Rejection>> {
    let mut problems = Problems {
        type_url: any.type_url.clone(),
        name: name.to_owned(),
        found: Vec::new(),
    };
    let decoded = match ResourceType::from_type_url(&any.type_url) {
        Some(kind) => by_type(kind, any, &mut problems),
        None => {
            problems.add("type_url", "is not a type that was asked for");
            None
        }
    };
    if let Some(decoded) = &decoded
        && decoded.resource.name() != name
    {
        let reason = format!(
            "{:?} is not the name it came under",
            decoded.resource.name()
        );
        problems.add("name", reason);
    }
    match decoded {
        Some(decoded) if problems.found.is_empty() => Ok(decoded),
        _ => Err(problems.found),
    }
}

fn by_type(kind: ResourceType, any: &Any, problems: &mut Problems) -> Option<Decoded> {
    let plain = |resource| Decoded {
        resource,
        endpoints: None,
    };
    match kind {
        ResourceType::Cluster => {
            let (value, endpoints) = cluster(parse(any, "cluster", problems)?, problems)?;
            Some(Decoded {
                resource: Resource::Cluster(value),
                endpoints,
            })
        }
        ResourceType::Endpoints => {
            let message = parse(any, "cluster_load_assignment", problems)?;
            load_assignment(message, false, problems).map(|set| plain(Resource::Endpoints(set)))
        }
        ResourceType::Secret => {
            let message = parse(any, "secret", problems)?;
            secret(message, problems).map(|bundle| plain(Resource::Secret(bundle)))
        }
        ResourceType::Routes => {
            let message = parse(any, "route_configuration", problems)?;
            route_config(message, problems).map(|routes| plain(Resource::Routes(routes)))
        }
        ResourceType::Inbound => {
            let message = parse(any, "typed_extension_config", problems)?;
            inbound(message, problems).map(|value| plain(Resource::Inbound(value)))
        }
        ResourceType::Listener => {
            let message = parse(any, "listener", problems)?;
            listener(message, problems).map(|value| plain(Resource::Listener(value)))
        }
    }
}

/// What is wrong with one resource, collected.
pub(crate) struct Problems {
    type_url: String,
    name: String,
    found: Vec<Rejection>,
}

impl Problems {
    pub(crate) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.found.push(Rejection {
            type_url: self.type_url.clone(),
            name: self.name.clone(),
            field: field.into(),
            reason: reason.into(),
        });
    }

    /// The value, or a problem noted.
    pub(crate) fn need<T>(&mut self, value: Option<T>, field: &str) -> Option<T> {
        if value.is_none() {
            self.add(field, "is missing");
        }
        value
    }

    pub(crate) fn need_text(&mut self, value: String, field: &str) -> String {
        if value.is_empty() {
            self.add(field, "is empty");
        }
        value
    }
}

pub(crate) fn parse<T: Message + Default>(
    any: &Any,
    field: &str,
    problems: &mut Problems,
) -> Option<T> {
    T::decode(any.value.as_slice())
        .map_err(|error| problems.add(field, format!("does not parse: {error}")))
        .ok()
}

pub(crate) fn duration(
    value: Option<protobuf::Duration>,
    field: &str,
    problems: &mut Problems,
) -> Option<Duration> {
    let value = value?;
    let seconds = u64::try_from(value.seconds);
    match (seconds, u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Some(Duration::new(seconds, nanos)),
        _ => {
            let reason = format!(
                "{} s {} ns is not a duration of zero or more",
                value.seconds, value.nanos
            );
            problems.add(field, reason);
            None
        }
    }
}

/// A number that has a default in the model.
pub(crate) fn number(value: Option<UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

/// Host text and port of a TCP socket address.
pub(crate) fn host_port(
    address: Option<core::Address>,
    field: &str,
    problems: &mut Problems,
) -> Option<(String, u16)> {
    use core::socket_address::PortSpecifier;
    let Some(core::address::Address::SocketAddress(socket)) =
        address.and_then(|address| address.address)
    else {
        problems.add(format!("{field}.socket_address"), "is missing");
        return None;
    };
    let port = match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok().filter(|port| *port > 0),
        Some(PortSpecifier::NamedPort(_)) | None => None,
    };
    if port.is_none() {
        let reason = "is not a number from 1 to 65535";
        problems.add(format!("{field}.socket_address.port_value"), reason);
    }
    Some((socket.address, port?))
}

pub(crate) fn ip_port(
    address: Option<core::Address>,
    field: &str,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    let (host, port) = host_port(address, field, problems)?;
    match host.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, port)),
        Err(_) => {
            let reason = format!("{host:?} is not an IP address");
            problems.add(format!("{field}.socket_address.address"), reason);
            None
        }
    }
}

/// Our metadata; values that are not strings are left out.
pub(crate) fn metadata(value: Option<core::Metadata>) -> Metadata {
    let ours = value.and_then(|mut metadata| metadata.filter_metadata.remove(METADATA));
    ours.map(strings).unwrap_or_default()
}

fn strings(value: protobuf::Struct) -> Metadata {
    let text = |(key, value): (String, protobuf::Value)| match value.kind {
        Some(Kind::StringValue(text)) => Some((key, text)),
        _ => None,
    };
    value.fields.into_iter().filter_map(text).collect()
}

/// A metadata value of some type.
pub(crate) fn parsed<T: std::str::FromStr>(
    metadata: &Metadata,
    key: &str,
    problems: &mut Problems,
) -> Option<T> {
    let text = metadata.get(key)?;
    let value = text.parse().ok();
    if value.is_none() {
        let field = format!("metadata.{METADATA}.{key}");
        problems.add(field, format!("{text:?} cannot be read"));
    }
    value
}

pub(crate) fn protocol(metadata: &Metadata, problems: &mut Problems) -> Option<Protocol> {
    let text = metadata.get("protocol")?;
    text.parse()
        .map_err(|reason: String| problems.add(format!("metadata.{METADATA}.protocol"), reason))
        .ok()
}

/// Comma-separated names; none when the key is missing.
pub(crate) fn list(metadata: &Metadata, key: &str) -> Vec<String> {
    let split = |text: &String| text.split(',').map(str::to_owned).collect();
    metadata.get(key).map(split).unwrap_or_default()
}

/// Who a subscriber says it is.
pub(crate) fn node(node: core::Node) -> NodeInfo {
    let mut metadata = node.metadata.map(strings).unwrap_or_default();
    let mut take = |key| metadata.remove(key).unwrap_or_default();
    NodeInfo {
        namespace: take("namespace"),
        incarnation: take("incarnation"),
        secret: take("secret"),
        id: node.id,
        service: node.cluster,
        zone: node
            .locality
            .map(|locality| locality.zone)
            .unwrap_or_default(),
        identity: None,
        certified: None,
    }
}

#[cfg(test)]
mod tests;
