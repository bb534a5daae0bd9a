//! CreateService, GetService, ListServices, DeleteService and the three operations on service attributes.

use serde_json::{Value, json};

use super::filter::Filter;
use super::input::Input;
use super::page::Page;
use super::{ACCOUNT, Answer, put, service_arn, timestamp};
use crate::registry::{Error, HealthCheckConfig, NewService, Registry, Service, invalid};
use crate::writer::Writer;

const MAX_ATTRIBUTES: usize = 30;

pub(super) async fn create(writer: &Writer, input: Input) -> Answer {
    let new = read_new(&input)?;
    let row = writer
        .call(move |registry, context| registry.create_service(context, new))
        .await?;
    Ok(json!({ "Service": describe(&writer.read(), &row) }))
}

fn read_new(input: &Input) -> Result<NewService, Error> {
    let name = input.service_name("Name")?.to_owned();
    if input.has("DnsConfig") {
        return Err(invalid(
            "DnsConfig",
            "cannot be given: namespaces here are HTTP namespaces",
        ));
    }
    input.one_of("Type", &["HTTP"])?;
    let health_check = input
        .object("HealthCheckConfig")?
        .map(read_health_check)
        .transpose()?;
    let custom = input.object("HealthCheckCustomConfig")?;
    let custom_health = custom
        .map(|custom| failure_threshold(&custom))
        .transpose()?;
    if health_check.is_some() && custom_health.is_some() {
        return Err(invalid(
            "HealthCheckCustomConfig",
            "cannot be given together with HealthCheckConfig",
        ));
    }
    Ok(NewService {
        name,
        namespace_id: input.id("NamespaceId")?.to_owned(),
        creator_request_id: input.creator_request_id()?,
        description: input.description()?,
        tags: input.tags()?,
        health_check,
        custom_health,
    })
}

fn read_health_check(config: Input) -> Result<HealthCheckConfig, Error> {
    let kind = match config.one_of("Type", &["HTTP", "HTTPS", "TCP"])? {
        None => return Err(invalid(config.field("Type"), "is required")),
        Some("HTTPS") => {
            return Err(invalid(
                config.field("Type"),
                "HTTPS probes are not made here; use HTTP or TCP",
            ));
        }
        Some(kind) => kind,
    };
    let path = config.owned("ResourcePath", 255)?;
    match &path {
        Some(_) if kind == "TCP" => {
            return Err(invalid(
                config.field("ResourcePath"),
                "cannot be given for TCP",
            ));
        }
        Some(path) if !path.starts_with('/') => {
            return Err(invalid(
                config.field("ResourcePath"),
                format!("{path:?} does not begin with /"),
            ));
        }
        _ => {}
    }
    Ok(HealthCheckConfig {
        kind: kind.to_owned(),
        path,
        failure_threshold: failure_threshold(&config)?,
    })
}

fn failure_threshold(config: &Input) -> Result<Option<u32>, Error> {
    Ok(config
        .number("FailureThreshold", 1, 10)?
        .and_then(|number| u32::try_from(number).ok()))
}

pub(super) fn get(writer: &Writer, input: Input) -> Answer {
    let registry = writer.read();
    let row = registry.service(input.id("Id")?)?;
    Ok(json!({ "Service": describe(&registry, row) }))
}

pub(super) fn list(writer: &Writer, input: Input) -> Answer {
    let page = Page::read(&input)?;
    let filters = Filter::read(&input, &["NAMESPACE_ID", "RESOURCE_OWNER"])?;
    let matches = |row: &Service, filter: &Filter| match filter.name {
        "RESOURCE_OWNER" => filter.matches_owner(),
        _ => filter.matches_id(&row.namespace_id),
    };
    let registry = writer.read();
    let rows = registry
        .services()
        .filter(|row| filters.iter().all(|filter| matches(row, filter)));
    let (rows, next) = page.cut(rows, |row| row.id.clone());
    let services: Vec<Value> = rows
        .into_iter()
        .map(|row| summary(&registry, row))
        .collect();
    let mut answer = json!({ "Services": services });
    put(&mut answer, "NextToken", next);
    Ok(answer)
}

pub(super) async fn delete(writer: &Writer, input: Input) -> Answer {
    let id = input.id("Id")?.to_owned();
    writer
        .call(move |registry, context| registry.delete_service(context, &id))
        .await?;
    Ok(json!({}))
}

pub(super) fn get_attributes(writer: &Writer, input: Input) -> Answer {
    let registry = writer.read();
    let row = registry.service(input.id("ServiceId")?)?;
    Ok(json!({ "ServiceAttributes": {
        "ServiceArn": service_arn(&row.id),
        "ResourceOwner": ACCOUNT,
        "Attributes": row.attributes,
    } }))
}

pub(super) async fn update_attributes(writer: &Writer, input: Input) -> Answer {
    let id = input.id("ServiceId")?.to_owned();
    let attributes = input.attributes("Attributes")?;
    if attributes.is_empty() {
        return Err(invalid(
            "Attributes",
            "is required, and needs at least one attribute",
        ));
    }
    let superseded = writer
        .call(move |registry, context| registry.update_service_attributes(context, &id, attributes))
        .await?;
    // A field of ours, which other clients do not look at.
    Ok(match superseded {
        Some(revision) => json!({ "Superseded": revision }),
        None => json!({}),
    })
}

pub(super) async fn delete_attributes(writer: &Writer, input: Input) -> Answer {
    let id = input.id("ServiceId")?.to_owned();
    let keys = input.texts("Attributes", 255)?;
    if keys.is_empty() || keys.len() > MAX_ATTRIBUTES {
        return Err(invalid(
            "Attributes",
            format!("is required, with 1 to {MAX_ATTRIBUTES} keys"),
        ));
    }
    writer
        .call(move |registry, context| registry.delete_service_attributes(context, &id, &keys))
        .await?;
    Ok(json!({}))
}

fn summary(registry: &Registry, row: &Service) -> Value {
    let mut summary = json!({
        "Id": row.id,
        "Arn": service_arn(&row.id),
        "ResourceOwner": ACCOUNT,
        "Name": row.name,
        "Type": "HTTP",
        "InstanceCount": registry.instance_count(&row.id),
        "CreateDate": timestamp(row.created),
        "CreatedByAccount": ACCOUNT,
    });
    put(&mut summary, "Description", row.description.clone());
    if let Some(config) = &row.health_check {
        let mut described = json!({ "Type": config.kind });
        put(&mut described, "ResourcePath", config.path.clone());
        put(&mut described, "FailureThreshold", config.failure_threshold);
        summary["HealthCheckConfig"] = described;
    }
    if let Some(threshold) = row.custom_health {
        let mut described = json!({});
        put(&mut described, "FailureThreshold", threshold);
        summary["HealthCheckCustomConfig"] = described;
    }
    summary
}

fn describe(registry: &Registry, row: &Service) -> Value {
    let mut described = summary(registry, row);
    described["NamespaceId"] = json!(row.namespace_id);
    put(
        &mut described,
        "CreatorRequestId",
        row.creator_request_id.clone(),
    );
    described
}
