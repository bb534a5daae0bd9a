use super::*;
use crate::identity::TRUST_BUNDLE;
use crate::model::{Address, Discovery, Endpoint};
use crate::samples::{by_name, cluster, endpoints, inbound, node, service, set, trust};
use crate::server::Stream;
use crate::set::ResourceSet;

/// A client and a server's stream with no network between them.
struct Pair {
    client: Client,
    stream: Stream,
    now: Instant,
    /// `+name` and `-name` of the types, in the order of being applied.
    applied: Vec<String>,
    refuse: Option<&'static str>,
    rejected: Vec<Rejection>,
    resources_sent: usize,
}

impl Pair {
    fn new(initial: Vec<Resource>) -> Self {
        Self::wants(&[], initial)
    }

    fn wants(always: &[(ResourceType, &str)], initial: Vec<Resource>) -> Self {
        let always = always
            .iter()
            .map(|(kind, name)| (*kind, (*name).to_owned()));
        Self {
            client: Client::new(node("task-1"), always.collect(), initial),
            stream: Stream::new("epoch-1".to_owned()),
            now: Instant::now(),
            applied: Vec::new(),
            refuse: None,
            rejected: Vec::new(),
            resources_sent: 0,
        }
    }

    fn connect(&mut self, epoch: &str) {
        self.stream = Stream::new(epoch.to_owned());
        self.resources_sent = 0;
        self.applied.clear();
        let requests = self.client.on_connect(self.now);
        assert!(
            requests
                .iter()
                .skip(1)
                .all(|request| request.node.is_none())
        );
        self.send(requests);
    }

    fn send(&mut self, requests: Vec<DeltaDiscoveryRequest>) {
        for request in requests {
            let rejected = self.stream.on_request(request).expect("few names");
            self.rejected.extend(rejected);
        }
    }

    /// Delivers until neither has anything to say.
    fn run(&mut self, set: &ResourceSet, sequence: u64) {
        while let Some(response) = self.stream.poll(set, sequence) {
            self.deliver(response);
        }
    }

    fn deliver(&mut self, response: DeltaDiscoveryResponse) {
        self.resources_sent += response.resources.len();
        let (applied, refuse) = (&mut self.applied, self.refuse);
        let mut apply =
            |changed: Vec<Resource>, removed: Removed| note(applied, refuse, changed, removed);
        let requests = self.client.on_response(self.now, response, &mut apply);
        self.send(requests);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let (applied, refuse) = (&mut self.applied, self.refuse);
        let mut apply =
            |changed: Vec<Resource>, removed: Removed| note(applied, refuse, changed, removed);
        let requests = self.client.on_time(self.now, &mut apply);
        self.send(requests);
    }

    fn held(&self) -> BTreeMap<(ResourceType, String), Resource> {
        by_name(self.client.held())
    }
}

fn note(
    applied: &mut Vec<String>,
    refuse: Option<&str>,
    changed: Vec<Resource>,
    removed: Removed,
) -> Vec<Rejection> {
    let mut rejections = Vec::new();
    for resource in changed {
        let shown = format!("{:?} {}", resource.resource_type(), resource.name());
        if refuse == Some(shown.as_str()) {
            rejections.push(Rejection {
                type_url: resource.resource_type().type_url().to_owned(),
                name: resource.name().to_owned(),
                field: "f".to_owned(),
                reason: "refused by the test".to_owned(),
            });
        } else {
            applied.push(format!("+{shown}"));
        }
    }
    applied.extend(
        removed
            .iter()
            .map(|(kind, name)| format!("-{kind:?} {name}")),
    );
    rejections
}

fn all(set: &ResourceSet) -> BTreeMap<(ResourceType, String), Resource> {
    let types = ResourceType::ALL.into_iter();
    let encoded = types.flat_map(|kind| set.iter(kind).map(|(_, encoded)| &encoded.resource));
    by_name(encoded)
}

