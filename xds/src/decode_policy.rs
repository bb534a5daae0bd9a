//! From Envoy's fields to what the model says of resilience. What a foreign server leaves out has Envoy's documented default
//! here, not ours; each is named beside the number. Rules that are enforced for some hosts only are enforced for all.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt32Value;

use crate::decode::{Problems, duration, number, parsed};
use crate::encode::METADATA;
use crate::model::{
    CircuitBreakers, FailurePercentage, HealthCheck, Metadata, OutlierDetection, Probe,
    RetryPolicy, SuccessRate,
};

/// Envoy's defaults: 1024 of each, and 3 retries at once whatever the load. Thresholds of the high priority are not read: no
/// route here has one.
pub(crate) fn circuit_breakers(
    value: Option<cds::CircuitBreakers>,
    metadata: &Metadata,
    problems: &mut Problems,
) -> CircuitBreakers {
    let thresholds = value.map(|value| value.thresholds).unwrap_or_default();
    let default = core::RoutingPriority::Default;
    let thresholds = thresholds
        .into_iter()
        .find(|one| one.priority == i32::from(default))
        .unwrap_or_default();
    let (retry_budget_percent, min_retry_concurrency) = match thresholds.retry_budget {
        // Envoy's defaults: 20 % and 3.
        Some(budget) => (
            percent(
                budget.budget_percent,
                20,
                "circuit_breakers.thresholds.retry_budget.budget_percent",
                problems,
            ),
            number(budget.min_retry_concurrency, 3),
        ),
        None => (0, number(thresholds.max_retries, 3)),
    };
    CircuitBreakers {
        max_connections: number(thresholds.max_connections, 1024),
        max_pending_requests: number(thresholds.max_pending_requests, 1024),
        max_requests: number(thresholds.max_requests, 1024),
        retry_budget_percent,
        min_retry_concurrency,
        adaptive_concurrency: metadata.get("adaptive_concurrency").and_then(|text| {
            serde_json::from_str(text)
                .map_err(|error| {
                    let field = format!("metadata.{METADATA}.adaptive_concurrency");
                    problems.add(field, error.to_string());
                })
                .ok()
        }),
    }
}

/// Panic threshold (Envoy's default: 50) and whether the own zone is preferred (Envoy's default: always, where zones are known).
/// With `locality_weighted_lb_config` it is not.
pub(crate) fn common_lb_config(
    value: Option<cds::cluster::CommonLbConfig>,
    problems: &mut Problems,
) -> (u8, bool) {
    use cds::cluster::common_lb_config::LocalityConfigSpecifier;
    let value = value.unwrap_or_default();
    let field = "common_lb_config.healthy_panic_threshold";
    let panic = percent(value.healthy_panic_threshold, 50, field, problems);
    let zone_aware = match value.locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => false,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => {
            let field = "common_lb_config.zone_aware_lb_config.routing_enabled";
            percent(zones.routing_enabled, 100, field, problems) > 0
        }
        None => true,
    };
    (u8::try_from(panic).unwrap_or(100), zone_aware)
}

/// The slow start; a window of 0 is none.
pub(crate) fn slow_start(
    value: Option<cds::cluster::LbConfig>,
    problems: &mut Problems,
) -> Option<Duration> {
    use cds::cluster::LbConfig;
    let config = match value? {
        LbConfig::LeastRequestLbConfig(config) => config.slow_start_config,
        LbConfig::RoundRobinLbConfig(config) => config.slow_start_config,
        _ => None,
    };
    let window = config.and_then(|config| config.slow_start_window);
    let field = "lb_config.slow_start_config.slow_start_window";
    duration(window, field, problems).filter(|window| !window.is_zero())
}

/// Envoy's defaults: 5 in a row for each kind, of which 5xx and (when split) local-origin are enforced and gateway failures are
/// not; the success rate is enforced, the failure percentage is not; 10 % ejected at most.
pub(crate) fn outlier_detection(
    value: cds::OutlierDetection,
    problems: &mut Problems,
) -> OutlierDetection {
    let default = OutlierDetection::default();
    let mut time = |value, field: &str| duration(value, field, problems);
    let interval = time(value.interval, "outlier_detection.interval");
    let base = time(
        value.base_ejection_time,
        "outlier_detection.base_ejection_time",
    );
    let max = time(
        value.max_ejection_time,
        "outlier_detection.max_ejection_time",
    );
    let base = base.unwrap_or(default.base_ejection_time);
    let count = |count, enforcing, by_default| match number(enforcing, by_default) {
        0 => 0,
        _ => number(count, 5),
    };
    let split = value.split_external_local_origin_errors;
    let percent = number(value.max_ejection_percent, 10);
    OutlierDetection {
        consecutive_5xx: count(value.consecutive_5xx, value.enforcing_consecutive_5xx, 100),
        consecutive_gateway_failure: count(
            value.consecutive_gateway_failure,
            value.enforcing_consecutive_gateway_failure,
            0,
        ),
        consecutive_local_origin_failure: match split {
            true => count(
                value.consecutive_local_origin_failure,
                value.enforcing_consecutive_local_origin_failure,
                100,
            ),
            false => 0,
        },
        success_rate: is_enforced(value.enforcing_success_rate, 100).then(|| SuccessRate {
            minimum_hosts: number(value.success_rate_minimum_hosts, 5),
            request_volume: number(value.success_rate_request_volume, 100),
            stdev_factor: number(value.success_rate_stdev_factor, 1900),
        }),
        failure_percentage: is_enforced(value.enforcing_failure_percentage, 0).then(|| {
            FailurePercentage {
                threshold: byte(
                    number(value.failure_percentage_threshold, 85),
                    "outlier_detection.failure_percentage_threshold",
                    problems,
                ),
                minimum_hosts: number(value.failure_percentage_minimum_hosts, 5),
                request_volume: number(value.failure_percentage_request_volume, 50),
            }
        }),
        interval: interval.unwrap_or(default.interval),
        base_ejection_time: base,
        // Envoy's default: 300 s or the base, the longer of them.
        max_ejection_time: max.unwrap_or_else(|| default.max_ejection_time.max(base)),
        max_ejection_percent: byte(percent, "outlier_detection.max_ejection_percent", problems),
    }
}

