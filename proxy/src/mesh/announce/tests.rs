use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Json;
use outrigger_xds::model::{HealthCheck, Probe};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use outrigger_xds::hop::Tokens;

use super::*;
use crate::mesh::client::Dialler;
use crate::mesh::document;
use crate::upstream::resolve::Resolver;

/// A registry that records its calls and holds just enough to answer them.
#[derive(Default)]
struct Registry {
    namespace: bool,
    service: bool,
    instance: Option<Value>,
    declared: Option<Value>,
    refuse_declaration: bool,
    /// The revision in force, where that is not what is declared, and its policy.
    in_force: Option<(&'static str, &'static str)>,
    deregistered: bool,
    /// What `UpdateInstanceCustomHealthStatus` said last.
    health: Option<Value>,
    /// What `GetInstancesHealthStatus` answers.
    shown: Option<Value>,
    /// So many drains fail first, with this status.
    failing_drains: (u32, StatusCode),
    /// Deregistrations are not answered.
    mute: bool,
    problems: Option<Value>,
}

type Shared = Arc<Mutex<Registry>>;

fn answer(registry: &mut Registry, operation: &str, input: &Value) -> (StatusCode, Value) {
    let refuse = |kind: &str| {
        (
            StatusCode::BAD_REQUEST,
            json!({"__type": kind, "Message": "owned by cart"}),
        )
    };
    let ok = |value| (StatusCode::OK, value);
    match operation {
        "ListNamespaces" if registry.namespace => {
            ok(json!({"Namespaces": [{"Id": "ns-1", "Name": "prod"}]}))
        }
        "ListNamespaces" => ok(json!({"Namespaces": []})),
        "CreateHttpNamespace" => {
            registry.namespace = true;
            ok(json!({"OperationId": "op"}))
        }
        "ListServices" if registry.service => {
            ok(json!({"Services": [{"Id": "srv-1", "Name": "orders"}]}))
        }
        "CreateService" if registry.service => {
            let body =
                json!({"__type": "ServiceAlreadyExists", "Message": "", "ServiceId": "srv-1"});
            (StatusCode::BAD_REQUEST, body)
        }
        "CreateService" => {
            registry.service = true;
            ok(json!({"Service": {"Id": "srv-1"}}))
        }
        "UpdateServiceAttributes" if registry.refuse_declaration => refuse("InvalidInput"),
        "UpdateServiceAttributes" => {
            registry.declared = Some(input["Attributes"].clone());
            let in_force = registry.in_force.map(|(revision, _)| revision);
            ok(in_force.map_or(json!({}), |one| json!({"Superseded": one})))
        }
        "GetServiceAttributes" => {
            let policy = registry.in_force.map(|(_, policy)| policy);
            ok(json!({"ServiceAttributes": {"Attributes": {"OUTRIGGER_POLICY": policy}}}))
        }
        "GetInstance" => match &registry.instance {
            Some(attributes) => ok(json!({"Instance": {"Id": "t1", "Attributes": attributes}})),
            None if registry.deregistered => {
                let body = json!({"__type": "InstanceNotFound", "OperationId": "op"});
                (StatusCode::BAD_REQUEST, body)
            }
            None => refuse("InstanceNotFound"),
        },
        "RegisterInstance" => {
            registry.instance = Some(input["Attributes"].clone());
            ok(json!({"OperationId": "op"}))
        }
        "UpdateInstanceCustomHealthStatus" => {
            registry.health = Some(input["Status"].clone());
            registry.shown = Some(input["Status"].clone());
            ok(json!({}))
        }
        "GetInstancesHealthStatus" if registry.instance.is_none() => refuse("InstanceNotFound"),
        "GetInstancesHealthStatus" => {
            ok(json!({"Status": {"t1": registry.shown.clone().unwrap_or_default()}}))
        }
        "/v1/nodes/t1/report" => {
            registry.problems = Some(input["problems"].clone());
            ok(json!({}))
        }
        "/v1/nodes/t1/drain" if registry.failing_drains.0 > 0 => {
            registry.failing_drains.0 -= 1;
            (registry.failing_drains.1, json!({}))
        }
        "/v1/nodes/t1/drain" => ok(json!({"acknowledged": 2, "connected": 3, "left_out": ["t9"]})),
        _ => ok(json!({})),
    }
}