#[test]
fn a_listener_is_applied_after_all_it_leads_to() {
    let mut pair = Pair::new(Vec::new());
    let set = set(&[("orders", &[1, 2])]);
    pair.connect("epoch-1");
    pair.run(&set, 7);
    let expected = [
        "+Cluster prod/orders",
        "+Endpoints prod/orders",
        "+Routes prod/orders:80",
        "+Listener prod/orders:80",
    ];
    assert_eq!(pair.applied, expected);
    assert_eq!(pair.held(), all(&set));
    assert_eq!(pair.stream.acknowledged(), 7);
}

#[test]
fn a_service_that_goes_is_removed_listener_first() {
    let mut pair = Pair::new(Vec::new());
    pair.connect("epoch-1");
    pair.run(&set(&[("orders", &[1]), ("stock", &[2])]), 1);
    pair.applied.clear();
    let rest = set(&[("stock", &[2])]);
    pair.run(&rest, 2);
    let expected = [
        "-Listener prod/orders:80",
        "-Routes prod/orders:80",
        "-Endpoints prod/orders",
        "-Cluster prod/orders",
    ];
    assert_eq!(pair.applied, expected);
    assert_eq!(pair.held(), all(&rest));
    assert_eq!(pair.stream.acknowledged(), 2);
}

#[test]
fn a_reconnect_transfers_nothing_that_has_not_changed() {
    let mut pair = Pair::new(Vec::new());
    let old = set(&[("orders", &[1]), ("stock", &[2])]);
    pair.connect("epoch-1");
    pair.run(&old, 1);
    assert_eq!(pair.resources_sent, 8);
    pair.connect("epoch-1");
    pair.run(&old, 9);
    assert_eq!(pair.resources_sent, 0);
    assert_eq!(pair.stream.acknowledged(), 9);
    pair.run(&set(&[("orders", &[1]), ("stock", &[2, 3])]), 10);
    assert_eq!(pair.applied, ["+Endpoints prod/stock"]);
}

#[test]
fn a_start_from_disk_transfers_nothing_that_has_not_changed() {
    let mut resources = service("orders", &[1, 2]);
    resources.extend(strict_dns());
    let set = ResourceSet::from_model(resources).expect("the sample is consistent");
    let mut pair = Pair::new(all(&set).into_values().collect());
    pair.connect("epoch-1");
    pair.run(&set, 1);
    assert_eq!((pair.resources_sent, pair.applied.len()), (0, 0));
}

fn strict_dns() -> Vec<Resource> {
    let mut resources = service("db", &[]);
    for resource in &mut resources {
        match resource {
            Resource::Cluster(cluster) => cluster.discovery = Discovery::StrictDns,
            Resource::Endpoints(set) => {
                let address = Address::Host {
                    host: "db.example".to_owned(),
                    port: 5432,
                };
                set.endpoints = vec![Endpoint {
                    address,
                    ..crate::samples::endpoint(1)
                }];
            }
            _ => {}
        }
    }
    resources
}

#[test]
fn a_strict_dns_cluster_comes_with_its_endpoints_and_goes_with_them() {
    let set = ResourceSet::from_model(strict_dns()).expect("the sample is consistent");
    let mut pair = Pair::new(Vec::new());
    pair.connect("epoch-1");
    pair.run(&set, 1);
    assert_eq!(pair.held(), all(&set));
    pair.run(&ResourceSet::default(), 2);
    assert!(pair.held().is_empty(), "{:?}", pair.held());
}

#[test]
fn a_refused_resource_keeps_its_last_good_version_and_the_rest_applies() {
    let mut pair = Pair::new(Vec::new());
    let old = set(&[("orders", &[1]), ("stock", &[2])]);
    pair.connect("epoch-1");
    pair.run(&old, 1);
    pair.refuse = Some("Endpoints prod/orders");
    pair.run(&set(&[("orders", &[1, 8]), ("stock", &[2, 9])]), 2);
    let held = pair.held();
    let named = |name: &str| held.get(&(ResourceType::Endpoints, name.to_owned()));
    assert_eq!(named("prod/orders"), Some(&endpoints("orders", &[1])));
    assert_eq!(named("prod/stock"), Some(&endpoints("stock", &[2, 9])));
    let names: Vec<&str> = pair
        .rejected
        .iter()
        .map(|rejection| rejection.name.as_str())
        .collect();
    assert_eq!(names, ["prod/orders"]);
    assert_eq!(pair.rejected[0].reason, "refused by the test");
    // A refusal is an answer: whoever waits for this sequence does not wait for ever.
    assert_eq!(pair.stream.acknowledged(), 2);
}

