use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::util::pack_any;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::encode::{encode, encode_with};
use crate::identity::{Access, Authorization, Rule, TlsMode};
use crate::model::*;
use crate::resource::sort_endpoints;
use crate::samples;

mod identities;
mod policies;

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9/:.-]{0,12}"
}

fn time() -> impl Strategy<Value = Option<Duration>> {
    option::of((0u64..100_000, 0u32..1_000_000_000).prop_map(|(s, ns)| Duration::new(s, ns)))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Http),
        Just(Protocol::Http2),
        Just(Protocol::Grpc),
        Just(Protocol::Tcp)
    ]
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    (any::<std::net::IpAddr>(), 1u16..).prop_map(SocketAddr::from)
}

prop_compose! {
    fn listener()(
        name in name(), address in socket(), names in vec("[a-z]{1,8}", 0..3), egress in any::<bool>(),
        vip_offset in option::of(any::<u16>()), protocol in prop_oneof![Just(Protocol::Auto), protocol()],
        to_routes in any::<bool>(), target in name(), times in (time(), time(), time()),
        limits in vec(option::of(any::<u32>()), 4),
    ) -> Listener {
        let direction = if egress { Direction::Egress } else { Direction::Ingress };
        let target = if to_routes { Target::Routes(target) } else { Target::Cluster(target) };
        let (header_timeout, body_timeout, idle_timeout) = times;
        Listener {
            name, direction, address, names, vip_offset, protocol, target, header_timeout, body_timeout, idle_timeout,
            max_connections: limits[0], max_requests: limits[1], max_header_bytes: limits[2], max_uri_bytes: limits[3], hop: None, inbound: None,
        }
    }
}

prop_compose! {
    fn route()(
        hosts in vec("(\\*\\.)?[a-z]{1,5}(\\.[a-z]{1,3})?", 0..3), exact in any::<bool>(), path in "/[a-z]{0,5}",
        headers in vec(("x-[a-z]{1,4}", option::of("[a-z]{1,4}")), 0..3), cluster in name(),
        per_request_timeout in time(), idle_timeout in time(), retry in policies::retry(),
    ) -> Route {
        let path = if exact { PathMatch::Exact(path) } else { PathMatch::Prefix(path) };
        let headers = headers.into_iter().map(|(name, value)| HeaderMatch { name, value }).collect();
        Route { hosts, path, headers, cluster, per_request_timeout, idle_timeout, retry }
    }
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let service = option::of((name(), name()));
    let id = "spiffe://[a-z]{1,5}/ns/[a-z]{1,5}/svc/[a-z]{1,5}";
    let identities = vec(id.prop_map(|id| id.parse().expect("is an id")), 0..3);
    let plain = (name(), protocol(), time(), service, identities);
    plain.prop_flat_map(|(name, protocol, idle_timeout, service, identities)| {
        policies::settings(Cluster {
            idle_timeout,
            identities,
            service: service.map(|(namespace, name)| ServiceRef { namespace, name }),
            ..Cluster::new(name, protocol)
        })
    })
}

prop_compose! {
    fn endpoint(hosts: bool)(
        ip in socket(), host in "[a-z]{1,6}\\.example", use_host in any::<bool>(), zone in "[a-c]?", weight in 0u32..5,
        health in 0..3, instance in "[a-z]{0,4}", sidecar in any::<bool>(), hop in option::of(any::<u8>()),
        priority in prop_oneof![Just(0), 0..=MAX_PRIORITY], tls in any::<bool>(),
    ) -> Endpoint {
        let address = if hosts && use_host { Address::Host { host, port: ip.port() } } else { Address::Ip(ip) };
        let health = [EndpointHealth::Healthy, EndpointHealth::Unhealthy, EndpointHealth::Draining][health as usize];
        let hop = hop.map(crate::samples::tokens);
        Endpoint { zone, weight, priority, health, instance, sidecar, hop, tls, ..Endpoint::new(address) }
    }
}

