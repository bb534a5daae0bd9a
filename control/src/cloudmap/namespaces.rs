//! CreateHttpNamespace, GetNamespace, ListNamespaces, DeleteNamespace.

use serde_json::{Value, json};

use super::filter::Filter;
use super::input::Input;
use super::page::Page;
use super::{ACCOUNT, Answer, namespace_arn, put, timestamp};
use crate::registry::{Namespace, Registry};
use crate::writer::Writer;

pub(super) async fn create(writer: &Writer, input: Input) -> Answer {
    let name = input.namespace_name("Name")?.to_owned();
    let (creator, description, tags) = (
        input.creator_request_id()?,
        input.description()?,
        input.tags()?,
    );
    let operation = writer
        .call(move |registry, context| {
            registry.create_namespace(context, &name, creator, description, tags)
        })
        .await?;
    Ok(json!({ "OperationId": operation }))
}

pub(super) fn get(writer: &Writer, input: Input) -> Answer {
    let registry = writer.read();
    let row = registry.namespace(input.id("Id")?)?;
    let mut namespace = summary(&registry, row);
    put(
        &mut namespace,
        "CreatorRequestId",
        row.creator_request_id.clone(),
    );
    Ok(json!({ "Namespace": namespace }))
}

pub(super) fn list(writer: &Writer, input: Input) -> Answer {
    let page = Page::read(&input)?;
    let filters = Filter::read(&input, &["TYPE", "NAME", "HTTP_NAME", "RESOURCE_OWNER"])?;
    let matches = |row: &Namespace, filter: &Filter| match filter.name {
        "TYPE" => filter.matches("HTTP"),
        "RESOURCE_OWNER" => filter.matches_owner(),
        _ => filter.matches(&row.name),
    };
    let registry = writer.read();
    let rows = registry
        .namespaces()
        .filter(|row| filters.iter().all(|filter| matches(row, filter)));
    let (rows, next) = page.cut(rows, |row| row.id.clone());
    let namespaces: Vec<Value> = rows
        .into_iter()
        .map(|row| summary(&registry, row))
        .collect();
    let mut answer = json!({ "Namespaces": namespaces });
    put(&mut answer, "NextToken", next);
    Ok(answer)
}

pub(super) async fn delete(writer: &Writer, input: Input) -> Answer {
    let id = input.id("Id")?.to_owned();
    let operation = writer
        .call(move |registry, context| registry.delete_namespace(context, &id))
        .await?;
    Ok(json!({ "OperationId": operation }))
}

fn summary(registry: &Registry, row: &Namespace) -> Value {
    let mut summary = json!({
        "Id": row.id,
        "Arn": namespace_arn(&row.id),
        "ResourceOwner": ACCOUNT,
        "Name": row.name,
        "Type": "HTTP",
        "ServiceCount": registry.services_in(&row.id).count(),
        "Properties": { "HttpProperties": { "HttpName": row.name } },
        "CreateDate": timestamp(row.created),
    });
    put(&mut summary, "Description", row.description.clone());
    summary
}