#[test]
fn a_resource_that_does_not_decode_is_named_and_the_rest_applies() {
    let mut pair = Pair::new(Vec::new());
    let set = set(&[("orders", &[1]), ("stock", &[2])]);
    pair.connect("epoch-1");
    while let Some(mut response) = pair.stream.poll(&set, 1) {
        if response.type_url == ResourceType::Endpoints.type_url() {
            let any = response.resources[0].resource.as_mut();
            any.expect("responses carry resources").value = vec![0xff];
        }
        pair.deliver(response);
    }
    assert_eq!(pair.rejected.len(), 1);
    assert_eq!(pair.rejected[0].name, "prod/orders");
    assert_eq!(pair.rejected[0].field, "cluster_load_assignment");
    assert_eq!(pair.held().len(), 7);
}

#[test]
fn an_empty_set_of_a_new_epoch_removes_nothing_before_the_grace() {
    let mut pair = Pair::new(Vec::new());
    let old = set(&[("orders", &[1])]);
    pair.connect("epoch-1");
    pair.run(&old, 1);
    pair.now += Duration::from_secs(1000);
    pair.connect("epoch-2");
    pair.run(&ResourceSet::default(), 1);
    pair.pass(NEW_EPOCH_GRACE - Duration::from_millis(1));
    assert_eq!(pair.held(), all(&old));
    assert_eq!(
        pair.client.deadline(),
        Some(pair.now + Duration::from_millis(1))
    );
    pair.pass(Duration::from_millis(1));
    assert!(pair.held().is_empty());
    assert_eq!(pair.applied[0], "-Listener prod/orders:80");
}

#[test]
fn endpoints_that_a_new_epoch_has_not_heard_of_are_kept_until_the_grace_ends() {
    let mut pair = Pair::new(Vec::new());
    pair.connect("epoch-1");
    pair.run(&set(&[("orders", &[1, 2, 3])]), 1);
    pair.connect("epoch-2");
    pair.run(&set(&[("orders", &[2, 4])]), 1);
    let key = (ResourceType::Endpoints, "prod/orders".to_owned());
    assert_eq!(
        pair.held().get(&key),
        Some(&endpoints("orders", &[1, 2, 3, 4]))
    );
    pair.pass(NEW_EPOCH_GRACE);
    assert_eq!(pair.held().get(&key), Some(&endpoints("orders", &[2, 4])));
}

#[test]
fn what_a_new_epoch_tells_again_within_the_grace_stays() {
    let mut pair = Pair::new(Vec::new());
    let old = set(&[("orders", &[1])]);
    pair.connect("epoch-1");
    pair.run(&old, 1);
    pair.connect("epoch-2");
    pair.run(&ResourceSet::default(), 1);
    pair.run(&old, 2);
    pair.pass(NEW_EPOCH_GRACE);
    assert_eq!(pair.held(), all(&old));
}

#[test]
fn a_response_of_an_unknown_type_is_refused() {
    let mut client = Client::new(node("task-1"), Vec::new(), Vec::new());
    client.on_connect(Instant::now());
    let response = DeltaDiscoveryResponse {
        type_url: "x".to_owned(),
        ..Default::default()
    };
    let answers = client.on_response(Instant::now(), response, &mut |_, _| Vec::new());
    assert!(answers[0].error_detail.is_some());
}

/// What a sidecar of `orders` asks for, whoever refers to it.
const OWN: [(ResourceType, &str); 2] = [
    (ResourceType::Secret, TRUST_BUNDLE),
    (ResourceType::Inbound, "prod/orders"),
];

