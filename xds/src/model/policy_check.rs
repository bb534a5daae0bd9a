//! Which settings of a [`ServicePolicy`] are possible: the ranges in which every rule that reads them works, and a stock Envoy takes them.

use std::time::Duration;

use crate::identity::Authorization;

use super::{
    AdaptiveConcurrency, CircuitBreakers, HealthCheck, LbPolicy, OutlierDetection, PolicyError,
    Probe, Protocol, RetryPolicy, ServicePolicy,
};

/// The most attempts beyond the first.
pub const MAX_RETRIES: u32 = 10;
/// The last of the priorities that endpoints may have (Envoy's `LocalityLbEndpoints.priority`).
pub const MAX_PRIORITY: u32 = 128;
/// The longest of all times that can be set; sums and multiples of it cannot overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl ServicePolicy {
    /// Every setting that is out of its range, or cannot be for a service that speaks `protocol`.
    pub(crate) fn check(&self, protocol: Protocol) -> Vec<PolicyError> {
        let mut checks = Checks::default();
        checks.times(
            "",
            &[
                ("connect_timeout", self.connect_timeout),
                ("slow_start", self.slow_start),
            ],
        );
        if self.slow_start.is_some() && self.lb == LbPolicy::RingHash {
            let reason =
                "needs lb least_request or round_robin: a growing share moves every key of a ring";
            checks.add("slow_start", "set", reason);
        }
        checks.percent("panic_threshold", self.panic_threshold.into());
        checks.retry("retry.", &self.retry);
        checks.circuit_breakers(&self.circuit_breakers);
        checks.outlier_detection(self.outlier_detection.as_ref());
        checks.health_check(self.health_check.as_ref(), protocol);
        checks.authorization(self.authorization.as_ref(), protocol);
        checks.0
    }
}

impl RetryPolicy {
    /// Every setting that is out of its range.
    pub(crate) fn check(&self) -> Vec<PolicyError> {
        let mut checks = Checks::default();
        checks.retry("", self);
        checks.0
    }
}

#[derive(Default)]
struct Checks(Vec<PolicyError>);

impl Checks {
    fn add(&mut self, field: &str, value: impl ToString, reason: impl Into<String>) {
        self.0.push(PolicyError {
            field: field.to_owned(),
            value: value.to_string(),
            reason: reason.into(),
        });
    }

    fn retry(&mut self, within: &str, retry: &RetryPolicy) {
        if retry.num_retries > MAX_RETRIES {
            let reason = format!("must be at most {MAX_RETRIES}");
            self.add(&format!("{within}num_retries"), retry.num_retries, reason);
        }
        for code in &retry.retriable_status_codes {
            if !(100..600).contains(code) {
                let field = format!("{within}retriable_status_codes");
                self.add(&field, code, "must be from 100 to 599");
            }
        }
        self.times(
            within,
            &[
                ("per_try_timeout", retry.per_try_timeout),
                ("back_off_base", Some(retry.back_off_base)),
                ("back_off_max", Some(retry.back_off_max)),
                ("hedge_after", retry.hedge_after),
            ],
        );
        self.order(
            within,
            ("back_off_base", retry.back_off_base),
            ("back_off_max", retry.back_off_max),
        );
    }

    fn circuit_breakers(&mut self, breakers: &CircuitBreakers) {
        self.counts(
            "circuit_breakers.",
            &[
                ("max_connections", breakers.max_connections),
                ("max_pending_requests", breakers.max_pending_requests),
                ("max_requests", breakers.max_requests),
            ],
        );
        let percent = breakers.retry_budget_percent;
        self.percent("circuit_breakers.retry_budget_percent", percent);
        if let Some(adaptive) = &breakers.adaptive_concurrency {
            self.adaptive_concurrency(adaptive);
        }
    }

    fn adaptive_concurrency(&mut self, adaptive: &AdaptiveConcurrency) {
        let within = "circuit_breakers.adaptive_concurrency.";
        self.counts(
            within,
            &[
                ("min_concurrency", adaptive.min_concurrency),
                ("min_rtt_requests", adaptive.min_rtt_requests),
            ],
        );
        self.times(
            within,
            &[
                ("update_interval", Some(adaptive.update_interval)),
                ("min_rtt_interval", Some(adaptive.min_rtt_interval)),
            ],
        );
        if adaptive.max_concurrency < adaptive.min_concurrency {
            let field = format!("{within}max_concurrency");
            self.add(
                &field,
                adaptive.max_concurrency,
                "is less than min_concurrency",
            );
        }
        self.percent(&format!("{within}buffer_percent"), adaptive.buffer_percent);
    }

