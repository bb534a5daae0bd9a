//! DiscoverInstances and DiscoverInstancesRevision.

use std::sync::Arc;

use rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::Answer;
use super::input::Input;
use super::instances::{attributes, health_of};
use crate::registry::{Error, Instance, Registry, Service};
use crate::writer::Writer;

const DEFAULT_RESULTS: u64 = 100;
const MAX_RESULTS: u64 = 1000;

pub(super) fn instances(writer: &Writer, input: Input) -> Answer {
    let (namespace, name) = names(&input)?;
    let max = input
        .number("MaxResults", 1, MAX_RESULTS)?
        .unwrap_or(DEFAULT_RESULTS);
    let query = input.attributes("QueryParameters")?;
    let optional = input.attributes("OptionalParameters")?;
    let health = input.one_of(
        "HealthStatus",
        &["HEALTHY", "UNHEALTHY", "ALL", "HEALTHY_OR_ELSE_ALL"],
    )?;
    let registry = writer.read();
    let service = find(&registry, namespace, name)?;
    let has = |row: &Instance, wanted: &std::collections::BTreeMap<String, String>| {
        let shown = attributes(row);
        wanted
            .iter()
            .all(|(key, value)| shown.get(key.as_str()).is_some_and(|shown| shown == value))
    };
    let mut found: Vec<(&Arc<Instance>, &str)> = registry
        .instances_of(&service.id)
        .filter(|row| has(row, &query))
        .map(|row| (row, health_of(&registry, service, row)))
        .collect();
    if !optional.is_empty() && found.iter().any(|(row, _)| has(row, &optional)) {
        found.retain(|(row, _)| has(row, &optional));
    }
    by_health(&mut found, health.unwrap_or("HEALTHY_OR_ELSE_ALL"));
    found.shuffle(&mut rand::rng());
    found.truncate(usize::try_from(max).unwrap_or(usize::MAX));
    let described = |(row, status): (&Arc<Instance>, &str)| {
        json!({
            "InstanceId": row.id,
            "NamespaceName": namespace,
            "ServiceName": service.name,
            "HealthStatus": status,
            "Attributes": attributes(row),
        })
    };
    Ok(json!({
        "Instances": found.into_iter().map(described).collect::<Vec<Value>>(),
        "InstancesRevision": registry.instances_revision(&service.id),
    }))
}

/// UNKNOWN (no check configured) counts as healthy.
fn by_health(found: &mut Vec<(&Arc<Instance>, &str)>, wanted: &str) {
    let any_healthy = found.iter().any(|(_, status)| *status != "UNHEALTHY");
    match wanted {
        "UNHEALTHY" => found.retain(|(_, status)| *status == "UNHEALTHY"),
        "HEALTHY" => found.retain(|(_, status)| *status != "UNHEALTHY"),
        "HEALTHY_OR_ELSE_ALL" if any_healthy => found.retain(|(_, status)| *status != "UNHEALTHY"),
        _ => {}
    }
}

pub(super) fn revision(writer: &Writer, input: Input) -> Answer {
    let (namespace, name) = names(&input)?;
    let registry = writer.read();
    let service = find(&registry, namespace, name)?;
    Ok(json!({ "InstancesRevision": registry.instances_revision(&service.id) }))
}

fn names(input: &Input) -> Result<(&str, &str), Error> {
    input.text("OwnerAccount", 12)?;
    Ok((
        input.namespace_name("NamespaceName")?,
        input.service_name("ServiceName")?,
    ))
}

fn find<'a>(
    registry: &'a Registry,
    namespace: &str,
    name: &str,
) -> Result<&'a Arc<Service>, Error> {
    let row = registry.namespace_named(namespace)?;
    registry
        .service_in(&row.id, name)
        .ok_or_else(|| Error::ServiceNotFound(name.to_owned()))
}
