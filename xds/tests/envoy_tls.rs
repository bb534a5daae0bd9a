//! A stock Envoy that takes its configuration from this crate's ADS server speaks mutual TLS to a task's sidecar.

mod common;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::envoy;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server as sds;
use envoy_types::util::pack_any;
use futures_util::{Stream, StreamExt as _};
use outrigger_xds::encode::{CERT_AGENT, IDENTITY_SECRET};
use outrigger_xds::identity::{SpiffeId, TRUST_BUNDLE};
use outrigger_xds::model::{
    Address, Cluster, Direction, Discovery, Endpoint, EndpointSet, Listener, PathMatch, Protocol,
    RetryPolicy, Route, RouteConfig, Target, TrustBundle,
};
use outrigger_xds::tls::{
    Acceptor, Clients, Credentials, Identity, Peer, Roots, alpn, identity_of,
};
use outrigger_xds::transport::{NodeEvents, Published, StreamId, plain, serve_ads};
use outrigger_xds::{NodeInfo, Rejection, Resource, ResourceSet};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

const ORDERS: &str = "spiffe://outrigger.internal/ns/shop/svc/orders";
const CART: &str = "spiffe://outrigger.internal/ns/shop/svc/cart";

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    // BoringSSL takes a leaf of the same name for its own issuer.
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key can be made");
    CertifiedIssuer::self_signed(params, key).expect("it signs itself")
}

/// Certificate and key, PEM.
fn leaf(ca: &Ca, id: &str) -> [String; 2] {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().expect("is ASCII"))];
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.signed_by(&key, ca).expect("the CA signs");
    [certificate.pem(), key.serialize_pem()]
}

/// The control server's side: what is published, and what Envoy makes of it.
struct Owner {
    published: watch::Sender<Option<Arc<Published>>>,
    acknowledged: watch::Sender<u64>,
    rejected: mpsc::Sender<Rejection>,
}

impl NodeEvents for Owner {
    fn connected(&self, _: &NodeInfo) -> Result<StreamId, String> {
        Ok(StreamId(1))
    }

    fn acknowledged(&self, _: StreamId, sequence: u64, _: &BTreeSet<String>) {
        self.acknowledged.send_replace(sequence);
    }

    fn rejected(&self, _: StreamId, rejection: Rejection) {
        let _ = self.rejected.try_send(rejection);
    }

    fn disconnected(&self, _: StreamId) {}

    fn namespace(&self, _: &str) -> watch::Receiver<Option<Arc<Published>>> {
        self.published.subscribe()
    }

    fn closed(&self, _: StreamId) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// What the agent beside Envoy serves: one key, which no control server has.
struct Agent {
    secret: tls::Secret,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl sds::SecretDiscoveryService for Agent {
    type DeltaSecretsStream = Replies<discovery::DeltaDiscoveryResponse>;
    type StreamSecretsStream = Replies<discovery::DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("it asks for the state of the world"))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        assert_eq!(first.resource_names, [IDENTITY_SECRET]);
        let response = discovery::DiscoveryResponse {
            version_info: "1".to_owned(),
            nonce: "1".to_owned(),
            type_url: first.type_url,
            resources: vec![pack_any(self.secret.clone())],
            ..Default::default()
        };
        let open = futures_util::stream::pending();
        let responses = futures_util::stream::iter([Ok(response)]).chain(open);
        Ok(Response::new(Box::pin(responses)))
    }

    async fn fetch_secrets(
        &self,
        _: Request<discovery::DiscoveryRequest>,
    ) -> Result<Response<discovery::DiscoveryResponse>, Status> {
        Err(Status::unimplemented("there is a stream"))
    }
}

fn agent([certificate, key]: [String; 2]) -> Agent {
    let source = |text| {
        let specifier = Some(Specifier::InlineString(text));
        Some(DataSource {
            specifier,
            ..Default::default()
        })
    };
    let certificate = tls::TlsCertificate {
        certificate_chain: source(certificate),
        private_key: source(key),
        ..Default::default()
    };
    Agent {
        secret: tls::Secret {
            name: IDENTITY_SECRET.to_owned(),
            r#type: Some(tls::secret::Type::TlsCertificate(certificate)),
        },
    }
}

