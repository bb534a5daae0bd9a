//! One call to the operator API, in mutual TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::{Request, request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use outrigger_xds::identity::SpiffeId;
use outrigger_xds::tls::{self, Connector, Credentials, Identity, Peer, Roots, alpn};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::identity::OperatorFile;

const PATIENCE: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 16 * 1024 * 1024;

pub(super) struct Client {
    server: String,
    connector: Connector,
}

impl Client {
    /// With the operator's certificate from its file.
    pub(super) fn open(server: &str, operator: &Path) -> anyhow::Result<Self> {
        let file = OperatorFile::read(operator)?;
        let identity = Identity::default();
        let credentials = Credentials::from_pem(file.chain.as_bytes(), file.key.as_bytes())?;
        let own = credentials
            .identity()
            .context("the operator's file has no identity")?;
        let control = SpiffeId::control(own.trust_domain()).map_err(anyhow::Error::msg)?;
        identity.set_roots(Roots::from_pem(file.bundle.as_bytes())?);
        identity.set_credentials(credentials);
        let peer = Peer::OneOf(vec![control]);
        Ok(Self {
            server: server.to_owned(),
            connector: Connector::new(Arc::new(identity), peer, &[alpn::HTTP1], &[]),
        })
    }

    /// Answers the body of a success; of a refusal the error is what the server says.
    pub(super) async fn call(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let request = Request::builder().method(method).uri(path);
        self.ask(request, body).await
    }

    /// One operation of the Cloud Map API.
    pub(super) async fn cloud_map(&self, operation: &str, input: &Value) -> anyhow::Result<Value> {
        let target = format!("Route53AutoNaming_v20170314.{operation}");
        let request = Request::post("/").header("x-amz-target", target);
        self.ask(request, input).await
    }

    async fn ask(&self, request: request::Builder, body: &Value) -> anyhow::Result<Value> {
        tokio::time::timeout(PATIENCE, self.send(request, body))
            .await
            .with_context(|| format!("{}: no answer within {PATIENCE:?}", self.server))?
            .with_context(|| format!("server {}", self.server))
    }

    async fn send(&self, request: request::Builder, body: &Value) -> anyhow::Result<Value> {
        let config = self.connector.config().context("there is no identity")?;
        let stream = TcpStream::connect(&self.server).await?;
        let (host, _) = self.server.rsplit_once(':').unwrap_or((&self.server, ""));
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| anyhow::anyhow!(tls::reason(&error)))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let request = request
            .header(http::header::HOST, &self.server)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(bytes::Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let answer = answer.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        connection.abort();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if !status.is_success() {
            match answer["message"].as_str().or(answer["Message"].as_str()) {
                Some(message) => bail!("{message}"),
                None => bail!("answers {status}"),
            }
        }
        Ok(answer)
    }
}
