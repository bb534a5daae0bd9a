//! The whole server in one process: a registry change reaches a subscriber, a drain is acknowledged, a restart keeps what was declared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger_control::app::{self, Options, Running};
use outrigger_control::identity::Settings;
use outrigger_xds::model::{EndpointHealth, ServicePolicy, Target};
use outrigger_xds::transport::{BoxedIo, ConnectionState, Dial, Sink, SubscribeConfig, subscribe};
use outrigger_xds::{NodeInfo, Rejection, Resource, ResourceType};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

type Seen = BTreeMap<(ResourceType, String), Resource>;

/// Keeps what it is given, and says what it has been given so far.
struct Keep {
    seen: watch::Sender<Seen>,
    connection: watch::Sender<Option<ConnectionState>>,
}

impl Sink for Keep {
    fn apply(
        &mut self,
        changed: Vec<Resource>,
        removed: Vec<(ResourceType, String)>,
    ) -> Vec<Rejection> {
        self.seen.send_modify(|seen| {
            for resource in changed {
                seen.insert(
                    (resource.resource_type(), resource.name().to_owned()),
                    resource,
                );
            }
            removed.iter().for_each(|key| drop(seen.remove(key)));
        });
        Vec::new()
    }

    fn connection(&mut self, state: ConnectionState) {
        self.connection.send_replace(Some(state));
    }
}