fn secured(caller: &str, root: &str) -> ResourceSet {
    let mut resources = service("stock", &[1]);
    resources.extend([inbound("orders", caller), trust(root)]);
    ResourceSet::from_model(resources).expect("the sample is consistent")
}

#[test]
fn what_is_always_wanted_comes_changes_and_is_not_sent_again() {
    let mut pair = Pair::wants(&OWN, Vec::new());
    pair.connect("epoch-1");
    let old = secured("cart", "one");
    pair.run(&old, 1);
    assert_eq!(pair.held(), all(&old));
    let listener = pair
        .applied
        .iter()
        .position(|one| one == "+Listener prod/stock:80");
    assert_eq!(listener, Some(pair.applied.len() - 1), "{:?}", pair.applied);
    let new = secured("cart", "two");
    pair.run(&new, 2);
    assert_eq!(pair.held(), all(&new));
    assert_eq!(pair.stream.acknowledged(), 2);
    let mut again = Pair::wants(&OWN, all(&new).into_values().collect());
    again.connect("epoch-1");
    again.run(&new, 3);
    assert_eq!((again.resources_sent, again.applied.len()), (0, 0));
    assert_eq!(again.stream.acknowledged(), 3);
}

#[test]
fn a_policy_that_the_server_has_no_longer_stays_in_force() {
    let old = secured("cart", "one");
    for epoch in ["epoch-1", "epoch-2"] {
        let mut pair = Pair::wants(&OWN, Vec::new());
        pair.connect("epoch-1");
        pair.run(&old, 1);
        pair.connect(epoch);
        pair.run(&ResourceSet::default(), 2);
        pair.pass(NEW_EPOCH_GRACE);
        let expected = by_name(&[inbound("orders", "cart"), trust("one")]);
        assert_eq!(pair.held(), expected, "{epoch}");
        assert_eq!(pair.stream.acknowledged(), 2);
        // Nor does it come back by itself, or stay when there is another.
        pair.run(&secured("ops", "two"), 3);
        assert_eq!(pair.held(), all(&secured("ops", "two")));
    }
}

#[test]
fn a_policy_that_does_not_decode_leaves_the_last_one_in_force() {
    let mut pair = Pair::wants(&OWN, Vec::new());
    pair.connect("epoch-1");
    pair.run(&secured("cart", "one"), 1);
    let new = secured("ops", "one");
    while let Some(mut response) = pair.stream.poll(&new, 2) {
        let any = response.resources[0].resource.as_mut();
        any.expect("responses carry resources").value = vec![0xff];
        pair.deliver(response);
    }
    assert_eq!(pair.rejected[0].name, "prod/orders");
    assert_eq!(pair.held(), all(&secured("cart", "one")));
}

#[test]
fn a_policy_of_a_service_that_is_not_ours_any_more_goes() {
    let old = secured("cart", "one");
    let mut pair = Pair::wants(&OWN[..1], all(&old).into_values().collect());
    pair.connect("epoch-1");
    pair.run(&secured("cart", "two"), 1);
    let expected = ["+Secret outrigger-trust-bundle", "-Inbound prod/orders"];
    assert_eq!(pair.applied, expected);
}

#[test]
fn a_cluster_whose_endpoints_prove_themselves_brings_the_roots_and_takes_them_along() {
    let id = "spiffe://td/ns/prod/svc/stock".parse();
    let secure = crate::model::Cluster {
        identities: vec![id.expect("the sample is an id")],
        ..cluster("stock")
    };
    let mut resources = service("stock", &[1]);
    resources.retain(|resource| resource.resource_type() != ResourceType::Cluster);
    resources.extend([Resource::Cluster(secure), trust("one")]);
    let set = ResourceSet::from_model(resources).expect("the sample is consistent");
    let mut pair = Pair::new(Vec::new());
    pair.connect("epoch-1");
    pair.run(&set, 1);
    assert_eq!(pair.held(), all(&set));
    pair.run(&ResourceSet::default(), 2);
    assert!(pair.held().is_empty(), "{:?}", pair.held());
}
