//! The connections one worker keeps open, by endpoint. No lock: a pool belongs to its worker.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fnv::FnvHashMap;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::connect;
use super::keepalive::Observed;
use super::{h1, h2};
use crate::error::{Kind, ProxyError};
use crate::hop::hello;
use crate::http1::buffers::Buffers;
use crate::policy::endpoint::Endpoint;

/// Idle h1 connections kept per endpoint and worker.
const MAX_IDLE: usize = 256;
/// h2 connections kept per endpoint and worker; more are made when all are out of streams.
const MAX_H2: usize = 4;
/// How long an unused connection is kept unless the cluster says otherwise.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Streams on one h2 connection before another one is made; peers commonly allow 100 (RFC 9113 section 6.5.2).
const STREAMS: usize = 100;

/// A connection that a request is sent on.
pub(crate) enum Connection {
    /// Exclusive until its response has ended.
    H1(h1::Idle),
    /// Shared.
    H2(h2::Sender),
}

struct Idle {
    connection: h1::Idle,
    since: Instant,
    timeout: Duration,
}

/// An h2 connection.
struct Shared {
    sender: h2::Sender,
    used: Instant,
    timeout: Duration,
}

struct Kept {
    endpoint: Arc<Endpoint>,
    h1: Vec<Idle>,
    h2: Vec<Shared>,
    observed: Observed,
}

/// One worker's connections.
pub(crate) struct Pool {
    endpoints: RefCell<FnvHashMap<u64, Kept>>,
    buffers: Rc<Buffers>,
}

impl Pool {
    /// The buffers are the worker's.
    pub(crate) fn new(buffers: Rc<Buffers>) -> Self {
        Self {
            endpoints: RefCell::new(FnvHashMap::default()),
            buffers,
        }
    }

    /// A connection that is open already, if one has room. With `careful` the kernel is asked whether it still is: for what could
    /// not be sent again.
    pub(crate) fn reuse(
        &self,
        endpoint: &Endpoint,
        http2: bool,
        careful: bool,
        now: Instant,
    ) -> Option<Connection> {
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = endpoints.get_mut(&endpoint.id)?;
        if http2 {
            kept.h2.retain(|shared| !shared.sender.is_closed());
            let full = kept.h2.len() >= MAX_H2;
            let shared = kept
                .h2
                .iter_mut()
                .min_by_key(|shared| shared.sender.streams())?;
            if shared.sender.streams() >= STREAMS && !full {
                return None;
            }
            shared.used = now;
            return Some(Connection::H2(shared.sender.clone()));
        }
        while let Some(idle) = kept.h1.pop() {
            let age = now - idle.since;
            let open = match careful {
                true => idle.connection.is_open_now(),
                false => idle.connection.is_open(),
            };
            if !open {
                kept.observed.closed(age, now);
            } else if age < idle.timeout {
                return Some(Connection::H1(idle.connection));
            }
        }
        None
    }

    /// A new connection, counted among the cluster's pending connects while it is made, and among its connections until it closes.
    pub(crate) async fn connect(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        http2: bool,
    ) -> Result<Connection, ProxyError> {
        let only = endpoint.in_flight() <= 1;
        let open = cluster.try_open(only).ok_or(Kind::Overflow)?;
        let _pending = cluster.try_connect().ok_or(Kind::Overflow)?;
        let mut stream = connect::tcp(endpoint.address, cluster.connect_timeout()).await?;
        if let Some(tokens) = &endpoint.hop {
            let target = target(cluster, endpoint);
            hello::ask(&mut stream, &target, tokens, cluster.connect_timeout()).await?;
        }
        if !http2 {
            return Ok(Connection::H1(h1::Idle::new(stream, &self.buffers, open)));
        }
        let sender = h2::h2(stream, endpoint.hop.is_some(), open).await?;
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = Self::kept(&mut endpoints, endpoint);
        if kept.h2.len() < MAX_H2 {
            kept.h2.push(Shared {
                sender: sender.clone(),
                used: Instant::now(),
                timeout: cluster.settings().idle_timeout.unwrap_or(IDLE_TIMEOUT),
            });
        }
        Ok(Connection::H2(sender))
    }

