//! The sidecar's own answers.

use bytes::Bytes;
use http::StatusCode;

use super::Response;
use super::response::ResponseBody;
use crate::error::{Kind, ProxyError};
use crate::message::head::ResponseHead;

/// The sidecar's own answer: the status of the error's kind and a sentence, or gRPC's trailers-only form.
pub(crate) fn refuse(error: &ProxyError, grpc: bool, listener: &str) -> Response {
    let kind = error.kind;
    let (mut head, body) = if grpc {
        let mut head = ResponseHead::new(StatusCode::OK);
        let message = format!("outrigger: {}", ProxyError::new(kind));
        head.fields.push("content-type", b"application/grpc");
        head.fields
            .push("grpc-status", grpc_status(kind).as_bytes());
        head.fields.push("grpc-message", message.as_bytes());
        (head, ResponseBody::empty())
    } else {
        let head = ResponseHead::of_text(kind.status());
        let text = format!("outrigger: {listener}: {}\n", ProxyError::new(kind));
        (head, ResponseBody::Local(Bytes::from(text)))
    };
    if kind == Kind::MethodRefused {
        let allowed = b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";
        head.fields.push("allow", allowed);
    }
    Response { head, body }
}

/// gRPC's status code for an error of the sidecar (gRPC "Status codes and their use").
const fn grpc_status(kind: Kind) -> &'static str {
    match kind {
        Kind::RequestTimeout
        | Kind::PerTryTimeout
        | Kind::IdleTimeout
        | Kind::HeaderTimeout
        | Kind::BodyTimeout => "4",
        Kind::NoRoute | Kind::MethodRefused => "12",
        Kind::Overflow | Kind::HeadTooLarge => "8",
        Kind::DownstreamTermination => "1",
        Kind::DownstreamProtocol => "13",
        Kind::Unauthorized => "7",
        Kind::NoCluster
        | Kind::NoHealthyEndpoint
        | Kind::ConnectFailed
        | Kind::ConnectTimeout
        | Kind::TlsFailed
        | Kind::TlsIdentity
        | Kind::NoIdentity
        | Kind::Misdirected
        | Kind::Unsent
        | Kind::RefusedStream
        | Kind::ConnectionTermination
        | Kind::RemoteReset
        | Kind::UpstreamProtocol
        | Kind::UpgradeFailed => "14",
    }
}