fn is_mute(registry: &Shared) -> bool {
    registry.lock().expect("not poisoned").mute
}

/// Serves the registry and tells every call by name.
async fn serve(registry: Shared) -> (SocketAddr, mpsc::Receiver<String>) {
    let (sender, receiver) = mpsc::channel(1000);
    let handler = move |uri: Uri, headers: HeaderMap, body: Bytes| async move {
        let target = headers
            .get("x-amz-target")
            .and_then(|value| value.to_str().ok())
            .unwrap_or(uri.path());
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let input = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, output) = answer(
            &mut registry.lock().expect("not poisoned"),
            &operation,
            &input,
        );
        let mute = operation == "DeregisterInstance" && is_mute(&registry);
        if operation != "/v1/nodes/t1/report" {
            sender.send(operation).await.expect("the test listens");
        }
        if mute {
            std::future::pending::<()>().await;
        }
        (status, Json(output))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    (address, receiver)
}

use bytes::Bytes;

fn announcer(control: SocketAddr, app: SocketAddr) -> Announcer {
    let json = json!({
        "clusterName": "c", "serviceName": "orders-v1",
        "portMappings": [{"name": "web", "containerPort": app.port(), "appProtocol": "http"}],
        "serviceConnectConfiguration": {"enabled": true, "services": [{
            "portName": "web", "discoveryName": "orders",
            "clientAliases": [{"port": 80, "dnsName": "orders"}],
            "timeout": {"perRequestTimeoutSeconds": 3},
            "policy": {"retry": {"num_retries": 0, "back_off_max": "250ms"}},
        }]},
    });
    let mesh = MeshConfig {
        control: Vec::new(),
        xds: Vec::new(),
        namespace: "prod".to_owned(),
        task_id: "t1".to_owned(),
        zone: "a".to_owned(),
        address: Ipv4Addr::LOCALHOST.into(),
        app_address: app.ip(),
        document: Some(document::parse(&json.to_string()).expect("valid")),
        revision: None,
        identity: None,
    };
    let dead = "http://127.0.0.1:1".parse().expect("a URI");
    let live = format!("http://{control}").parse().expect("a URI");
    let config = AnnounceConfig {
        mesh,
        ports: BTreeMap::from([("web".to_owned(), 15000)]),
        hop: crate::mesh::state::fresh_tokens(),
        identity: None,
        modes: watch::Sender::default().subscribe(),
        client: Client::new(
            vec![dead, live],
            Dialler::plain(Arc::new(Resolver::with_servers(&[]))),
        ),
        reconnected: Arc::new(watch::Sender::new(0)),
        standing: Standing::default(),
    };
    Announcer::new(config, Arc::new(Readiness::new(&[])))
}

async fn application() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Runs until the registry was asked for `last`, then kills it there.
async fn run_until(
    announcer: &Announcer,
    calls: &mut mpsc::Receiver<String>,
    last: &str,
) -> Vec<String> {
    let mut seen = Vec::new();
    let listen = async {
        while let Some(call) = calls.recv().await {
            seen.push(call);
            if seen.last().is_some_and(|call| call == last) {
                return;
            }
        }
    };
    tokio::select! {
        () = announcer.run(CancellationToken::new()) => {}
        () = listen => {}
    }
    seen
}

const FIRST_PASS: [&str; 6] = [
    "ListNamespaces",
    "CreateHttpNamespace",
    "ListNamespaces",
    "CreateService",
    "UpdateServiceAttributes",
    "RegisterInstance",
];

