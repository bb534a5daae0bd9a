use envoy_types::pb::envoy::config::core::v3::Node;

use super::*;
use crate::samples::set;

fn subscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn request(stream: &mut Stream, request: DeltaDiscoveryRequest) {
    assert_eq!(stream.on_request(request), Ok(Vec::new()));
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[test]
fn one_response_is_in_flight_and_the_newest_state_wins() {
    let mut stream = Stream::new("e".to_owned());
    request(
        &mut stream,
        subscribe(ResourceType::Endpoints, &["prod/orders"]),
    );
    let first = stream
        .poll(&set(&[("orders", &[1])]), 1)
        .expect("it lacks the endpoints");
    assert_eq!(
        first
            .control_plane
            .as_ref()
            .map(|plane| plane.identifier.as_str()),
        Some("e")
    );
    assert_eq!(stream.poll(&set(&[("orders", &[2])]), 2), None);
    let newest = set(&[("orders", &[3])]);
    assert_eq!(stream.poll(&newest, 3), None);
    request(&mut stream, ack(&first));
    assert_eq!(stream.acknowledged(), 1);
    let second = stream.poll(&newest, 3).expect("the state has moved on");
    let version = &newest
        .get(ResourceType::Endpoints, "prod/orders")
        .expect("it is there")
        .version;
    assert_eq!(&second.resources[0].version, version);
    request(&mut stream, ack(&second));
    assert_eq!((stream.poll(&newest, 3), stream.acknowledged()), (None, 3));
}

/// The first request of a type by a client that has the resources of `set` already.
fn returns(kind: ResourceType, set: &ResourceSet) -> DeltaDiscoveryRequest {
    let all = set.iter(kind);
    let versions = all.map(|(name, encoded)| (name.to_owned(), encoded.version.clone()));
    let has: std::collections::HashMap<_, _> = versions.collect();
    let names: Vec<&str> = has.keys().map(String::as_str).collect();
    let request = subscribe(kind, &names);
    DeltaDiscoveryRequest {
        initial_resource_versions: has,
        ..request
    }
}

#[test]
fn a_client_that_returns_counts_when_it_has_the_endpoints_and_not_when_its_clusters_are_current() {
    let (old, new) = (set(&[("orders", &[1])]), set(&[("orders", &[2])]));
    let mut stream = Stream::new(String::new());
    request(&mut stream, returns(ResourceType::Cluster, &old));
    assert_eq!((stream.poll(&new, 5), stream.acknowledged()), (None, 0));
    request(&mut stream, returns(ResourceType::Endpoints, &old));
    let response = stream.poll(&new, 5).expect("its endpoints are old");
    assert_eq!(stream.acknowledged(), 0);
    request(&mut stream, ack(&response));
    assert_eq!((stream.poll(&new, 5), stream.acknowledged()), (None, 5));
}

/// As a foreign client may, which begins with listeners.
#[test]
fn a_client_that_returns_counts_when_it_has_the_endpoints_in_whatever_order_it_asks() {
    let (old, new) = (set(&[("orders", &[1])]), set(&[("orders", &[2])]));
    let mut stream = Stream::new(String::new());
    let mut kinds = ResourceType::ALL;
    kinds.reverse();
    for kind in kinds {
        assert_eq!(stream.acknowledged(), 0, "before {kind:?}");
        request(&mut stream, returns(kind, &old));
        let response = stream.poll(&new, 5);
        if let Some(response) = response {
            assert_eq!(stream.acknowledged(), 0, "{kind:?} is old");
            request(&mut stream, ack(&response));
            assert_eq!(stream.poll(&new, 5), None);
        }
    }
    assert_eq!(stream.acknowledged(), 5);
}

#[test]
fn listeners_wait_until_routes_are_acknowledged() {
    let mut stream = Stream::new(String::new());
    request(&mut stream, subscribe(ResourceType::Listener, &[]));
    request(
        &mut stream,
        subscribe(ResourceType::Routes, &["prod/orders:80"]),
    );
    let set = set(&[("orders", &[1])]);
    let routes = stream.poll(&set, 1).expect("routes come first");
    assert_eq!(routes.type_url, ResourceType::Routes.type_url());
    assert_eq!(stream.poll(&set, 1), None);
    request(&mut stream, ack(&routes));
    let listeners = stream.poll(&set, 1).expect("then listeners");
    assert_eq!(listeners.type_url, ResourceType::Listener.type_url());
}

#[test]
fn a_stale_nonce_acknowledges_nothing() {
    let mut stream = Stream::new(String::new());
    request(
        &mut stream,
        subscribe(ResourceType::Cluster, &["prod/orders"]),
    );
    let set = set(&[("orders", &[1])]);
    let response = stream.poll(&set, 5).expect("it lacks the cluster");
    let stale = DeltaDiscoveryRequest {
        response_nonce: "99".to_owned(),
        ..ack(&response)
    };
    request(&mut stream, stale);
    assert_eq!((stream.poll(&set, 5), stream.acknowledged()), (None, 0));
}

#[test]
fn a_name_that_does_not_exist_is_answered_once_and_again_when_it_does() {
    let mut stream = Stream::new(String::new());
    request(
        &mut stream,
        subscribe(ResourceType::Cluster, &["prod/orders"]),
    );
    let response = stream
        .poll(&ResourceSet::default(), 1)
        .expect("absence is an answer");
    assert_eq!(response.removed_resources, ["prod/orders"]);
    request(&mut stream, ack(&response));
    assert_eq!(stream.poll(&ResourceSet::default(), 2), None);
    let response = stream
        .poll(&set(&[("orders", &[1])]), 3)
        .expect("it exists now");
    assert_eq!(names(&response), ["prod/orders"]);
}

#[test]
fn what_is_subscribed_to_again_is_sent_again() {
    let mut stream = Stream::new(String::new());
    let set = set(&[("orders", &[1])]);
    request(
        &mut stream,
        subscribe(ResourceType::Cluster, &["prod/orders"]),
    );
    let response = stream.poll(&set, 1).expect("it lacks the cluster");
    request(&mut stream, ack(&response));
    request(
        &mut stream,
        subscribe(ResourceType::Cluster, &["prod/orders"]),
    );
    assert!(stream.poll(&set, 1).is_some());
}

#[test]
fn what_was_unsubscribed_is_not_sent() {
    let mut stream = Stream::new(String::new());
    request(
        &mut stream,
        subscribe(ResourceType::Cluster, &["prod/orders", "prod/stock"]),
    );
    let leave = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["prod/stock".to_owned()],
        ..subscribe(ResourceType::Cluster, &[])
    };
    request(&mut stream, leave);
    let response = stream.poll(&set(&[("orders", &[1]), ("stock", &[1])]), 1);
    assert_eq!(names(&response.expect("one is left")), ["prod/orders"]);
}

