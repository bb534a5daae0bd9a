use std::net::Ipv4Addr;
use std::sync::Mutex;

use outrigger_xds::identity::{Authorization, TlsMode};
use outrigger_xds::model::{Endpoint, Inbound, Protocol, Target, TrustBundle};

use super::*;

type Seen = (Arc<Accepted>, Change);

#[derive(Clone, Default)]
struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    refuse: Arc<Mutex<Option<Rejection>>>,
}

impl Apply for Recorder {
    fn apply(&mut self, accepted: &Arc<Accepted>, change: &Change) -> Vec<Rejection> {
        self.seen
            .lock()
            .expect("not poisoned")
            .push((accepted.clone(), change.clone()));
        self.refuse
            .lock()
            .expect("not poisoned")
            .take()
            .into_iter()
            .collect()
    }
}

impl Recorder {
    fn last(&self) -> Seen {
        self.seen
            .lock()
            .expect("not poisoned")
            .last()
            .cloned()
            .expect("applied")
    }
}

fn config(dir: &std::path::Path) -> SubscriptionConfig {
    let state = StateDir::open(&dir.join("state")).expect("opens");
    let cidr = "127.9.0.0/24".parse().expect("a network");
    SubscriptionConfig {
        base: Accepted::default(),
        namespace: "n".to_owned(),
        vips: Vips::new(cidr, Some(state.clone())).expect("loads"),
        container_ports: BTreeSet::from([8080]),
        hosts_file: Some(dir.join("hosts")),
        state: Some(state),
        ready: Arc::new(Readiness::new(&[])),
        reconnected: Arc::new(watch::Sender::new(0)),
        task_id: "t1".to_owned(),
        standing: Standing::default(),
    }
}

fn listener(name: &str, offset: u16, port: u16) -> Resource {
    Resource::Listener(Listener {
        names: vec![name.to_owned()],
        vip_offset: Some(offset),
        ..Listener::new(
            format!("n/{name}:{port}"),
            Direction::Egress,
            (Ipv4Addr::new(127, 255, 3, 7), port).into(),
            Protocol::Tcp,
            Target::Cluster(format!("n/{name}")),
        )
    })
}

fn endpoints(cluster: &str, address: &str) -> Resource {
    let endpoint = Endpoint {
        instance: "t".to_owned(),
        sidecar: true,
        ..Endpoint::new(Address::Ip(address.parse().expect("an address")))
    };
    Resource::Endpoints(EndpointSet {
        cluster: cluster.to_owned(),
        endpoints: vec![endpoint],
    })
}

#[tokio::test]
async fn listeners_get_their_vip_and_their_hosts_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::default();
    let config = config(dir.path());
    let ready = config.ready.clone();
    let mut subscription = Subscription::new(config, recorder.clone());
    assert!(!ready.is_ready());
    let both = vec![listener("orders", 775, 80), listener("orders", 775, 81)];
    assert!(Sink::apply(&mut subscription, both, Vec::new()).is_empty());
    assert!(ready.is_ready());
    let (accepted, change) = recorder.last();
    assert!(change.structure);
    assert_eq!(
        accepted.listeners["n/orders:80"].address.to_string(),
        "127.9.0.1:80"
    );
    assert_eq!(
        accepted.listeners["n/orders:81"].address.to_string(),
        "127.9.0.1:81"
    );
    let hosts = std::fs::read_to_string(dir.path().join("hosts")).expect("reads");
    assert_eq!(
        hosts,
        "# outrigger begin\n127.9.0.1 orders\n# outrigger end\n"
    );
}

#[tokio::test]
async fn an_alias_on_a_container_port_is_told_and_not_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::default();
    let config = config(dir.path());
    let ready = config.ready.clone();
    let mut subscription = Subscription::new(config, recorder.clone());
    let both = vec![listener("web", 3, 8080), listener("orders", 2, 80)];
    assert!(Sink::apply(&mut subscription, both, Vec::new()).is_empty());
    assert_eq!(recorder.last().0.listeners.len(), 1);
    assert!(
        ready
            .problem_of("alias/n/web:8080")
            .expect("told")
            .contains("port 8080")
    );
    Sink::apply(
        &mut subscription,
        Vec::new(),
        vec![(ResourceType::Listener, "n/web:8080".to_owned())],
    );
    assert!(ready.problems().is_empty());
}

