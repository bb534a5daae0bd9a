//! The operator API under `/v1`: drain a node, see the nodes, hear what sidecars could not do.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::accept::Caller;
use crate::access::Access;
use crate::ads::Nodes;
use crate::drain::Drains;
use crate::registry::{Error, Who};

const MAX_BODY: usize = 1024 * 1024;
/// Problems of one node that are kept.
const MAX_PROBLEMS: usize = 64;

/// What the operator API works on.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) drains: Drains,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) epoch: Arc<str>,
    pub(crate) access: Access,
}

impl Operator {
    /// On whose behalf, if that may speak for the node.
    fn speaks_for(&self, caller: &Caller, node: &str) -> Result<Who, Error> {
        let who = self.access.who(caller);
        let known = self.nodes.identity_of(node);
        who.may_speak_for(node, known.as_ref())?;
        Ok(who)
    }
}

fn denied(error: &Error) -> Response {
    tracing::warn!(reason = %error, "a change is refused");
    refuse(StatusCode::FORBIDDEN, &error.to_string())
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

/// Answers when every other node that is connected knows, or the bound is reached.
async fn drain(
    State(operator): State<Operator>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(node): Path<String>,
) -> Response {
    let who = match operator.speaks_for(&caller, &node) {
        Ok(who) => who,
        Err(error) => return denied(&error),
    };
    match operator.drains.on_behalf_of(who).drain_node(node).await {
        Ok(told) => Json(told).into_response(),
        Err(error @ Error::AccessDenied(_)) => denied(&error),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    problems: Vec<String>,
}

async fn report(
    State(operator): State<Operator>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(node): Path<String>,
    body: Result<Json<Report>, JsonRejection>,
) -> Response {
    if let Err(error) = operator.speaks_for(&caller, &node) {
        return denied(&error);
    }
    let Json(mut report) = match body {
        Ok(report) => report,
        Err(rejection) => return refuse(rejection.status(), &rejection.body_text()),
    };
    let more = report.problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        report.problems.truncate(MAX_PROBLEMS);
        report.problems.push(format!("and {more} more"));
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