    /// Gives a connection back after its response has ended.
    pub(crate) fn put(
        &self,
        endpoint: &Arc<Endpoint>,
        connection: h1::Idle,
        timeout: Duration,
        now: Instant,
    ) {
        if endpoint.retired.load(Relaxed) || timeout.is_zero() {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = Self::kept(&mut endpoints, endpoint);
        let observed = kept.observed.limit(now).unwrap_or(timeout);
        if kept.h1.len() < MAX_IDLE {
            kept.h1.push(Idle {
                connection,
                since: now,
                timeout: timeout.min(observed),
            });
        }
    }

    fn kept<'a>(
        endpoints: &'a mut FnvHashMap<u64, Kept>,
        endpoint: &Arc<Endpoint>,
    ) -> &'a mut Kept {
        endpoints.entry(endpoint.id).or_insert_with(|| Kept {
            endpoint: Arc::clone(endpoint),
            h1: Vec::new(),
            h2: Vec::new(),
            observed: Observed::default(),
        })
    }

    /// Closes connections that idled too long or whose endpoint drains or is gone. Streams in flight finish.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.endpoints.borrow_mut().retain(|_, kept| {
            if kept.endpoint.retired.load(Relaxed) {
                return false;
            }
            let observed = &mut kept.observed;
            kept.h1.retain(|idle| {
                let open = idle.connection.is_open();
                if !open {
                    observed.closed(now - idle.since, now);
                }
                open && now - idle.since < idle.timeout
            });
            kept.h2.retain(|shared| {
                let idle = shared.sender.streams() == 0 && shared.used.elapsed() >= shared.timeout;
                !shared.sender.is_closed() && !idle
            });
            let known = kept.observed.limit(now).is_some();
            known || !(kept.h1.is_empty() && kept.h2.is_empty())
        });
    }
}

/// Whom a hop is meant for.
fn target(cluster: &Cluster, endpoint: &Endpoint) -> String {
    let settings = cluster.settings();
    let (namespace, service) = match &settings.service {
        Some(service) => (service.namespace.as_str(), service.name.as_str()),
        None => ("", cluster.name.as_str()),
    };
    outrigger_xds::hop::target(namespace, service, &endpoint.instance)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::policy::endpoint::tests::endpoint;
    use crate::policy::limits::tests::share;

    /// A connection to a task, and the task's end of it.
    async fn connection(buffers: &Rc<Buffers>) -> (h1::Idle, TcpStream) {
        let task = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback can be bound");
        let address = task.local_addr().expect("a bound socket has an address");
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), task.accept());
        let ours = h1::Idle::new(ours.expect("the task accepts"), buffers, share());
        (ours, theirs.expect("a connection comes").0)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_its_timeout_and_not_longer() {
        let buffers = Buffers::new();
        let (pool, endpoint) = (Pool::new(Rc::clone(&buffers)), endpoint(1));
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
    async fn what_the_task_closed_shortens_what_is_kept_next() {
        let buffers = Buffers::new();
        let (pool, endpoint) = (Pool::new(Rc::clone(&buffers)), endpoint(1));
        let start = Instant::now();
        let (idle, mut end) = connection(&buffers).await;
        pool.put(&endpoint, idle, MINUTE, start);
        end.shutdown().await.expect("the connection is open");
        let seen = start + Duration::from_secs(10);
        assert!(pool.reuse(&endpoint, false, true, seen).is_none());
        let (idle, _end) = connection(&buffers).await;
        pool.put(&endpoint, idle, MINUTE, seen);
        let nine = seen + Duration::from_secs(9);
        assert!(pool.reuse(&endpoint, false, true, nine).is_none());
    }

    /// The kernel knows of the end; this worker's event loop has not run since.
    #[tokio::test]
    async fn a_careful_look_sees_an_end_that_nobody_was_told_of() {
        let buffers = Buffers::new();
        let (pool, endpoint) = (Pool::new(Rc::clone(&buffers)), endpoint(1));
        let now = Instant::now();
        let (idle, end) = connection(&buffers).await;
        assert!(idle.is_open_now());
        pool.put(&endpoint, idle, MINUTE, now);
        let end = end.into_std().expect("the socket is registered");
        end.shutdown(std::net::Shutdown::Both)
            .expect("the connection is open");
        assert!(pool.reuse(&endpoint, false, true, now).is_none());
    }
}