#[tokio::test]
async fn a_looping_endpoint_is_refused_and_the_last_good_set_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::default();
    let mut subscription = Subscription::new(config(dir.path()), recorder.clone());
    Sink::apply(
        &mut subscription,
        vec![endpoints("n/a", "10.0.0.1:80")],
        Vec::new(),
    );
    let update = vec![
        endpoints("n/a", "127.9.0.5:80"),
        endpoints("n/b", "10.0.0.2:80"),
    ];
    let rejections = Sink::apply(&mut subscription, update, Vec::new());
    assert_eq!(rejections.len(), 1);
    assert_eq!(
        (rejections[0].name.as_str(), rejections[0].field.as_str()),
        ("n/a", "endpoints[0].address")
    );
    let (accepted, change) = recorder.last();
    assert_eq!(change.endpoints, BTreeSet::from(["n/b".to_owned()]));
    assert!(!change.structure);
    assert_eq!(
        accepted.endpoints["n/a"].endpoints[0].address.to_string(),
        "10.0.0.1:80"
    );
}

#[tokio::test]
async fn what_the_data_plane_refuses_keeps_its_previous_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::default();
    let mut subscription = Subscription::new(config(dir.path()), recorder.clone());
    Sink::apply(
        &mut subscription,
        vec![endpoints("n/a", "10.0.0.1:80")],
        Vec::new(),
    );
    *recorder.refuse.lock().expect("not poisoned") = Some(Rejection {
        type_url: ResourceType::Endpoints.type_url().to_owned(),
        name: "n/a".to_owned(),
        field: "f".to_owned(),
        reason: "r".to_owned(),
    });
    let rejections = Sink::apply(
        &mut subscription,
        vec![endpoints("n/a", "10.0.0.9:80")],
        Vec::new(),
    );
    assert_eq!(rejections.len(), 1);
    let Some(Resource::Endpoints(kept)) = subscription.initial().pop() else {
        panic!("a set")
    };
    assert_eq!(kept.endpoints[0].address.to_string(), "10.0.0.1:80");
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_control_server_runs_from_disk_and_is_ready() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = config(dir.path());
    let mut changed = first.ready.watch();
    let state = first.state.clone().expect("given");
    let mut subscription = Subscription::new(first, Recorder::default());
    Sink::apply(
        &mut subscription,
        vec![listener("orders", 775, 80)],
        Vec::new(),
    );
    changed.borrow_and_update();
    while state.load_accepted("n").expect("reads").is_none() {
        tokio::task::yield_now().await;
    }
    let recorder = Recorder::default();
    let second = config(dir.path());
    let ready = second.ready.clone();
    let subscription = Subscription::new(second, recorder.clone());
    assert!(ready.is_ready());
    assert_eq!(subscription.initial().len(), 1);
    assert_eq!(
        recorder.last().0.listeners["n/orders:80"]
            .address
            .to_string(),
        "127.9.0.1:80"
    );
    assert!(ready.render().1["state_age_seconds"].is_u64());
}

#[tokio::test(start_paused = true)]
async fn an_empty_namespace_is_ready_shortly_after_connecting() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let ready = config.ready.clone();
    let mut subscription = Subscription::new(config, Recorder::default());
    subscription.connection(ConnectionState::Connected {
        server: "s".to_owned(),
        epoch: "e".to_owned(),
    });
    assert!(!ready.is_ready());
    ready.wait().await;
}

#[tokio::test]
async fn a_task_that_is_drained_by_somebody_else_is_told_and_an_earlier_run_s_end_is_not_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let standing = config.standing.clone();
    let mut subscription = Subscription::new(config, Recorder::default());
    let mut told = |instance: &str, health| {
        let endpoint = Endpoint {
            instance: instance.to_owned(),
            health,
            ..Endpoint::new(Address::Ip(([10, 0, 0, 1], 80).into()))
        };
        let set = EndpointSet {
            cluster: "n/orders".to_owned(),
            endpoints: vec![endpoint],
        };
        Sink::apply(
            &mut subscription,
            vec![Resource::Endpoints(set)],
            Vec::new(),
        );
        standing.taken_out.is_cancelled()
    };
    use EndpointHealth::{Draining, Healthy};
    assert!(!told("t1", Healthy), "an earlier run's");
    assert!(!told("t1", Draining), "an earlier run's end");
    standing.registered.cancel();
    assert!(!told("t1", Draining), "on its way before it was registered");
    assert!(!told("t2", Healthy));
    assert!(!told("t2", Draining), "another task");
    assert!(!told("t1", Healthy));
    assert!(told("t1", Draining));
}

