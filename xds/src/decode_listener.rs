//! Listeners and routes, from Envoy's protos.

use std::cmp::Reverse;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::Any;
use prost::Name;

use crate::decode::{Problems, duration, ip_port, list, metadata, parse, parsed, protocol};
use crate::decode_policy;
use crate::model::{
    Direction, HeaderMatch, Listener, PathMatch, Protocol, Route, RouteConfig, Target,
};

pub(crate) fn listener(message: lds::Listener, problems: &mut Problems) -> Option<Listener> {
    let metadata = metadata(message.metadata);
    let address = ip_port(message.address, "address", problems);
    let name = problems.need_text(message.name, "name");
    let direction = match TrafficDirection::try_from(message.traffic_direction) {
        Ok(TrafficDirection::Inbound) => Direction::Ingress,
        _ => Direction::Egress,
    };
    let filter = terminal_filter(message.filter_chains, problems);
    let (target, header_timeout, idle_timeout) = match filter? {
        Terminal::Http(manager) => http_target(*manager, problems),
        Terminal::Tcp(proxy) => {
            let nanos = parsed(&metadata, "header_timeout_ns", problems);
            let idle = duration(proxy.idle_timeout, "tcp_proxy.idle_timeout", problems);
            let cluster = match proxy.cluster_specifier {
                Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster)) => Some(cluster),
                _ => None,
            };
            let target = problems.need(cluster, "tcp_proxy.cluster");
            (
                target.map(Target::Cluster),
                nanos.map(Duration::from_nanos),
                idle,
            )
        }
    };
    let target = target?;
    let implied = match target {
        Target::Routes(_) => Protocol::Http,
        Target::Cluster(_) => Protocol::Tcp,
    };
    Some(Listener {
        name,
        direction,
        address: address?,
        names: list(&metadata, "names"),
        vip_offset: parsed(&metadata, "vip_offset", problems),
        protocol: protocol(&metadata, problems).unwrap_or(implied),
        target,
        header_timeout,
        body_timeout: parsed(&metadata, "body_timeout_ns", problems).map(Duration::from_nanos),
        idle_timeout,
        max_connections: parsed(&metadata, "max_connections", problems),
        max_requests: parsed(&metadata, "max_requests", problems),
        max_header_bytes: parsed(&metadata, "max_header_bytes", problems),
        max_uri_bytes: parsed(&metadata, "max_uri_bytes", problems),
        // A sidecar alone says who it is.
        hop: None,
        inbound: None,
    })
}

enum Terminal {
    Http(Box<hcm::HttpConnectionManager>),
    Tcp(Box<tcp::TcpProxy>),
}

fn terminal_filter(chains: Vec<lds::FilterChain>, problems: &mut Problems) -> Option<Terminal> {
    let chain = problems.need(chains.into_iter().next(), "filter_chains")?;
    let last = problems.need(chain.filters.into_iter().last(), "filter_chains[0].filters")?;
    let Some(lds::filter::ConfigType::TypedConfig(any)) = last.config_type else {
        problems.add("filter_chains[0].filters.typed_config", "is missing");
        return None;
    };
    let field = "filter_chains[0].filters.typed_config";
    if is_a::<hcm::HttpConnectionManager>(&any) {
        parse(&any, field, problems).map(|value| Terminal::Http(Box::new(value)))
    } else if is_a::<tcp::TcpProxy>(&any) {
        parse(&any, field, problems).map(|value| Terminal::Tcp(Box::new(value)))
    } else {
        let reason = format!(
            "{:?} is neither an HTTP connection manager nor a TCP proxy",
            any.type_url
        );
        problems.add(field, reason);
        None
    }
}

fn is_a<T: Name>(any: &Any) -> bool {
    any.type_url == T::type_url()
}

fn http_target(
    manager: hcm::HttpConnectionManager,
    problems: &mut Problems,
) -> (Option<Target>, Option<Duration>, Option<Duration>) {
    let header = duration(
        manager.request_headers_timeout,
        "request_headers_timeout",
        problems,
    );
    let idle = manager
        .common_http_protocol_options
        .and_then(|common| common.idle_timeout);
    let idle = duration(idle, "common_http_protocol_options.idle_timeout", problems);
    let routes = match manager.route_specifier {
        Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) => Some(rds.route_config_name),
        _ => None,
    };
    let routes = problems.need(routes, "http_connection_manager.rds");
    (routes.map(Target::Routes), header, idle)
}

