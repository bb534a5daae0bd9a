//! Every setting of resilience: any possible one travels unchanged, an impossible one is named, and what a foreign server leaves
//! out has Envoy's default.

use super::*;

fn wait() -> impl Strategy<Value = Duration> {
    (0u64..100_000, 1u32..1_000_000_000).prop_map(|(s, ns)| Duration::new(s, ns))
}

fn count() -> impl Strategy<Value = u32> {
    1..u32::MAX
}

prop_compose! {
    pub(super) fn retry()(
        num_retries in 0..=MAX_RETRIES, retry_non_idempotent in any::<bool>(),
        retriable_status_codes in vec(100u16..600, 0..3), per_try_timeout in option::of(wait()),
        back_off_base in wait(), more in wait(), hedge_after in option::of(wait()),
    ) -> RetryPolicy {
        let back_off_max = back_off_base + more;
        RetryPolicy { num_retries, retry_non_idempotent, retriable_status_codes, per_try_timeout, back_off_base, back_off_max, hedge_after }
    }
}

prop_compose! {
    fn adaptive()(
        min_concurrency in 1..1000u32, more in 0..1000u32, update_interval in wait(), min_rtt_interval in wait(),
        min_rtt_requests in count(), buffer_percent in 0..=100u32,
    ) -> AdaptiveConcurrency {
        let max_concurrency = min_concurrency + more;
        AdaptiveConcurrency { min_concurrency, max_concurrency, update_interval, min_rtt_interval, min_rtt_requests, buffer_percent }
    }
}

prop_compose! {
    fn circuit_breakers()(
        most in [count(), count(), count()], retry_budget_percent in 0..=100u32, min_retry_concurrency in any::<u32>(),
        adaptive_concurrency in option::of(adaptive()),
    ) -> CircuitBreakers {
        let [max_connections, max_pending_requests, max_requests] = most;
        CircuitBreakers { max_connections, max_pending_requests, max_requests, retry_budget_percent, min_retry_concurrency, adaptive_concurrency }
    }
}

prop_compose! {
    fn outlier_detection()(
        counts in any::<[u32; 3]>(), rate in option::of([count(), count(), count()]), failures in option::of((1..=100u8, count(), count())),
        interval in wait(), base_ejection_time in wait(), more in wait(), max_ejection_percent in 0..=100u8,
    ) -> OutlierDetection {
        let [consecutive_5xx, consecutive_gateway_failure, consecutive_local_origin_failure] = counts;
        let success_rate = rate.map(|[minimum_hosts, request_volume, stdev_factor]| SuccessRate { minimum_hosts, request_volume, stdev_factor });
        let failure_percentage = failures.map(|(threshold, minimum_hosts, request_volume)| FailurePercentage { threshold, minimum_hosts, request_volume });
        let max_ejection_time = base_ejection_time + more;
        OutlierDetection {
            consecutive_5xx, consecutive_gateway_failure, consecutive_local_origin_failure, success_rate, failure_percentage,
            interval, base_ejection_time, max_ejection_time, max_ejection_percent,
        }
    }
}

prop_compose! {
    fn health_check(protocol: Protocol)(
        kind in 0..3, path in "/[a-z]{0,4}", service in "[a-z]{0,4}", interval in wait(), timeout in wait(),
        healthy_threshold in count(), unhealthy_threshold in count(),
    ) -> HealthCheck {
        let http2 = matches!(protocol, Protocol::Http2 | Protocol::Grpc);
        let probe = match kind { 0 => Probe::Http(path), 1 if http2 => Probe::Grpc(service), _ => Probe::Tcp };
        HealthCheck { probe, interval, timeout, healthy_threshold, unhealthy_threshold }
    }
}

/// The cluster with any possible settings.
pub(super) fn settings(cluster: Cluster) -> impl Strategy<Value = Cluster> {
    let lb = [
        LbPolicy::LeastRequest,
        LbPolicy::RoundRobin,
        LbPolicy::RingHash,
    ];
    let lb = proptest::sample::select(lb.to_vec());
    let rules = (
        circuit_breakers(),
        option::of(outlier_detection()),
        option::of(health_check(cluster.protocol)),
    );
    let rest = (
        option::of(wait()),
        0..=100u8,
        option::of(wait()),
        any::<bool>(),
    );
    (lb, rules, rest).prop_map(move |(lb, rules, rest)| {
        let (circuit_breakers, outlier_detection, health_check) = rules;
        let (connect_timeout, panic_threshold, slow_start, zone_aware) = rest;
        Cluster {
            lb,
            circuit_breakers,
            outlier_detection,
            health_check,
            connect_timeout,
            panic_threshold,
            slow_start: slow_start.filter(|_| lb != LbPolicy::RingHash),
            zone_aware,
            ..cluster.clone()
        }
    })
}

fn foreign() -> cds::Cluster {
    cds::Cluster {
        name: "c".to_owned(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(
            cds::cluster::DiscoveryType::Eds.into(),
        )),
        ..Default::default()
    }
}

fn decoded(message: cds::Cluster) -> Cluster {
    match decode("c", &pack_any(message)).map(|decoded| decoded.resource) {
        Ok(Resource::Cluster(cluster)) => cluster,
        other => panic!("not a cluster: {other:?}"),
    }
}

