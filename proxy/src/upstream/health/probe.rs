//! One probe: a connection of its own, one question, one answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, TE, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_xds::model::{HealthCheck, Probe, Protocol, ServiceRef};
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Kind, ProxyError};
use crate::policy::endpoint::Endpoint;
use crate::tls::dial::{Dialling, Inside};
use crate::tls::transport::Transport;
use crate::upstream::connect;

/// The largest answer to a gRPC check; the message itself is two bytes.
const MAX_ANSWER: usize = 16 * 1024;

/// Why an endpoint did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// No connection.
    #[error("{0}")]
    Connect(#[from] ProxyError),
    /// Not in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It is spoken to, but not understood.
    #[error("{0}")]
    Exchange(String),
    /// Not 200 to 299.
    #[error("{path} was answered {status}")]
    Status { path: String, status: StatusCode },
    /// It answers that it does not serve.
    #[error("grpc.health.v1.Health/Check of {service:?}: {reason}")]
    NotServing { service: String, reason: String },
}

/// What is asked of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prober {
    /// The probe, and how often it is made.
    pub(crate) check: HealthCheck,
    protocol: Protocol,
    /// The service's name.
    host: String,
    /// For endpoints that take TLS: the service whose tasks they are, and how they are spoken to.
    tls: Option<(ServiceRef, Arc<Dialling>)>,
}

impl Prober {
    /// `host` is the service, as its callers would call it: `Host` and `:authority`.
    pub(crate) fn new(check: &HealthCheck, protocol: Protocol, host: &str) -> Self {
        Self {
            check: check.clone(),
            protocol,
            host: host.rsplit('/').next().unwrap_or(host).to_owned(),
            tls: None,
        }
    }

    /// Endpoints that take TLS are spoken to by it.
    pub(crate) fn by_tls(self, service: ServiceRef, tls: Option<Arc<Dialling>>) -> Self {
        let tls = tls.map(|tls| (service, tls));
        Self { tls, ..self }
    }

    /// Whether it is asked by HTTP/2.
    fn by_http2(&self) -> bool {
        let http2 = matches!(self.protocol, Protocol::Http2 | Protocol::Grpc);
        http2 || matches!(self.check.probe, Probe::Grpc(_))
    }

    /// Asks once, without TLS, and no longer than the timeout.
    pub(crate) async fn ask(&self, address: SocketAddr) -> Result<(), ProbeError> {
        let timeout = self.check.timeout;
        let asking = async {
            let stream = connect::tcp(address, timeout).await?;
            self.exchange(stream.into(), address).await
        };
        let asked = tokio::time::timeout(timeout, asking).await;
        asked.unwrap_or(Err(ProbeError::Timeout(timeout)))
    }

    /// The same of an endpoint, as requests connect to it.
    pub(crate) async fn ask_endpoint(&self, endpoint: &Endpoint) -> Result<(), ProbeError> {
        if !endpoint.takes_tls() {
            return self.ask(endpoint.address).await;
        }
        let timeout = self.check.timeout;
        let asking = async {
            let stream = self.secured(endpoint).await?;
            self.exchange(stream, endpoint.address).await
        };
        let asked = tokio::time::timeout(timeout, asking).await;
        asked.unwrap_or(Err(ProbeError::Timeout(timeout)))
    }

    async fn secured(&self, endpoint: &Endpoint) -> Result<Transport, ProxyError> {
        let (service, tls) = self.tls.as_ref().ok_or(Kind::NoIdentity)?;
        let inside = match self.protocol {
            Protocol::Tcp => Inside::Tcp,
            _ => Inside::http(self.by_http2(), endpoint.hop.is_some()),
        };
        connect::secured(Some(tls), service, endpoint, inside, self.check.timeout).await
    }

