//! All that the owner of a service may say of its resilience, in one table: `[[cluster]]` of the static file, `services[].policy` of the
//! service-connect document and the service attribute `OUTRIGGER_POLICY` are written in this vocabulary.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    CircuitBreakers, Cluster, HealthCheck, LbPolicy, OutlierDetection, Protocol, RetryPolicy,
};
use crate::identity::{Authorization, Rule, TlsMode};

/// What is said of one service; what is not said has the default of [`Cluster::new`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServicePolicy {
    /// The order in which endpoints are offered.
    pub lb: LbPolicy,
    /// Time for one attempt to connect, TLS included; `None` is [`super::DEFAULT_CONNECT_TIMEOUT`].
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Option<Duration>,
    /// What may be tried again.
    pub retry: RetryPolicy,
    /// What may be under way at once.
    pub circuit_breakers: CircuitBreakers,
    /// When an endpoint is ejected; written as a table, or `false` for off (`None`), or `true` for the defaults.
    #[serde(with = "switch")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Active probes; `None` is no probes.
    pub health_check: Option<HealthCheck>,
    /// In percent, see [`Cluster::panic_threshold`].
    #[serde(deserialize_with = "super::policy::percent")]
    pub panic_threshold: u8,
    /// See [`Cluster::slow_start`].
    #[serde(with = "humantime_serde")]
    pub slow_start: Option<Duration>,
    /// See [`Cluster::zone_aware`].
    pub zone_aware: bool,
    /// What connections its tasks take.
    pub tls: TlsMode,
    /// Who may call it; `None` is everybody.
    pub authorization: Option<Authorization>,
}

/// Where the rules stand.
const RULES: [&str; 2] = ["authorization", "allow"];

impl Default for ServicePolicy {
    fn default() -> Self {
        Self {
            lb: LbPolicy::default(),
            connect_timeout: None,
            retry: RetryPolicy::default(),
            circuit_breakers: CircuitBreakers::default(),
            outlier_detection: Some(OutlierDetection::default()),
            health_check: None,
            panic_threshold: 0,
            slow_start: None,
            zone_aware: true,
            tls: TlsMode::default(),
            authorization: None,
        }
    }
}

/// A setting that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value:?}: {reason}")]
pub struct PolicyError {
    /// Which, with the tables it stands in: `retry.num_retries`.
    pub field: String,
    /// What was given.
    pub value: String,
    /// Why that cannot be.
    pub reason: String,
}

impl PolicyError {
    /// Value and reason, where the field stands elsewhere.
    pub(crate) fn explained(&self) -> String {
        format!("{:?}: {}", self.value, self.reason)
    }
}

impl ServicePolicy {
    /// The names of the settings at the top.
    pub const FIELDS: [&str; 11] = [
        "lb",
        "connect_timeout",
        "retry",
        "circuit_breakers",
        "outlier_detection",
        "health_check",
        "panic_threshold",
        "slow_start",
        "zone_aware",
        "tls",
        "authorization",
    ];

