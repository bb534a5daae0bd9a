//! From the model to Envoy's v3 protos; what Envoy has no field for goes into the metadata named `outrigger`.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::{self, Any, Struct, UInt32Value, Value};
use envoy_types::util::pack_any;

use crate::encode_endpoints::{load_assignment, socket_address};
use crate::encode_identity;
use crate::encode_policy;
use crate::model::{
    Cluster, DEFAULT_CONNECT_TIMEOUT, Direction, Discovery, EndpointSet, LbPolicy, Listener,
    Metadata, PathMatch, Protocol, Route, RouteConfig, Target,
};
use crate::resource::Resource;

pub use crate::encode_identity::{CERT_AGENT, IDENTITY_SECRET};

/// The key of our metadata in `filter_metadata`.
pub(crate) const METADATA: &str = "outrigger";
/// The key of a cluster's HTTP options in `typed_extension_protocol_options`.
pub(crate) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// One resource as it goes on the wire.
pub fn encode(resource: &Resource) -> Any {
    match resource {
        Resource::Cluster(value) => pack_any(cluster(value)),
        Resource::Endpoints(value) => pack_any(load_assignment(value)),
        Resource::Secret(value) => pack_any(encode_identity::secret(value)),
        Resource::Routes(value) => pack_any(route_config(value)),
        Resource::Inbound(value) => pack_any(encode_identity::inbound(value)),
        Resource::Listener(value) => pack_any(listener(value)),
    }
}

/// A `STRICT_DNS` cluster, which carries its endpoints.
pub fn encode_with(value: &Cluster, endpoints: &EndpointSet) -> Any {
    pack_any(cds::Cluster {
        load_assignment: Some(load_assignment(endpoints)),
        ..cluster(value)
    })
}

fn cluster(value: &Cluster) -> cds::Cluster {
    let mut metadata = Metadata::from([("protocol".into(), value.protocol.to_string())]);
    if let Some(service) = &value.service {
        metadata.insert("namespace".into(), service.namespace.clone());
        metadata.insert("service".into(), service.name.clone());
    }
    if value.connect_timeout.is_none() {
        metadata.insert("connect_timeout".into(), "default".into());
    }
    encode_policy::cluster_metadata(value, &mut metadata);
    let eds = value.discovery == Discovery::Eds;
    let kind = if eds {
        cds::cluster::DiscoveryType::Eds
    } else {
        cds::cluster::DiscoveryType::StrictDns
    };
    let lb_policy = match value.lb {
        LbPolicy::LeastRequest => cds::cluster::LbPolicy::LeastRequest,
        LbPolicy::RoundRobin => cds::cluster::LbPolicy::RoundRobin,
        LbPolicy::RingHash => cds::cluster::LbPolicy::RingHash,
    };
    let detection = value.outlier_detection.as_ref();
    let checks = value.health_check.iter();
    let checks = checks.map(|check| encode_policy::health_check(check, value.protocol));
    cds::Cluster {
        name: value.name.clone(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(kind.into())),
        eds_cluster_config: eds.then(|| cds::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        lb_policy: lb_policy.into(),
        // Envoy's own default is 5 s, so ours is written out.
        connect_timeout: Some(duration(
            value.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        )),
        typed_extension_protocol_options: http_options(value),
        outlier_detection: detection.map(encode_policy::outlier_detection),
        health_checks: checks.collect(),
        circuit_breakers: Some(encode_policy::circuit_breakers(&value.circuit_breakers)),
        common_lb_config: Some(encode_policy::common_lb_config(value)),
        lb_config: encode_policy::lb_config(value),
        transport_socket_matches: encode_identity::transport_sockets(value),
        metadata: envoy_metadata(metadata),
        ..Default::default()
    }
}

fn http_options(value: &Cluster) -> HashMap<String, Any> {
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    if value.protocol == Protocol::Tcp && value.idle_timeout.is_none() {
        return HashMap::new();
    }
    let protocol = match value.protocol {
        Protocol::Http2 | Protocol::Grpc => {
            ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default())
        }
        Protocol::Auto | Protocol::Http | Protocol::Tcp => {
            ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())
        }
    };
    let options = upstream::HttpProtocolOptions {
        common_http_protocol_options: value.idle_timeout.map(idle),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(protocol),
            },
        )),
        ..Default::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), pack_any(options))])
}

fn route_config(value: &RouteConfig) -> rds::RouteConfiguration {
    // One virtual host for all keeps the order of routes: Envoy would otherwise prefer the most specific host.
    rds::RouteConfiguration {
        name: value.name.clone(),
        virtual_hosts: vec![rds::VirtualHost {
            name: value.name.clone(),
            domains: vec!["*".to_owned()],
            routes: value.routes.iter().map(route).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn route(value: &Route) -> rds::Route {
    use rds::route_match::PathSpecifier;
    let path = match &value.path {
        PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.clone()),
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
    };
    let mut headers: Vec<_> = value.headers.iter().map(header_match).collect();
    let mut metadata = Metadata::new();
    if !value.hosts.is_empty() {
        headers.push(authority_match(&value.hosts));
        metadata.insert("hosts".into(), value.hosts.join(","));
    }
    encode_policy::retry_metadata(&value.retry, &mut metadata);
    let action = rds::RouteAction {
        cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster(
            value.cluster.clone(),
        )),
        timeout: value.per_request_timeout.map(duration),
        idle_timeout: value.idle_timeout.map(duration),
        retry_policy: Some(encode_policy::retry(&value.retry)),
        ..Default::default()
    };
    rds::Route {
        r#match: Some(rds::RouteMatch {
            path_specifier: Some(path),
            headers,
            ..Default::default()
        }),
        metadata: envoy_metadata(metadata),
        action: Some(rds::route::Action::Route(action)),
        ..Default::default()
    }
}