async fn bound(host: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((host, 0)).await;
    let listener = listener.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// Answers every request with a text.
async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while io.read_buf(&mut head).await? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            let length = text.len();
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
            io.write_all(response.as_bytes()).await?;
            head.clear();
        }
    }
    Ok(())
}

/// A task of `orders` that takes mutual TLS alone, and tells its callers who they are and what they speak.
async fn secure_task(ca: &Ca) -> SocketAddr {
    let identity = Identity::default();
    let [chain, key] = leaf(ca, ORDERS);
    let credentials = Credentials::from_pem(chain.as_bytes(), key.as_bytes());
    identity.set_credentials(credentials.expect("they fit together"));
    identity.set_roots(Roots::from_pem(ca.pem().as_bytes()).expect("is a root"));
    let clients = Clients::Must(Peer::TrustDomain("outrigger.internal".to_owned()));
    let spoken = [alpn::HOP_HTTP1, alpn::HTTP1];
    let acceptor = Acceptor::new(Arc::new(identity), clients, &spoken, &[], Some(Vec::new()));
    let (listener, address) = bound("127.0.0.1").await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let config = acceptor.config().expect("it has an identity");
            tokio::spawn(async move {
                let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await
                else {
                    return;
                };
                let session = stream.get_ref().1;
                let chain = session.peer_certificates().unwrap_or_default();
                let caller = chain.first().and_then(identity_of);
                let spoken = session.alpn_protocol().unwrap_or_default();
                let spoken = String::from_utf8_lossy(spoken);
                let text = caller.map_or_else(String::new, |id| format!("{id} {spoken}"));
                drop(answer(stream, &text).await);
            });
        }
    });
    address
}

async fn plain_task() -> SocketAddr {
    let (listener, address) = bound("127.0.0.1").await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move { answer(stream, "plain").await });
        }
    });
    address
}

/// The service `orders` at `front`, and one found by DNS, whose endpoints prove to be `identity`.
fn set(front: SocketAddr, identity: &str, task: (SocketAddr, bool), ca: &Ca) -> ResourceSet {
    let id: SpiffeId = identity.parse().expect("is an id");
    let cluster = |name: &str, discovery| Cluster {
        discovery,
        identities: vec![id.clone()],
        ..Cluster::new(name, Protocol::Http)
    };
    let (address, takes_tls) = task;
    let endpoints = |name: &str, address| {
        let endpoint = Endpoint {
            tls: takes_tls,
            zone: "a".to_owned(),
            ..Endpoint::new(address)
        };
        Resource::Endpoints(EndpointSet {
            cluster: name.to_owned(),
            endpoints: vec![endpoint],
        })
    };
    let host = Address::Host {
        host: "localhost".to_owned(),
        port: address.port(),
    };
    let route = Route {
        hosts: Vec::new(),
        path: PathMatch::Prefix("/".to_owned()),
        headers: Vec::new(),
        cluster: "orders".to_owned(),
        per_request_timeout: None,
        idle_timeout: None,
        retry: RetryPolicy::default(),
    };
    let target = Target::Routes("r".to_owned());
    let resources = [
        Resource::Cluster(cluster("orders", Discovery::Eds)),
        endpoints("orders", Address::Ip(address)),
        Resource::Cluster(cluster("named", Discovery::StrictDns)),
        endpoints("named", host),
        Resource::Secret(TrustBundle {
            name: TRUST_BUNDLE.to_owned(),
            roots: ca.pem(),
        }),
        Resource::Routes(RouteConfig {
            name: "r".to_owned(),
            routes: vec![route],
        }),
        Resource::Listener(Listener::new(
            "l",
            Direction::Egress,
            front,
            Protocol::Http,
            target,
        )),
    ];
    ResourceSet::from_model(resources).expect("they fit together")
}

