//! A control server in this process, and whoever speaks to it with or without a certificate.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
pub(crate) use outrigger_control::app::Running;
use outrigger_control::app::{self, Options, StartError};
use outrigger_control::identity::Settings;
use outrigger_xds::identity::{Certificate, CertificateRequest, Proof};
use outrigger_xds::tls::{Connector, Credentials, Identity, Peer, Roots, alpn};
use outrigger_xds::transport::{BoxedIo, ConnectionState, Dial, Sink, SubscribeConfig, subscribe};
use outrigger_xds::{NodeInfo, Rejection, Resource, ResourceType};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(crate) async fn try_start(data: &Path, identity: Settings) -> Result<Running, StartError> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = Options {
        api: any,
        xds: any,
        data: data.to_owned(),
        identity,
    };
    app::start(options).await
}

pub(crate) async fn start(data: &Path, identity: Settings) -> Running {
    try_start(data, identity).await.expect("the server starts")
}

/// Who speaks to a server.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    /// `None` is plaintext.
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) anonymous: bool,
}

fn operator_file(data: &Path) -> Value {
    let text = std::fs::read(data.join("operator.json")).expect("there is an operator's file");
    serde_json::from_slice(&text).expect("it is JSON")
}

pub(crate) fn bundle(data: &Path) -> String {
    text(&operator_file(data)["bundle"]).to_owned()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Client {
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            identity: None,
            anonymous: true,
        }
    }

    /// In TLS, with no certificate.
    pub(crate) fn anonymous(address: SocketAddr, bundle: &str) -> Self {
        let identity = Identity::default();
        let roots = Roots::from_pem(bundle.as_bytes()).expect("there are roots");
        identity.set_roots(roots);
        Self {
            address,
            identity: Some(Arc::new(identity)),
            anonymous: true,
        }
    }

    pub(crate) fn with(address: SocketAddr, bundle: &str, chain: &str, key: &str) -> Self {
        let anonymous = Self::anonymous(address, bundle);
        let credentials = Credentials::from_pem(chain.as_bytes(), key.as_bytes());
        let credentials = credentials.expect("they belong together");
        if let Some(identity) = &anonymous.identity {
            identity.set_credentials(credentials);
        }
        Self {
            anonymous: false,
            ..anonymous
        }
    }

    pub(crate) fn operator(address: SocketAddr, data: &Path) -> Self {
        let file = operator_file(data);
        let (chain, key) = (text(&file["chain"]), text(&file["key"]));
        Self::with(address, &bundle(data), chain, key)
    }

    pub(crate) async fn connect(&self, protocol: &'static [u8]) -> std::io::Result<BoxedIo> {
        let stream = TcpStream::connect(self.address).await?;
        let Some(identity) = &self.identity else {
            return Ok(Box::new(stream));
        };
        let control = "spiffe://outrigger.internal/outrigger/control";
        let peer = Peer::OneOf(vec![control.parse().expect("it is an id")]);
        let identity = Arc::clone(identity);
        let connector = match self.anonymous {
            true => Connector::anonymous(identity, peer, &[protocol]),
            false => Connector::new(identity, peer, &[protocol], &[]),
        };
        let config = connector.config().expect("there are roots");
        let name = "localhost".try_into().expect("it is a name");
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Box::new(stream))
    }

    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        target: &str,
        body: &Value,
    ) -> Result<(u16, Value), Failure> {
        let io = TokioIo::new(self.connect(alpn::HTTP1).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("x-amz-target", target)
            .body(Full::new(bytes::Bytes::from(body.to_string())))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let answer = response.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok((status, serde_json::from_slice(&answer).unwrap_or_default()))
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let answer = self.try_call(method, path, "", &body).await;
        answer.expect("the server answers")
    }

    /// A call of the Cloud Map API.
    pub(crate) async fn cloud_map(&self, operation: &str, body: Value) -> (u16, Value) {
        let target = format!("Route53AutoNaming_v20170314.{operation}");
        let answer = self.try_call("POST", "/", &target, &body).await;
        answer.expect("the server answers")
    }

    /// A new token, as an operator.
    pub(crate) async fn token(&self, wanted: Value) -> String {
        let (status, answer) = self.call("POST", "/v1/tokens", wanted).await;
        assert_eq!(status, 200, "{answer}");
        text(&answer["token"]).to_owned()
    }

    pub(crate) async fn enrol(
        &self,
        request: &CertificateRequest,
    ) -> Result<Certificate, (u16, String)> {
        let body = serde_json::to_value(request).expect("it can be JSON");
        let (status, answer) = self.call("POST", "/v1/identity", body).await;
        match status {
            200 => Ok(serde_json::from_value(answer).expect("it is a certificate")),
            status => Err((status, text(&answer["code"]).to_owned())),
        }
    }
}

pub(crate) fn request(
    key: &KeyPair,
    service: &str,
    node: &str,
    proof: Option<Proof>,
) -> CertificateRequest {
    let csr = CertificateParams::default().serialize_request(key);
    let csr = csr.and_then(|csr| csr.pem()).expect("a request is made");
    CertificateRequest {
        csr,
        namespace: "shop".to_owned(),
        service: service.to_owned(),
        node: node.to_owned(),
        proof,
    }
}