fn header_match(value: &crate::model::HeaderMatch) -> rds::HeaderMatcher {
    use matcher::string_matcher::MatchPattern;
    use rds::header_matcher::HeaderMatchSpecifier;
    let specifier = match &value.value {
        Some(exact) => HeaderMatchSpecifier::StringMatch(matcher::StringMatcher {
            match_pattern: Some(MatchPattern::Exact(exact.clone())),
            ..Default::default()
        }),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    rds::HeaderMatcher {
        name: value.name.clone(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// For Envoy only; our decoder reads the hosts from the metadata.
fn authority_match(hosts: &[String]) -> rds::HeaderMatcher {
    use matcher::string_matcher::MatchPattern;
    use rds::header_matcher::HeaderMatchSpecifier;
    let pattern = |host: &String| match host.strip_prefix('*') {
        Some(suffix) => format!("[^.]+{}", suffix.replace('.', "\\.")),
        None => host.replace('.', "\\."),
    };
    let any: Vec<String> = hosts.iter().map(pattern).collect();
    let regex = matcher::RegexMatcher {
        regex: format!("(?i)({})(:[0-9]+)?", any.join("|")),
        ..Default::default()
    };
    rds::HeaderMatcher {
        name: ":authority".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher::StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(regex)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn listener(value: &Listener) -> lds::Listener {
    let mut metadata = Metadata::from([("protocol".into(), value.protocol.to_string())]);
    if !value.names.is_empty() {
        metadata.insert("names".into(), value.names.join(","));
    }
    let numbers = [
        ("vip_offset", value.vip_offset.map(u32::from)),
        ("max_connections", value.max_connections),
        ("max_requests", value.max_requests),
        ("max_header_bytes", value.max_header_bytes),
        ("max_uri_bytes", value.max_uri_bytes),
    ];
    for (key, number) in numbers {
        metadata.extend(number.map(|number| (key.to_owned(), number.to_string())));
    }
    let body_timeout = value.body_timeout.map(|time| time.as_nanos().to_string());
    metadata.extend(body_timeout.map(|nanos| ("body_timeout_ns".to_owned(), nanos)));
    let direction = match value.direction {
        Direction::Egress => core::TrafficDirection::Outbound,
        Direction::Ingress => core::TrafficDirection::Inbound,
    };
    let (name, config) = match &value.target {
        Target::Routes(routes) => (
            "envoy.filters.network.http_connection_manager",
            pack_any(connection_manager(value, routes)),
        ),
        Target::Cluster(cluster) => {
            let header_timeout = value.header_timeout.map(|time| time.as_nanos().to_string());
            metadata.extend(header_timeout.map(|nanos| ("header_timeout_ns".to_owned(), nanos)));
            let proxy = tcp::TcpProxy {
                stat_prefix: value.name.clone(),
                idle_timeout: value.idle_timeout.map(duration),
                cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.clone())),
                ..Default::default()
            };
            ("envoy.filters.network.tcp_proxy", pack_any(proxy))
        }
    };
    let filter = lds::Filter {
        name: name.to_owned(),
        config_type: Some(lds::filter::ConfigType::TypedConfig(config)),
    };
    lds::Listener {
        name: value.name.clone(),
        address: Some(socket_address(
            &value.address.ip().to_string(),
            value.address.port(),
        )),
        traffic_direction: direction.into(),
        filter_chains: vec![lds::FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        metadata: envoy_metadata(metadata),
        ..Default::default()
    }
}

fn connection_manager(value: &Listener, routes: &str) -> hcm::HttpConnectionManager {
    let router = hcm::HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(pack_any(
            Router::default(),
        ))),
        ..Default::default()
    };
    let websocket = hcm::http_connection_manager::UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        ..Default::default()
    };
    hcm::HttpConnectionManager {
        stat_prefix: value.name.clone(),
        common_http_protocol_options: value.idle_timeout.map(idle),
        request_headers_timeout: value.header_timeout.map(duration),
        http_filters: vec![router],
        upgrade_configs: vec![websocket],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(
            hcm::Rds {
                config_source: Some(ads()),
                route_config_name: routes.to_owned(),
            },
        )),
        ..Default::default()
    }
}

fn idle(value: Duration) -> core::HttpProtocolOptions {
    core::HttpProtocolOptions {
        idle_timeout: Some(duration(value)),
        ..Default::default()
    }
}

pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

pub(crate) fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

pub(crate) fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).expect("there are fewer than 2^31 ns in 1 s"),
    }
}

/// String values as a protobuf `Struct`.
pub(crate) fn string_struct(values: Metadata) -> Struct {
    let value = |text| Value {
        kind: Some(protobuf::value::Kind::StringValue(text)),
    };
    let fields = values.into_iter().map(|(key, text)| (key, value(text)));
    Struct {
        fields: fields.collect(),
    }
}

pub(crate) fn envoy_metadata(values: Metadata) -> Option<core::Metadata> {
    (!values.is_empty()).then(|| core::Metadata {
        filter_metadata: HashMap::from([(METADATA.to_owned(), string_struct(values))]),
        ..Default::default()
    })
}