#[test]
fn a_change_elsewhere_is_acknowledged_without_a_response() {
    let mut stream = Stream::new(String::new());
    request(
        &mut stream,
        subscribe(ResourceType::Cluster, &["prod/orders"]),
    );
    let response = stream
        .poll(&set(&[("orders", &[1])]), 1)
        .expect("it lacks the cluster");
    request(&mut stream, ack(&response));
    assert_eq!(
        stream.poll(&set(&[("orders", &[1]), ("stock", &[1])]), 2),
        None
    );
    assert_eq!(stream.acknowledged(), 2);
}

#[test]
fn a_foreign_nack_counts_as_an_answer_and_is_reported() {
    let mut stream = Stream::new(String::new());
    let set = set(&[("orders", &[1])]);
    request(&mut stream, subscribe(ResourceType::Cluster, &[]));
    let response = stream.poll(&set, 4).expect("it lacks the cluster");
    let status = envoy_types::pb::google::rpc::Status {
        message: "no".to_owned(),
        ..Default::default()
    };
    let nack = DeltaDiscoveryRequest {
        error_detail: Some(status),
        ..ack(&response)
    };
    let rejections = stream.on_request(nack).expect("few names");
    assert_eq!(rejections[0].reason, "no");
    assert_eq!((stream.poll(&set, 4), stream.acknowledged()), (None, 4));
}

