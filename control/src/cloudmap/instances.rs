//! RegisterInstance, DeregisterInstance, GetInstance, ListInstances and the two operations on instance health.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::input::Input;
use super::page::Page;
use super::{ACCOUNT, Answer, put};
use crate::drain::Drains;
use crate::registry::{HOP, Instance, InstanceHealth, Registration, Registry, Service, invalid};
use crate::writer::Writer;

/// Never registered by a client: it says how an instance begins, not what it is.
const INIT_HEALTH: &str = "AWS_INIT_HEALTH_STATUS";

pub(super) async fn register(writer: &Writer, input: Input) -> Answer {
    if !input.has("Attributes") {
        return Err(invalid("Attributes", "is required"));
    }
    let registration = Registration {
        service_id: input.id("ServiceId")?.to_owned(),
        instance_id: input.instance_id()?.to_owned(),
        creator_request_id: input.creator_request_id()?,
        attributes: input.attributes("Attributes")?,
    };
    let operation = writer
        .call(move |registry, context| registry.register_instance(context, registration))
        .await?;
    Ok(json!({ "OperationId": operation }))
}

pub(super) async fn deregister(drains: &Drains, input: Input) -> Answer {
    let (service, instance) = ids(&input)?;
    let operation = drains.deregister(service, instance).await?;
    Ok(json!({ "OperationId": operation }))
}

fn ids(input: &Input) -> Result<(String, String), crate::registry::Error> {
    Ok((
        input.id("ServiceId")?.to_owned(),
        input.required("InstanceId", 64)?.to_owned(),
    ))
}

pub(super) fn get(writer: &Writer, input: Input) -> Answer {
    let (service, instance) = ids(&input)?;
    let registry = writer.read();
    let row = registry.instance(&service, &instance)?;
    let mut described = summary(row);
    put(
        &mut described,
        "CreatorRequestId",
        row.creator_request_id.clone(),
    );
    Ok(json!({ "ResourceOwner": ACCOUNT, "Instance": described }))
}

pub(super) fn list(writer: &Writer, input: Input) -> Answer {
    let page = Page::read(&input)?;
    let registry = writer.read();
    let service = registry.service(input.id("ServiceId")?)?;
    let (rows, next) = page.cut(registry.instances_of(&service.id), |row| row.id.clone());
    let instances: Vec<Value> = rows.into_iter().map(|row| summary(row)).collect();
    let mut answer = json!({ "ResourceOwner": ACCOUNT, "Instances": instances });
    put(&mut answer, "NextToken", next);
    Ok(answer)
}

fn summary(row: &Instance) -> Value {
    json!({ "Id": row.id, "Attributes": attributes(row), "CreatedByAccount": ACCOUNT })
}

/// What is shown of an instance: of its sidecar's tokens only a digest.
pub(super) fn attributes(row: &Instance) -> BTreeMap<&str, Cow<'_, str>> {
    let shown = row.attributes.iter().filter(|(key, _)| *key != INIT_HEALTH);
    let shown = shown.map(|(key, value)| (key.as_str(), Cow::Borrowed(value.as_str())));
    let mut shown: BTreeMap<_, _> = shown.collect();
    if let Some(hop) = shown.get_mut(HOP) {
        *hop = Cow::Owned(row.hop_shown());
    }
    shown
}

pub(super) fn health(writer: &Writer, input: Input) -> Answer {
    let page = Page::read(&input)?;
    let wanted = input.texts("Instances", 64)?;
    if input.has("Instances") && wanted.is_empty() {
        return Err(invalid("Instances", "is empty"));
    }
    let registry = writer.read();
    let service = registry.service(input.id("ServiceId")?)?;
    for instance in &wanted {
        registry.instance(&service.id, instance)?;
    }
    let rows = registry
        .instances_of(&service.id)
        .filter(|row| wanted.is_empty() || wanted.contains(&row.id));
    let (rows, next) = page.cut(rows, |row| row.id.clone());
    let status = rows
        .into_iter()
        .map(|row| (row.id.clone(), json!(health_of(&registry, service, row))));
    let mut answer = json!({ "Status": status.collect::<Map<_, _>>() });
    put(&mut answer, "NextToken", next);
    Ok(answer)
}

/// A draining or lost instance is UNHEALTHY also where no check is configured: callers are not to be sent there.
pub(super) fn health_of(registry: &Registry, service: &Service, row: &Instance) -> &'static str {
    match registry.health(row) {
        InstanceHealth::Draining | InstanceHealth::Unhealthy => "UNHEALTHY",
        InstanceHealth::Healthy if service.custom_health.is_some() => "HEALTHY",
        InstanceHealth::Healthy => "UNKNOWN",
    }
}

pub(super) async fn set_health(writer: &Writer, input: Input) -> Answer {
    let (service, instance) = ids(&input)?;
    let status = input
        .one_of("Status", &["HEALTHY", "UNHEALTHY"])?
        .ok_or_else(|| invalid("Status", "is required"))?;
    writer
        .call(move |registry, _| {
            registry.set_custom_health(&service, &instance, status == "HEALTHY")
        })
        .await?;
    Ok(Value::Null)
}