struct Subscriber {
    seen: watch::Receiver<Seen>,
    connection: watch::Receiver<Option<ConnectionState>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscriber {
    fn start(xds: SocketAddr, id: &str, secret: &str) -> Self {
        let node = NodeInfo {
            id: id.to_owned(),
            service: "client".to_owned(),
            namespace: "shop".to_owned(),
            secret: secret.to_owned(),
            ..NodeInfo::default()
        };
        let config = SubscribeConfig {
            servers: vec![format!("http://{xds}")],
            node,
            always: Vec::new(),
            initial: Vec::new(),
        };
        let dial: Dial = Arc::new(move |_| {
            Box::pin(async move { Ok(Box::new(TcpStream::connect(xds).await?) as BoxedIo) })
        });
        let (seen, watched) = watch::channel(Seen::new());
        let (connection, connected) = watch::channel(None);
        let sink = Keep { seen, connection };
        let task = tokio::spawn(async move { subscribe(config, dial, sink).await });
        Self {
            seen: watched,
            connection: connected,
            task,
        }
    }

    async fn until(&mut self, holds: impl FnMut(&Seen) -> bool) -> Seen {
        let waited = tokio::time::timeout(Duration::from_secs(20), self.seen.wait_for(holds));
        waited
            .await
            .expect("it arrives in time")
            .expect("the subscriber runs")
            .clone()
    }
}

fn health(seen: &Seen, instance: &str) -> Option<EndpointHealth> {
    let Resource::Endpoints(set) =
        seen.get(&(ResourceType::Endpoints, "shop/orders".to_owned()))?
    else {
        return None;
    };
    let endpoint = set
        .endpoints
        .iter()
        .find(|endpoint| endpoint.instance == instance)?;
    Some(endpoint.health)
}

async fn start(data: &Path) -> Running {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("it is an address");
    let options = Options {
        api: any,
        xds: any,
        data: data.to_owned(),
        identity: Settings::default(),
    };
    app::start(options).await.expect("the server starts")
}

async fn http(api: SocketAddr, head: &str, body: &Value) -> Value {
    let body = body.to_string();
    let request = format!(
        "{head}\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(api).await.expect("the API accepts");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the API reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("the API answers text");
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .expect("an answer has a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).expect("the body is JSON")
}

async fn call(api: SocketAddr, operation: &str, body: Value) -> Value {
    let head = format!("POST / HTTP/1.1\r\nx-amz-target: Route53AutoNaming_v20170314.{operation}");
    http(api, &head, &body).await
}

/// Declares `orders:8080` and answers the service's id.
async fn declare(api: SocketAddr) -> String {
    let made = call(api, "CreateHttpNamespace", json!({ "Name": "shop" })).await;
    let operation = call(
        api,
        "GetOperation",
        json!({ "OperationId": made["OperationId"] }),
    )
    .await;
    let namespace = operation["Operation"]["Targets"]["NAMESPACE"].clone();
    let made = call(
        api,
        "CreateService",
        json!({ "Name": "orders", "NamespaceId": namespace }),
    )
    .await;
    let service = made["Service"]["Id"]
        .as_str()
        .expect("a service has an id")
        .to_owned();
    let declared = json!({
        "OUTRIGGER_REVISION": "1",
        "OUTRIGGER_ALIAS": "orders:8080",
        "OUTRIGGER_APP_PROTOCOL": "http",
    });
    call(
        api,
        "UpdateServiceAttributes",
        json!({ "ServiceId": service, "Attributes": declared }),
    )
    .await;
    service
}

async fn register(api: SocketAddr, service: &str, instance: &str, attributes: Value) {
    let body = json!({ "ServiceId": service, "InstanceId": instance, "Attributes": attributes });
    call(api, "RegisterInstance", body).await;
}

fn on_node(node: &str) -> Value {
    json!({ "AWS_INSTANCE_IPV4": "10.0.0.1", "AWS_INSTANCE_PORT": "15000", "OUTRIGGER_NODE": node, "OUTRIGGER_SIDECAR": "true" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_a_subscriber_and_a_drain_waits_for_its_acknowledgement() {
    let data = tempfile::tempdir().expect("a temporary directory can be made");
    let server = start(data.path()).await;
    let api = server.api_addr;
    let mut subscriber = Subscriber::start(server.xds_addr, "caller", "s");
    let service = declare(api).await;
    register(api, &service, "one", on_node("one")).await;

    let seen = subscriber
        .until(|seen| seen.len() == 4 && health(seen, "one").is_some())
        .await;
    let Some(Resource::Listener(listener)) =
        seen.get(&(ResourceType::Listener, "shop/orders:8080".to_owned()))
    else {
        panic!("no listener in {seen:?}");
    };
    assert_eq!(listener.address.to_string(), "127.255.0.1:8080");
    assert_eq!(listener.names, ["orders"]);
    assert_eq!(
        listener.target,
        Target::Routes("shop/orders:8080".to_owned())
    );
    assert_eq!(health(&seen, "one"), Some(EndpointHealth::Healthy));

    let drained = http(api, "POST /v1/nodes/one/drain HTTP/1.1", &json!({})).await;
    assert_eq!(
        drained,
        json!({ "acknowledged": 1, "connected": 1, "left_out": [] })
    );
    assert_eq!(
        health(&subscriber.seen.borrow(), "one"),
        Some(EndpointHealth::Draining)
    );
    let again = http(api, "POST /v1/nodes/one/drain HTTP/1.1", &json!({})).await;
    assert_eq!(again["acknowledged"], 1);

    http(
        api,
        "POST /v1/nodes/caller/report HTTP/1.1",
        &json!({ "problems": ["orders:8080: in use"] }),
    )
    .await;
    let nodes = http(api, "GET /v1/nodes HTTP/1.1", &json!({})).await;
    assert_eq!(nodes[0]["node"], "caller");
    assert_eq!(nodes[0]["connected"], true);
    assert_eq!(nodes[0]["reports"], json!(["orders:8080: in use"]));
    drop(subscriber);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_policy_and_an_instances_priority_reach_a_subscriber() {
    let data = tempfile::tempdir().expect("a temporary directory can be made");
    let server = start(data.path()).await;
    let api = server.api_addr;
    let mut subscriber = Subscriber::start(server.xds_addr, "caller", "s");
    let service = declare(api).await;
    let policy = json!({
        "retry": { "num_retries": 0 }, "lb": "round_robin", "outlier_detection": false,
        "circuit_breakers": { "max_requests": 7 }, "health_check": { "path": "/ready" },
        "panic_threshold": 25, "slow_start": "30s", "zone_aware": false,
    });
    let declared = json!({ "OUTRIGGER_POLICY": policy.to_string() });
    let body = json!({ "ServiceId": service, "Attributes": declared });
    call(api, "UpdateServiceAttributes", body).await;
    let spare = json!({ "AWS_INSTANCE_IPV4": "10.0.0.9", "OUTRIGGER_PRIORITY": "2" });
    register(api, &service, "spare", spare).await;

    let name = "shop/orders:8080".to_owned();
    let seen = subscriber
        .until(
            |seen| match seen.get(&(ResourceType::Routes, name.clone())) {
                Some(Resource::Routes(routes)) => routes.routes[0].retry.num_retries == 0,
                _ => false,
            },
        )
        .await;
    let cluster = seen.get(&(ResourceType::Cluster, "shop/orders".to_owned()));
    let Some(Resource::Cluster(cluster)) = cluster else {
        panic!("no cluster in {seen:?}");
    };
    let said = ServicePolicy::from_json(policy, cluster.protocol).expect("the policy is possible");
    let mut expected = cluster.clone();
    said.apply(&mut expected);
    assert_eq!(*cluster, expected);
    let seen = subscriber
        .until(|seen| health(seen, "spare").is_some())
        .await;
    let endpoints = seen.get(&(ResourceType::Endpoints, "shop/orders".to_owned()));
    let Some(Resource::Endpoints(set)) = endpoints else {
        panic!("no endpoints in {seen:?}");
    };
    assert_eq!(set.endpoints[0].priority, 2);
    drop(subscriber);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_host_name_is_sent_as_strict_dns_and_back() {
    let data = tempfile::tempdir().expect("a temporary directory can be made");
    let server = start(data.path()).await;
    let mut subscriber = Subscriber::start(server.xds_addr, "caller", "s");
    let service = declare(server.api_addr).await;
    register(
        server.api_addr,
        &service,
        "db",
        json!({ "AWS_INSTANCE_CNAME": "db.example.com" }),
    )
    .await;
    subscriber
        .until(|seen| health(seen, "db") == Some(EndpointHealth::Healthy))
        .await;
    register(
        server.api_addr,
        &service,
        "db",
        json!({ "AWS_INSTANCE_IPV4": "10.0.0.9" }),
    )
    .await;
    let tenth = |seen: &Seen| format!("{seen:?}").contains("10.0.0.9:8080");
    subscriber.until(tenth).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_epoch_and_the_resources() {
    let data = tempfile::tempdir().expect("a temporary directory can be made");
    let mut epochs = Vec::new();
    let mut states = Vec::new();
    for first in [true, false] {
        let server = start(data.path()).await;
        if first {
            let service = declare(server.api_addr).await;
            register(server.api_addr, &service, "one", on_node("one")).await;
        }
        let mut subscriber = Subscriber::start(server.xds_addr, "caller", "s");
        states.push(
            subscriber
                .until(|seen| seen.len() == 4 && health(seen, "one").is_some())
                .await,
        );
        let health = http(server.api_addr, "GET /v1/health HTTP/1.1", &json!({})).await;
        epochs.push(
            health["epoch"]
                .as_str()
                .expect("the epoch is text")
                .to_owned(),
        );
        match subscriber.connection.borrow().clone() {
            Some(ConnectionState::Connected { epoch, .. }) => {
                assert_eq!(Some(&epoch), epochs.last())
            }
            other => panic!("{other:?}"),
        }
        // With the stream still open: a stop ends it.
        server.shutdown().await;
    }
    assert_eq!(epochs[0], epochs[1]);
    assert_eq!(states[0], states[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_id_in_use_is_refused_with_the_reason() {
    let data = tempfile::tempdir().expect("a temporary directory can be made");
    let server = start(data.path()).await;
    declare(server.api_addr).await;
    let mut first = Subscriber::start(server.xds_addr, "task", "one");
    first.until(|seen| !seen.is_empty()).await;
    let mut second = Subscriber::start(server.xds_addr, "task", "two");
    let refused = |state: &Option<ConnectionState>| matches!(state, Some(ConnectionState::Disconnected { reason, .. }) if reason.contains("in use"));
    let waited = tokio::time::timeout(Duration::from_secs(20), second.connection.wait_for(refused));
    waited
        .await
        .expect("the refusal arrives in time")
        .expect("the subscriber runs");
    assert!(second.seen.borrow().is_empty());
}