    async fn exchange(&self, mut stream: Transport, address: SocketAddr) -> Result<(), ProbeError> {
        match &self.check.probe {
            // The end of a handshake is not said before anything else is.
            Probe::Tcp => stream.shutdown().await.map_err(exchange),
            Probe::Http(path) => {
                let request = self.request(Method::GET, path, address);
                let (response, _connection) =
                    send(stream, request, self.by_http2(), Bytes::new()).await?;
                let status = response.status();
                let path = path.clone();
                let passed = status.is_success();
                passed
                    .then_some(())
                    .ok_or(ProbeError::Status { path, status })
            }
            Probe::Grpc(service) => self.serving(stream, service, address).await,
        }
    }

    /// The gRPC health checking protocol (grpc/doc/health-checking.md).
    async fn serving(
        &self,
        stream: Transport,
        service: &str,
        address: SocketAddr,
    ) -> Result<(), ProbeError> {
        let request = self
            .request(Method::POST, "/grpc.health.v1.Health/Check", address)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers");
        let asked = CheckRequest {
            service: service.to_owned(),
        };
        let (response, _connection) = send(stream, request, true, framed(&asked)).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(exchange)?;
        let refused = |reason| ProbeError::NotServing {
            service: service.to_owned(),
            reason,
        };
        served(head.status, &head.headers, body).map_err(refused)
    }

    fn request(&self, method: Method, path: &str, address: SocketAddr) -> http::request::Builder {
        // A name that is no host is not sent: the address is always one.
        let host = match self.host.parse::<Authority>() {
            Ok(_) => self.host.clone(),
            Err(_) => address.to_string(),
        };
        let request = Request::builder()
            .method(method)
            .header(USER_AGENT, "outrigger-probe");
        if self.by_http2() {
            request.uri(format!("http://{host}{path}"))
        } else {
            request.uri(path).header(HOST, host)
        }
    }
}

/// A message of the protocol: not compressed, its length, itself (gRPC over HTTP/2, "Length-Prefixed-Message").
fn framed(message: &CheckRequest) -> Bytes {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &encoded].concat().into()
}

/// What is wrong with the answer, if it does not say SERVING.
fn served(status: StatusCode, headers: &HeaderMap, body: Collected<Bytes>) -> Result<(), String> {
    if !status.is_success() {
        return Err(format!("answered {status}"));
    }
    // Without a message the status stands in the head ("Trailers-Only").
    let trailers = body.trailers().unwrap_or(headers);
    let code = trailers.get("grpc-status").map(HeaderValue::as_bytes);
    if code != Some(b"0") {
        let code = code.map_or("none".into(), String::from_utf8_lossy);
        return Err(format!("grpc-status {code}"));
    }
    let mut message = body.to_bytes();
    if message.len() < 5 || message[0] != 0 {
        return Err("the answer is no plain message".to_owned());
    }
    message.advance(5);
    match CheckResponse::decode(message) {
        Ok(answer) if answer.status == SERVING => Ok(()),
        Ok(answer) => Err(format!("status {}", answer.status)),
        Err(error) => Err(error.to_string()),
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct CheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct CheckResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

/// `HealthCheckResponse.ServingStatus.SERVING`.
pub(super) const SERVING: i32 = 1;

/// The response, and the connection that it may still be read from.
async fn send(
    stream: Transport,
    request: http::request::Builder,
    http2: bool,
    body: Bytes,
) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), ProbeError> {
    let request = request.body(Full::new(body)).map_err(exchange)?;
    let stream = TokioIo::new(stream);
    if http2 {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = handshake.await.map_err(exchange)?;
        let driver = driven(connection);
        Ok((
            sender.send_request(request).await.map_err(exchange)?,
            driver,
        ))
    } else {
        let handshake = hyper::client::conn::http1::handshake(stream);
        let (mut sender, connection) = handshake.await.map_err(exchange)?;
        let driver = driven(connection);
        Ok((
            sender.send_request(request).await.map_err(exchange)?,
            driver,
        ))
    }
}

fn driven<C>(connection: C) -> AbortOnDropHandle<()>
where
    C: Future<Output = hyper::Result<()>> + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a probe's connection ended");
        }
    }))
}

fn exchange(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ProbeError {
    ProbeError::Exchange(error.into().to_string())
}
