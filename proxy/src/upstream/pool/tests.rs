use futures_util::future::{FutureExt, join_all};
use futures_util::poll;
use outrigger_xds::model::{self, CircuitBreakers};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::observe::metrics::ClusterMetrics;
use crate::policy::endpoint::tests::{endpoint, model_endpoint};
use crate::policy::limits::tests::share;

/// A connection to a task, and the task's end of it.
async fn connection(buffers: &Rc<Buffers>) -> (h1::Idle, TcpStream) {
    let task = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback can be bound");
    let address = task.local_addr().expect("a bound socket has an address");
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), task.accept());
    let ours = h1::Idle::new(ours.expect("the task accepts").into(), buffers, share());
    (ours, theirs.expect("a connection comes").0)
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_for_its_timeout_and_not_longer() {
    let buffers = Buffers::new();
    let (pool, endpoint) = (Pool::new(0, Rc::clone(&buffers)), endpoint(1));
    let now = Instant::now();
    let mut ends = Vec::new();
    for timeout in [MINUTE, Duration::from_secs(4)] {
        let (idle, end) = connection(&buffers).await;
        ends.push(end);
        pool.put(&endpoint, idle, timeout, now);
    }
    let later = now + Duration::from_secs(5);
    assert!(pool.reuse(&endpoint, false, true, later).is_some());
    assert!(pool.reuse(&endpoint, false, true, later).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_found_shortens_what_is_kept_by_when_it_was_last_seen_open() {
    let buffers = Buffers::new();
    let (pool, endpoint) = (Pool::new(0, Rc::clone(&buffers)), endpoint(1));
    let start = Instant::now();
    let (idle, mut end) = connection(&buffers).await;
    pool.put(&endpoint, idle, MINUTE, start);
    tokio::time::advance(Duration::from_secs(3)).await;
    pool.tidy();
    end.shutdown().await.expect("the connection is open");
    let found = start + Duration::from_secs(12);
    assert!(pool.reuse(&endpoint, false, true, found).is_none());
    let mut ends = Vec::new();
    for (idles, kept) in [(1900, true), (2000, false)] {
        let (idle, end) = connection(&buffers).await;
        ends.push(end);
        pool.put(&endpoint, idle, MINUTE, found);
        let later = found + Duration::from_millis(idles);
        let reused = pool.reuse(&endpoint, false, true, later);
        assert_eq!(reused.is_some(), kept, "after {idles} ms");
    }
}

/// The kernel knows of the end; this worker's event loop has not run since.
#[tokio::test]
async fn a_careful_look_sees_an_end_that_nobody_was_told_of() {
    let buffers = Buffers::new();
    let (pool, endpoint) = (Pool::new(0, Rc::clone(&buffers)), endpoint(1));
    let now = Instant::now();
    let (idle, end) = connection(&buffers).await;
    assert!(idle.is_open_now());
    pool.put(&endpoint, idle, MINUTE, now);
    let end = end.into_std().expect("the socket is registered");
    end.shutdown(std::net::Shutdown::Both)
        .expect("the connection is open");
    assert!(pool.reuse(&endpoint, false, true, now).is_none());
}

/// A task that takes connections and says nothing, and a service of it alone.
async fn service(breakers: CircuitBreakers) -> (TcpListener, Arc<Cluster>, Arc<Endpoint>) {
    let task = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback can be bound");
    let address = task.local_addr().expect("a bound socket has an address");
    let settings = model::Cluster {
        circuit_breakers: breakers,
        ..model::Cluster::new("shop/orders", model::Protocol::Http2)
    };
    let cluster = Cluster::new(settings, "", ClusterMetrics::unregistered());
    let member = model_endpoint(address, 1, model::EndpointHealth::Healthy);
    cluster.set_endpoints(std::iter::once((address, &member)));
    let endpoint = Arc::clone(&cluster.endpoints()[0]);
    (task, cluster, endpoint)
}

/// Connections that the task has been asked for.
async fn taken(task: &TcpListener) -> usize {
    let mut taken = 0;
    while let Some(connection) = task.accept().now_or_never() {
        connection.expect("a connection comes");
        taken += 1;
    }
    taken
}

async fn burst(
    pool: &Pool,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
) -> Vec<Result<bool, Kind>> {
    let leases: Vec<_> = (0..150)
        .filter_map(|_| cluster.pick(&mut rand::rng(), b"", &[]))
        .collect();
    let each = leases.iter().map(|_| pool.connect(cluster, endpoint, true));
    let made = join_all(each).await.into_iter();
    let each = made.map(|made| made.map(|(_, shared)| shared));
    each.map(|made| made.map_err(|error| error.kind)).collect()
}

#[tokio::test(flavor = "local")]
async fn a_cold_burst_makes_one_connection_and_all_get_it() {
    let one = CircuitBreakers {
        max_connections: 1,
        ..CircuitBreakers::default()
    };
    for breakers in [CircuitBreakers::default(), one] {
        let (task, cluster, endpoint) = service(breakers).await;
        let pool = Pool::new(0, Buffers::new());
        let made = burst(&pool, &cluster, &endpoint).await;
        let shared = made.iter().filter(|made| **made == Ok(true)).count();
        assert_eq!((made.len(), shared), (150, 149));
        assert_eq!(taken(&task).await, 1);
    }
}

#[tokio::test(flavor = "local")]
async fn who_waits_for_a_connection_fails_as_it_does_and_asks_for_none_itself() {
    let (task, cluster, endpoint) = service(CircuitBreakers::default()).await;
    drop(task);
    let pool = Pool::new(0, Buffers::new());
    let mut makes = Box::pin(pool.connect(&cluster, &endpoint, true));
    let mut waits = Box::pin(pool.connect(&cluster, &endpoint, true));
    assert!(poll!(&mut makes).is_pending());
    assert!(poll!(&mut waits).is_pending());
    let kind = |made: Result<_, ProxyError>| made.err().map(|error| error.kind);
    assert_eq!(kind(makes.await), Some(Kind::ConnectFailed));
    let waited = waits.now_or_never();
    assert_eq!(waited.and_then(kind), Some(Kind::ConnectFailed));
}

#[tokio::test(flavor = "local")]
async fn those_who_wait_for_a_connection_are_bounded() {
    let breakers = CircuitBreakers {
        max_pending_requests: 7,
        ..CircuitBreakers::default()
    };
    let (task, cluster, endpoint) = service(breakers).await;
    let pool = Pool::new(0, Buffers::new());
    let made = burst(&pool, &cluster, &endpoint).await;
    let refused = |made: &Result<_, _>| made.as_ref().err() == Some(&Kind::Overflow);
    assert_eq!(made.iter().filter(|made| refused(made)).count(), 143);
    assert_eq!(taken(&task).await, 1);
}

#[tokio::test(flavor = "local")]
async fn where_the_maker_goes_away_the_next_one_makes_the_connection() {
    let (task, cluster, endpoint) = service(CircuitBreakers::default()).await;
    let pool = Pool::new(0, Buffers::new());
    let mut makes = Box::pin(pool.connect(&cluster, &endpoint, true));
    let mut waits = Box::pin(pool.connect(&cluster, &endpoint, true));
    let mut waits_too = Box::pin(pool.connect(&cluster, &endpoint, true));
    assert!(poll!(&mut makes).is_pending());
    assert!(poll!(&mut waits).is_pending());
    assert!(poll!(&mut waits_too).is_pending());
    drop(makes);
    let both = async { tokio::join!(waits, waits_too) };
    let both = tokio::time::timeout(Duration::from_secs(10), both).await;
    let (one, other) = both.expect("they do not wait for one who is gone");
    assert!(one.is_ok() && other.is_ok());
    assert!(pool.making(&endpoint).is_none());
    assert_eq!(taken(&task).await, 2, "the first one's is among them");
}
