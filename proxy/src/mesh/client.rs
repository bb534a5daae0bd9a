//! HTTP/1.1 calls to the control server, in TLS where its URL says so: Cloud Map's JSON 1.1 and the operator API.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use outrigger_xds::tls::reason;
use outrigger_xds::transport::{BoxedIo, Dial};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::upstream::resolve::Resolver;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a call that has nothing to wait for.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No control server could be asked.
    #[error("{server}: {reason}")]
    Unreachable {
        /// The last one tried.
        server: String,
        /// What went wrong with it.
        reason: String,
        /// Whether one of them was connected to, and may have heard the call.
        reached: bool,
    },
    /// It answered with an error.
    #[error("{call} refused by {server}: {kind}: {message}")]
    Refused {
        /// Which call.
        call: String,
        /// Who said so.
        server: String,
        /// The API's error type.
        kind: String,
        /// The HTTP status.
        status: http::StatusCode,
        /// Its message.
        message: String,
        /// All of it.
        body: Value,
    },
}

impl CallError {
    /// Whether the server answered with this error type.
    pub fn is(&self, expected: &str) -> bool {
        matches!(self, Self::Refused { kind, .. } if kind == expected)
    }
}

/// What a connection to an `https` server is made with; `None` while this task is nobody yet.
pub type Tls = Arc<dyn Fn() -> Option<Arc<rustls::ClientConfig>> + Send + Sync>;

/// How servers are connected to.
#[derive(Clone)]
pub struct Dialler {
    /// Finds their addresses.
    pub resolver: Arc<Resolver>,
    /// For those whose URL is `https`.
    pub tls: Option<Tls>,
}

impl Dialler {
    /// For servers that take plaintext.
    pub fn plain(resolver: Arc<Resolver>) -> Self {
        Self {
            resolver,
            tls: None,
        }
    }

    /// Connects to the host and port of `server`, and shakes hands if it is `https`.
    pub async fn connect(&self, server: &Uri) -> io::Result<BoxedIo> {
        let stream = connect(&self.resolver, server).await?;
        if server.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Ok(Box::new(stream));
        }
        let config = self.tls.as_ref().and_then(|tls| tls());
        let config = config.ok_or_else(|| io::Error::other("this task has no identity yet"))?;
        let host = server.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| io::Error::other(reason(&error)))?;
        Ok(Box::new(stream))
    }
}

/// The control servers' API, any of which will do.
pub struct Client {
    servers: Vec<Uri>,
    last_good: AtomicUsize,
    dialler: Dialler,
}

impl Client {
    /// Tries `servers` in order, beginning with the one that answered last.
    pub fn new(servers: Vec<Uri>, dialler: Dialler) -> Self {
        Self {
            servers,
            last_good: AtomicUsize::new(0),
            dialler,
        }
    }

    /// One Cloud Map operation.
    pub async fn cloud_map(&self, operation: &str, input: &Value) -> Result<Value, CallError> {
        let target = format!("Route53AutoNaming_v20170314.{operation}");
        self.call(operation, ("/", Some(&target)), input, CALL_TIMEOUT)
            .await
    }

    /// One POST to the operator API, answered within `bound` by each server that is tried.
    pub async fn operator(
        &self,
        path: &str,
        input: &Value,
        bound: Duration,
    ) -> Result<Value, CallError> {
        self.call(path, (path, None), input, bound).await
    }

    async fn call(
        &self,
        call: &str,
        (path, target): (&str, Option<&str>),
        input: &Value,
        bound: Duration,
    ) -> Result<Value, CallError> {
        let first = self.last_good.load(Ordering::Relaxed);
        let mut failed = CallError::Unreachable {
            server: "--control".to_owned(),
            reason: "no server given".to_owned(),
            reached: false,
        };
        let mut reached = false;
        for step in 0..self.servers.len() {
            let index = (first + step) % self.servers.len();
            let server = &self.servers[index];
            let send = self.send(server, path, target, input, &mut reached);
            let sent = tokio::time::timeout(bound, send).await;
            let sent = sent.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
            let (status, body) = match sent {
                Ok(answer) => answer,
                Err(error) => {
                    failed = CallError::Unreachable {
                        server: server.to_string(),
                        reason: error.to_string(),
                        reached,
                    };
                    continue;
                }
            };
            self.last_good.store(index, Ordering::Relaxed);
            if status.is_success() {
                return Ok(body);
            }
            let text = |names: [&str; 2]| {
                names
                    .iter()
                    .find_map(|name| body[*name].as_str())
                    .map(str::to_owned)
            };
            let kind = text(["__type", "code"]).unwrap_or_else(|| status.to_string());
            return Err(CallError::Refused {
                call: call.to_owned(),
                server: server.to_string(),
                kind: kind.rsplit('#').next().unwrap_or_default().to_owned(),
                status,
                message: text(["Message", "message"]).unwrap_or_default(),
                body,
            });
        }
        Err(failed)
    }

    async fn send(
        &self,
        server: &Uri,
        path: &str,
        target: Option<&str>,
        input: &Value,
        reached: &mut bool,
    ) -> io::Result<(http::StatusCode, Value)> {
        let stream = self.dialler.connect(server).await?;
        *reached = true;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(told)?;
        let driver = tokio::spawn(connection);
        let host = server
            .authority()
            .map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, host);
        request = match target {
            Some(target) => request
                .header("x-amz-target", target)
                .header(header::CONTENT_TYPE, "application/x-amz-json-1.1"),
            None => request.header(header::CONTENT_TYPE, "application/json"),
        };
        let body = Full::new(Bytes::from(input.to_string()));
        let request = request.body(body).map_err(io::Error::other)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(told)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(io::Error::other)?;
            let bytes = body.to_bytes();
            Ok((
                status,
                serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            ))
        }
        .await;
        driver.abort();
        answer
    }
}

/// What happened below HTTP: a server that refuses a certificate says so when the handshake is over for this end.
fn told(error: hyper::Error) -> io::Error {
    let mut cause = std::error::Error::source(&error);
    while let Some(below) = cause {
        if let Some(below) = below.downcast_ref::<io::Error>() {
            return io::Error::other(reason(below));
        }
        cause = below.source();
    }
    io::Error::other(error)
}

/// Connects to the host and port of `uri`, trying every address of a name.
async fn connect(resolver: &Resolver, uri: &Uri) -> io::Result<TcpStream> {
    let host = uri
        .host()
        .ok_or_else(|| io::Error::other(format!("{uri} has no host")))?;
    let default = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    let port = uri.port_u16().unwrap_or(default);
    let resolved = resolver.lookup(host).await.map_err(io::Error::other)?;
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in resolved.addrs {
        let address = SocketAddr::new(address, port);
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => {
                failed = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer"))
            }
        }
    }
    Err(failed)
}

/// The connector that the xDS client dials with.
pub fn dial(dialler: Dialler) -> Dial {
    Arc::new(move |uri| {
        let dialler = dialler.clone();
        Box::pin(async move { dialler.connect(&uri).await })
    })
}
