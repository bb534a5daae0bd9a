//! The Cloud Map API: AWS JSON 1.1 over `POST /`, answered from the registry.

mod discover;
mod filter;
mod input;
mod instances;
mod namespaces;
mod operations;
mod page;
mod services;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Map, Value, json};

use crate::accept::Caller;
use crate::access::Access;
use crate::drain::Drains;
use crate::registry::{Error, invalid};
use input::Input;

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const SERVICE: &str = "Route53AutoNaming_v20170314.";
/// The longest request body. A RegisterInstance with every attribute at its longest is under 80 KB.
pub(crate) const MAX_BODY: usize = 256 * 1024;
const ACCOUNT: &str = "000000000000";

/// What a call answers.
type Answer = Result<Value, Error>;

/// What the API works on, and for whom.
struct Api {
    drains: Drains,
    access: Access,
}

/// The API's one route.
pub(crate) fn router(drains: Drains, access: Access) -> Router {
    Router::new()
        .route("/", post(call))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(Api { drains, access }))
}

async fn call(
    State(api): State<Arc<Api>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let request_id = uuid::Uuid::new_v4().to_string();
    let mut response = match body {
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the request body is longer than {MAX_BODY} bytes");
            error_response(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLargeException",
                json!({ "Message": message }),
            )
        }
        Err(rejection) => error_response(
            StatusCode::BAD_REQUEST,
            "SerializationException",
            json!({ "Message": rejection.body_text() }),
        ),
        Ok(body) => {
            let drains = api.drains.on_behalf_of(api.access.who(&caller));
            answer(&drains, &headers, &body).await
        }
    };
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

pub(crate) async fn answer(drains: &Drains, headers: &HeaderMap, body: &[u8]) -> Response {
    let target = headers
        .get(TARGET)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let Some(operation) = target.strip_prefix(SERVICE) else {
        return unknown(format!(
            "X-Amz-Target {target:?} is not {SERVICE}<operation>"
        ));
    };
    let input = match parse(body) {
        Ok(input) => input,
        Err(message) => {
            return error_response(
                StatusCode::BAD_REQUEST,
                "SerializationException",
                json!({ "Message": message }),
            );
        }
    };
    let writer = &drains.writer;
    let answer = match operation {
        "CreateHttpNamespace" => namespaces::create(writer, input).await,
        "GetNamespace" => namespaces::get(writer, input),
        "ListNamespaces" => namespaces::list(writer, input),
        "DeleteNamespace" => namespaces::delete(writer, input).await,
        "CreateService" => services::create(writer, input).await,
        "GetService" => services::get(writer, input),
        "ListServices" => services::list(writer, input),
        "DeleteService" => services::delete(writer, input).await,
        "GetServiceAttributes" => services::get_attributes(writer, input),
        "UpdateServiceAttributes" => services::update_attributes(writer, input).await,
        "DeleteServiceAttributes" => services::delete_attributes(writer, input).await,
        "RegisterInstance" => instances::register(writer, input).await,
        "DeregisterInstance" => instances::deregister(drains, input).await,
        "GetInstance" => instances::get(writer, input),
        "ListInstances" => instances::list(writer, input),
        "GetInstancesHealthStatus" => instances::health(writer, input),
        "UpdateInstanceCustomHealthStatus" => instances::set_health(writer, input).await,
        "DiscoverInstances" => discover::instances(writer, input),
        "DiscoverInstancesRevision" => discover::revision(writer, input),
        "GetOperation" => operations::get(writer, input),
        "ListOperations" => operations::list(writer, input),
        other => return unknown(format!("operation {other:?} is not known here")),
    };
    match answer {
        // An operation without an output shape answers an empty body.
        Ok(Value::Null) => respond(StatusCode::OK, String::new()),
        Ok(value) => respond(StatusCode::OK, value.to_string()),
        Err(error) => refusal(&error),
    }
}

fn parse(body: &[u8]) -> Result<Input, String> {
    if body.is_empty() {
        return Ok(Input::new(Map::new()));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(Input::new(members)),
        Ok(_) => Err("the request body is not a JSON object".to_owned()),
        Err(error) => Err(format!("the request body is not JSON: {error}")),
    }
}

fn refusal(error: &Error) -> Response {
    let mut members = json!({ "Message": error.to_string() });
    let status = match error {
        Error::NamespaceAlreadyExists {
            namespace_id,
            creator_request_id,
            ..
        } => {
            members["NamespaceId"] = json!(namespace_id);
            put(
                &mut members,
                "CreatorRequestId",
                creator_request_id.as_deref(),
            );
            StatusCode::BAD_REQUEST
        }
        Error::ServiceAlreadyExists {
            service_id,
            creator_request_id,
            ..
        } => {
            members["ServiceId"] = json!(service_id);
            members["ServiceArn"] = json!(service_arn(service_id));
            put(
                &mut members,
                "CreatorRequestId",
                creator_request_id.as_deref(),
            );
            StatusCode::BAD_REQUEST
        }
        // Not Cloud Map's: by it a sidecar tells a deregistration from a registry that has lost something.
        Error::InstanceNotFound { deregistered, .. } => {
            put(&mut members, "OperationId", deregistered.as_deref());
            StatusCode::BAD_REQUEST
        }
        Error::AccessDenied(_) => StatusCode::FORBIDDEN,
        Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Error::InvalidInput { .. }
        | Error::NamespaceNotFound(_)
        | Error::ServiceNotFound(_)
        | Error::OperationNotFound(_)
        | Error::ResourceInUse(_)
        | Error::ResourceLimitExceeded(_)
        | Error::CustomHealthNotFound(_)
        | Error::ServiceAttributesLimitExceeded { .. }
        | Error::TooManyTags { .. }
        | Error::TokenNotFound(_) => StatusCode::BAD_REQUEST,
    };
    let mut response = error_response(status, error.code(), members);
    if let Error::AccessDenied(reason) = error {
        tracing::warn!(reason, "a change is refused");
        // The next connection may have a better certificate.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

fn unknown(message: String) -> Response {
    error_response(
        StatusCode::BAD_REQUEST,
        "UnknownOperationException",
        json!({ "Message": message }),
    )
}

fn error_response(status: StatusCode, code: &'static str, mut members: Value) -> Response {
    members["__type"] = json!(code);
    let mut response = respond(status, members.to_string());
    response
        .headers_mut()
        .insert(ERROR_TYPE, HeaderValue::from_static(code));
    response
}

fn respond(status: StatusCode, body: String) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/x-amz-json-1.1")],
        body,
    )
        .into_response()
}

/// Adds a member unless there is nothing to say.
fn put(members: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        members[name] = value.into();
    }
}

/// Epoch seconds with a fraction, as the protocol has timestamps.
fn timestamp(millis: u64) -> Value {
    json!(millis as f64 / 1000.0)
}

fn namespace_arn(id: &str) -> String {
    format!("arn:aws:servicediscovery:us-east-1:{ACCOUNT}:namespace/{id}")
}

fn service_arn(id: &str) -> String {
    format!("arn:aws:servicediscovery:us-east-1:{ACCOUNT}:service/{id}")
}
