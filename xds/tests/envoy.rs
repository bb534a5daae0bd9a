//! What `encode` writes, read by a stock Envoy (`--mode validate`).

mod common;

use std::process::Command;
use std::time::Duration;

use envoy_types::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::{self, Any};
use envoy_types::util::pack_any;
use outrigger_xds::Resource;
use outrigger_xds::encode::{CERT_AGENT, encode, encode_with};
use outrigger_xds::model::{
    AdaptiveConcurrency, Address, CircuitBreakers, Cluster, Direction, Discovery, Endpoint,
    EndpointSet, FailurePercentage, HealthCheck, LbPolicy, Listener, OutlierDetection, PathMatch,
    Probe, Protocol, RetryPolicy, Route, RouteConfig, SuccessRate, Target,
};
use prost::Message;

use common::{envoy, run};

fn decoded<T: Message + Default>(any: &Any) -> T {
    T::decode(any.value.as_slice()).expect("it was just encoded")
}

/// A cluster with every rule on.
fn every_rule(protocol: Protocol, lb: LbPolicy) -> Cluster {
    let probe = match protocol {
        Protocol::Grpc => Probe::Grpc("shop.Orders".to_owned()),
        Protocol::Tcp => Probe::Tcp,
        _ => Probe::Http("/ready".to_owned()),
    };
    Cluster {
        lb,
        outlier_detection: Some(OutlierDetection {
            consecutive_gateway_failure: 3,
            consecutive_local_origin_failure: 2,
            success_rate: Some(SuccessRate::default()),
            failure_percentage: Some(FailurePercentage::default()),
            ..OutlierDetection::default()
        }),
        health_check: Some(HealthCheck {
            probe,
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            healthy_threshold: 1,
            unhealthy_threshold: 3,
        }),
        circuit_breakers: CircuitBreakers {
            adaptive_concurrency: Some(AdaptiveConcurrency::default()),
            ..CircuitBreakers::default()
        },
        panic_threshold: 30,
        slow_start: (lb != LbPolicy::RingHash).then_some(Duration::from_secs(30)),
        zone_aware: lb != LbPolicy::RoundRobin,
        identities: vec![
            "spiffe://outrigger.internal/ns/shop/svc/orders"
                .parse()
                .expect("is an id"),
        ],
        ..Cluster::new(format!("{protocol}-{lb:?}"), protocol)
    }
}

/// A cluster with every rule off.
fn no_rule() -> Cluster {
    Cluster {
        outlier_detection: Some(OutlierDetection {
            consecutive_5xx: 0,
            max_ejection_percent: 0,
            ..OutlierDetection::default()
        }),
        circuit_breakers: CircuitBreakers {
            retry_budget_percent: 0,
            min_retry_concurrency: 0,
            ..CircuitBreakers::default()
        },
        zone_aware: false,
        ..Cluster::new("off", Protocol::Http)
    }
}

fn endpoints(cluster: &str) -> EndpointSet {
    let endpoint = |host: u8, zone: &str, weight, priority| Endpoint {
        zone: zone.to_owned(),
        weight,
        priority,
        tls: host > 2,
        ..Endpoint::new(Address::Ip(([10, 0, 0, host], 80).into()))
    };
    let endpoints = vec![
        endpoint(1, "a", 1, 1),
        endpoint(2, "b", 0, 1),
        endpoint(3, "a", 10_000, 4),
        endpoint(4, "", 2, 128),
    ];
    EndpointSet {
        cluster: cluster.to_owned(),
        endpoints,
    }
}

/// An HTTP listener as it is encoded, with its routes in place: there is no control server to ask for them.
fn listener(cluster: &str) -> lds::Listener {
    let retries = [
        RetryPolicy::default(),
        RetryPolicy::off(),
        RetryPolicy {
            per_try_timeout: Some(Duration::from_millis(200)),
            hedge_after: Some(Duration::from_millis(50)),
            back_off_max: Duration::from_millis(25),
            ..RetryPolicy::default()
        },
    ];
    let routes = retries.map(|retry| Route {
        hosts: vec!["*.example".to_owned()],
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        cluster: cluster.to_owned(),
        per_request_timeout: None,
        idle_timeout: None,
        retry,
    });
    let config = RouteConfig {
        name: "r".to_owned(),
        routes: routes.to_vec(),
    };
    let config: rds::RouteConfiguration = decoded(&encode(&Resource::Routes(config)));
    let (address, target) = (
        ([127, 0, 0, 1], 10_000).into(),
        Target::Routes("r".to_owned()),
    );
    let listener = Listener::new("l", Direction::Egress, address, Protocol::Http, target);
    let mut listener: lds::Listener = decoded(&encode(&Resource::Listener(listener)));
    let filter = &mut listener.filter_chains[0].filters[0];
    let Some(lds::filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else {
        panic!("the filter has a configuration");
    };
    let mut manager: hcm::HttpConnectionManager = decoded(any);
    manager.route_specifier = Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(
        config,
    ));
    *any = pack_any(manager);
    listener
}

/// One of the bootstrap's own.
fn grpc_server(name: &str) -> cds::Cluster {
    let any = encode_with(
        &Cluster {
            discovery: Discovery::StrictDns,
            ..Cluster::new(name, Protocol::Grpc)
        },
        &EndpointSet {
            cluster: name.to_owned(),
            endpoints: vec![Endpoint::new(Address::Ip(([127, 0, 0, 1], 1).into()))],
        },
    );
    decoded(&any)
}

fn ads() -> core::ApiConfigSource {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let target = TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
        cluster_name: "control".to_owned(),
        ..Default::default()
    });
    core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::DeltaGrpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![core::GrpcService {
            target_specifier: Some(target),
            timeout: Some(protobuf::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn a_stock_envoy_accepts_every_setting() {
    let protocols = [
        Protocol::Http,
        Protocol::Http2,
        Protocol::Grpc,
        Protocol::Tcp,
    ];
    let policies = [
        LbPolicy::LeastRequest,
        LbPolicy::RoundRobin,
        LbPolicy::RingHash,
    ];
    let with = |protocol| policies.map(|lb| every_rule(protocol, lb));
    let mut clusters: Vec<Cluster> = protocols.into_iter().flat_map(with).collect();
    clusters.push(no_rule());
    let name = clusters[0].name.clone();
    let mut encoded = vec![grpc_server("control"), grpc_server(CERT_AGENT)];
    for cluster in clusters {
        let pushed = decoded(&encode(&Resource::Cluster(cluster.clone())));
        let named = Cluster {
            name: format!("{}-named", cluster.name),
            discovery: Discovery::StrictDns,
            // Before there is an ADS stream no cluster of the bootstrap can take its roots from there; one that is pushed can.
            identities: Vec::new(),
            ..cluster
        };
        let set = endpoints(&named.name);
        encoded.extend([pushed, decoded(&encode_with(&named, &set))]);
    }
    let bootstrap = Bootstrap {
        node: Some(core::Node {
            id: "test".to_owned(),
            cluster: "test".to_owned(),
            ..Default::default()
        }),
        dynamic_resources: Some(bootstrap::DynamicResources {
            ads_config: Some(ads()),
            ..Default::default()
        }),
        static_resources: Some(bootstrap::StaticResources {
            clusters: encoded,
            listeners: vec![listener(&name)],
            ..Default::default()
        }),
        ..Default::default()
    };
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("bootstrap.pb");
    std::fs::write(&file, bootstrap.encode_to_vec()).expect("the directory can be written");
    run(Command::new(envoy())
        .args([
            "--mode",
            "validate",
            "--log-level",
            "warning",
            "--config-path",
        ])
        .arg(&file));
}