/// A task with a certificate for `shop/service`, by a token that an operator made.
pub(crate) async fn task(running: &Running, data: &Path, service: &str, node: &str) -> Client {
    let operator = Client::operator(running.api_addr, data);
    let wanted = json!({ "namespace": "shop", "service": service });
    let proof = Some(Proof::JoinToken(operator.token(wanted).await));
    let key = KeyPair::generate().expect("a key is made");
    let anonymous = Client::anonymous(running.api_addr, &bundle(data));
    let enrolled = anonymous.enrol(&request(&key, service, node, proof)).await;
    let certificate = enrolled.expect("it is enrolled");
    let pem = key.serialize_pem();
    Client::with(
        running.api_addr,
        &certificate.bundle,
        &certificate.chain,
        &pem,
    )
}

type Seen = BTreeMap<(ResourceType, String), Resource>;

struct Keep {
    seen: watch::Sender<Seen>,
    connection: watch::Sender<Option<ConnectionState>>,
    identity: Option<Arc<Identity>>,
    /// Of this kind it takes the first and no other.
    refuses: Option<ResourceType>,
}

impl Sink for Keep {
    fn apply(
        &mut self,
        changed: Vec<Resource>,
        removed: Vec<(ResourceType, String)>,
    ) -> Vec<Rejection> {
        let held = |resource: &Resource| {
            let key = (resource.resource_type(), resource.name().to_owned());
            self.seen.borrow().contains_key(&key)
        };
        let refused = changed
            .iter()
            .find(|resource| self.refuses == Some(resource.resource_type()) && held(resource));
        if let Some(refused) = refused {
            return vec![Rejection {
                type_url: refused.resource_type().type_url().to_owned(),
                name: refused.name().to_owned(),
                field: String::new(),
                reason: "refused by a test".to_owned(),
            }];
        }
        for resource in &changed {
            if let (Resource::Secret(trust), Some(identity)) = (resource, &self.identity) {
                let roots = Roots::from_pem(trust.roots.as_bytes()).expect("there are roots");
                identity.set_roots(roots);
            }
        }
        self.seen.send_modify(|seen| {
            for resource in changed {
                let key = (resource.resource_type(), resource.name().to_owned());
                seen.insert(key, resource);
            }
            removed.iter().for_each(|key| drop(seen.remove(key)));
        });
        Vec::new()
    }

    fn connection(&mut self, state: ConnectionState) {
        self.connection.send_replace(Some(state));
    }
}

/// A sidecar's stream.
pub(crate) struct Subscriber {
    pub(crate) seen: watch::Receiver<Seen>,
    pub(crate) connection: watch::Receiver<Option<ConnectionState>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscriber {
    pub(crate) fn start(
        client: Client,
        id: &str,
        service: &str,
        always: &[(ResourceType, &str)],
    ) -> Self {
        Self::refusing(client, id, service, always, None)
    }

    /// It takes the first of a kind and no other.
    pub(crate) fn refusing(
        client: Client,
        id: &str,
        service: &str,
        always: &[(ResourceType, &str)],
        refuses: Option<ResourceType>,
    ) -> Self {
        let always = always.iter();
        let config = SubscribeConfig {
            servers: vec![format!("http://{}", client.address)],
            node: NodeInfo {
                id: id.to_owned(),
                service: service.to_owned(),
                namespace: "shop".to_owned(),
                secret: "s".to_owned(),
                ..NodeInfo::default()
            },
            always: always
                .map(|(kind, name)| (*kind, (*name).to_owned()))
                .collect(),
            initial: Vec::new(),
        };
        let (seen, watched) = watch::channel(Seen::new());
        let (connection, connected) = watch::channel(None);
        let identity = client.identity.clone();
        let dial: Dial = Arc::new(move |_| {
            let client = client.clone();
            Box::pin(async move { client.connect(alpn::H2).await })
        });
        let sink = Keep {
            seen,
            connection,
            identity,
            refuses,
        };
        Self {
            seen: watched,
            connection: connected,
            task: tokio::spawn(async move { subscribe(config, dial, sink).await }),
        }
    }

    /// Why it has no stream.
    pub(crate) async fn refused(&mut self) -> String {
        let is = |state: &Option<ConnectionState>| {
            matches!(state, Some(ConnectionState::Disconnected { .. }))
        };
        let state = in_time(self.connection.wait_for(is))
            .await
            .expect("it runs");
        match &*state {
            Some(ConnectionState::Disconnected { reason, .. }) => reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn until(&mut self, holds: impl FnMut(&Seen) -> bool) {
        let seen = in_time(self.seen.wait_for(holds)).await;
        drop(seen.expect("the subscriber runs"));
    }
}

pub(crate) async fn in_time<T>(waited: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(Duration::from_secs(30), waited).await;
    bounded.expect("it happens in time")
}

/// Asks again until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let asked = async {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        while !holds().await {
            pause.tick().await;
        }
    };
    in_time(asked).await;
}