    /// What the cluster says; of retries it says nothing.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            lb: cluster.lb,
            connect_timeout: cluster.connect_timeout,
            retry: RetryPolicy::default(),
            circuit_breakers: cluster.circuit_breakers.clone(),
            outlier_detection: cluster.outlier_detection.clone(),
            health_check: cluster.health_check.clone(),
            panic_threshold: cluster.panic_threshold,
            slow_start: cluster.slow_start,
            zone_aware: cluster.zone_aware,
            tls: TlsMode::default(),
            authorization: None,
        }
    }

    /// Reads and checks a table of settings of a service that speaks `protocol`; the error has every setting that is wrong.
    pub fn from_json(mut table: Value, protocol: Protocol) -> Result<Self, Vec<PolicyError>> {
        let mut errors = Vec::new();
        each_setting(&table, &mut Vec::new(), &mut |path, value| {
            if path == RULES && value.is_array() {
                errors.extend(rule_errors(value));
                return;
            }
            // Serde stops at the first error. No setting needs another one beside it, so each can be read alone.
            let alone = path.iter().rev().fold(value.clone(), |inner, name| {
                Value::Object(Map::from_iter([((*name).to_owned(), inner)]))
            });
            // Serde takes a list for a table, its fields by position.
            let list = value.is_array() && path != ["retry", "retriable_status_codes"];
            let read = match serde_json::from_value::<Self>(alone) {
                Ok(_) if list || path.is_empty() && !value.is_object() => {
                    Err("must be a table".to_owned())
                }
                read => read.map_err(|error| error.to_string()),
            };
            errors.extend(read.err().map(|reason| PolicyError {
                field: path.join("."),
                value: shown(value),
                reason,
            }));
        });
        let shown = table.get("health_check").map(shown);
        for error in &errors {
            remove(&mut table, &error.field);
        }
        match serde_json::from_value::<Self>(table) {
            Ok(policy) => {
                errors.extend(policy.check(protocol));
                if errors.is_empty() {
                    return Ok(policy);
                }
            }
            // Only a health check has settings that exclude each other.
            Err(error) if errors.is_empty() => errors.push(PolicyError {
                field: "health_check".to_owned(),
                value: shown.unwrap_or_default(),
                reason: error.to_string(),
            }),
            Err(_) => {}
        }
        Err(errors)
    }

    /// What differs from the defaults, in an order that depends on nothing else.
    pub fn to_json(&self) -> Value {
        let write = |policy| serde_json::to_value(policy).expect("settings are numbers and texts");
        difference(write(self), &write(&Self::default()))
            .unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// Puts on the cluster what is a cluster's; the retry policy is its routes'. Probes that the cluster has already stay if
    /// nothing is said of probes.
    pub fn apply(&self, cluster: &mut Cluster) {
        cluster.lb = self.lb;
        cluster.connect_timeout = self.connect_timeout;
        cluster.circuit_breakers = self.circuit_breakers.clone();
        cluster.outlier_detection = self.outlier_detection.clone();
        cluster.panic_threshold = self.panic_threshold;
        cluster.slow_start = self.slow_start;
        cluster.zone_aware = self.zone_aware;
        if self.health_check.is_some() {
            cluster.health_check = self.health_check.clone();
        }
    }
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A list of tables: which of them is wrong, and what in it, serde does not tell.
fn rule_errors(list: &Value) -> Vec<PolicyError> {
    let mut errors = Vec::new();
    for (index, rule) in list.as_array().into_iter().flatten().enumerate() {
        let mut wrong = |field: &str, value: &Value, reason: String| {
            errors.push(PolicyError {
                field: format!("{}[{index}]{field}", RULES.join(".")),
                value: shown(value),
                reason,
            });
        };
        let Some(settings) = rule.as_object() else {
            wrong("", rule, "must be a table".to_owned());
            continue;
        };
        if !settings.contains_key("from") {
            wrong(".from", &Value::Null, "is missing".to_owned());
        }
        for (name, value) in settings {
            let alone = [("from", Value::Array(Vec::new())), (name, value.clone())];
            let alone = alone.map(|(name, value)| (name.to_owned(), value));
            if let Err(error) =
                serde_json::from_value::<Rule>(Value::Object(alone.into_iter().collect()))
            {
                wrong(&format!(".{name}"), value, error.to_string());
            }
        }
    }
    errors
}

fn remove(table: &mut Value, field: &str) {
    let field = field.split('[').next().unwrap_or(field);
    let (within, name) = field.rsplit_once('.').unwrap_or(("", field));
    let mut inner = within.split('.').filter(|name| !name.is_empty());
    let parent = inner.try_fold(table, |value, name| value.get_mut(name));
    if let Some(Value::Object(parent)) = parent {
        parent.remove(name);
    }
}

/// Calls `each` with the path and the value of everything that is not a table with something in it.
fn each_setting<'a>(
    value: &'a Value,
    path: &mut Vec<&'a str>,
    each: &mut impl FnMut(&[&str], &Value),
) {
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (name, inner) in table {
                path.push(name);
                each_setting(inner, path, each);
                path.pop();
            }
        }
        _ => each(path, value),
    }
}

fn difference(value: Value, default: &Value) -> Option<Value> {
    match (value, default) {
        (value, default) if value == *default => None,
        (Value::Object(table), Value::Object(defaults)) => {
            let entries = table.into_iter().filter_map(|(name, inner)| {
                let default = defaults.get(&name).unwrap_or(&Value::Null);
                difference(inner, default).map(|inner| (name, inner))
            });
            Some(Value::Object(entries.collect()))
        }
        (value, _) => Some(value),
    }
}

/// A table, or `true` for its defaults, or `false` for off.
mod switch {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    use super::OutlierDetection;

    pub(super) fn serialize<S: Serializer>(
        value: &Option<OutlierDetection>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(table) => table.serialize(serializer),
            None => serializer.serialize_bool(false),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<OutlierDetection>, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(on) => Ok(on.then(OutlierDetection::default)),
            table => OutlierDetection::deserialize(table)
                .map(Some)
                .map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests;
