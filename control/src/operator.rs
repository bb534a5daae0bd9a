//! The operator API under `/v1`: drain a node, see the nodes, hear what sidecars could not do.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::ads::Nodes;
use crate::publish::Publisher;
use crate::writer::Writer;

/// How long a drain waits for acknowledgements.
const DRAIN: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 64 * 1024;
const MAX_PROBLEMS: usize = 64;

/// What the operator API works on.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) writer: Writer,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) epoch: Arc<str>,
}

pub(crate) fn router(operator: Operator) -> Router {
    Router::new()
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{node}/drain", post(drain))
        .route("/v1/nodes/{node}/report", post(report))
        .route("/v1/health", get(health))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(operator)
}

async fn health(State(operator): State<Operator>) -> Response {
    Json(json!({ "status": "ok", "epoch": operator.epoch.as_ref() })).into_response()
}

async fn nodes(State(operator): State<Operator>) -> Response {
    Json(operator.nodes.reports()).into_response()
}

/// Publishes the node's instances as DRAINING and answers when every connected stream knows, or the bound is reached.
async fn drain(State(operator): State<Operator>, Path(node): Path<String>) -> Response {
    let drained = node.clone();
    let namespaces = match operator
        .writer
        .call(move |registry, _| registry.drain_node(&drained))
        .await
    {
        Ok(namespaces) => namespaces,
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    operator.publisher.flushed().await;
    let awaited: Vec<_> = namespaces
        .iter()
        .flat_map(|namespace| operator.nodes.awaited(namespace))
        .collect();
    let mut done = vec![false; awaited.len()];
    // At the bound the drain goes on without the rest, which are named.
    let _bounded =
        tokio::time::timeout(DRAIN, operator.nodes.all_acknowledged(&awaited, &mut done)).await;
    let acknowledged = done.iter().filter(|done| **done).count();
    let left_out: Vec<&str> = awaited
        .iter()
        .zip(&done)
        .filter(|(_, done)| !**done)
        .map(|(awaited, _)| awaited.node.as_str())
        .collect();
    tracing::info!(
        node,
        acknowledged,
        connected = awaited.len(),
        ?left_out,
        "drained"
    );
    Json(json!({ "acknowledged": acknowledged, "connected": awaited.len(), "left_out": left_out }))
        .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    problems: Vec<String>,
}

async fn report(
    State(operator): State<Operator>,
    Path(node): Path<String>,
    body: Result<Json<Report>, JsonRejection>,
) -> Response {
    let Json(report) = match body {
        Ok(report) => report,
        Err(rejection) => return refuse(rejection.status(), &rejection.body_text()),
    };
    if report.problems.len() > MAX_PROBLEMS {
        return refuse(
            StatusCode::BAD_REQUEST,
            &format!("problems: more than {MAX_PROBLEMS}"),
        );
    }
    if operator.nodes.report(&node, report.problems) {
        Json(json!({})).into_response()
    } else {
        refuse(
            StatusCode::NOT_FOUND,
            &format!("node {node:?} is not known"),
        )
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}
