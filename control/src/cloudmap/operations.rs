//! GetOperation and ListOperations.

use serde_json::{Map, Value, json};

use super::filter::Filter;
use super::input::Input;
use super::page::Page;
use super::{ACCOUNT, Answer, put, timestamp};
use crate::registry::Operation;
use crate::writer::Writer;

pub(super) fn get(writer: &Writer, input: Input) -> Answer {
    let registry = writer.read();
    let row = registry.operation(input.id("OperationId")?)?;
    let mut targets = Map::new();
    for (name, id) in [
        ("NAMESPACE", &row.namespace_id),
        ("SERVICE", &row.service_id),
        ("INSTANCE", &row.instance_id),
    ] {
        if let Some(id) = id {
            targets.insert(name.to_owned(), json!(id));
        }
    }
    Ok(json!({ "Operation": {
        "Id": row.id,
        "OwnerAccount": ACCOUNT,
        "Type": row.kind.as_str(),
        "Status": row.status(),
        "CreateDate": timestamp(row.at),
        "UpdateDate": timestamp(row.at),
        "Targets": targets,
    } }))
}

pub(super) fn list(writer: &Writer, input: Input) -> Answer {
    let page = Page::read(&input)?;
    let filters = Filter::read(
        &input,
        &[
            "NAMESPACE_ID",
            "SERVICE_ID",
            "STATUS",
            "TYPE",
            "UPDATE_DATE",
        ],
    )?;
    let matches = |row: &Operation, filter: &Filter| match filter.name {
        "NAMESPACE_ID" => row
            .namespace_id
            .as_ref()
            .is_some_and(|id| filter.matches_id(id)),
        "SERVICE_ID" => row
            .service_id
            .as_ref()
            .is_some_and(|id| filter.matches_id(id)),
        "STATUS" => filter.matches(row.status()),
        "TYPE" => filter.matches(row.kind.as_str()),
        _ => filter.matches_time(row.at as f64 / 1000.0),
    };
    let registry = writer.read();
    let rows = registry
        .operations()
        .filter(|row| filters.iter().all(|filter| matches(row, filter)));
    // Newest first: the key falls with the sequence.
    let (rows, next) = page.cut(rows, |row| format!("{:020}", u64::MAX - row.sequence));
    let operations: Vec<Value> = rows
        .into_iter()
        .map(|row| json!({ "Id": row.id, "Status": row.status() }))
        .collect();
    let mut answer = json!({ "Operations": operations });
    put(&mut answer, "NextToken", next);
    Ok(answer)
}
