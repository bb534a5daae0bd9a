//! What the owner of a service may say of its resilience: retries, bounds, ejection, probes, locality. One vocabulary for the static
//! file, the service-connect document, the registry's attribute and xDS.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// A whole number that says what it may be; a reader of settings does not know what a `u8` is.
pub(super) fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let fits = |number: &i64| (0..=100).contains(number);
    let number = i64::deserialize(deserializer).ok().filter(fits);
    number
        .and_then(|number| u8::try_from(number).ok())
        .ok_or_else(|| D::Error::custom("must be a percentage from 0 to 100"))
}

/// How often and what may be tried again; the classes are DESIGN section 4's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts beyond the first; 0 switches retries off, hedging too.
    pub num_retries: u32,
    /// Also repeat non-idempotent methods after an *unknown* or *answered* outcome. Off unless the owner opts in.
    pub retry_non_idempotent: bool,
    /// Statuses that are tried again (*answered* class).
    pub retriable_status_codes: Vec<u16>,
    /// Time for one attempt until its response head (Envoy's `per_try_timeout`); `None`: only the request's own timeout.
    #[serde(with = "humantime_serde")]
    pub per_try_timeout: Option<Duration>,
    /// Base of the jittered, doubling wait between attempts (Envoy's `retry_back_off.base_interval`).
    #[serde(with = "humantime_serde")]
    pub back_off_base: Duration,
    /// The longest such wait (Envoy's `retry_back_off.max_interval`).
    #[serde(with = "humantime_serde")]
    pub back_off_max: Duration,
    /// An idempotent request without a response head after so long is sent to a second endpoint as well, and the first answer
    /// counts; `None` is no hedging.
    #[serde(with = "humantime_serde")]
    pub hedge_after: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            num_retries: 2,
            retry_non_idempotent: false,
            retriable_status_codes: vec![503],
            per_try_timeout: None,
            back_off_base: Duration::from_millis(25),
            back_off_max: Duration::from_millis(250),
            hedge_after: None,
        }
    }
}

impl RetryPolicy {
    /// No attempt beyond the first.
    pub fn off() -> Self {
        Self {
            num_retries: 0,
            retriable_status_codes: Vec::new(),
            ..Self::default()
        }
    }
}

/// What may be under way to one service at once, over all workers of a sidecar; beyond it requests are refused with 503 (`UO`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreakers {
    /// Connections (Envoy's `max_connections`).
    pub max_connections: u32,
    /// Requests that wait for a connection being made (Envoy's `max_pending_requests`).
    pub max_pending_requests: u32,
    /// Requests (Envoy's `max_requests`).
    pub max_requests: u32,
    /// Retries, as a share of live requests in percent (Envoy's `retry_budget.budget_percent`).
    pub retry_budget_percent: u32,
    /// Retries that are always allowed (Envoy's `retry_budget.min_retry_concurrency`): all that a small sidecar has in flight may
    /// lie on one task when it dies.
    pub min_retry_concurrency: u32,
    /// Finds the number of requests that the service takes without queueing; `None` is off.
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
}

impl Default for CircuitBreakers {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            max_pending_requests: 1024,
            max_requests: 16_384,
            retry_budget_percent: 20,
            min_retry_concurrency: 32,
            adaptive_concurrency: None,
        }
    }
}

/// A limit that follows the gradient between the least and the present latency (Envoy's adaptive concurrency filter).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// The limit never falls below it.
    pub min_concurrency: u32,
    /// The limit never grows past it.
    pub max_concurrency: u32,
    /// Between two looks at the latency.
    #[serde(with = "humantime_serde")]
    pub update_interval: Duration,
    /// Between two measurements of the least latency, for which the limit falls to `min_concurrency`.
    #[serde(with = "humantime_serde")]
    pub min_rtt_interval: Duration,
    /// Requests that one such measurement takes.
    pub min_rtt_requests: u32,
    /// Latency above the least that is no sign of queueing, in percent.
    pub buffer_percent: u32,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self {
            min_concurrency: 3,
            max_concurrency: 1000,
            update_interval: Duration::from_millis(100),
            min_rtt_interval: Duration::from_secs(60),
            min_rtt_requests: 50,
            buffer_percent: 25,
        }
    }
}

