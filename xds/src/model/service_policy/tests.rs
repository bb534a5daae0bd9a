use serde_json::json;

use super::*;
use crate::model::{Probe, Protocol};

fn read(table: Value) -> Result<ServicePolicy, Vec<PolicyError>> {
    ServicePolicy::from_json(table, Protocol::Http)
}

fn errors(table: Value) -> Vec<(String, String)> {
    let errors = read(table).expect_err("the table is wrong");
    let pair = |error: PolicyError| (error.field, error.value);
    errors.into_iter().map(pair).collect()
}

#[test]
fn nothing_said_is_the_default_of_a_cluster() {
    let policy = read(json!({})).expect("nothing is wrong with nothing");
    assert_eq!(policy, ServicePolicy::default());
    assert_eq!(policy.to_json(), json!({}));
    let plain = Cluster::new("c", Protocol::Http);
    let mut applied = plain.clone();
    policy.apply(&mut applied);
    assert_eq!(applied, plain);
}

#[test]
fn only_what_differs_is_written_and_reads_the_same() {
    for table in [
        json!({"retry": {"num_retries": 0}}),
        json!({"retry": {"per_try_timeout": "250ms", "retriable_status_codes": []}, "zone_aware": false}),
        json!({"outlier_detection": false, "lb": "ring_hash"}),
        json!({"outlier_detection": {"consecutive_gateway_failure": 3}, "slow_start": "30s", "panic_threshold": 50}),
        json!({"circuit_breakers": {"max_requests": 10}, "connect_timeout": "2s"}),
    ] {
        let policy = read(table.clone()).expect("the settings are good");
        assert_eq!(policy.to_json(), table);
    }
}

#[test]
fn a_table_inside_a_table_and_a_health_check_read_the_same_again() {
    let table = json!({
        "outlier_detection": {"success_rate": {"minimum_hosts": 3}, "failure_percentage": {}},
        "circuit_breakers": {"adaptive_concurrency": {}},
        "health_check": {"path": "/ready", "interval": "2s"},
    });
    let policy = read(table).expect("the settings are good");
    let check = policy.health_check.as_ref().expect("it was given");
    assert_eq!(check.probe, Probe::Http("/ready".to_owned()));
    assert!(policy.circuit_breakers.adaptive_concurrency.is_some());
    assert_eq!(read(policy.to_json()), Ok(policy));
}

#[test]
fn the_switch_of_the_ejection_takes_both_ways() {
    let of = |value: bool| read(json!({ "outlier_detection": value }));
    let off = of(false).expect("off is a setting");
    assert_eq!(off.outlier_detection, None);
    assert_eq!(of(true), Ok(ServicePolicy::default()));
}