#[test]
fn a_foreign_cluster_that_says_nothing_has_envoys_defaults() {
    let cluster = decoded(foreign());
    let breakers = CircuitBreakers {
        max_connections: 1024,
        max_pending_requests: 1024,
        max_requests: 1024,
        retry_budget_percent: 0,
        min_retry_concurrency: 3,
        adaptive_concurrency: None,
    };
    assert_eq!(cluster.circuit_breakers, breakers);
    assert_eq!((cluster.panic_threshold, cluster.zone_aware), (50, true));
    assert_eq!(
        (
            cluster.outlier_detection,
            cluster.health_check,
            cluster.slow_start
        ),
        (None, None, None)
    );
}

#[test]
fn an_empty_outlier_detection_of_a_foreign_server_has_envoys_rules() {
    let with = |outlier_detection| {
        let message = cds::Cluster {
            outlier_detection: Some(outlier_detection),
            ..foreign()
        };
        decoded(message).outlier_detection.expect("it was given")
    };
    let expected = OutlierDetection {
        consecutive_5xx: 5,
        success_rate: Some(SuccessRate::default()),
        max_ejection_percent: 10,
        ..OutlierDetection::default()
    };
    assert_eq!(with(cds::OutlierDetection::default()), expected);
    let split = with(cds::OutlierDetection {
        split_external_local_origin_errors: true,
        enforcing_consecutive_5xx: Some(UInt32Value { value: 0 }),
        enforcing_success_rate: Some(UInt32Value { value: 0 }),
        base_ejection_time: Some(protobuf::Duration {
            seconds: 400,
            nanos: 0,
        }),
        ..Default::default()
    });
    let expected = OutlierDetection {
        consecutive_5xx: 0,
        consecutive_local_origin_failure: 5,
        base_ejection_time: Duration::from_secs(400),
        max_ejection_time: Duration::from_secs(400),
        max_ejection_percent: 10,
        ..OutlierDetection::default()
    };
    assert_eq!(split, expected);
}

#[test]
fn every_impossible_setting_is_named() {
    use cds::circuit_breakers::{Thresholds, thresholds::RetryBudget};
    let zero = Some(UInt32Value { value: 0 });
    let percent = |value| Some(envoy_types::pb::envoy::r#type::v3::Percent { value });
    let message = cds::Cluster {
        circuit_breakers: Some(cds::CircuitBreakers {
            thresholds: vec![Thresholds {
                max_requests: zero,
                retry_budget: Some(RetryBudget {
                    budget_percent: percent(f64::NAN),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        common_lb_config: Some(cds::cluster::CommonLbConfig {
            healthy_panic_threshold: percent(100.5),
            ..Default::default()
        }),
        outlier_detection: Some(cds::OutlierDetection {
            interval: Some(protobuf::Duration::default()),
            max_ejection_percent: Some(UInt32Value { value: 101 }),
            ..Default::default()
        }),
        health_checks: vec![core::HealthCheck {
            timeout: Some(protobuf::Duration::default()),
            interval: Some(protobuf::Duration {
                seconds: 1,
                nanos: 0,
            }),
            health_checker: Some(core::health_check::HealthChecker::GrpcHealthCheck(
                Default::default(),
            )),
            unhealthy_threshold: zero,
            ..Default::default()
        }],
        connect_timeout: Some(protobuf::Duration::default()),
        ..foreign()
    };
    let found = problems("c", &pack_any(message));
    let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
    let expected = [
        "outlier_detection.max_ejection_percent",
        "circuit_breakers.thresholds.retry_budget.budget_percent",
        "common_lb_config.healthy_panic_threshold",
        "connect_timeout",
        "circuit_breakers.max_requests",
        "outlier_detection.interval",
        "health_check.grpc_service",
        "health_check.timeout",
        "health_check.unhealthy_threshold",
    ];
    assert_eq!(fields, expected);
    assert_eq!(found[1].1, "NaN is not a percentage from 0 to 100");
}

#[test]
fn an_impossible_retry_policy_names_the_route_and_the_field() {
    let route = Route {
        retry: RetryPolicy {
            num_retries: 11,
            back_off_base: Duration::from_secs(2),
            ..RetryPolicy::default()
        },
        ..samples::route("orders")
    };
    let config = RouteConfig {
        name: "r".to_owned(),
        routes: vec![route],
    };
    let found = problems("r", &encode(&Resource::Routes(config)));
    let field = "virtual_hosts[0].routes[0].route.retry_policy";
    let expected = [
        (
            format!("{field}.num_retries"),
            "\"11\": must be at most 10".to_owned(),
        ),
        (
            format!("{field}.back_off_max"),
            "\"250ms\": is less than back_off_base".to_owned(),
        ),
    ];
    assert_eq!(found, expected);
}

#[test]
fn priorities_that_leave_numbers_out_are_closed_up_for_others_and_kept_for_us() {
    let endpoint = |host, priority| Endpoint {
        priority,
        ..samples::endpoint(host)
    };
    let set = EndpointSet {
        cluster: "c".to_owned(),
        endpoints: vec![endpoint(1, 3), endpoint(2, 7), endpoint(3, 3)],
    };
    let any = encode(&Resource::Endpoints(set.clone()));
    let message = envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment::decode(
        any.value.as_slice(),
    );
    let message = message.expect("it was just encoded");
    let priorities: Vec<u32> = message.endpoints.iter().map(|one| one.priority).collect();
    assert_eq!(priorities, [0, 1]);
    let decoded = decode("c", &any).map(|decoded| decoded.resource);
    assert_eq!(decoded, Ok(Resource::Endpoints(set)));
}
