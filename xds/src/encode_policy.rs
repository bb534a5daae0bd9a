//! From what the model says of resilience to Envoy's fields, so that a stock Envoy acts alike as far as it can.
//!
//! What it cannot: with both `consecutive_5xx` and `consecutive_local_origin_failure` Envoy counts failures without an answer under
//! the second alone; it does not hedge by time, and finds no concurrency without a filter of its own (both travel as metadata).

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Percent};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value, UInt64Value};

use crate::encode::{duration, number};
use crate::model::{
    CircuitBreakers, Cluster, HealthCheck, LbPolicy, Metadata, OutlierDetection, Probe, Protocol,
    RetryPolicy,
};

/// Endpoints from which on zones are told apart; Envoy's own default is 6.
const MIN_CLUSTER_SIZE: u64 = 2;

/// What Envoy has no field for.
pub(crate) fn cluster_metadata(value: &Cluster, metadata: &mut Metadata) {
    if let Some(adaptive) = &value.circuit_breakers.adaptive_concurrency {
        let text = serde_json::to_string(adaptive).expect("settings are numbers and texts");
        metadata.insert("adaptive_concurrency".into(), text);
    }
}

pub(crate) fn circuit_breakers(value: &CircuitBreakers) -> cds::CircuitBreakers {
    use cds::circuit_breakers::{Thresholds, thresholds::RetryBudget};
    let thresholds = Thresholds {
        priority: core::RoutingPriority::Default.into(),
        max_connections: Some(number(value.max_connections)),
        max_pending_requests: Some(number(value.max_pending_requests)),
        max_requests: Some(number(value.max_requests)),
        retry_budget: Some(RetryBudget {
            budget_percent: Some(percent(value.retry_budget_percent)),
            min_retry_concurrency: Some(number(value.min_retry_concurrency)),
            ..Default::default()
        }),
        ..Default::default()
    };
    cds::CircuitBreakers {
        thresholds: vec![thresholds],
        ..Default::default()
    }
}

pub(crate) fn common_lb_config(value: &Cluster) -> cds::cluster::CommonLbConfig {
    use cds::cluster::common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
    let zones = ZoneAwareLbConfig {
        routing_enabled: Some(percent(if value.zone_aware { 100 } else { 0 })),
        min_cluster_size: Some(UInt64Value {
            value: MIN_CLUSTER_SIZE,
        }),
        ..Default::default()
    };
    cds::cluster::CommonLbConfig {
        // Envoy's own default is 50.
        healthy_panic_threshold: Some(percent(value.panic_threshold.into())),
        locality_config_specifier: Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)),
        ..Default::default()
    }
}

/// The slow start, in the configuration of the balancer that has it; the model allows none for a ring.
pub(crate) fn lb_config(value: &Cluster) -> Option<cds::cluster::LbConfig> {
    use cds::cluster::{LbConfig, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig};
    let slow_start_config = Some(SlowStartConfig {
        slow_start_window: Some(duration(value.slow_start?)),
        ..Default::default()
    });
    match value.lb {
        LbPolicy::LeastRequest => Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            slow_start_config,
            ..Default::default()
        })),
        LbPolicy::RoundRobin => Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
            slow_start_config,
        })),
        LbPolicy::RingHash => None,
    }
}

/// Rules that are off are written as enforced never: Envoy's default for some is always.
pub(crate) fn outlier_detection(value: &OutlierDetection) -> cds::OutlierDetection {
    let split = value.consecutive_local_origin_failure > 0;
    let rate = value.success_rate.clone();
    let failures = value.failure_percentage.clone();
    let by_rate = enforcing(rate.is_some());
    let by_failures = enforcing(failures.is_some());
    let (rate, failures) = (rate.unwrap_or_default(), failures.unwrap_or_default());
    cds::OutlierDetection {
        consecutive_5xx: Some(number(value.consecutive_5xx)),
        enforcing_consecutive_5xx: enforcing(value.consecutive_5xx > 0),
        consecutive_gateway_failure: Some(number(value.consecutive_gateway_failure)),
        enforcing_consecutive_gateway_failure: enforcing(value.consecutive_gateway_failure > 0),
        split_external_local_origin_errors: split,
        consecutive_local_origin_failure: Some(number(value.consecutive_local_origin_failure)),
        enforcing_consecutive_local_origin_failure: enforcing(split),
        enforcing_success_rate: by_rate,
        enforcing_local_origin_success_rate: by_rate,
        success_rate_minimum_hosts: Some(number(rate.minimum_hosts)),
        success_rate_request_volume: Some(number(rate.request_volume)),
        success_rate_stdev_factor: Some(number(rate.stdev_factor)),
        enforcing_failure_percentage: by_failures,
        enforcing_failure_percentage_local_origin: by_failures,
        failure_percentage_threshold: Some(number(failures.threshold.into())),
        failure_percentage_minimum_hosts: Some(number(failures.minimum_hosts)),
        failure_percentage_request_volume: Some(number(failures.request_volume)),
        interval: Some(duration(value.interval)),
        base_ejection_time: Some(duration(value.base_ejection_time)),
        max_ejection_time: Some(duration(value.max_ejection_time)),
        max_ejection_percent: Some(number(value.max_ejection_percent.into())),
        always_eject_one_host: Some(BoolValue { value: true }),
        ..Default::default()
    }
}

fn enforcing(on: bool) -> Option<UInt32Value> {
    Some(number(if on { 100 } else { 0 }))
}

pub(crate) fn health_check(value: &HealthCheck, protocol: Protocol) -> core::HealthCheck {
    use core::health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck};
    let http2 = matches!(protocol, Protocol::Http2 | Protocol::Grpc);
    let codec = if http2 {
        CodecClientType::Http2
    } else {
        CodecClientType::Http1
    };
    let checker = match &value.probe {
        Probe::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        Probe::Http(path) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: path.clone(),
            codec_client_type: codec.into(),
            ..Default::default()
        }),
        Probe::Grpc(service) => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.clone(),
            ..Default::default()
        }),
    };
    core::HealthCheck {
        interval: Some(duration(value.interval)),
        timeout: Some(duration(value.timeout)),
        healthy_threshold: Some(number(value.healthy_threshold)),
        unhealthy_threshold: Some(number(value.unhealthy_threshold)),
        health_checker: Some(checker),
        ..Default::default()
    }
}

pub(crate) fn retry(value: &RetryPolicy) -> rds::RetryPolicy {
    let codes = value.retriable_status_codes.iter();
    rds::RetryPolicy {
        retry_on: "connect-failure,refused-stream,reset,retriable-status-codes".to_owned(),
        num_retries: Some(number(value.num_retries)),
        retriable_status_codes: codes.map(|code| u32::from(*code)).collect(),
        per_try_timeout: value.per_try_timeout.map(duration),
        retry_back_off: Some(rds::retry_policy::RetryBackOff {
            base_interval: Some(duration(value.back_off_base)),
            max_interval: Some(duration(value.back_off_max)),
        }),
        ..Default::default()
    }
}

/// What Envoy has no field for.
pub(crate) fn retry_metadata(value: &RetryPolicy, metadata: &mut Metadata) {
    if value.retry_non_idempotent {
        metadata.insert("retry_non_idempotent".into(), "true".into());
    }
    let hedge = value.hedge_after.map(|time: Duration| time.as_nanos());
    metadata.extend(hedge.map(|nanos| ("hedge_after_ns".to_owned(), nanos.to_string())));
}

fn percent(value: u32) -> Percent {
    Percent {
        value: value.into(),
    }
}