pub(crate) fn route_config(
    message: rds::RouteConfiguration,
    problems: &mut Problems,
) -> Option<RouteConfig> {
    let mut hosts: Vec<(usize, rds::VirtualHost)> =
        message.virtual_hosts.into_iter().enumerate().collect();
    // Envoy takes the most specific host first; a list of routes has to say so by its order.
    hosts.sort_by_key(|(_, host)| Reverse(host.domains.iter().map(specificity).max()));
    let mut routes = Vec::new();
    for (i, host) in hosts {
        let domains = domains(&host.domains, i, problems);
        for (j, message) in host.routes.into_iter().enumerate() {
            let field = format!("virtual_hosts[{i}].routes[{j}]");
            routes.extend(route(message, &domains, &field, problems));
        }
    }
    Some(RouteConfig {
        name: problems.need_text(message.name, "name"),
        routes,
    })
}

fn specificity(domain: &String) -> (bool, bool, usize) {
    (domain != "*", !domain.starts_with('*'), domain.len())
}

fn domains(domains: &[String], i: usize, problems: &mut Problems) -> Vec<String> {
    if domains.iter().any(|domain| domain == "*") {
        return Vec::new();
    }
    for domain in domains {
        let rest = domain.strip_prefix("*.").unwrap_or(domain);
        if rest.contains('*') || rest.is_empty() {
            let reason = format!("{domain:?} is not a host or *.suffix");
            problems.add(format!("virtual_hosts[{i}].domains"), reason);
        }
    }
    let lower = domains.iter().map(|domain| domain.to_ascii_lowercase());
    lower.collect()
}

fn route(
    message: rds::Route,
    domains: &[String],
    field: &str,
    problems: &mut Problems,
) -> Option<Route> {
    use rds::route_match::PathSpecifier;
    let metadata = metadata(message.metadata);
    let own_hosts = list(&metadata, "hosts");
    let Some(condition) = message.r#match else {
        problems.add(format!("{field}.match"), "is missing");
        return None;
    };
    let path = match condition.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => Some(PathMatch::Prefix(prefix)),
        Some(PathSpecifier::Path(path)) => Some(PathMatch::Exact(path)),
        _ => {
            let reason = "is neither a prefix nor an exact path";
            problems.add(format!("{field}.match.path_specifier"), reason);
            None
        }
    };
    let mut headers = Vec::new();
    for matcher in condition.headers {
        // The hosts once more, for Envoy.
        if matcher.name == ":authority" && is_regex(&matcher) && !own_hosts.is_empty() {
            continue;
        }
        let field = format!("{field}.match.headers[{:?}]", matcher.name);
        headers.extend(header_match(matcher, &field, problems));
    }
    let Some(rds::route::Action::Route(action)) = message.action else {
        problems.add(
            format!("{field}.route"),
            "is missing (other actions are not known)",
        );
        return None;
    };
    let cluster = match action.cluster_specifier {
        Some(rds::route_action::ClusterSpecifier::Cluster(cluster)) => Some(cluster),
        _ => None,
    };
    let cluster = problems.need(cluster, &format!("{field}.route.cluster"));
    let timeout = duration(action.timeout, &format!("{field}.route.timeout"), problems);
    let idle_timeout = duration(
        action.idle_timeout,
        &format!("{field}.route.idle_timeout"),
        problems,
    );
    Some(Route {
        hosts: if own_hosts.is_empty() {
            domains.to_vec()
        } else {
            own_hosts
        },
        path: path?,
        headers,
        cluster: cluster?,
        per_request_timeout: timeout,
        idle_timeout,
        retry: decode_policy::retry(action.retry_policy, &metadata, field, problems),
    })
}

fn is_regex(matcher: &rds::HeaderMatcher) -> bool {
    use rds::header_matcher::HeaderMatchSpecifier;
    let Some(HeaderMatchSpecifier::StringMatch(text)) = &matcher.header_match_specifier else {
        return false;
    };
    matches!(text.match_pattern, Some(MatchPattern::SafeRegex(_)))
}

fn header_match(
    matcher: rds::HeaderMatcher,
    field: &str,
    problems: &mut Problems,
) -> Option<HeaderMatch> {
    use rds::header_matcher::HeaderMatchSpecifier;
    let value = match matcher.header_match_specifier {
        Some(HeaderMatchSpecifier::PresentMatch(true)) | None => Some(None),
        Some(HeaderMatchSpecifier::StringMatch(text)) => match text.match_pattern {
            Some(MatchPattern::Exact(exact)) if !text.ignore_case => Some(Some(exact)),
            _ => None,
        },
        _ => None,
    };
    if value.is_none() || matcher.invert_match {
        problems.add(field, "is neither an exact value nor presence");
        return None;
    }
    Some(HeaderMatch {
        name: matcher.name.to_ascii_lowercase(),
        value: value?,
    })
}
