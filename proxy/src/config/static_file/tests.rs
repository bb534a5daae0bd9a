use outrigger_xds::model::{LbPolicy, OutlierDetection, Probe};

use super::*;

const EXAMPLE: &str = r#"
[[listener]]
name = "orders-egress"            # egress: routes to clusters; ingress: hands to the local application
direction = "egress"              # egress | ingress
address = "127.255.0.1:80"
protocol = "auto"                 # auto | http | http2 | grpc | tcp
cluster = "orders"
header_timeout = "5s"             # optional, as are idle_timeout = "300s", max_connections, max_header_bytes, tls = { ... }
[[cluster]]
name = "orders"
protocol = "http"                 # http | http2 | grpc | tcp: what is spoken to the endpoints
lb = "least_request"              # least_request | round_robin | ring_hash
endpoints = [{ address = "127.0.0.2:8080", zone = "a", weight = 1 }, { address = "127.0.0.3:8080" }]
per_request_timeout = "15s"       # optional, as are idle_timeout, retries, outlier_detection = { ... }, health_check = { ... }
"#;

fn fields_of(toml: &str) -> Vec<String> {
    parse(toml)
        .expect_err("wrong")
        .0
        .into_iter()
        .map(|error| error.field)
        .collect()
}

#[test]
fn the_documented_example_becomes_the_model() {
    let accepted = parse(EXAMPLE).expect("valid");
    let listener = &accepted.listeners["orders-egress"];
    assert_eq!(listener.target, Target::Routes("orders-egress".to_owned()));
    assert_eq!(
        (listener.protocol, listener.header_timeout),
        (Protocol::Auto, Some(Duration::from_secs(5)))
    );
    let route = &accepted.routes["orders-egress"].routes[0];
    assert_eq!(
        (route.cluster.as_str(), route.per_request_timeout),
        ("orders", Some(Duration::from_secs(15)))
    );
    assert_eq!(route.retry, RetryPolicy::default());
    let cluster = &accepted.clusters["orders"];
    assert_eq!(
        (cluster.lb, cluster.discovery),
        (LbPolicy::LeastRequest, Discovery::Eds)
    );
    assert_eq!(cluster.outlier_detection, Some(OutlierDetection::default()));
    let endpoints = &accepted.endpoints["orders"].endpoints;
    let zones: Vec<_> = endpoints
        .iter()
        .map(|endpoint| (endpoint.zone.as_str(), endpoint.weight))
        .collect();
    assert_eq!(zones, [("", 1), ("a", 1)]);
}

#[test]
fn every_option_is_taken() {
    let toml = r#"
        [[listener]]
        name = "in"
        direction = "ingress"
        address = "[::1]:9000"
        protocol = "tcp"
        cluster = "db"
        idle_timeout = "0s"
        max_connections = 10
        max_header_bytes = 4096
        max_uri_bytes = 1024
        max_requests = 20
        body_timeout = "7s"
        [[cluster]]
        name = "db"
        protocol = "tcp"
        lb = "ring_hash"
        retries = 0
        idle_timeout = "1h"
        endpoints = [{ address = "db.example.com:3306" }]
        outlier_detection = { consecutive_5xx = 3, base_ejection_time = "5s" }
        health_check = { path = "/healthz", interval = "2s" }
    "#;
    let accepted = parse(toml).expect("valid");
    let cluster = &accepted.clusters["db"];
    assert_eq!(cluster.discovery, Discovery::StrictDns);
    assert_eq!(
        cluster
            .outlier_detection
            .as_ref()
            .map(|outlier| outlier.consecutive_5xx),
        Some(3)
    );
    assert_eq!(
        cluster
            .health_check
            .as_ref()
            .map(|check| check.probe.clone()),
        Some(Probe::Http("/healthz".to_owned()))
    );
    let listener = &accepted.listeners["in"];
    assert_eq!(listener.target, Target::Cluster("db".to_owned()));
    assert_eq!(
        (listener.idle_timeout, listener.max_connections),
        (Some(Duration::ZERO), Some(10))
    );
    assert_eq!(listener.body_timeout, Some(Duration::from_secs(7)));
    assert_eq!(
        (listener.max_requests, listener.max_uri_bytes),
        (Some(20), Some(1024))
    );
    assert!(accepted.routes.is_empty());
    let off = toml.replace(
        "{ consecutive_5xx = 3, base_ejection_time = \"5s\" }",
        "false",
    );
    assert_eq!(
        parse(&off).expect("valid").clusters["db"].outlier_detection,
        None
    );
}

