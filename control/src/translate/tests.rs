use std::collections::BTreeMap;

use outrigger_xds::identity::TRUST_BUNDLE;
use outrigger_xds::{ResourceSet, ResourceType};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use super::*;
use crate::registry::{Context, NewService, Plan, Registration};

const OWN: &str = "spiffe://outrigger.internal/ns/shop/svc/orders";
const OTHER: &str = "spiffe://outrigger.internal/ns/shop/svc/cart";

/// A namespace `shop` with a service `orders`, declared and with instances as the tests say.
fn registry(declared: &[(&str, &str)], instances: &[(&str, Option<&str>)]) -> Registry {
    let mut registry = Registry::default();
    let mut rng = StdRng::seed_from_u64(7);
    let mut call = |plan: &dyn Fn(&Registry, &mut Context<'_>) -> Plan<()>| {
        let mut context = Context {
            now: 1,
            rng: &mut rng,
        };
        let (changes, ()) = plan(&registry, &mut context).expect("the registry takes it");
        changes.iter().for_each(|change| registry.apply(change));
    };
    call(&|registry, context| {
        let (changes, _) = registry.create_namespace(context, "shop", None, None, Vec::new())?;
        Ok((changes, ()))
    });
    call(&|registry, context| {
        let new = NewService {
            name: "orders".to_owned(),
            namespace_id: registry.namespace_named("shop")?.id.clone(),
            creator_request_id: None,
            description: None,
            tags: Vec::new(),
            health_check: None,
            custom_health: Some(None),
        };
        let (changes, _) = registry.create_service(context, new)?;
        Ok((changes, ()))
    });
    let service = |registry: &Registry| {
        let namespace = registry.namespace_named("shop").expect("it was made");
        let mut services = registry.services_in(&namespace.id);
        services.next().expect("it was made").id.clone()
    };
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    };
    call(&|registry, context| {
        let service = service(registry);
        let (changes, _) = registry.update_service_attributes(context, &service, map(declared))?;
        Ok((changes, ()))
    });
    for (id, tls) in instances {
        call(&|registry, context| {
            let mut attributes = vec![("AWS_INSTANCE_IPV4", "10.0.0.1")];
            attributes.extend(tls.map(|id| ("OUTRIGGER_TLS", id)));
            let registration = Registration {
                service_id: service(registry),
                instance_id: (*id).to_owned(),
                creator_request_id: None,
                attributes: map(&attributes),
            };
            let (changes, _) = registry.register_instance(context, registration)?;
            Ok((changes, ()))
        });
    }
    registry
}

fn trust() -> TrustBundle {
    TrustBundle {
        name: TRUST_BUNDLE.to_owned(),
        roots: "pem".to_owned(),
    }
}

fn set(registry: &Registry) -> ResourceSet {
    let resources = resources(registry, "shop", Some(&trust()));
    ResourceSet::from_model(resources).expect("they fit together")
}

fn inbound_of(set: &ResourceSet) -> Inbound {
    match set
        .get(ResourceType::Inbound, "shop/orders")
        .map(|one| &one.resource)
    {
        Some(Resource::Inbound(inbound)) => inbound.clone(),
        other => panic!("{other:?}"),
    }
}

/// Which instances take TLS.
fn with_tls(set: &ResourceSet) -> Vec<String> {
    let Some(Resource::Endpoints(endpoints)) = set
        .get(ResourceType::Endpoints, "shop/orders")
        .map(|one| &one.resource)
    else {
        panic!("there are endpoints")
    };
    let all = endpoints.endpoints.iter().filter(|endpoint| endpoint.tls);
    all.map(|endpoint| endpoint.instance.clone()).collect()
}

#[test]
fn a_namespace_brings_its_roots_and_one_that_does_not_exist_brings_nothing() {
    let registry = registry(&[], &[]);
    let set = set(&registry);
    let secret = set.get(ResourceType::Secret, TRUST_BUNDLE);
    let expected = Resource::Secret(trust());
    assert_eq!(secret.map(|one| &one.resource), Some(&expected));
    assert_eq!(resources(&registry, "elsewhere", Some(&trust())), []);
    let without = resources(&registry, "shop", None);
    assert!(
        without
            .iter()
            .all(|one| one.resource_type() != ResourceType::Secret)
    );
}

#[test]
fn every_service_says_who_may_call_it() {
    let inbound = inbound_of(&set(&registry(&[], &[])));
    assert_eq!(
        (inbound.tls, inbound.authorization),
        (TlsMode::Disable, None)
    );
    let policy = json!({"tls": "strict", "authorization": {"allow": [{"from": ["cart"]}]}});
    let text = policy.to_string();
    let inbound = inbound_of(&set(&registry(&[("OUTRIGGER_POLICY", &text)], &[])));
    assert_eq!(inbound.tls, TlsMode::Strict);
    let rules = inbound.authorization.expect("it was declared").allow;
    assert_eq!(rules[0].from[0].to_string(), "cart");
}

#[test]
fn an_instance_takes_tls_under_an_identity_of_its_service_unless_the_service_wants_none() {
    let instances = [("a", Some(OWN)), ("b", None), ("c", Some(OTHER))];
    let with = |mode: &str| {
        let policy = json!({ "tls": mode }).to_string();
        let declared = [
            ("OUTRIGGER_POLICY", policy.as_str()),
            ("OUTRIGGER_IDENTITY", OWN),
        ];
        set(&registry(&declared, &instances))
    };
    for mode in ["permissive", "strict"] {
        assert_eq!(with_tls(&with(mode)), ["a"], "{mode}");
    }
    let disabled = with("disable");
    assert!(with_tls(&disabled).is_empty());
    let cluster = disabled.get(ResourceType::Cluster, "shop/orders");
    let Some(Resource::Cluster(cluster)) = cluster.map(|one| &one.resource) else {
        panic!("there is a cluster")
    };
    // Also when none of them takes TLS: the endpoints that still do where this arrives first can be spoken to.
    assert_eq!(cluster.identities, [OWN.parse().expect("is an id")]);
    let both = format!("{OTHER} {OWN}");
    let declared = [
        ("OUTRIGGER_POLICY", r#"{"tls": "strict"}"#),
        ("OUTRIGGER_IDENTITY", &both),
    ];
    assert_eq!(with_tls(&set(&registry(&declared, &instances))), ["a", "c"]);
}