/// When an endpoint is ejected; Service Connect's documented numbers are the default. Names and meanings are Envoy's
/// (`envoy.config.cluster.v3.OutlierDetection`); a count of 0 switches its rule off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierDetection {
    /// Failures in a row of any kind: 5xx, failed connects, resets, timeouts.
    #[serde(alias = "consecutive_failures")]
    pub consecutive_5xx: u32,
    /// 502, 503, 504 and failures without an answer, in a row.
    pub consecutive_gateway_failure: u32,
    /// Failures without an answer (connect, reset, timeout), in a row.
    pub consecutive_local_origin_failure: u32,
    /// Endpoints whose share of successes lies far below the others'; `None` is off.
    pub success_rate: Option<SuccessRate>,
    /// Endpoints whose share of failures is large; `None` is off.
    pub failure_percentage: Option<FailurePercentage>,
    /// Between two looks at the two shares, and the time without an ejection that makes the next one shorter again.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// First ejection; the n-th lasts n times as long.
    #[serde(with = "humantime_serde")]
    pub base_ejection_time: Duration,
    /// The longest ejection.
    #[serde(with = "humantime_serde")]
    pub max_ejection_time: Duration,
    /// Share of endpoints that may be ejected at once, in percent; one may always be when there are two or more.
    #[serde(deserialize_with = "percent")]
    pub max_ejection_percent: u8,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 0,
            success_rate: None,
            failure_percentage: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 50,
        }
    }
}

/// Ejects what succeeds more seldom than the mean of all endpoints less so many standard deviations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuccessRate {
    /// Endpoints with enough requests that there must be for a comparison.
    pub minimum_hosts: u32,
    /// Requests within an interval that make an endpoint's share count.
    pub request_volume: u32,
    /// Standard deviations, times 1,000.
    pub stdev_factor: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            minimum_hosts: 5,
            request_volume: 100,
            stdev_factor: 1900,
        }
    }
}

/// Ejects what fails in so large a share of its requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FailurePercentage {
    /// Share of failures that ejects, in percent.
    #[serde(deserialize_with = "percent")]
    pub threshold: u8,
    /// Endpoints with enough requests that there must be.
    pub minimum_hosts: u32,
    /// Requests within an interval that make an endpoint's share count.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self {
            threshold: 85,
            minimum_hosts: 5,
            request_volume: 50,
        }
    }
}

/// Active probes of every endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawHealthCheck", into = "RawHealthCheck")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Between two probes.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Probes in a row that make an unhealthy endpoint healthy.
    pub healthy_threshold: u32,
    /// Probes in a row that make a healthy endpoint unhealthy.
    pub unhealthy_threshold: u32,
}

/// What an active probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection is accepted.
    Tcp,
    /// GET of this path is answered with 200 to 299.
    Http(String),
    /// `grpc.health.v1.Health/Check` of this service (empty: the server) says SERVING (gRPC health checking protocol).
    Grpc(String),
}

/// As it is written: `path` asks by HTTP, `grpc_service` by gRPC, neither by TCP.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawHealthCheck {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_service: Option<String>,
    #[serde(with = "humantime_serde")]
    interval: Duration,
    #[serde(with = "humantime_serde")]
    timeout: Duration,
    healthy_threshold: u32,
    unhealthy_threshold: u32,
}

impl Default for RawHealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            grpc_service: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 2,
        }
    }
}

impl TryFrom<RawHealthCheck> for HealthCheck {
    type Error = String;

    fn try_from(raw: RawHealthCheck) -> Result<Self, String> {
        let probe = match (raw.path, raw.grpc_service) {
            (None, None) => Probe::Tcp,
            (Some(path), None) if path.starts_with('/') => Probe::Http(path),
            (Some(path), None) => return Err(format!("path {path:?} must begin with /")),
            (None, Some(service)) => Probe::Grpc(service),
            (Some(_), Some(_)) => return Err("path and grpc_service exclude each other".into()),
        };
        if raw.interval.is_zero() || raw.timeout.is_zero() {
            return Err("interval and timeout must be longer than 0".into());
        }
        Ok(Self {
            probe,
            interval: raw.interval,
            timeout: raw.timeout,
            healthy_threshold: raw.healthy_threshold,
            unhealthy_threshold: raw.unhealthy_threshold,
        })
    }
}

impl From<HealthCheck> for RawHealthCheck {
    fn from(check: HealthCheck) -> Self {
        let (path, grpc_service) = match check.probe {
            Probe::Tcp => (None, None),
            Probe::Http(path) => (Some(path), None),
            Probe::Grpc(service) => (None, Some(service)),
        };
        Self {
            path,
            grpc_service,
            interval: check.interval,
            timeout: check.timeout,
            healthy_threshold: check.healthy_threshold,
            unhealthy_threshold: check.unhealthy_threshold,
        }
    }
}
