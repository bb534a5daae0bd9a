use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::liveness::{GRACE, Liveness};
use super::*;

const DAY: Millis = 24 * 3600 * 1000;

/// A registry whose plans are committed at once, at a time that the test sets.
struct World {
    registry: Registry,
    rng: StdRng,
    now: Millis,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            registry: Registry::with_limits(limits),
            rng: StdRng::seed_from_u64(7),
            now: 1,
        }
    }

    fn call<T>(
        &mut self,
        plan: impl FnOnce(&Registry, &mut Context<'_>) -> Plan<T>,
    ) -> Result<T, Error> {
        let mut context = Context {
            now: self.now,
            rng: &mut self.rng,
        };
        let (changes, value) = plan(&self.registry, &mut context)?;
        changes
            .iter()
            .for_each(|change| self.registry.apply(change));
        Ok(value)
    }

    fn namespace(&mut self, name: &str) -> Result<String, Error> {
        self.call(|registry, context| {
            registry.create_namespace(context, name, None, None, Vec::new())
        })?;
        Ok(self.registry.namespace_named(name)?.id.clone())
    }

    fn service(&mut self, namespace: &str, name: &str) -> Result<Arc<Service>, Error> {
        let new = NewService {
            name: name.to_owned(),
            namespace_id: namespace.to_owned(),
            creator_request_id: None,
            description: None,
            tags: Vec::new(),
            health_check: None,
            custom_health: Some(None),
        };
        self.call(|registry, context| registry.create_service(context, new))
    }

    fn declare(&mut self, service: &Service, attributes: &[(&str, &str)]) -> Result<(), Error> {
        let attributes = map(attributes);
        self.call(|registry, context| {
            registry.update_service_attributes(context, &service.id, attributes)
        })
        .map(drop)
    }

    fn alias(&mut self, service: &Service, alias: &str) -> Result<(), Error> {
        self.declare(service, &[("OUTRIGGER_ALIAS", alias)])
    }

    fn register(
        &mut self,
        service: &Service,
        id: &str,
        attributes: &[(&str, &str)],
    ) -> Result<String, Error> {
        let registration = Registration {
            service_id: service.id.clone(),
            instance_id: id.to_owned(),
            creator_request_id: None,
            attributes: map(attributes),
        };
        self.call(|registry, context| registry.register_instance(context, registration))
    }

    fn attributes(&self, service: &Service) -> BTreeMap<String, String> {
        self.registry
            .service(&service.id)
            .unwrap()
            .attributes
            .clone()
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn an_older_revision_changes_nothing_and_the_newest_first_seen_wins() {
    let mut world = World::new(Limits::default());
    let namespace = world.namespace("shop").unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    let first = [
        ("OUTRIGGER_REVISION", "1"),
        ("OUTRIGGER_ALIAS", "orders:80"),
        ("OUTRIGGER_IDLE_TIMEOUT", "9"),
    ];
    let second = [
        ("OUTRIGGER_REVISION", "2"),
        ("OUTRIGGER_ALIAS", "orders:81"),
    ];
    world.declare(&orders, &first).unwrap();
    world.declare(&orders, &second).unwrap();
    world.declare(&orders, &first).unwrap();
    assert_eq!(world.attributes(&orders), map(&second));
    world.declare(&orders, &second).unwrap();
    assert_eq!(world.attributes(&orders), map(&second));
}

#[test]
fn an_alias_of_another_service_is_refused_naming_the_owner_and_nothing_is_applied() {
    let mut world = World::new(Limits::default());
    let namespace = world.namespace("shop").unwrap();
    let (orders, bills) = (
        world.service(&namespace, "orders").unwrap(),
        world.service(&namespace, "bills").unwrap(),
    );
    world.alias(&orders, "pay:80").unwrap();
    let refused = world
        .declare(
            &bills,
            &[("OUTRIGGER_ALIAS", "pay:80"), ("OUTRIGGER_REVISION", "1")],
        )
        .unwrap_err();
    assert!(refused.to_string().contains("orders"), "{refused}");
    assert_eq!(world.attributes(&bills), BTreeMap::new());
    assert!(
        world
            .registry
            .service(&bills.id)
            .unwrap()
            .revisions
            .is_empty()
    );
    world.alias(&bills, "pay:81").unwrap();
}

#[test]
fn a_declaration_with_a_bad_value_is_refused_by_its_field() {
    let mut world = World::new(Limits::default());
    let namespace = world.namespace("shop").unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    let long = format!("{}:80", "a".repeat(128));
    let bad = [
        ("OUTRIGGER_ALIAS", "orders"),
        ("OUTRIGGER_ALIAS", "orders:0"),
        ("OUTRIGGER_ALIAS", "orders:080"),
        ("OUTRIGGER_ALIAS", "Orders:80"),
        ("OUTRIGGER_ALIAS", "localhost:80"),
        ("OUTRIGGER_ALIAS", "127.0.0.1:80"),
        ("OUTRIGGER_ALIAS", &long),
        ("OUTRIGGER_APP_PROTOCOL", "auto"),
        ("OUTRIGGER_IDLE_TIMEOUT", "1.5"),
        ("OUTRIGGER_PER_REQUEST_TIMEOUT", "15"),
        ("OUTRIGGER_LB", "random"),
        ("OUTRIGGER_RETRIES", "11"),
        ("OUTRIGGER_REVISION", ""),
        ("OUTRIGGER_POLICY", ""),
        ("OUTRIGGER_POLICY", "[]"),
        ("OUTRIGGER_POLICY", r#"{"retry": {"num_retries": 11}}"#),
        (
            "OUTRIGGER_POLICY",
            r#"{"health_check": {"grpc_service": ""}}"#,
        ),
    ];
    for (field, value) in bad {
        match world.declare(&orders, &[(field, value)]) {
            Err(Error::InvalidInput { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field} {value:?}: {other:?}"),
        }
    }
    assert_eq!(world.attributes(&orders), BTreeMap::new());
}

#[test]
fn what_the_policy_says_no_older_attribute_says_beside_it() {
    let mut world = World::new(Limits::default());
    let namespace = world.namespace("shop").unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    let policy = ("OUTRIGGER_POLICY", r#"{"retry": {"num_retries": 0}}"#);
    world
        .declare(&orders, &[policy, ("OUTRIGGER_REVISION", "1")])
        .unwrap();
    let service = world.registry.service(&orders.id).unwrap();
    assert_eq!(declaration(service).policy.retry.num_retries, 0);
    for older in [("OUTRIGGER_LB", "ring_hash"), ("OUTRIGGER_RETRIES", "1")] {
        match world.declare(&orders, &[older]) {
            Err(Error::InvalidInput { field, reason }) => {
                assert_eq!(field, older.0);
                assert!(reason.contains("OUTRIGGER_POLICY"), "{reason}");
            }
            other => panic!("{older:?}: {other:?}"),
        }
    }
    world
        .declare(
            &orders,
            &[("OUTRIGGER_REVISION", "2"), ("OUTRIGGER_RETRIES", "1")],
        )
        .unwrap();
    let service = world.registry.service(&orders.id).unwrap();
    assert_eq!(declaration(service).policy.retry.num_retries, 1);
}

#[test]
fn revisions_are_remembered_up_to_the_bound() {
    let mut world = World::new(Limits {
        revisions: 2,
        ..Limits::default()
    });
    let namespace = world.namespace("shop").unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    for revision in ["1", "2", "3"] {
        world
            .declare(&orders, &[("OUTRIGGER_REVISION", revision)])
            .unwrap();
    }
    assert_eq!(
        world.registry.service(&orders.id).unwrap().revisions,
        ["2", "3"]
    );
}

#[test]
fn one_name_has_one_offset_on_all_ports_and_offsets_begin_at_one() {
    let mut world = World::new(Limits::default());
    let namespace = world.namespace("shop").unwrap();
    let (one, two) = (
        world.service(&namespace, "one").unwrap(),
        world.service(&namespace, "two").unwrap(),
    );
    world.alias(&one, "pay:80").unwrap();
    world.alias(&two, "pay:81").unwrap();
    assert_eq!(world.registry.vip("shop", "pay"), Some(1));
    world.alias(&one, "other:80").unwrap();
    assert_eq!(
        world.registry.vip("shop", "pay"),
        Some(1),
        "the other service still has the name"
    );
    assert_eq!(world.registry.vip("shop", "other"), Some(2));
}

#[test]
fn an_offset_rests_seven_days_and_comes_back_to_its_own_name_at_once() {
    let mut world = World::new(Limits::default());
    let namespace = world.namespace("shop").unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    world.alias(&orders, "a:80").unwrap();
    world.alias(&orders, "b:80").unwrap();
    assert_eq!(
        (
            world.registry.vip("shop", "a"),
            world.registry.vip("shop", "b")
        ),
        (None, Some(2))
    );
    world.alias(&orders, "a:80").unwrap();
    assert_eq!(world.registry.vip("shop", "a"), Some(1));
    world
        .call(|registry, context| registry.delete_service(context, &orders.id))
        .unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    world.now += 7 * DAY - 1;
    world.alias(&orders, "c:80").unwrap();
    assert_eq!(world.registry.vip("shop", "c"), Some(3));
    world.now += 1;
    world.alias(&orders, "d:80").unwrap();
    assert_eq!(world.registry.vip("shop", "d"), Some(1));
    world.alias(&orders, "a:80").unwrap();
    assert_eq!(
        world.registry.vip("shop", "a"),
        Some(2),
        "its old offset is another name's now"
    );
}

#[test]
fn a_namespace_has_65534_addresses_and_then_says_so() {
    let mut world = World::new(Limits::default());
    let namespace = world.namespace("shop").unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    for offset in 1..=u16::MAX - 1 {
        let vip = Vip {
            namespace: "shop".to_owned(),
            dns_name: format!("n{offset}"),
            offset,
            released: None,
        };
        world.registry.apply(&Change::Vip(Arc::new(vip)));
    }
    assert!(matches!(
        world.alias(&orders, "more:80"),
        Err(Error::ResourceLimitExceeded(_))
    ));
    world.registry.apply(&Change::DropVip {
        namespace: "shop".to_owned(),
        dns_name: "n65534".to_owned(),
    });
    world.alias(&orders, "more:80").unwrap();
    assert_eq!(world.registry.vip("shop", "more"), Some(65534));
}

#[test]
fn namespaces_services_and_instances_are_bounded() {
    let limits = Limits {
        namespaces: 1,
        services_per_namespace: 1,
        instances_per_service: 1,
        ..Limits::default()
    };
    let mut world = World::new(limits);
    let namespace = world.namespace("shop").unwrap();
    assert!(matches!(
        world.namespace("more"),
        Err(Error::ResourceLimitExceeded(_))
    ));
    let orders = world.service(&namespace, "orders").unwrap();
    assert!(matches!(
        world.service(&namespace, "more"),
        Err(Error::ResourceLimitExceeded(_))
    ));
    world.register(&orders, "one", &[]).unwrap();
    assert!(matches!(
        world.register(&orders, "more", &[]),
        Err(Error::ResourceLimitExceeded(_))
    ));
    world.register(&orders, "one", &[("k", "v")]).unwrap();
}

#[test]
fn the_oldest_operations_are_forgotten_at_the_bound() {
    let mut world = World::new(Limits {
        operations: 2,
        ..Limits::default()
    });
    let namespace = world.namespace("shop").unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    let first = world.register(&orders, "one", &[]).unwrap();
    assert_eq!(
        world.register(&orders, "one", &[]).unwrap(),
        first,
        "nothing new happened"
    );
    let second = world.register(&orders, "two", &[]).unwrap();
    let third = world.register(&orders, "three", &[]).unwrap();
    assert!(world.registry.operation(&first).is_err());
    let kept: Vec<&str> = world
        .registry
        .operations()
        .map(|row| row.id.as_str())
        .collect();
    assert_eq!(kept, [third.as_str(), second.as_str()]);
}

#[test]
fn a_lost_node_s_instances_are_kept_unhealthy_and_come_back_with_it() {
    let mut world = World::new(Limits::default());
    let namespace = world.namespace("shop").unwrap();
    let orders = world.service(&namespace, "orders").unwrap();
    world
        .register(&orders, "one", &[("OUTRIGGER_NODE", "task")])
        .unwrap();
    let health = |world: &World| {
        world
            .registry
            .health(world.registry.instance(&orders.id, "one").unwrap())
    };
    let task = ["task".to_owned()];
    world.call(|registry, _| registry.lose(&task)).unwrap();
    assert_eq!(health(&world), InstanceHealth::Unhealthy);
    world.call(|registry, _| registry.find(&task)).unwrap();
    assert_eq!(health(&world), InstanceHealth::Healthy);
    world
        .call(|registry, _| registry.drain_node(&Who::Anyone, "task"))
        .unwrap();
    assert_eq!(health(&world), InstanceHealth::Draining);
    world.call(|registry, _| registry.lose(&task)).unwrap();
    world
        .call(|registry, context| registry.deregister_instance(context, &orders.id, "one"))
        .unwrap();
    assert!(
        world.registry.lost_nodes().is_empty(),
        "nothing is bound to it any more"
    );
}

fn bound(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("n{number}")).collect()
}

fn tick(liveness: &mut Liveness, now: Instant, nodes: &[String]) -> Vec<String> {
    liveness
        .tick(now, nodes.iter().map(String::as_str), &BTreeSet::new())
        .lost
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_liveness_begins_sixty_seconds_after_the_start() {
    let start = Instant::now();
    let mut liveness = Liveness::new(start);
    let nodes = bound(1);
    assert!(tick(&mut liveness, start, &nodes).is_empty());
    assert!(tick(&mut liveness, start + Duration::from_secs(89), &nodes).is_empty());
    assert_eq!(
        tick(&mut liveness, start + Duration::from_secs(90), &nodes),
        nodes
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_reconnects_within_the_grace_is_never_lost() {
    let start = Instant::now();
    let mut liveness = Liveness::new(start);
    let nodes = bound(1);
    let later = start + Duration::from_secs(1000);
    liveness.connected("n0");
    assert!(tick(&mut liveness, later, &nodes).is_empty());
    liveness.disconnected("n0", later);
    assert!(
        tick(
            &mut liveness,
            later + GRACE - Duration::from_millis(1),
            &nodes
        )
        .is_empty()
    );
    liveness.connected("n0");
    assert!(tick(&mut liveness, later + 2 * GRACE, &nodes).is_empty());
    liveness.disconnected("n0", later + 2 * GRACE);
    assert_eq!(tick(&mut liveness, later + 3 * GRACE, &nodes), nodes);
    liveness.connected("n0");
    let lost = BTreeSet::from(["n0".to_owned()]);
    assert_eq!(
        liveness
            .tick(later + 3 * GRACE, ["n0"].into_iter(), &lost)
            .back,
        nodes
    );
}

#[tokio::test(start_paused = true)]
async fn expiry_pauses_when_more_than_a_fifth_and_at_least_three_go_silent_within_one_period() {
    let start = Instant::now();
    let later = start + Duration::from_secs(1000);
    for (all, silent, believed) in [
        (2, 2, true),
        (10, 3, false),
        (15, 3, true),
        (15, 4, false),
        (3, 3, false),
    ] {
        let mut liveness = Liveness::new(start);
        let nodes = bound(all);
        nodes.iter().for_each(|node| liveness.connected(node));
        nodes
            .iter()
            .take(silent)
            .for_each(|node| liveness.disconnected(node, later));
        let verdict = liveness.tick(
            later + GRACE,
            nodes.iter().map(String::as_str),
            &BTreeSet::new(),
        );
        assert_eq!(
            verdict.lost.len(),
            if believed { silent } else { 0 },
            "{silent} of {all}"
        );
        assert_eq!(
            verdict.held_back,
            if believed { 0 } else { silent },
            "{silent} of {all}"
        );
    }
}