fn endpoint_set(hosts: bool) -> impl Strategy<Value = EndpointSet> {
    (name(), vec(endpoint(hosts), 0..6)).prop_map(|(cluster, endpoints)| {
        let mut set = EndpointSet { cluster, endpoints };
        sort_endpoints(&mut set);
        set
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let caller = prop_oneof![
        Just("*".to_owned()),
        "[a-z]{1,5}(/[a-z]{1,5}|/\\*)?",
        "spiffe://[a-z]{1,5}/[a-z]{1,5}",
    ];
    let from = vec(
        caller.prop_map(|text| text.parse().expect("is a caller")),
        1..3,
    );
    let (methods, paths) = (vec("[A-Z]{1,5}", 0..2), vec("(/[a-z]{1,5}){0,2}/", 0..2));
    (from, methods, paths).prop_map(|(from, methods, paths)| Rule {
        from,
        methods,
        paths,
    })
}

prop_compose! {
    fn inbound()(
        name in name(), tls in 0usize..3, rules in option::of(vec(rule(), 0..3)), open in any::<bool>(), dry_run in any::<bool>(),
    ) -> Inbound {
        let default = if open { Access::Allow } else { Access::Deny };
        let authorization = rules.map(|allow| Authorization { default, dry_run, allow });
        Inbound { name, tls: [TlsMode::Disable, TlsMode::Permissive, TlsMode::Strict][tls], authorization }
    }
}

fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        listener().prop_map(Resource::Listener),
        (name(), vec(route(), 0..4))
            .prop_map(|(name, routes)| Resource::Routes(RouteConfig { name, routes })),
        cluster().prop_map(Resource::Cluster),
        endpoint_set(false).prop_map(Resource::Endpoints),
        inbound().prop_map(Resource::Inbound),
        "[ab]".prop_map(|root| samples::trust(&root)),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same_model(resource in resource()) {
        let decoded = decode(resource.name(), &encode(&resource));
        prop_assert_eq!(decoded, Ok(Decoded { resource, endpoints: None }));
    }

    #[test]
    fn a_strict_dns_cluster_brings_its_endpoints(cluster in cluster(), mut set in endpoint_set(true)) {
        let cluster = Cluster { discovery: Discovery::StrictDns, ..cluster };
        set.cluster.clone_from(&cluster.name);
        let decoded = decode(&cluster.name, &encode_with(&cluster, &set));
        prop_assert_eq!(decoded, Ok(Decoded { resource: Resource::Cluster(cluster), endpoints: Some(set) }));
    }

    #[test]
    fn bytes_that_are_no_resource_are_rejected_without_a_panic(kind in 0usize..ResourceType::COUNT, value in vec(any::<u8>(), 0..64)) {
        let type_url = ResourceType::ALL[kind].type_url().to_owned();
        let _ = decode("x", &Any { type_url, value });
    }
}

fn problems(name: &str, any: &Any) -> Vec<(String, String)> {
    let rejections = decode(name, any).expect_err("the resource is bad");
    assert!(rejections.iter().all(|rejection| rejection.name == name));
    let pair = |rejection: Rejection| (rejection.field, rejection.reason);
    rejections.into_iter().map(pair).collect()
}

#[test]
fn every_problem_is_named_by_field_and_reason() {
    let cluster = Cluster {
        connect_timeout: Some(Duration::from_secs(2)),
        ..samples::cluster("orders")
    };
    let Any { value, .. } = encode(&Resource::Cluster(cluster));
    let mut message = cds::Cluster::decode(value.as_slice()).expect("it was just encoded");
    message.connect_timeout = Some(protobuf::Duration {
        seconds: -1,
        nanos: 0,
    });
    message.lb_policy = cds::cluster::LbPolicy::Maglev.into();
    message.cluster_discovery_type = None;
    let found = problems("prod/orders", &pack_any(message));
    let expected = [
        ("type", "is neither EDS nor STRICT_DNS"),
        (
            "lb_policy",
            "MAGLEV is none of LEAST_REQUEST, ROUND_ROBIN, RING_HASH",
        ),
        (
            "connect_timeout",
            "-1 s 0 ns is not a duration of zero or more",
        ),
    ];
    let expected = expected.map(|(field, reason)| (field.to_owned(), reason.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn several_bad_routes_are_all_reported() {
    let action = rds::route::Action::Route(rds::RouteAction {
        timeout: Some(protobuf::Duration {
            seconds: -1,
            nanos: 0,
        }),
        ..Default::default()
    });
    let no_match = rds::Route::default();
    let no_path = rds::Route {
        r#match: Some(Default::default()),
        action: Some(action),
        ..Default::default()
    };
    let message = rds::RouteConfiguration {
        name: "r".to_owned(),
        virtual_hosts: vec![rds::VirtualHost {
            domains: vec!["a*b".to_owned()],
            routes: vec![no_match, no_path],
            ..Default::default()
        }],
        ..Default::default()
    };
    let fields: Vec<String> = problems("r", &pack_any(message))
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    let expected = [
        "virtual_hosts[0].domains",
        "virtual_hosts[0].routes[0].match",
        "virtual_hosts[0].routes[1].match.path_specifier",
        "virtual_hosts[0].routes[1].route.cluster",
        "virtual_hosts[0].routes[1].route.timeout",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_host_name_in_eds_is_rejected() {
    let address = Address::Host {
        host: "db.example".to_owned(),
        port: 5432,
    };
    let endpoints = vec![Endpoint {
        address,
        ..samples::endpoint(1)
    }];
    let set = EndpointSet {
        cluster: "prod/db".to_owned(),
        endpoints,
    };
    let found = problems("prod/db", &encode(&Resource::Endpoints(set)));
    assert_eq!(found[0].1, "\"db.example\" is not an IP address");
}

#[test]
fn a_resource_under_another_name_is_rejected() {
    let found = problems(
        "prod/x",
        &encode(&Resource::Cluster(samples::cluster("orders"))),
    );
    assert_eq!(found[0].0, "name");
}

#[test]
fn a_foreign_servers_hosts_are_matched_most_specific_first() {
    let host = |domain: &str| rds::VirtualHost {
        domains: vec![domain.to_owned()],
        routes: vec![rds::Route {
            r#match: Some(rds::RouteMatch {
                path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/".to_owned())),
                ..Default::default()
            }),
            action: Some(rds::route::Action::Route(rds::RouteAction {
                cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster(
                    "c".to_owned(),
                )),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    let hosts = ["*", "*.example", "*.api.example", "a.example"];
    let message = rds::RouteConfiguration {
        name: "r".to_owned(),
        virtual_hosts: hosts.map(host).to_vec(),
        ..Default::default()
    };
    let decoded = decode("r", &pack_any(message)).expect("the routes are good");
    let Resource::Routes(config) = decoded.resource else {
        panic!("routes decode to routes")
    };
    let order: Vec<String> = config
        .routes
        .iter()
        .map(|route| route.hosts.join(","))
        .collect();
    assert_eq!(order, ["a.example", "*.api.example", "*.example", ""]);
}

#[test]
fn a_node_is_read_as_it_was_written() {
    let info = samples::node("task-1");
    assert_eq!(node(crate::encode_endpoints::node(&info)), info);
}