#[tokio::test]
async fn announces_in_order_with_the_documented_attributes() {
    let registry = Shared::default();
    let (control, mut calls) = serve(registry.clone()).await;
    let (_listener, app) = application().await;
    let announcer = announcer(control, app);
    assert_eq!(
        run_until(&announcer, &mut calls, "RegisterInstance").await,
        FIRST_PASS
    );
    let registry = registry.lock().expect("not poisoned");
    let declared = registry.declared.as_ref().expect("declared");
    assert_eq!(declared["OUTRIGGER_ALIAS"], "orders:80");
    assert_eq!(declared["OUTRIGGER_APP_PROTOCOL"], "http");
    assert_eq!(declared["OUTRIGGER_PER_REQUEST_TIMEOUT"], "3");
    assert_eq!(
        declared["OUTRIGGER_POLICY"], r#"{"retry":{"num_retries":0}}"#,
        "what is the default is not said"
    );
    assert_eq!(
        declared["OUTRIGGER_REVISION"].as_str().map(str::len),
        Some(32)
    );
    let expected = json!({
        "AWS_INSTANCE_IPV4": "127.0.0.1", "AWS_INSTANCE_PORT": "15000", "AVAILABILITY_ZONE": "a",
        "ECS_CLUSTER_NAME": "c", "ECS_SERVICE_NAME": "orders-v1", "OUTRIGGER_NODE": "t1",
        "OUTRIGGER_SIDECAR": "true", "OUTRIGGER_STATE": "ACTIVE",
    });
    let mut held = registry.instance.clone().expect("registered");
    let hop = held
        .as_object_mut()
        .and_then(|held| held.remove("OUTRIGGER_HOP"));
    let hop = hop
        .as_ref()
        .and_then(|hop| hop.as_str())
        .unwrap_or_default();
    assert!(matches!(Tokens::read(hop), Ok(Some(_))), "{hop:?}");
    assert_eq!(held, expected);
}

