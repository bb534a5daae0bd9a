use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use outrigger_xds::identity::TlsMode;
use outrigger_xds::model::{Probe, Target};

use super::*;
use crate::config::MeshConfig;
use crate::mesh::state::fresh_tokens;

const EXAMPLE: &str = r#"{
  "clusterName": "shop", "serviceName": "orders",
  "portMappings": [
    {"name": "web", "containerPort": 8080, "appProtocol": "http"},
    {"name": "db", "containerPort": 3306}
  ],
  "serviceConnectConfiguration": {
    "enabled": true, "namespace": "prod",
    "services": [
      {"portName": "web", "discoveryName": "orders", "clientAliases": [{"port": 80, "dnsName": "orders"}],
       "timeout": {"idleTimeoutSeconds": 0, "perRequestTimeoutSeconds": 30}},
      {"portName": "web", "discoveryName": "orders-admin", "clientAliases": [{"port": 81}]},
      {"portName": "db", "ingressPortOverride": 14000}
    ]
  }
}"#;

fn mesh(document: &ServiceConnect) -> MeshConfig {
    MeshConfig {
        control: Vec::new(),
        xds: Vec::new(),
        namespace: "prod".to_owned(),
        task_id: "t1".to_owned(),
        zone: "a".to_owned(),
        address: Ipv4Addr::LOCALHOST.into(),
        app_address: Ipv4Addr::LOCALHOST.into(),
        document: Some(document.clone()),
        revision: None,
        identity: None,
    }
}

#[test]
fn ecs_spelling_defaults_and_timeouts_are_read() {
    let document = parse(EXAMPLE).expect("valid");
    assert_eq!(
        (
            document.cluster_name.as_str(),
            document.service_name.as_str()
        ),
        ("shop", "orders")
    );
    assert_eq!(document.namespace.as_deref(), Some("prod"));
    let orders = &document.services[0];
    assert_eq!(
        orders.alias,
        Some(ClientAlias {
            port: 80,
            dns_name: Some("orders".to_owned())
        })
    );
    assert_eq!(orders.idle_timeout, Some(Duration::ZERO));
    assert_eq!(orders.per_request_timeout, Some(Duration::from_secs(30)));
    assert_eq!(document.services[2].discovery_name, "db");
    assert_eq!(document.port_mappings[1].protocol, Protocol::Tcp);
}