/// As in a hot restart: the one process ends, and the other has begun with what was on disk before.
#[tokio::test(start_paused = true)]
async fn the_last_configuration_of_one_process_is_on_disk_when_it_ends_and_reloaded_by_the_next() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut old = Subscription::new(config(dir.path()), Recorder::default());
    let writing = old.writing().expect("there is a state directory");
    let recorder = Recorder::default();
    let mut new = Subscription::new(config(dir.path()), recorder.clone());
    let start = tokio::time::Instant::now();
    for (name, offset) in [("orders", 775), ("cart", 776), ("web", 777)] {
        Sink::apply(&mut old, vec![listener(name, offset, 80)], Vec::new());
        // Lets the writer begin.
        tokio::task::yield_now().await;
    }
    drop(old);
    writing.await.expect("ends");
    assert!(start.elapsed() < WRITE_INTERVAL, "nothing else comes");
    new.reload().expect("reads");
    let accepted = recorder.last().0;
    let address = |name: &str| accepted.listeners[name].address.to_string();
    assert_eq!(accepted.listeners.len(), 3);
    // In the places the old process gave them, not in the order of their names.
    assert_eq!(address("n/orders:80"), "127.9.0.1:80");
    assert_eq!(address("n/cart:80"), "127.9.0.2:80");
    assert_eq!(address("n/web:80"), "127.9.0.3:80");
}

fn policy(tls: TlsMode) -> Resource {
    Resource::Inbound(Inbound {
        name: "n/own".to_owned(),
        tls,
        authorization: Some(Authorization::default()),
    })
}

fn roots(roots: &str) -> Resource {
    Resource::Secret(TrustBundle {
        name: TRUST_BUNDLE.to_owned(),
        roots: roots.to_owned(),
    })
}

#[tokio::test]
async fn a_sidecar_asks_for_the_roots_and_for_the_policies_of_its_own_services() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    for port in [15000, 15001] {
        let target = Target::Cluster("own".to_owned());
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let name = format!("own:{port}");
        let listener = Listener {
            inbound: Some("n/own".to_owned()),
            ..Listener::new(&name, Direction::Ingress, address, Protocol::Tcp, target)
        };
        config.base.listeners.insert(name, Arc::new(listener));
    }
    let subscription = Subscription::new(config, Recorder::default());
    let expected = [
        (ResourceType::Secret, TRUST_BUNDLE.to_owned()),
        (ResourceType::Inbound, "n/own".to_owned()),
    ];
    assert_eq!(subscription.always(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_control_server_keeps_the_tls_mode_the_callers_and_the_roots() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut first = Subscription::new(config(dir.path()), Recorder::default());
    let writing = first.writing().expect("there is a state directory");
    let all = vec![roots("one"), policy(TlsMode::Strict)];
    assert!(Sink::apply(&mut first, all.clone(), Vec::new()).is_empty());
    drop(first);
    writing.await.expect("ends");
    let recorder = Recorder::default();
    let second = Subscription::new(config(dir.path()), recorder.clone());
    assert_eq!(second.initial(), all);
    let (accepted, _) = recorder.last();
    let inbound = &accepted.inbound["n/own"];
    assert_eq!(inbound.tls, TlsMode::Strict);
    assert!(inbound.authorization.is_some());
    assert_eq!(
        accepted.trust_bundle().map(|one| one.roots.as_str()),
        Some("one")
    );
}

#[tokio::test]
async fn a_policy_that_the_data_plane_refuses_leaves_the_one_before_in_force() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::default();
    let mut subscription = Subscription::new(config(dir.path()), recorder.clone());
    Sink::apply(
        &mut subscription,
        vec![policy(TlsMode::Strict), roots("one")],
        Vec::new(),
    );
    for (kind, new) in [
        (ResourceType::Inbound, policy(TlsMode::Disable)),
        (ResourceType::Secret, roots("two")),
    ] {
        *recorder.refuse.lock().expect("not poisoned") = Some(Rejection {
            type_url: kind.type_url().to_owned(),
            name: new.name().to_owned(),
            field: "f".to_owned(),
            reason: "r".to_owned(),
        });
        assert_eq!(
            Sink::apply(&mut subscription, vec![new], Vec::new()).len(),
            1
        );
    }
    assert_eq!(
        subscription.initial(),
        [roots("one"), policy(TlsMode::Strict)]
    );
}