#[tokio::test]
async fn a_declaration_that_is_superseded_is_said_with_the_mode_that_differs() {
    let (_listener, app) = application().await;
    let registry = Shared::default();
    let (control, mut calls) = serve(registry.clone()).await;
    let mut announcer = announcer(control, app);
    let document = announcer.config.mesh.document.as_mut().expect("one");
    document.services[0].policy.tls = TlsMode::Strict;
    let service = document.services[0].clone();
    for (revision, policy, expected) in [
        ("7", r#"{"tls":"strict"}"#, Some("superseded by revision 7")),
        ("operator-7", r#"{"tls":"strict"}"#, None),
        (
            "operator-7",
            r#"{"tls":"permissive"}"#,
            Some("tls permissive instead of strict"),
        ),
    ] {
        registry.lock().expect("not poisoned").in_force = Some((revision, policy));
        let answer = json!({"Superseded": revision});
        let said = announcer.superseded(&service, "srv-1", &answer).await;
        let said = said.expect("answered");
        match expected {
            Some(words) => assert!(said.as_ref().is_some_and(|said| said.contains(words))),
            None => assert_eq!(said, None),
        }
    }
    registry.lock().expect("not poisoned").in_force = Some(("8", "{}"));
    let ready = announcer.ready.clone();
    let mut changed = ready.watch();
    let told = async {
        loop {
            if let Some(said) = ready.problem_of("announce/orders") {
                return said;
            }
            changed.changed().await.expect("lives");
        }
    };
    let said = tokio::select! {
        () = announcer.run(CancellationToken::new()) => panic!("it announces for ever"),
        () = async { while calls.recv().await.is_some() {} } => panic!("it serves for ever"),
        said = told => said,
    };
    assert_eq!(
        said,
        "this task's declaration is superseded by revision 8: tls disable instead of strict; this task takes strict"
    );
}

#[tokio::test]
async fn killed_between_any_two_calls_it_recovers() {
    let (_listener, app) = application().await;
    for killed_after in BTreeSet::from(FIRST_PASS) {
        let registry = Shared::default();
        let (control, mut calls) = serve(registry.clone()).await;
        run_until(&announcer(control, app), &mut calls, killed_after).await;
        while calls.try_recv().is_ok() {}
        run_until(&announcer(control, app), &mut calls, "RegisterInstance").await;
        let registry = registry.lock().expect("not poisoned");
        assert!(
            registry.instance.is_some() && registry.declared.is_some(),
            "killed after {killed_after}"
        );
    }
}

#[tokio::test]
async fn an_emptied_registry_is_filled_again_on_reconnect() {
    let registry = Shared::default();
    let (control, mut calls) = serve(registry.clone()).await;
    let (_listener, app) = application().await;
    let announcer = announcer(control, app);
    let reconnected = announcer.config.reconnected.clone();
    let run = announcer.run(CancellationToken::new());
    let script = async {
        while calls.recv().await.expect("a call") != "RegisterInstance" {}
        *registry.lock().expect("not poisoned") = Registry::default();
        reconnected.send_modify(|count| *count += 1);
        while calls.recv().await.expect("a call") != "RegisterInstance" {}
    };
    tokio::select! {
        () = run => panic!("it announces for ever"),
        () = script => {}
    }
    assert!(!announcer.config.standing.taken_out.is_cancelled());
}

#[tokio::test]
async fn what_somebody_else_has_drained_or_deregistered_is_not_registered_again() {
    for deregistered in [false, true] {
        let registry = Shared::default();
        let (control, mut calls) = serve(registry.clone()).await;
        let (_listener, app) = application().await;
        let announcer = announcer(control, app);
        let (reconnected, taken_out) = (
            announcer.config.reconnected.clone(),
            announcer.config.standing.taken_out.clone(),
        );
        let script = async {
            while calls.recv().await.expect("a call") != "RegisterInstance" {}
            {
                let mut registry = registry.lock().expect("not poisoned");
                if deregistered {
                    registry.instance = None;
                    registry.deregistered = true;
                } else {
                    let held = registry.instance.as_mut().expect("held");
                    held["OUTRIGGER_STATE"] = json!("DRAINING");
                }
            }
            reconnected.send_modify(|count| *count += 1);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = announcer.run(taken_out) => {}
            () = script => {}
        }
        while let Ok(call) = calls.try_recv() {
            assert_ne!(call, "RegisterInstance", "deregistered: {deregistered}");
        }
    }
}

#[tokio::test]
async fn a_refused_alias_is_told_and_the_instance_registered() {
    let registry = Shared::default();
    registry.lock().expect("not poisoned").refuse_declaration = true;
    let (control, mut calls) = serve(registry.clone()).await;
    let (_listener, app) = application().await;
    let announcer = announcer(control, app);
    let mut changed = announcer.ready.watch();
    let ready = announcer.ready.clone();
    let told = async {
        while ready.problem_of("announce/orders").is_none() {
            changed.changed().await.expect("lives");
        }
    };
    tokio::select! {
        () = announcer.run(CancellationToken::new()) => {}
        () = async { tokio::join!(told, async { while calls.recv().await.is_some_and(|call| call != "RegisterInstance") {} }); } => {}
    }
    assert!(
        ready
            .problem_of("announce/orders")
            .expect("told")
            .contains("owned by cart")
    );
    assert!(registry.lock().expect("not poisoned").instance.is_some());
}

/// A registry that holds `t1`, as an earlier run of this sidecar left it.
fn left_behind() -> Shared {
    Arc::new(Mutex::new(Registry {
        namespace: true,
        service: true,
        instance: Some(json!({"OUTRIGGER_NODE": "t1"})),
        shown: Some(json!("HEALTHY")),
        ..Registry::default()
    }))
}

const BOUND: Duration = Duration::from_secs(20);

#[tokio::test]
async fn drain_reports_and_what_an_earlier_run_registered_is_deregistered() {
    let (control, mut calls) = serve(left_behind()).await;
    let announcer = announcer(control, (Ipv4Addr::LOCALHOST, 9).into());
    let report = announcer.drain(BOUND).await.expect("answered");
    assert_eq!(
        (report.acknowledged, report.connected, report.left_out.len()),
        (2, 3, 1)
    );
    announcer.deregister(BOUND).await;
    let expected = [
        "/v1/nodes/t1/drain",
        "ListNamespaces",
        "ListServices",
        "DeregisterInstance",
    ];
    for expected in expected {
        assert_eq!(calls.recv().await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn killed_while_it_registers_it_deregisters() {
    let (control, mut calls) = serve(Shared::default()).await;
    let (_listener, app) = application().await;
    let announcer = announcer(control, app);
    run_until(&announcer, &mut calls, "RegisterInstance").await;
    while calls.try_recv().is_ok() {}
    announcer.deregister(BOUND).await;
    assert_eq!(calls.recv().await.as_deref(), Some("DeregisterInstance"));
}

#[tokio::test]
async fn a_drain_that_fails_is_asked_for_again_and_one_that_is_refused_is_not() {
    let registry = Shared::default();
    let (control, mut calls) = serve(registry.clone()).await;
    let announcer = announcer(control, (Ipv4Addr::LOCALHOST, 9).into());
    let failing = |status| registry.lock().expect("not poisoned").failing_drains = (2, status);
    failing(StatusCode::SERVICE_UNAVAILABLE);
    let report = announcer.drain(BOUND).await.expect("answered in the end");
    assert_eq!(report.acknowledged, 2);
    failing(StatusCode::FORBIDDEN);
    assert!(announcer.drain(BOUND).await.is_err());
    let mut asked = 0;
    while calls.try_recv().is_ok() {
        asked += 1;
    }
    assert_eq!(asked, 3 + 1);
}

#[tokio::test]
async fn a_drain_outlives_a_control_server_that_dies_in_the_middle_and_ends_at_its_bound() {
    let (listener, control) = application().await;
    let announcer = announcer(control, (Ipv4Addr::LOCALHOST, 9).into());
    let serve = async {
        // One that says nothing, one that dies, and one that answers.
        let (mute, _) = listener.accept().await.expect("asked");
        drop(listener.accept().await.expect("asked again"));
        drop(mute);
        let answer = || async { Json(json!({"acknowledged": 1, "connected": 1})) };
        axum::serve(listener, Router::new().fallback(answer)).await
    };
    let script = async {
        let bound = Duration::from_millis(100);
        assert!(announcer.drain(bound).await.is_err(), "it is mute");
        announcer.drain(BOUND).await.expect("answered").acknowledged
    };
    tokio::select! {
        acknowledged = script => assert_eq!(acknowledged, 1),
        _ = serve => panic!("it serves for ever"),
    }
}

#[tokio::test]
async fn a_drain_waits_for_no_control_server_that_was_not_there_to_begin_with() {
    let (listener, nobody) = application().await;
    drop(listener);
    let announcer = announcer(nobody, (Ipv4Addr::LOCALHOST, 9).into());
    let start = std::time::Instant::now();
    assert!(announcer.drain(BOUND).await.is_err());
    assert!(start.elapsed() < leave::DRAIN_BOUND, "it was waited for");
}

#[tokio::test]
async fn a_mute_registry_holds_up_all_deregistrations_together_once() {
    let registry = left_behind();
    registry.lock().expect("not poisoned").mute = true;
    let (control, mut calls) = serve(registry).await;
    let mut announcer = announcer(control, (Ipv4Addr::LOCALHOST, 9).into());
    let document = announcer.config.mesh.document.as_mut().expect("given");
    let mut another = document.services[0].clone();
    another.discovery_name = "parcels".to_owned();
    document.services.push(another);
    for name in ["orders", "parcels"] {
        announcer.ids().insert(name.to_owned(), "srv-1".to_owned());
    }
    let both_are_asked = async {
        for _ in 0..2 {
            assert_eq!(calls.recv().await.as_deref(), Some("DeregisterInstance"));
        }
    };
    // The second is asked while the first has no answer, and none of them is waited for beyond the bound.
    tokio::select! {
        () = announcer.deregister(Duration::from_secs(60)) => panic!("nobody answers"),
        asked = tokio::time::timeout(CALL_TIMEOUT / 2, both_are_asked) => {
            asked.expect("one does not wait for the other");
        }
    }
    announcer.deregister(Duration::from_millis(10)).await;
}

#[test]
fn more_problems_than_the_control_server_takes_are_counted() {
    let problems = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(at_most(problems(64), 64), problems(64));
    let told = at_most(problems(70), 64);
    assert_eq!(told.len(), 64);
    assert_eq!(told.last().map(String::as_str), Some("and 7 more"));
}

#[tokio::test]
async fn a_report_of_too_many_problems_is_cut_to_what_the_control_server_takes() {
    let registry = Shared::default();
    let (control, _calls) = serve(registry.clone()).await;
    let (_listener, app) = application().await;
    let announcer = announcer(control, app);
    for n in 0..100 {
        announcer.ready.problem(format!("test/{n}"), "wrong");
    }
    let told = async {
        loop {
            let problems = registry.lock().expect("not poisoned").problems.take();
            if let Some(problems) = problems {
                return problems;
            }
            tokio::task::yield_now().await;
        }
    };
    let problems = tokio::select! {
        () = announcer.run(CancellationToken::new()) => panic!("it reports for ever"),
        problems = told => problems,
    };
    assert_eq!(problems.as_array().map(Vec::len), Some(64));
}

#[tokio::test]
async fn an_old_copy_of_the_registry_is_told_health_and_tokens_again() {
    let registry = Shared::default();
    let (control, mut calls) = serve(registry.clone()).await;
    let (_listener, app) = application().await;
    let announcer = announcer(control, app);
    let reconnected = announcer.config.reconnected.clone();
    let held = || registry.lock().expect("not poisoned");
    let script = async {
        while calls.recv().await.expect("a call") != "UpdateInstanceCustomHealthStatus" {}
        let tokens = held().instance.as_ref().expect("held")["OUTRIGGER_HOP"].clone();
        held().shown = Some(json!("UNHEALTHY"));
        reconnected.send_modify(|count| *count += 1);
        while calls.recv().await.expect("a call") != "UpdateInstanceCustomHealthStatus" {}
        assert_eq!(held().health, Some(json!("HEALTHY")));
        // A control server shows a digest; this one is of other tokens.
        held().instance.as_mut().expect("held")["OUTRIGGER_HOP"] = json!("1 00000000");
        reconnected.send_modify(|count| *count += 1);
        while calls.recv().await.expect("a call") != "RegisterInstance" {}
        assert_eq!(
            held().instance.as_ref().expect("held")["OUTRIGGER_HOP"],
            tokens
        );
        while calls.recv().await.expect("a call") != "UpdateInstanceCustomHealthStatus" {}
        let shown = announcer.config.hop.shown();
        held().instance.as_mut().expect("held")["OUTRIGGER_HOP"] = json!(shown);
        reconnected.send_modify(|count| *count += 1);
        while calls.recv().await.expect("a call") != "GetInstancesHealthStatus" {}
        assert_eq!(
            held().instance.as_ref().expect("held")["OUTRIGGER_HOP"],
            shown
        );
    };
    tokio::select! {
        () = announcer.run(CancellationToken::new()) => {}
        () = script => {}
    }
}

#[tokio::test]
async fn an_application_that_fails_since_before_the_sidecar_started_is_spared_and_registered_when_it_passes()
 {
    let registry = left_behind();
    let (control, mut calls) = serve(registry.clone()).await;
    let (listener, app) = application().await;
    drop(listener);
    let announcer = announcer(control, app);
    let script = async {
        loop {
            match calls.recv().await.expect("a call").as_str() {
                "UpdateInstanceCustomHealthStatus" => break,
                call => assert_ne!(call, "RegisterInstance"),
            }
        }
        let told = registry.lock().expect("not poisoned").health.take();
        assert_eq!(told, Some(json!("UNHEALTHY")));
        assert!(!announcer.config.standing.registered.is_cancelled());
        let _listener = TcpListener::bind(app).await.expect("binds again");
        while calls.recv().await.expect("a call") != "RegisterInstance" {}
        while calls.recv().await.expect("a call") != "UpdateInstanceCustomHealthStatus" {}
        let told = registry.lock().expect("not poisoned").health.take();
        assert_eq!(told, Some(json!("HEALTHY")));
    };
    tokio::select! {
        () = announcer.run(CancellationToken::new()) => {}
        () = script => {}
    }
}

#[tokio::test]
async fn whether_the_application_passes_is_told() {
    let registry = Shared::default();
    let (control, mut calls) = serve(registry.clone()).await;
    let (listener, app) = application().await;
    let mut announcer = announcer(control, app);
    let document = announcer.config.mesh.document.as_mut().expect("given");
    document.services[0].policy.health_check = Some(HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(5),
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    });
    let (ready, reconnected) = (
        announcer.ready.clone(),
        announcer.config.reconnected.clone(),
    );
    let held = || registry.lock().expect("not poisoned");
    let mut told = async || {
        while calls.recv().await.expect("a call") != "UpdateInstanceCustomHealthStatus" {}
        held().health.take().expect("told")
    };
    let script = async {
        assert_eq!(told().await, "HEALTHY");
        drop(listener);
        assert_eq!(told().await, "UNHEALTHY");
        let problem = ready.problem_of("application/orders").expect("a problem");
        assert!(problem.contains(&app.to_string()), "{problem}");
        // A registry that has forgotten everything never believes it healthy.
        *held() = Registry::default();
        reconnected.send_modify(|count| *count += 1);
        assert_eq!(told().await, "UNHEALTHY");
        let instance = held().instance.clone().expect("held");
        assert_eq!(instance["AWS_INIT_HEALTH_STATUS"], "UNHEALTHY");
        let _listener = TcpListener::bind(app).await.expect("binds again");
        assert_eq!(told().await, "HEALTHY");
        assert_eq!(ready.problem_of("application/orders"), None);
    };
    tokio::select! {
        () = announcer.run(CancellationToken::new()) => {}
        () = script => {}
    }
}

#[tokio::test]
async fn an_application_that_does_not_pass_yet_is_not_announced_and_that_is_told() {
    let registry = Shared::default();
    let (control, mut calls) = serve(registry.clone()).await;
    let (listener, app) = application().await;
    drop(listener);
    let announcer = announcer(control, app);
    let mut changed = announcer.ready.watch();
    let script = async {
        while announcer.ready.problem_of("application/orders").is_none() {
            changed.changed().await.expect("lives");
        }
        while let Ok(call) = calls.try_recv() {
            assert!(call.starts_with("List"), "{call}");
        }
        let _listener = TcpListener::bind(app).await.expect("binds again");
        while calls.recv().await.expect("a call") != "RegisterInstance" {}
    };
    tokio::select! {
        () = announcer.run(CancellationToken::new()) => {}
        () = script => {}
    }
    assert_eq!(announcer.ready.problem_of("application/orders"), None);
}

#[tokio::test]
async fn who_has_an_identity_says_so_and_takes_tls_as_soon_as_its_listener_does() {
    use outrigger_xds::identity::TlsMode;
    use outrigger_xds::tls::Credentials;
    use rcgen::{CertificateParams, KeyPair, SanType};

    let id = "spiffe://td/ns/prod/svc/orders-v1";
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().expect("a name"))];
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let credentials = Credentials::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes());
    let identity = Identity::default();
    identity.set_credentials(credentials.expect("they belong together"));

    let dead = "127.0.0.1:1".parse().expect("an address");
    let mut announcer = announcer(dead, dead);
    let said = |announcer: &mut Announcer, mode| {
        let document = announcer.config.mesh.document.clone().expect("it has one");
        let (service, mapping) = (&document.services[0], &document.port_mappings[0]);
        let modes = BTreeMap::from([(format!("ingress/{}", mapping.name), mode)]);
        announcer.config.modes = watch::Sender::new(modes).subscribe();
        let declaration = announcer.declaration(service, mapping);
        let instance = announcer.instance(mapping, 15000);
        (
            declaration.get("OUTRIGGER_IDENTITY").cloned(),
            instance.get("OUTRIGGER_TLS").cloned(),
        )
    };
    assert_eq!(said(&mut announcer, TlsMode::Strict), (None, None));
    announcer.config.identity = Some(Arc::new(identity));
    let id = Some(id.to_owned());
    assert_eq!(said(&mut announcer, TlsMode::Disable), (id.clone(), None));
    assert_eq!(
        said(&mut announcer, TlsMode::Permissive),
        (id.clone(), id.clone())
    );
    assert_eq!(said(&mut announcer, TlsMode::Strict), (id.clone(), id));
}
