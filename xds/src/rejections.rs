//! Rejections inside a NACK: one line each for people, and the same as JSON for our own server.

use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;

use crate::resource::Rejection;

const DETAIL: &str = "outrigger/rejections";
/// gRPC's INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

pub(crate) fn to_status(rejections: &[Rejection]) -> Status {
    let lines: Vec<String> = rejections.iter().map(ToString::to_string).collect();
    let json = serde_json::to_vec(rejections).expect("rejections are plain strings");
    Status {
        code: INVALID_ARGUMENT,
        message: lines.join("\n"),
        details: vec![Any {
            type_url: DETAIL.to_owned(),
            value: json,
        }],
    }
}

/// A foreign client's NACK is one rejection without a name.
pub(crate) fn from_status(type_url: &str, status: &Status) -> Vec<Rejection> {
    let ours = status.details.iter().find(|any| any.type_url == DETAIL);
    let parsed = ours.and_then(|any| serde_json::from_slice(&any.value).ok());
    parsed.unwrap_or_else(|| {
        vec![Rejection {
            type_url: type_url.to_owned(),
            name: String::new(),
            field: String::new(),
            reason: status.message.clone(),
        }]
    })
}
