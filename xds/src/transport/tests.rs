use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use futures_util::{Stream as Streamed, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};

use tonic::transport::server::Connected;

use super::subscribe::back_off;
use super::*;
use crate::samples::{by_name, endpoints, node, set};

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Connected(String),
    Identity(Option<SpiffeId>),
    Acknowledged(u64),
    Rejected(String),
    Disconnected,
}

/// The control server's side, on record.
struct Owner {
    published: watch::Sender<Option<Arc<Published>>>,
    heard: mpsc::Sender<Heard>,
    refuse: bool,
    close: Notify,
}

impl NodeEvents for Owner {
    fn connected(&self, node: &NodeInfo) -> Result<StreamId, String> {
        let _ = self.heard.try_send(Heard::Identity(node.identity.clone()));
        let _ = self.heard.try_send(Heard::Connected(node.id.clone()));
        if self.refuse {
            return Err("another node has this id".to_owned());
        }
        Ok(StreamId(1))
    }

    fn acknowledged(&self, _: StreamId, sequence: u64, _: &BTreeSet<String>) {
        let _ = self.heard.try_send(Heard::Acknowledged(sequence));
    }

    fn rejected(&self, _: StreamId, rejection: Rejection) {
        let _ = self.heard.try_send(Heard::Rejected(rejection.name));
    }

    fn disconnected(&self, _: StreamId) {
        let _ = self.heard.try_send(Heard::Disconnected);
    }

    fn namespace(&self, namespace: &str) -> watch::Receiver<Option<Arc<Published>>> {
        assert_eq!(namespace, "prod");
        self.published.subscribe()
    }

    fn closed(&self, _: StreamId) -> impl Future<Output = ()> + Send {
        self.close.notified()
    }
}

struct Server {
    owner: Arc<Owner>,
    heard: mpsc::Receiver<Heard>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    async fn start(refuse: bool) -> Self {
        Self::with(refuse, plain).await
    }

    async fn with<IO, I>(refuse: bool, incoming: impl FnOnce(TcpListener) -> I) -> Self
    where
        IO: Io + Connected + 'static,
        I: Streamed<Item = std::io::Result<IO>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (published, _) = watch::channel(None);
        let (sender, heard) = mpsc::channel(1024);
        let close = Notify::new();
        let owner = Arc::new(Owner {
            published,
            heard: sender,
            refuse,
            close,
        });
        let (stop, stopped) = oneshot::channel();
        let events = Arc::clone(&owner);
        let incoming = incoming(listener);
        let serving = tokio::spawn(async move {
            let shutdown = async move { _ = stopped.await };
            serve_ads(incoming, events, "epoch-1".to_owned(), shutdown).await
        });
        Self {
            owner,
            heard,
            address,
            stop,
            serving,
        }
    }

    fn publish(&self, sequence: u64, services: &[(&str, &[u8])]) {
        let set = set(services);
        self.owner
            .published
            .send_replace(Some(Arc::new(Published { sequence, set })));
    }

    async fn hears(&mut self, expected: Heard) {
        while let Some(heard) = self.heard.recv().await {
            if heard == expected {
                return;
            }
        }
        panic!("the server is gone before {expected:?}");
    }

    async fn stop(self) {
        drop(self.stop);
        self.serving
            .await
            .expect("serving does not panic")
            .expect("serving ends well");
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Changed(Vec<String>),
    Removed(Vec<String>),
    Connected(String),
    Disconnected(String),
}

type Held = Arc<Mutex<BTreeMap<(ResourceType, String), Resource>>>;

struct Recorder {
    seen: mpsc::Sender<Seen>,
    held: Held,
}

impl Sink for Recorder {
    fn apply(
        &mut self,
        changed: Vec<Resource>,
        removed: Vec<(ResourceType, String)>,
    ) -> Vec<Rejection> {
        let mut held = self.held.lock().expect("nobody panics with it");
        if !removed.is_empty() {
            let names = removed
                .iter()
                .map(|(kind, name)| format!("{kind:?} {name}"));
            let _ = self.seen.try_send(Seen::Removed(names.collect()));
        }
        for key in removed {
            held.remove(&key);
        }
        if !changed.is_empty() {
            let names = changed
                .iter()
                .map(|resource| format!("{:?} {}", resource.resource_type(), resource.name()));
            let _ = self.seen.try_send(Seen::Changed(names.collect()));
        }
        held.extend(by_name(&changed));
        Vec::new()
    }

    fn connection(&mut self, state: ConnectionState) {
        let seen = match state {
            ConnectionState::Connected { epoch, .. } => Seen::Connected(epoch),
            ConnectionState::Disconnected { reason, .. } => Seen::Disconnected(reason),
        };
        let _ = self.seen.try_send(seen);
    }
}

struct Subscriber {
    seen: mpsc::Receiver<Seen>,
    held: Held,
    /// Where the next connection goes.
    port: Arc<AtomicU16>,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Subscriber {
    fn start(address: SocketAddr) -> Self {
        Self::of("http://control:8472", address)
    }

    fn of(url: &'static str, address: SocketAddr) -> Self {
        let (sender, seen) = mpsc::channel(1024);
        let held = Held::default();
        let recorder = Recorder {
            seen: sender,
            held: Arc::clone(&held),
        };
        let config = SubscribeConfig {
            servers: vec![url.to_owned()],
            node: node("task-1"),
            always: Vec::new(),
            initial: Vec::new(),
        };
        let port = Arc::new(AtomicU16::new(address.port()));
        let current = Arc::clone(&port);
        let dial: Dial = Arc::new(move |uri| {
            assert_eq!(uri, url);
            let port = current.load(Ordering::SeqCst);
            Box::pin(async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                Ok(Box::new(stream) as BoxedIo)
            })
        });
        let running = tokio::spawn(async move { subscribe(config, dial, recorder).await });
        Self {
            seen,
            held,
            port,
            running,
        }
    }