#[test]
fn services_behind_one_port_say_the_same_of_who_may_call() {
    let with = |orders: &str, admin: &str| {
        let document =
            EXAMPLE.replace(r#""timeout""#, &format!(r#""policy": {orders}, "timeout""#));
        let named = r#""discoveryName": "orders-admin","#;
        parse(&document.replace(named, &format!(r#"{named} "policy": {admin},"#)))
    };
    let one = r#"{"tls": "strict", "authorization": {"allow": [{"from": ["cart"]}]}}"#;
    let document = with(one, one).expect("they do");
    let ports = BTreeMap::from([("web".to_owned(), 15003), ("db".to_owned(), 14000)]);
    let accepted = ingress(&document, &mesh(&document), &ports, fresh_tokens());
    let web = &accepted.listeners["ingress/web"];
    assert_eq!(web.inbound.as_deref(), Some("prod/orders"));
    let inbound = &accepted.inbound["prod/orders"];
    assert_eq!(inbound.tls, TlsMode::Strict);
    assert_eq!(
        inbound.authorization.as_ref().map(|it| it.allow.len()),
        Some(1)
    );
    let db = &accepted.inbound["prod/db"];
    assert_eq!((db.tls, &db.authorization), (TlsMode::Disable, &None));

    let errors = with(one, r#"{"authorization": {}}"#)
        .expect_err("they do not")
        .0;
    let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
    let at = "serviceConnectConfiguration.services[1].policy";
    assert_eq!(fields, [format!("{at}.tls"), format!("{at}.authorization")]);
    for error in errors {
        let named = error.reason.contains(r#""orders-admin" and "orders""#);
        assert!(named && !error.value.is_empty(), "{error}");
    }
    let errors = with("{}", one).expect_err("silence is everybody").0;
    assert_eq!(errors.len(), 2);
}

#[test]
fn ingress_has_one_listener_for_each_served_port() {
    let document = parse(EXAMPLE).expect("valid");
    let ports = BTreeMap::from([("web".to_owned(), 15003), ("db".to_owned(), 14000)]);
    let accepted = ingress(&document, &mesh(&document), &ports, fresh_tokens());
    assert_eq!(accepted.listeners.len(), 2);
    let web = &accepted.listeners["ingress/web"];
    assert_eq!(web.address.to_string(), "127.0.0.1:15003");
    assert_eq!(web.target, Target::Routes("ingress/web".to_owned()));
    let hop = web.hop.as_ref().expect("it takes hops");
    assert_eq!(hop.targets, ["prod/orders/t1", "prod/orders-admin/t1"]);
    let db = accepted.listeners["ingress/db"].hop.as_ref();
    assert_eq!(db.expect("TLS names it").targets, ["prod/db/t1"]);
    let route = &accepted.routes["ingress/web"].routes[0];
    assert_eq!(
        (route.retry.num_retries, route.per_request_timeout),
        (0, Some(Duration::from_secs(30)))
    );
    assert_eq!(
        accepted.listeners["ingress/db"].target,
        Target::Cluster("local/db".to_owned())
    );
    let cluster = &accepted.clusters["local/web"];
    assert_eq!(cluster.outlier_detection, None);
    assert_eq!(
        cluster
            .service
            .as_ref()
            .map(|service| service.name.as_str()),
        Some("orders")
    );
    assert_eq!(
        accepted.endpoints["local/web"].endpoints[0]
            .address
            .to_string(),
        "127.0.0.1:8080"
    );
}

#[test]
fn ingress_ports_are_kept_and_never_a_container_port_or_taken() {
    let address = IpAddr::from([127, 0, 0, 77]);
    let none = BTreeSet::new();
    let taken = TcpListener::bind((address, 15001)).expect("binds");
    let json = r#"{"portMappings":[{"name":"a","containerPort":15000},{"name":"b","containerPort":1}],
        "serviceConnectConfiguration":{"enabled":true,"services":[{"portName":"a"},{"portName":"b"}]}}"#;
    let document = parse(json).expect("valid");
    let ports = ingress_ports(&document, address, &BTreeMap::new(), &none).expect("room");
    assert_eq!(
        ports,
        BTreeMap::from([("a".to_owned(), 15002), ("b".to_owned(), 15003)])
    );
    let kept = BTreeMap::from([("a".to_owned(), 15500), ("b".to_owned(), 15001)]);
    let ports = ingress_ports(&document, address, &kept, &none).expect("room");
    assert_eq!(
        ports,
        BTreeMap::from([("a".to_owned(), 15500), ("b".to_owned(), 15002)])
    );
    let inherited = BTreeSet::from([SocketAddr::from((address, 15001))]);
    let ports = ingress_ports(&document, address, &kept, &inherited).expect("room");
    assert_eq!(ports["b"], 15001, "the socket that is in the way is ours");
    drop(taken);
}

#[test]
fn all_errors_are_reported_at_once() {
    let json = r#"{"portMappings":[{"name":"Web","containerPort":0,"appProtocol":"smtp"},{"name":"db","containerPort":3306}],
        "serviceConnectConfiguration":{"services":[
          {"portName":"web","clientAliases":[{"dnsName":"localhost"},{"port":1}],"tls":{},"Timeout":{}},
          {"portName":"db","ingressPortOverride":3306,"timeout":{"perRequestTimeoutSeconds":5}}]}}"#;
    let errors = parse(json).expect_err("wrong");
    let mut found: Vec<_> = errors
        .0
        .iter()
        .map(|error| {
            error
                .field
                .trim_start_matches("serviceConnectConfiguration")
        })
        .collect();
    found.sort_unstable();
    let expected = [
        ".enabled",
        ".services[0].Timeout",
        ".services[0].clientAliases",
        ".services[0].clientAliases[0].dnsName",
        ".services[0].clientAliases[0].port",
        ".services[0].portName",
        ".services[0].tls",
        ".services[1].timeout.perRequestTimeoutSeconds",
        "portMappings[0].appProtocol",
        "portMappings[0].containerPort",
        "portMappings[0].containerPort",
        "portMappings[0].name",
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_override_on_a_container_port_is_refused() {
    let errors = parse(&EXAMPLE.replace("14000", "8080")).expect_err("wrong");
    assert_eq!(
        errors.0[0].field,
        "serviceConnectConfiguration.services[2].ingressPortOverride"
    );
}

#[test]
fn a_disabled_document_declares_nothing() {
    assert!(
        parse(&EXAMPLE.replace("true", "false"))
            .expect("valid")
            .services
            .is_empty()
    );
}

#[test]
fn an_error_names_its_field_also_where_that_has_no_name() {
    for (text, field) in [
        ("[1]", "--service-connect"),
        (
            r#"{"": 1, "serviceConnectConfiguration": {"enabled": true}}"#,
            "\"\"",
        ),
    ] {
        let errors = parse(text).expect_err(text);
        let fields: Vec<_> = errors.0.iter().map(|error| &error.field).collect();
        assert_eq!(fields, [field], "{text}");
    }
}

#[test]
fn a_services_policy_is_read_and_every_error_in_it_named() {
    let with = |policy: &str| {
        let port = r#""portName": "web", "discoveryName": "orders", "#;
        parse(&EXAMPLE.replace(port, &format!("{port} \"policy\": {policy}, ")))
    };
    let policy = r#"{"retry": {"num_retries": 0}, "health_check": {"path": "/ready"}}"#;
    let document = with(policy).expect("valid");
    let said = &document.services[0].policy;
    assert_eq!(said.retry.num_retries, 0);
    let check = said.health_check.as_ref().expect("it was given");
    assert_eq!(check.probe, Probe::Http("/ready".to_owned()));
    assert_eq!(document.services[1].policy, ServicePolicy::default());
    let fields = |policy: &str| {
        let errors = with(policy).expect_err(policy);
        let field = |error: ConfigError| {
            let path = "serviceConnectConfiguration.services[0].policy";
            error.field.replace(path, "")
        };
        errors.0.into_iter().map(field).collect::<Vec<_>>()
    };
    let wrong = r#"{"numRetries": 0, "lb": "best", "retry": {"per_try_timeout": 5}}"#;
    assert_eq!(
        fields(wrong),
        [".lb", ".numRetries", ".retry.per_try_timeout"]
    );
    assert_eq!(fields(r#"{"panic_threshold": 101}"#), [".panic_threshold"]);
    assert_eq!(
        fields(r#"{"health_check": {"grpc_service": "a"}}"#),
        [".health_check.grpc_service"]
    );
    assert_eq!(fields("[]"), [""]);
    let long = format!(r#"{{"health_check": {{"path": "/{}"}}}}"#, "x".repeat(1024));
    assert_eq!(fields(&long), [""]);
}
