//! What an update of 1,000 clusters with 10 endpoints each costs to decode, and to take whole.

use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use outrigger_xds::client::Client;
use outrigger_xds::decode::decode;
use outrigger_xds::model::Direction;
use outrigger_xds::model::{
    Address, Cluster, Endpoint, EndpointSet, Listener, PathMatch, Protocol, RetryPolicy, Route,
    RouteConfig, ServiceRef, Target,
};
use outrigger_xds::server::Stream;
use outrigger_xds::{NodeInfo, Resource, ResourceSet, ResourceType};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const SERVICES: u16 = 1_000;
const ENDPOINTS: u8 = 10;

fn main() {
    divan::main();
}

/// The four resources of one service.
fn service(n: u16) -> [Resource; 4] {
    let name = format!("prod/service-{n}");
    let [high, low] = n.to_be_bytes();
    let endpoint = |host: u8| Endpoint {
        zone: "eu-1a".to_owned(),
        instance: format!("task-{n}-{host}"),
        sidecar: true,
        ..Endpoint::new(Address::Ip(([10, high, low, host], 15000).into()))
    };
    let route = Route {
        hosts: Vec::new(),
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        cluster: name.clone(),
        per_request_timeout: None,
        idle_timeout: None,
        retry: RetryPolicy::default(),
    };
    let listener = Listener {
        names: vec![format!("service-{n}")],
        vip_offset: Some(n + 1),
        ..Listener::new(
            name.clone(),
            Direction::Egress,
            ([127, 255, high, low], 80).into(),
            Protocol::Http,
            Target::Routes(name.clone()),
        )
    };
    let cluster = Cluster {
        service: Some(ServiceRef {
            namespace: "prod".to_owned(),
            name: format!("service-{n}"),
        }),
        ..Cluster::new(name.clone(), Protocol::Http)
    };
    [
        Resource::Cluster(cluster),
        Resource::Endpoints(EndpointSet {
            cluster: name.clone(),
            endpoints: (1..=ENDPOINTS).map(endpoint).collect(),
        }),
        Resource::Routes(RouteConfig {
            name,
            routes: vec![route],
        }),
        Resource::Listener(listener),
    ]
}

fn update() -> ResourceSet {
    ResourceSet::from_model((0..SERVICES).flat_map(service)).expect("the services are consistent")
}

/// From the bytes of each resource to the checked model.
#[divan::bench(args = ["Cluster", "Endpoints", "Routes", "Listener"])]
fn decode_1000(bencher: Bencher, kind: &str) {
    let kind = ResourceType::ALL
        .into_iter()
        .find(|known| format!("{known:?}") == kind)
        .expect("the arguments are names of types");
    let set = update();
    let resources: Vec<_> = set
        .iter(kind)
        .map(|(name, encoded)| (name, Arc::clone(encoded)))
        .collect();
    bencher
        .counter(ItemsCount::new(resources.len()))
        .bench_local(|| {
            for (name, encoded) in &resources {
                let decoded = decode(name, black_box(&encoded.any));
                black_box(decoded.expect("what was encoded can be decoded"));
            }
        });
}

/// A subscriber's first connection: every request and response of 1,000 services until all of them are in force.
#[divan::bench]
fn take_1000_services(bencher: Bencher) {
    let set = update();
    bencher
        .with_inputs(|| {
            (
                Client::new(node(), Vec::new(), Vec::new()),
                Stream::new("epoch".to_owned()),
            )
        })
        .bench_local_values(|(mut client, mut stream)| {
            let mut applied = 0;
            let now = Instant::now();
            let mut requests = client.on_connect(now);
            loop {
                for request in requests.drain(..) {
                    stream.on_request(request).expect("the names are few");
                }
                let Some(response) = stream.poll(&set, 1) else {
                    break;
                };
                requests = client.on_response(now, response, &mut |changed, _| {
                    applied += changed.len();
                    Vec::new()
                });
            }
            assert_eq!(applied, usize::from(SERVICES) * 4, "everything is in force");
        });
}

fn node() -> NodeInfo {
    NodeInfo {
        id: "task-1".to_owned(),
        service: "client".to_owned(),
        zone: "eu-1a".to_owned(),
        namespace: "prod".to_owned(),
        incarnation: "1".to_owned(),
        secret: "c0ffee".to_owned(),
        identity: None,
        certified: None,
    }
}