    fn outlier_detection(&mut self, detection: Option<&OutlierDetection>) {
        let Some(detection) = detection else { return };
        let (base, max) = (detection.base_ejection_time, detection.max_ejection_time);
        self.times(
            "outlier_detection.",
            &[
                ("interval", Some(detection.interval)),
                ("base_ejection_time", Some(base)),
                ("max_ejection_time", Some(max)),
            ],
        );
        self.order(
            "outlier_detection.",
            ("base_ejection_time", base),
            ("max_ejection_time", max),
        );
        let percent = detection.max_ejection_percent;
        self.percent("outlier_detection.max_ejection_percent", percent.into());
        if let Some(rate) = &detection.success_rate {
            self.counts(
                "outlier_detection.success_rate.",
                &[
                    ("minimum_hosts", rate.minimum_hosts),
                    ("request_volume", rate.request_volume),
                    ("stdev_factor", rate.stdev_factor),
                ],
            );
        }
        if let Some(failures) = &detection.failure_percentage {
            let within = "outlier_detection.failure_percentage.";
            self.counts(
                within,
                &[
                    ("threshold", failures.threshold.into()),
                    ("minimum_hosts", failures.minimum_hosts),
                    ("request_volume", failures.request_volume),
                ],
            );
            self.percent(&format!("{within}threshold"), failures.threshold.into());
        }
    }

    fn health_check(&mut self, check: Option<&HealthCheck>, protocol: Protocol) {
        let Some(check) = check else { return };
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        match &check.probe {
            Probe::Http(path) if !path.starts_with('/') || !printable(path) => {
                let reason = "must begin with / and have printable ASCII characters only";
                self.add("health_check.path", path, reason);
            }
            Probe::Grpc(service) if !printable(service) => {
                let reason = "must have printable ASCII characters only";
                self.add("health_check.grpc_service", service, reason);
            }
            // gRPC is HTTP/2, and Envoy refuses it likewise.
            Probe::Grpc(service) if !matches!(protocol, Protocol::Http2 | Protocol::Grpc) => {
                let reason = format!("needs protocol http2 or grpc, and this is {protocol}");
                self.add("health_check.grpc_service", service, reason);
            }
            Probe::Http(_) | Probe::Grpc(_) | Probe::Tcp => {}
        }
        self.times(
            "health_check.",
            &[
                ("interval", Some(check.interval)),
                ("timeout", Some(check.timeout)),
            ],
        );
        self.counts(
            "health_check.",
            &[
                ("healthy_threshold", check.healthy_threshold),
                ("unhealthy_threshold", check.unhealthy_threshold),
            ],
        );
    }

    fn authorization(&mut self, authorization: Option<&Authorization>, protocol: Protocol) {
        let rules = authorization.map_or(&[][..], |authorization| &authorization.allow);
        for (index, rule) in rules.iter().enumerate() {
            let field = |name: &str| format!("authorization.allow[{index}].{name}");
            if rule.from.is_empty() {
                self.add(&field("from"), "[]", "must have at least one caller");
            }
            for (name, texts) in [("methods", &rule.methods), ("paths", &rule.paths)] {
                if !protocol.is_http() && !texts.is_empty() {
                    let reason = format!("needs requests, and {protocol} has none");
                    self.add(&field(name), texts.join(", "), reason);
                }
            }
            for method in rule.methods.iter().filter(|method| !is_token(method)) {
                let reason = "must be a method (RFC 9110 section 9.1)";
                self.add(&field("methods"), method, reason);
            }
            for path in &rule.paths {
                if let Err(reason) = path_prefix(path) {
                    self.add(&field("paths"), path, reason);
                }
            }
        }
    }

    fn percent(&mut self, field: &str, value: u32) {
        if value > 100 {
            self.add(field, value, "must be a percentage from 0 to 100");
        }
    }

    fn counts(&mut self, within: &str, values: &[(&str, u32)]) {
        for (field, _) in values.iter().filter(|(_, value)| *value == 0) {
            self.add(&format!("{within}{field}"), 0, "must be at least 1");
        }
    }

    fn times(&mut self, within: &str, values: &[(&str, Option<Duration>)]) {
        for (field, value) in values {
            let Some(value) = value else { continue };
            if value.is_zero() || *value > LONGEST {
                let reason = "must be longer than 0 and at most a year";
                let shown = humantime_serde::re::humantime::format_duration(*value);
                self.add(&format!("{within}{field}"), shown, reason);
            }
        }
    }

    fn order(&mut self, within: &str, least: (&str, Duration), most: (&str, Duration)) {
        if most.1 < least.1 {
            let shown = humantime_serde::re::humantime::format_duration(most.1);
            let field = format!("{within}{}", most.0);
            self.add(&field, shown, format!("is less than {}", least.0));
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(tchar)
}

/// Only one spelling of a path: what requests are compared with is written so, too.
fn path_prefix(path: &str) -> Result<(), &'static str> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("must begin with /");
    };
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must have printable ASCII characters only");
    }
    if path.contains(['?', '#']) {
        return Err("must have no query and no fragment");
    }
    if path.contains(['%', '\\']) {
        return Err("must have no percent-encoding and no backslash");
    }
    if rest
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        return Err("must have no segments . and ..");
    }
    if path.contains("//") {
        return Err("must have no empty segments");
    }
    Ok(())
}