#[test]
fn all_errors_are_reported_at_once_with_their_path() {
    let toml = r#"
        surprise = 1
        [[listener]]
        name = "l"
        direction = "sideways"
        address = "nowhere"
        protocol = "smtp"
        cluster = "none"
        header_timeout = 5
        colour = "red"
        [[cluster]]
        name = "c"
        protocol = "auto"
        lb = "random"
        endpoints = [{ address = "10.0.0.1" }, { address = "10.0.0.1:80", weight = -1 }]
        per_request_timeout = "15"
        outlier_detection = { consecutive = 1 }
        tls = { }
        [[cluster]]
        name = "c"
    "#;
    let mut found = fields_of(toml);
    found.sort();
    let expected = [
        "cluster[0].endpoints[0].address",
        "cluster[0].endpoints[1].weight",
        "cluster[0].lb",
        "cluster[0].outlier_detection.consecutive",
        "cluster[0].per_request_timeout",
        "cluster[0].protocol",
        "cluster[0].tls.ca",
        "cluster[0].tls.cert",
        "cluster[0].tls.key",
        "cluster[0].tls.peer",
        "cluster[1].name",
        "listener[0].address",
        "listener[0].cluster",
        "listener[0].colour",
        "listener[0].direction",
        "listener[0].header_timeout",
        "listener[0].protocol",
        "surprise",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_cluster_takes_every_setting_of_resilience() {
    let settings = r#"
        connect_timeout = "2s"
        panic_threshold = 25
        slow_start = "30s"
        zone_aware = false
        [cluster.retry]
        num_retries = 1
        per_try_timeout = "250ms"
        hedge_after = "100ms"
        retriable_status_codes = [502, 503]
        [cluster.circuit_breakers]
        max_requests = 100
        adaptive_concurrency = { max_concurrency = 50 }
        [cluster.outlier_detection]
        consecutive_gateway_failure = 3
        success_rate = {}
        failure_percentage = { threshold = 60 }
    "#;
    let priority = EXAMPLE.replace("weight = 1", "weight = 1, priority = 2");
    let accepted = parse(&format!("{priority}{settings}")).expect("valid");
    let table: Value = toml::from_str(&settings.replace("cluster.", "")).expect("TOML");
    let said = ServicePolicy::from_json(table, Protocol::Http).expect("possible");
    let cluster = &accepted.clusters["orders"];
    let mut expected = Cluster::clone(cluster);
    said.apply(&mut expected);
    assert_eq!(**cluster, expected);
    assert_eq!(cluster.circuit_breakers.max_requests, 100);
    assert_eq!(accepted.routes["orders-egress"].routes[0].retry, said.retry);
    let endpoints = &accepted.endpoints["orders"].endpoints;
    let priorities: Vec<u32> = endpoints.iter().map(|one| one.priority).collect();
    assert_eq!(priorities, [0, 2]);
}

#[test]
fn every_impossible_setting_is_named_with_its_table() {
    let with = |settings: &str| fields_of(&format!("{EXAMPLE}\n{settings}"));
    let found = with(
        "slow_start = \"0s\"\nretries = 11\n\
         [cluster.retry]\nnum_retries = 1\nback_off_base = \"1h\"",
    );
    let expected = [
        "cluster[0].retries",
        "cluster[0].retries",
        "cluster[0].slow_start",
        "cluster[0].retry.back_off_max",
    ];
    assert_eq!(found, expected);
    let found = with(
        "health_check = { grpc_service = \"\" }\nretry = { tries = 1, num_retries = \"two\" }",
    );
    let expected = [
        "retry.num_retries",
        "retry.tries",
        "health_check.grpc_service",
    ];
    assert_eq!(found, expected.map(|field| format!("cluster[0].{field}")));
    let found = with("health_check = { grpc_service = \"\" }\nretry_non_idempotent = true");
    assert_eq!(found, ["cluster[0].health_check.grpc_service"]);
    let found = fields_of(&EXAMPLE.replace("weight = 1", "priority = 129"));
    assert_eq!(found, ["cluster[0].endpoints[0].priority"]);
}

#[test]
fn two_listeners_cannot_share_an_address() {
    let second = EXAMPLE
        .replace("orders-egress", "again")
        .replace("name = \"orders\"", "name = \"other\"");
    assert_eq!(
        fields_of(&format!("{EXAMPLE}{second}")),
        ["listener[1].address"]
    );
}

#[test]
fn a_hop_says_who_is_meant_and_a_wrong_one_is_named_without_its_token() {
    let hop = "hop = { namespace = \"shop\", service = \"orders\", instance = \"one\", request = \
        \"00112233445566778899aabbccddeeff\", verdict = \"ffeeddccbbaa99887766554433221100\" }";
    let text = |hop: &str, other: &str| {
        format!(
            "[[listener]]\nname = \"in\"\ndirection = \"ingress\"\naddress = \"127.0.0.1:1\"\nprotocol = \"http\"\n\
             cluster = \"c\"\n{hop}\n[[cluster]]\nname = \"c\"\nprotocol = \"http\"\n\
             endpoints = [{{ address = \"10.0.0.1:80\", {hop} }}, {{ address = \"10.0.0.2:80\", {other} }}]\n"
        )
    };
    let accepted = parse(&text(hop, hop)).expect("valid");
    let identity = accepted.listeners["in"]
        .hop
        .as_ref()
        .expect("it takes hops");
    assert_eq!(identity.targets, ["shop/orders/one"]);
    let endpoint = &accepted.endpoints["c"].endpoints[0];
    assert_eq!(
        (endpoint.hop, endpoint.sidecar),
        (Some(identity.tokens), true)
    );
    assert_eq!(endpoint.instance, "one");
    let service = accepted.clusters["c"]
        .service
        .as_ref()
        .expect("it is known");
    assert_eq!((&*service.namespace, &*service.name), ("shop", "orders"));

    let wrong = hop
        .replace("00112233", "0011223X")
        .replace("\"one\"", "\"a b\"");
    let errors = parse(&text(hop, &wrong)).expect_err("wrong").to_string();
    assert!(
        errors.contains("cluster[0].endpoints[1].hop.request"),
        "{errors}"
    );
    assert!(
        errors.contains("cluster[0].endpoints[1].hop.instance"),
        "{errors}"
    );
    assert!(!errors.contains("0011223X"), "{errors}");
    let other = hop.replace("orders", "cart");
    assert_eq!(fields_of(&text(hop, &other)), ["cluster[0].endpoints"]);
    let opaque = text(hop, hop).replacen("\"http\"", "\"tcp\"", 1);
    assert_eq!(fields_of(&opaque), ["listener[0].hop"]);
}

#[test]
fn a_missing_file_is_named() {
    let errors = load(Path::new("/nonexistent/x.toml")).expect_err("missing");
    assert!(
        errors
            .to_string()
            .starts_with("--static = \"/nonexistent/x.toml\": ")
    );
}

#[test]
fn a_listener_says_who_may_call() {
    let toml = |direction: &str, protocol: &str, rest: &str| {
        format!(
            r#"
            [[listener]]
            name = "in"
            direction = "{direction}"
            address = "127.0.0.1:9000"
            protocol = "{protocol}"
            cluster = "app"
            {rest}
            [[cluster]]
            name = "app"
            protocol = "http"
            endpoints = [{{ address = "127.0.0.1:8080" }}]
        "#
        )
    };
    let rules = r#"authorization = { dry_run = true, allow = [{ from = ["cart", "ops/*"], paths = ["/v1"] }] }"#;
    let accepted = parse(&toml("ingress", "auto", rules)).expect("valid");
    assert_eq!(accepted.listeners["in"].inbound.as_deref(), Some("in"));
    let inbound = accepted.inbound["in"].authorization.as_ref();
    assert!(inbound.is_some_and(|it| it.dry_run && it.allow[0].from.len() == 2));
    let without = parse(&toml("ingress", "auto", "")).expect("valid");
    assert!(without.inbound.is_empty() && without.listeners["in"].inbound.is_none());

    let field = |toml: String| fields_of(&toml);
    assert_eq!(
        field(toml("ingress", "tcp", rules)),
        ["listener[0].authorization.allow[0].paths"]
    );
    assert_eq!(
        field(toml("egress", "http", rules)),
        ["listener[0].authorization"]
    );
    let wrong = r#"authorization = { allow = [{ from = [], paths = ["/a/../b"] }] }"#;
    assert_eq!(
        field(toml("ingress", "http", wrong)),
        [
            "listener[0].authorization.allow[0].from",
            "listener[0].authorization.allow[0].paths"
        ]
    );
    let elsewhere =
        toml("ingress", "http", "").replace("endpoints", &format!("{rules}\nendpoints"));
    assert_eq!(field(elsewhere), ["cluster[0].authorization"]);
}
