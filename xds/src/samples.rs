//! Resources for the tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::hop::{Token, Tokens};
use crate::identity::{Authorization, Rule, TRUST_BUNDLE, TlsMode};
use crate::model::{
    Address, Cluster, Direction, Endpoint, EndpointSet, Inbound, Listener, PathMatch, Protocol,
    RetryPolicy, Route, RouteConfig, ServiceRef, Target, TrustBundle,
};
use crate::resource::Resource;
use crate::set::ResourceSet;
use crate::transport::NodeInfo;

pub(crate) fn node(id: &str) -> NodeInfo {
    NodeInfo {
        id: id.to_owned(),
        service: "shop".to_owned(),
        zone: "eu-1a".to_owned(),
        namespace: "prod".to_owned(),
        incarnation: "1".to_owned(),
        secret: "c0ffee".to_owned(),
        identity: None,
        certified: None,
    }
}

pub(crate) fn endpoint(host: u8) -> Endpoint {
    Endpoint {
        zone: "eu-1a".to_owned(),
        instance: format!("task-{host}"),
        sidecar: true,
        hop: Some(tokens(host)),
        ..Endpoint::new(Address::Ip(([10, 0, 0, host], 15000).into()))
    }
}

pub(crate) fn tokens(seed: u8) -> Tokens {
    Tokens {
        request: Token::new([seed; 16]),
        verdict: Token::new([!seed; 16]),
    }
}

pub(crate) fn endpoints(service: &str, hosts: &[u8]) -> Resource {
    Resource::Endpoints(EndpointSet {
        cluster: format!("prod/{service}"),
        endpoints: hosts.iter().copied().map(endpoint).collect(),
    })
}

pub(crate) fn cluster(service: &str) -> Cluster {
    Cluster {
        service: Some(ServiceRef {
            namespace: "prod".to_owned(),
            name: service.to_owned(),
        }),
        ..Cluster::new(format!("prod/{service}"), Protocol::Http)
    }
}

pub(crate) fn route(service: &str) -> Route {
    Route {
        hosts: Vec::new(),
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        cluster: format!("prod/{service}"),
        per_request_timeout: None,
        idle_timeout: None,
        retry: RetryPolicy::default(),
    }
}

pub(crate) fn listener(service: &str) -> Listener {
    let name = format!("prod/{service}:80");
    let target = Target::Routes(name.clone());
    let address = ([127, 255, 0, 1], 80).into();
    Listener {
        names: vec![service.to_owned()],
        vip_offset: Some(1),
        ..Listener::new(name, Direction::Egress, address, Protocol::Http, target)
    }
}

/// The root of this name, the same one every time.
pub(crate) fn trust(root: &str) -> Resource {
    static ROOTS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut made = ROOTS.lock().expect("nobody panics with it");
    let root = made.entry(root.to_owned()).or_insert_with(|| {
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let params = rcgen::CertificateParams::default();
        let certificate = params.self_signed(&key);
        certificate.expect("it signs itself").pem()
    });
    Resource::Secret(TrustBundle {
        name: TRUST_BUNDLE.to_owned(),
        roots: root.clone(),
    })
}

/// Mutual TLS alone, for one caller.
pub(crate) fn inbound(service: &str, caller: &str) -> Resource {
    let rule = Rule {
        from: vec![caller.parse().expect("the sample is a caller")],
        methods: vec!["GET".to_owned()],
        paths: vec!["/v1/".to_owned()],
    };
    Resource::Inbound(Inbound {
        name: format!("prod/{service}"),
        tls: TlsMode::Strict,
        authorization: Some(Authorization {
            allow: vec![rule],
            ..Authorization::default()
        }),
    })
}

/// The four resources of one service that its callers see, listener first: the order that nobody may rely on.
pub(crate) fn service(name: &str, hosts: &[u8]) -> Vec<Resource> {
    let routes = RouteConfig {
        name: format!("prod/{name}:80"),
        routes: vec![route(name)],
    };
    vec![
        Resource::Listener(listener(name)),
        Resource::Routes(routes),
        endpoints(name, hosts),
        Resource::Cluster(cluster(name)),
    ]
}

/// Services by name, each with the last bytes of its endpoints' addresses.
pub(crate) fn set(services: &[(&str, &[u8])]) -> Arc<ResourceSet> {
    let resources = services
        .iter()
        .flat_map(|(name, hosts)| service(name, hosts));
    Arc::new(ResourceSet::from_model(resources).expect("the sample services are consistent"))
}

/// Resources by type and name, for comparison.
pub(crate) fn by_name<'a>(
    resources: impl IntoIterator<Item = &'a Resource>,
) -> BTreeMap<(crate::ResourceType, String), Resource> {
    let key = |resource: &Resource| (resource.resource_type(), resource.name().to_owned());
    let all = resources.into_iter();
    all.map(|resource| (key(resource), resource.clone()))
        .collect()
}