    async fn next(&mut self) -> Seen {
        self.seen.recv().await.expect("a subscriber runs for ever")
    }

    async fn disconnected(&mut self) -> String {
        loop {
            if let Seen::Disconnected(reason) = self.next().await {
                return reason;
            }
        }
    }

    fn endpoints(&self, service: &str) -> Option<Resource> {
        let held = self.held.lock().expect("nobody panics with it");
        held.get(&(ResourceType::Endpoints, format!("prod/{service}")))
            .cloned()
    }
}

#[tokio::test]
async fn a_change_is_pushed_and_a_restarted_server_sends_only_what_has_changed() {
    let mut server = Server::start(false).await;
    let mut subscriber = Subscriber::start(server.address);
    assert_eq!(
        subscriber.next().await,
        Seen::Connected("epoch-1".to_owned())
    );
    // Nothing is answered before the namespace is loaded.
    server.hears(Heard::Connected("task-1".to_owned())).await;
    server.publish(1, &[("orders", &[1]), ("stock", &[2])]);
    server.hears(Heard::Acknowledged(1)).await;
    server.publish(2, &[("orders", &[1, 7]), ("stock", &[2])]);
    server.hears(Heard::Acknowledged(2)).await;
    assert_eq!(
        subscriber.endpoints("orders"),
        Some(endpoints("orders", &[1, 7]))
    );
    while subscriber.seen.try_recv().is_ok() {}

    let mut restarted = Server::start(false).await;
    restarted.publish(1, &[("orders", &[1, 7]), ("stock", &[2, 3])]);
    subscriber
        .port
        .store(restarted.address.port(), Ordering::SeqCst);
    server.stop().await;
    assert_eq!(
        subscriber.disconnected().await,
        "Unavailable: the control server is shutting down"
    );
    restarted.hears(Heard::Acknowledged(1)).await;
    assert_eq!(
        subscriber.next().await,
        Seen::Connected("epoch-1".to_owned())
    );
    assert_eq!(
        subscriber.next().await,
        Seen::Changed(vec!["Endpoints prod/stock".to_owned()])
    );

    restarted.publish(2, &[("stock", &[2, 3])]);
    restarted.hears(Heard::Acknowledged(2)).await;
    assert_eq!(
        subscriber.next().await,
        Seen::Removed(vec!["Listener prod/orders:80".to_owned()])
    );
    assert_eq!(subscriber.endpoints("orders"), None);
}

/// What is in TLS, and whose certificate it shows, is for those who make the connections.
#[tokio::test]
async fn a_node_is_whom_its_connection_proves_and_nobody_without_proof() {
    let id: SpiffeId = "spiffe://td/ns/prod/svc/shop".parse().expect("is an id");
    let peer = PeerIdentity {
        identity: Some(id.clone()),
        node: Some("task-1".to_owned()),
    };
    let proved =
        move |listener| plain(listener).map(move |io| io.map(|io| Accepted::new(io, peer.clone())));
    let mut server = Server::with(false, proved).await;
    let _subscriber = Subscriber::of("https://control:8472", server.address);
    assert_eq!(server.heard.recv().await, Some(Heard::Identity(Some(id))));
    let mut server = Server::start(false).await;
    let _subscriber = Subscriber::start(server.address);
    assert_eq!(server.heard.recv().await, Some(Heard::Identity(None)));
}

#[tokio::test]
async fn a_refused_node_is_told_why() {
    let server = Server::start(true).await;
    let mut subscriber = Subscriber::start(server.address);
    let reason = subscriber.disconnected().await;
    assert_eq!(reason, "FailedPrecondition: another node has this id");
}

#[tokio::test]
async fn a_stream_that_the_owner_closes_ends_and_is_reported_once() {
    let mut server = Server::start(false).await;
    let mut subscriber = Subscriber::start(server.address);
    server.hears(Heard::Connected("task-1".to_owned())).await;
    server.owner.close.notify_one();
    let reason = subscriber.disconnected().await;
    assert_eq!(reason, "Aborted: another stream has taken this node over");
    assert_eq!(server.heard.recv().await, Some(Heard::Disconnected));
}

#[tokio::test]
async fn a_client_that_goes_is_reported() {
    let mut server = Server::start(false).await;
    let subscriber = Subscriber::start(server.address);
    server.hears(Heard::Connected("task-1".to_owned())).await;
    drop(subscriber);
    server.hears(Heard::Disconnected).await;
}

#[test]
fn back_off_doubles_up_to_five_seconds() {
    let millis = [1, 2, 3, 6, 7, 1000].map(|failures| back_off(failures, 1.0).as_millis());
    assert_eq!(millis, [100, 200, 400, 3200, 5000, 5000]);
    assert_eq!(back_off(0, 0.5).as_millis(), 50);
}