/// Ends with the test.
struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &std::path::Path, control: SocketAddr, agent: SocketAddr) -> Envoy {
    let grpc = |name: &str, address: SocketAddr| {
        serde_json::json!({
            "name": name, "type": "STATIC",
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            } },
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
                "socket_address": { "address": address.ip(), "port_value": address.port() },
            } } }] }] },
        })
    };
    let source = serde_json::json!({ "resource_api_version": "V3", "ads": {} });
    let bootstrap = serde_json::json!({
        "node": { "id": "envoy", "cluster": "cart", "metadata": { "namespace": "shop" } },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "control" } }],
            },
            "cds_config": source, "lds_config": source,
        },
        "static_resources": { "clusters": [grpc("control", control), grpc(CERT_AGENT, agent)] },
    });
    let file = directory.join("bootstrap.json");
    std::fs::write(&file, bootstrap.to_string()).expect("the directory can be written");
    let log = std::fs::File::create(directory.join("log")).expect("the directory can be written");
    let envoy = Command::new(envoy())
        .args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ])
        .arg("--config-path")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    Envoy(envoy.expect("the program is installed"))
}

/// Status line and body of a request to Envoy's listener.
async fn ask(front: SocketAddr) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(front).await?;
    let request = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.lines().next().unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// Asks until the answer is as expected: Envoy's workers take over what its main thread has acknowledged a moment later.
async fn until(front: SocketAddr, expected: impl Fn(&str, &str) -> bool) -> (String, String) {
    let mut last = (String::new(), String::new());
    let asking = async {
        loop {
            if let Ok(answer) = ask(front).await {
                last = answer;
                if expected(&last.0, &last.1) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(20), asking).await;
    last
}

#[tokio::test]
async fn a_stock_envoy_proves_itself_and_believes_no_other_service() {
    let ca = ca();
    let (secure, open) = (secure_task(&ca).await, plain_task().await);
    // Free again at once, on an address where nobody else listens.
    let (_, front) = bound("127.93.4.1").await;
    let (control, beside) = (bound("127.0.0.1").await, bound("127.0.0.1").await);
    let (rejected, mut rejections) = mpsc::channel(16);
    let owner = Arc::new(Owner {
        published: watch::Sender::new(None),
        acknowledged: watch::Sender::new(0),
        rejected,
    });
    let mut acknowledged = owner.acknowledged.subscribe();
    let publish = |sequence, set| {
        let published = Published {
            sequence,
            set: Arc::new(set),
        };
        owner.published.send_replace(Some(Arc::new(published)));
    };
    let events = Arc::clone(&owner);
    let never = std::future::pending();
    tokio::spawn(serve_ads(plain(control.0), events, "e".to_owned(), never));
    let agent = sds::SecretDiscoveryServiceServer::new(agent(leaf(&ca, CART)));
    let serving = tonic::transport::Server::builder().add_service(agent);
    tokio::spawn(serving.serve_with_incoming(plain(beside.0)));
    publish(1, set(front, ORDERS, (secure, true), &ca));
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let _envoy = start(directory.path(), control.1, beside.1);
    let said = || std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();

    let expected = format!("{CART} http/1.1");
    let (status, body) = until(front, |_, body| body == expected).await;
    let rejection = rejections.try_recv();
    assert_eq!(
        (status.as_str(), body),
        ("HTTP/1.1 200 OK", expected),
        "{rejection:?}\n{}",
        said()
    );

    publish(2, set(front, CART, (secure, true), &ca));
    let taken = async { acknowledged.wait_for(|now| *now >= 2).await.is_ok() };
    let taken = tokio::time::timeout(Duration::from_secs(20), taken).await;
    assert_eq!(taken, Ok(true), "{}", said());
    let (status, body) = until(front, |status, _| status.contains("503")).await;
    assert!(status.contains("503"), "{status} {body}\n{}", said());

    publish(3, set(front, CART, (open, false), &ca));
    let (_, body) = until(front, |_, body| body == "plain").await;
    assert_eq!(body, "plain", "{}", said());
    assert!(rejections.try_recv().is_err());
}