#[test]
fn every_setting_that_cannot_be_read_is_named() {
    let found = errors(json!({
        "colour": "red", "lb": "random", "panic_threshold": 101, "slow_start": 5,
        "connect_timeout": "0s",
        "retry": {"num_retries": -1, "per_try_timeout": "soon", "tries": 3},
        "outlier_detection": {"interval": "1s", "success_rate": {"stdev": 1}, "max_ejection_percent": 256},
    }));
    let expected = [
        ("colour", "red"),
        ("lb", "random"),
        ("outlier_detection.max_ejection_percent", "256"),
        ("outlier_detection.success_rate.stdev", "1"),
        ("panic_threshold", "101"),
        ("retry.num_retries", "-1"),
        ("retry.per_try_timeout", "soon"),
        ("retry.tries", "3"),
        ("slow_start", "5"),
        ("connect_timeout", "0s"),
    ];
    let expected = expected.map(|(field, value)| (field.to_owned(), value.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn a_list_is_no_table() {
    let pair = |field: &str| vec![(field.to_owned(), "[]".to_owned())];
    assert_eq!(errors(json!([])), pair(""));
    assert_eq!(errors(json!({"retry": []})), pair("retry"));
    assert_eq!(errors(json!({"health_check": []})), pair("health_check"));
}

#[test]
fn every_setting_out_of_its_range_is_named() {
    let found = errors(json!({
        "connect_timeout": "0s", "slow_start": "1s", "lb": "ring_hash",
        "retry": {"num_retries": 11, "retriable_status_codes": [503, 99], "back_off_base": "2s", "hedge_after": "0s"},
        "circuit_breakers": {"max_requests": 0, "retry_budget_percent": 101, "adaptive_concurrency": {"min_concurrency": 9, "max_concurrency": 8}},
        "outlier_detection": {"interval": "0s", "max_ejection_time": "1s", "failure_percentage": {"threshold": 0}},
        "health_check": {"path": "/a b", "healthy_threshold": 0, "timeout": "9999 years"},
    }));
    let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
    let expected = [
        "connect_timeout",
        "slow_start",
        "retry.num_retries",
        "retry.retriable_status_codes",
        "retry.hedge_after",
        "retry.back_off_max",
        "circuit_breakers.max_requests",
        "circuit_breakers.retry_budget_percent",
        "circuit_breakers.adaptive_concurrency.max_concurrency",
        "outlier_detection.interval",
        "outlier_detection.max_ejection_time",
        "outlier_detection.failure_percentage.threshold",
        "health_check.path",
        "health_check.timeout",
        "health_check.healthy_threshold",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_probe_is_one_of_path_and_grpc_service() {
    let found = errors(json!({"health_check": {"path": "/", "grpc_service": ""}}));
    assert_eq!(found[0].0, "health_check");
}

#[test]
fn a_grpc_probe_needs_a_protocol_that_can_carry_it() {
    let table = json!({"health_check": {"grpc_service": "shop.Orders"}});
    let found = errors(table.clone());
    assert_eq!(
        found,
        [(
            "health_check.grpc_service".to_owned(),
            "shop.Orders".to_owned()
        )]
    );
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        assert!(ServicePolicy::from_json(table.clone(), protocol).is_ok());
    }
}

#[test]
fn a_table_names_exactly_the_fields_there_are() {
    let Value::Object(table) =
        serde_json::to_value(ServicePolicy::default()).expect("settings are numbers and texts")
    else {
        panic!("settings are a table")
    };
    let mut fields = ServicePolicy::FIELDS.to_vec();
    fields.sort_unstable();
    let mut names: Vec<&String> = table.keys().collect();
    names.sort_unstable();
    assert_eq!(names, fields);
}

#[test]
fn who_may_call_is_read_and_written_again() {
    let table = json!({"tls": "strict", "authorization": {
        "dry_run": true,
        "allow": [{"from": ["cart", "ops/*"], "methods": ["GET"], "paths": ["/v1", "/shop.Orders/"]}, {"from": ["*"]}],
    }});
    let policy = ServicePolicy::from_json(table, Protocol::Http).expect("it is in order");
    assert_eq!(policy.tls, TlsMode::Strict);
    let rules = &policy.authorization.as_ref().expect("it was said").allow;
    assert_eq!((rules.len(), rules[0].paths.len()), (2, 2));
    let again = ServicePolicy::from_json(policy.to_json(), Protocol::Http);
    assert_eq!(again, Ok(policy));
}

#[test]
fn a_rule_that_cannot_be_is_named_by_its_place() {
    let found = errors(
        json!({"tls": "on", "authorization": {"default": "deny", "allow": [
            {"from": ["cart"]},
            {"from": [], "methods": ["GET", "G T"], "paths": ["v1", "/a?b", "/a/../b", "/a//b", "/%61", "/.", "/ok/"]},
        ]}}),
    );
    let expected = [
        ("tls", "on"),
        ("authorization.allow[1].from", "[]"),
        ("authorization.allow[1].methods", "G T"),
        ("authorization.allow[1].paths", "v1"),
        ("authorization.allow[1].paths", "/a?b"),
        ("authorization.allow[1].paths", "/a/../b"),
        ("authorization.allow[1].paths", "/a//b"),
        ("authorization.allow[1].paths", "/%61"),
        ("authorization.allow[1].paths", "/."),
    ];
    let expected = expected.map(|(field, value)| (field.to_owned(), value.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn a_rule_that_cannot_be_read_is_named_by_its_place() {
    let found = errors(json!({"authorization": {"allow": [
        {"paths": ["/"]},
        ["cart"],
        {"from": ["a b"], "path": ["/"]},
        {"from": "cart"},
    ]}}));
    let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
    let expected = [
        "authorization.allow[0].from",
        "authorization.allow[1]",
        "authorization.allow[2].from",
        "authorization.allow[2].path",
        "authorization.allow[3].from",
    ];
    assert_eq!(fields, expected);
    assert_eq!(
        errors(json!({"authorization": {"allow": {}}}))[0].0,
        "authorization.allow"
    );
    assert_eq!(errors(json!({"authorization": []}))[0].0, "authorization");
}

#[test]
fn bytes_have_callers_and_neither_methods_nor_paths() {
    let rule = |rule| json!({"authorization": {"allow": [rule]}});
    let read = |table| ServicePolicy::from_json(table, Protocol::Tcp);
    assert!(read(rule(json!({"from": ["cart"]}))).is_ok());
    let errors = read(rule(
        json!({"from": ["cart"], "methods": ["GET"], "paths": ["/"]}),
    ));
    let errors = errors.expect_err("there is no request to look at");
    let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "authorization.allow[0].methods",
            "authorization.allow[0].paths"
        ]
    );
}
