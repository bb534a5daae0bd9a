use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::registry::{Context, NewService, Plan, Registration};

const ORDERS: &str = "spiffe://td/ns/shop/svc/orders";
const CART: &str = "spiffe://td/ns/shop/svc/cart";
const ELSEWHERE: &str = "spiffe://td/ns/elsewhere/svc/orders";

/// A namespace `shop` with a service `orders`.
struct Shop {
    registry: Registry,
    rng: StdRng,
    service: String,
}

fn task(id: &str) -> Who {
    Who::Task {
        identity: id.parse().unwrap(),
        node: Some("n1".to_owned()),
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

impl Shop {
    fn new() -> Self {
        let mut shop = Self {
            registry: Registry::default(),
            rng: StdRng::seed_from_u64(3),
            service: String::new(),
        };
        let made = shop.call(&Who::Anyone, |registry, context| {
            registry.create_namespace(context, "shop", None, None, Vec::new())
        });
        made.unwrap();
        let made = shop.call(&Who::Anyone, |registry, context| {
            let new = NewService {
                name: "orders".to_owned(),
                namespace_id: registry.namespace_named("shop")?.id.clone(),
                creator_request_id: None,
                description: None,
                tags: Vec::new(),
                health_check: None,
                custom_health: Some(None),
            };
            registry.create_service(context, new)
        });
        shop.service = made.unwrap().id.clone();
        shop
    }

    fn call<T>(
        &mut self,
        who: &Who,
        plan: impl FnOnce(&Registry, &mut Context<'_>) -> Plan<T>,
    ) -> Result<T, Error> {
        let mut context = Context {
            now: 1,
            rng: &mut self.rng,
        };
        let (changes, value) = plan(&self.registry, &mut context)?;
        self.registry.permit(who, &changes)?;
        changes
            .iter()
            .for_each(|change| self.registry.apply(change));
        Ok(value)
    }

    fn declare(&mut self, who: &Who, attributes: &[(&str, &str)]) -> bool {
        let (service, attributes) = (self.service.clone(), map(attributes));
        let declared = self.call(who, |registry, context| {
            registry.update_service_attributes(context, &service, attributes)
        });
        is_permitted(declared)
    }

    fn register(&mut self, who: &Who, instance: &str, more: &[(&str, &str)]) -> bool {
        let mut attributes = map(more);
        attributes.insert("AWS_INSTANCE_IPV4".to_owned(), "10.0.0.1".to_owned());
        let registration = Registration {
            service_id: self.service.clone(),
            instance_id: instance.to_owned(),
            creator_request_id: None,
            attributes,
        };
        let registered = self.call(who, |registry, context| {
            registry.register_instance(context, registration)
        });
        is_permitted(registered)
    }

    fn deregister(&mut self, who: &Who, instance: &str) -> bool {
        let service = self.service.clone();
        let gone = self.call(who, |registry, context| {
            registry.deregister_instance(context, &service, instance)
        });
        is_permitted(gone)
    }
}

fn is_permitted<T>(result: Result<T, Error>) -> bool {
    match result {
        Ok(_) => true,
        Err(Error::AccessDenied(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_service_is_claimed_for_oneself_and_stays_with_its_identity() {
    let mut shop = Shop::new();
    let claim = [("OUTRIGGER_IDENTITY", ORDERS)];
    assert!(!shop.declare(&Who::Nobody, &claim));
    assert!(!shop.declare(&task(CART), &claim));
    assert!(!shop.declare(&task(ELSEWHERE), &[("OUTRIGGER_IDENTITY", ELSEWHERE)]));
    assert!(shop.declare(&task(ORDERS), &claim));
    assert!(!shop.declare(&task(CART), &[("OUTRIGGER_IDENTITY", CART)]));
    assert!(!shop.declare(&Who::Nobody, &[("OUTRIGGER_REVISION", "2")]));
    assert!(!shop.declare(&Who::Reader("no"), &[("OUTRIGGER_REVISION", "2")]));
    let both = format!("{ORDERS} {CART}");
    assert!(shop.declare(&Who::Operator, &[("OUTRIGGER_IDENTITY", &both)]));
    assert!(shop.declare(&task(CART), &[("OUTRIGGER_REVISION", "3")]));
}

#[test]
fn an_instance_that_takes_tls_is_its_identitys() {
    let mut shop = Shop::new();
    let tls = [("OUTRIGGER_TLS", ORDERS)];
    assert!(!shop.register(&Who::Nobody, "a", &tls));
    assert!(!shop.register(&task(CART), "a", &tls));
    assert!(shop.register(&task(ORDERS), "a", &tls));
    for other in [Who::Nobody, task(CART), Who::Reader("no")] {
        assert!(!shop.register(&other, "a", &[]), "{other:?}");
        assert!(!shop.deregister(&other, "a"), "{other:?}");
    }
    assert!(shop.deregister(&task(ORDERS), "a"));
}

#[test]
fn another_service_registers_nothing_where_there_is_an_identity_and_nobody_where_it_is_strict() {
    let mut shop = Shop::new();
    assert!(shop.declare(&task(ORDERS), &[("OUTRIGGER_IDENTITY", ORDERS)]));
    assert!(!shop.register(&task(CART), "a", &[]));
    assert!(!shop.register(&task(CART), "a", &[("OUTRIGGER_TLS", CART)]));
    // On the way to TLS there are tasks without a certificate.
    assert!(shop.register(&Who::Nobody, "a", &[]));
    assert!(shop.declare(
        &task(ORDERS),
        &[("OUTRIGGER_POLICY", r#"{"tls": "strict"}"#)]
    ));
    assert!(!shop.register(&Who::Nobody, "b", &[]));
    assert!(!shop.deregister(&Who::Nobody, "a"));
    assert!(shop.deregister(&task(ORDERS), "a"));
}

#[test]
fn a_task_speaks_for_its_own_node() {
    let mut shop = Shop::new();
    let orders = task(ORDERS);
    assert!(shop.register(&orders, "a", &[("OUTRIGGER_NODE", "n1")]));
    assert!(!shop.register(&orders, "b", &[("OUTRIGGER_NODE", "n2")]));
    let known: SpiffeId = ORDERS.parse().unwrap();
    assert!(orders.may_speak_for("n1", Some(&known)).is_ok());
    assert!(orders.may_speak_for("n2", Some(&known)).is_err());
    assert!(task(CART).may_speak_for("n1", Some(&known)).is_err());
    assert!(Who::Nobody.may_speak_for("n1", Some(&known)).is_err());
    assert!(Who::Nobody.may_speak_for("n1", None).is_ok());
    assert!(Who::Operator.may_speak_for("n2", Some(&known)).is_ok());
}

#[test]
fn nobody_binds_an_instance_to_a_node_of_an_identity_and_a_drain_leaves_such_alone() {
    let mut shop = Shop::new();
    let orders = task(ORDERS);
    let on = [("OUTRIGGER_NODE", "n1")];
    let unnamed = Who::Task {
        identity: CART.parse().unwrap(),
        node: None,
    };
    let tls = [("OUTRIGGER_NODE", "n1"), ("OUTRIGGER_TLS", ORDERS)];
    assert!(shop.register(&Who::Operator, "before", &on));
    assert!(shop.register(&orders, "a", &tls));
    assert!(!shop.register(&Who::Nobody, "b", &on));
    assert!(!shop.register(&unnamed, "b", &on));
    assert!(shop.register(&Who::Operator, "b", &on));
    assert!(shop.register(&Who::Nobody, "c", &[("OUTRIGGER_NODE", "n2")]));
    // A strict service: nobody may change what is left of it.
    let drained = |shop: &mut Shop, who: &Who| {
        let drains = shop.call(who, |registry, _| registry.drain_node(who, "n1"));
        assert!(is_permitted(drains));
        let draining = shop.registry.bound_to("n1").filter(|row| row.draining());
        draining.map(|row| row.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(drained(&mut shop, &Who::Nobody), ["b", "before"]);
    assert_eq!(drained(&mut shop, &orders), ["a", "b", "before"]);
}

#[test]
fn an_empty_namespace_is_deleted_by_whoever_may_create_it() {
    for (who, permitted) in [
        (Who::Nobody, true),
        (task(ORDERS), true),
        (task(ELSEWHERE), false),
        (Who::Reader("no"), false),
        (Who::Operator, true),
        (Who::Anyone, true),
    ] {
        let mut shop = Shop::new();
        let service = shop.service.clone();
        let gone = shop.call(&Who::Operator, |registry, context| {
            registry.delete_service(context, &service)
        });
        assert!(is_permitted(gone));
        let gone = shop.call(&who, |registry, context| {
            let id = registry.namespace_named("shop")?.id.clone();
            registry.delete_namespace(context, &id)
        });
        assert_eq!(is_permitted(gone), permitted, "{who:?}");
    }
}