fn is_enforced(enforcing: Option<UInt32Value>, by_default: u32) -> bool {
    number(enforcing, by_default) > 0
}

/// The first of the checks; Envoy has no defaults for its times.
pub(crate) fn health_check(
    value: core::HealthCheck,
    problems: &mut Problems,
) -> Option<HealthCheck> {
    use core::health_check::HealthChecker;
    let probe = match value.health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => Probe::Http(http.path),
        Some(HealthChecker::TcpHealthCheck(_)) => Probe::Tcp,
        Some(HealthChecker::GrpcHealthCheck(grpc)) => Probe::Grpc(grpc.service_name),
        _ => {
            problems.add("health_checks", "is no HTTP, TCP or gRPC check");
            return None;
        }
    };
    let interval = duration(value.interval, "health_checks.interval", problems);
    let timeout = duration(value.timeout, "health_checks.timeout", problems);
    Some(HealthCheck {
        probe,
        interval: problems.need(interval, "health_checks.interval")?,
        timeout: problems.need(timeout, "health_checks.timeout")?,
        healthy_threshold: number(value.healthy_threshold, 2),
        unhealthy_threshold: number(value.unhealthy_threshold, 2),
    })
}

/// Envoy's defaults: no retries without a policy, one with an empty one; waits from 25 ms up to ten times as long. A
/// `per_try_timeout` of 0 is none.
pub(crate) fn retry(
    policy: Option<rds::RetryPolicy>,
    metadata: &Metadata,
    field: &str,
    problems: &mut Problems,
) -> RetryPolicy {
    let retry_non_idempotent = parsed(metadata, "retry_non_idempotent", problems).unwrap_or(false);
    let hedge_after = parsed(metadata, "hedge_after_ns", problems).map(Duration::from_nanos);
    let mut retry = RetryPolicy {
        retry_non_idempotent,
        hedge_after,
        ..RetryPolicy::off()
    };
    let Some(policy) = policy else {
        return retry;
    };
    let field = format!("{field}.route.retry_policy");
    for code in policy.retriable_status_codes {
        match u16::try_from(code) {
            Ok(code) if (100..600).contains(&code) => retry.retriable_status_codes.push(code),
            _ => problems.add(
                format!("{field}.retriable_status_codes"),
                format!("{code} is not a status"),
            ),
        }
    }
    retry.num_retries = number(policy.num_retries, 1);
    let at = format!("{field}.per_try_timeout");
    retry.per_try_timeout =
        duration(policy.per_try_timeout, &at, problems).filter(|time| !time.is_zero());
    if let Some(back_off) = policy.retry_back_off {
        let at = format!("{field}.retry_back_off.base_interval");
        let base = duration(back_off.base_interval, &at, problems);
        retry.back_off_base = problems.need(base, &at).unwrap_or(retry.back_off_base);
        let at = format!("{field}.retry_back_off.max_interval");
        let max = duration(back_off.max_interval, &at, problems);
        retry.back_off_max = max.unwrap_or_else(|| retry.back_off_base.saturating_mul(10));
    }
    for error in retry.check() {
        problems.add(format!("{field}.{}", error.field), error.explained());
    }
    retry
}

/// A percentage in whole numbers, the nearest one.
fn percent(value: Option<Percent>, default: u32, field: &str, problems: &mut Problems) -> u32 {
    let Some(Percent { value }) = value else {
        return default;
    };
    // Not a number is not within.
    if !(0.0..=100.0).contains(&value) {
        let reason = format!("{value} is not a percentage from 0 to 100");
        problems.add(field, reason);
        return default;
    }
    // A cast of a number from 0 to 100 loses nothing but the fraction.
    value.round() as u32
}

/// A percentage as a whole number; more than 100 is a problem.
fn byte(percent: u32, field: &str, problems: &mut Problems) -> u8 {
    let fits = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
    if fits.is_none() {
        problems.add(field, format!("{percent} is more than 100"));
    }
    fits.unwrap_or(100)
}