#[test]
fn more_names_than_the_bound_end_the_stream() {
    let mut stream = Stream::new(String::new());
    let names: Vec<String> = (0..=MAX_NAMES).map(|number| number.to_string()).collect();
    let many = DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        ..subscribe(ResourceType::Cluster, &[])
    };
    assert!(stream.on_request(many).is_err());
}

#[test]
fn what_is_refused_is_known_until_it_is_sent_again() {
    let mut stream = Stream::new("e".to_owned());
    let kind = ResourceType::Endpoints;
    request(&mut stream, subscribe(kind, &["prod/orders", "prod/stock"]));
    let both = set(&[("orders", &[1]), ("stock", &[1])]);
    let first = stream.poll(&both, 1).expect("it lacks both");
    let rejection = |name: &str| Rejection {
        type_url: kind.type_url().to_owned(),
        name: name.to_owned(),
        field: "endpoints[0].address".to_owned(),
        reason: "a loop".to_owned(),
    };
    let refused = [rejection("prod/orders"), rejection("prod/never-sent")];
    let mut nack = ack(&first);
    nack.error_detail = Some(rejections::to_status(&refused));
    assert_eq!(stream.on_request(nack), Ok(refused.to_vec()));
    assert_eq!(stream.poll(&both, 1), None);
    let orders = BTreeSet::from(["prod/orders".to_owned()]);
    assert_eq!((stream.acknowledged(), stream.refused(kind)), (1, &orders));
    let other = set(&[("orders", &[1]), ("stock", &[2])]);
    let second = stream.poll(&other, 2).expect("it lacks the other set");
    request(&mut stream, ack(&second));
    assert_eq!(stream.refused(kind), &orders, "that was no answer to it");
    let changed = set(&[("orders", &[3]), ("stock", &[2])]);
    let third = stream.poll(&changed, 3).expect("it has changed");
    request(&mut stream, ack(&third));
    assert_eq!(stream.poll(&changed, 3), None);
    assert_eq!(stream.acknowledged(), 3);
    assert!(stream.refused(kind).is_empty());
}

#[test]
fn an_envoy_that_warms_a_changed_cluster_is_given_its_endpoints_again_and_nothing_else() {
    let secure = |service: &str| {
        let id = "spiffe://td/ns/prod/svc/orders".parse();
        let mut resources = crate::samples::service(service, &[1]);
        for resource in &mut resources {
            if let crate::Resource::Cluster(cluster) = resource {
                cluster.identities = vec![id.clone().expect("the sample is an id")];
            }
        }
        ResourceSet::from_model(resources).expect("the sample is consistent")
    };
    let (old, new) = (set(&[("orders", &[1])]), secure("orders"));
    for agent in ["envoy", "outrigger"] {
        let mut stream = Stream::new(String::new());
        let mut first = subscribe(ResourceType::Cluster, &[]);
        first.node = Some(Node {
            user_agent_name: agent.to_owned(),
            ..Default::default()
        });
        request(&mut stream, first);
        request(
            &mut stream,
            subscribe(ResourceType::Endpoints, &["prod/orders"]),
        );
        request(&mut stream, subscribe(ResourceType::Listener, &[]));
        while let Some(response) = stream.poll(&old, 1) {
            request(&mut stream, ack(&response));
        }
        let clusters = stream.poll(&new, 2).expect("the cluster has changed");
        assert_eq!(clusters.type_url, ResourceType::Cluster.type_url());
        let endpoints = stream.poll(&new, 2);
        let names = endpoints.as_ref().map(names).unwrap_or_default();
        match agent {
            "envoy" => assert_eq!(names, ["prod/orders"]),
            _ => assert!(names.is_empty()),
        }
        assert_eq!((stream.poll(&new, 2), stream.acknowledged()), (None, 1));
        endpoints
            .iter()
            .for_each(|response| request(&mut stream, ack(response)));
        assert_eq!((stream.poll(&new, 2), stream.acknowledged()), (None, 1));
        request(&mut stream, ack(&clusters));
        assert_eq!((stream.poll(&new, 2), stream.acknowledged()), (None, 2));
    }
}
