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
use super::{h1, h2};
use crate::error::{Kind, ProxyError};
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

    /// A connection that is open already, if one has room.
    pub(crate) fn reuse(
        &self,
        endpoint: &Endpoint,
        http2: bool,
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
            if now - idle.since < idle.timeout && idle.connection.is_open() {
                return Some(Connection::H1(idle.connection));
            }
        }
        None
    }

    /// A new connection, counted among the cluster's pending connects while it is made.
    pub(crate) async fn connect(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        http2: bool,
    ) -> Result<Connection, ProxyError> {
        let _pending = cluster.try_connect().ok_or(Kind::Overflow)?;
        let stream = connect::tcp(endpoint.address, cluster.connect_timeout()).await?;
        if !http2 {
            return Ok(Connection::H1(h1::Idle::new(stream, &self.buffers)));
        }
        let sender = h2::h2(stream).await?;
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
        if kept.h1.len() < MAX_IDLE {
            kept.h1.push(Idle {
                connection,
                since: now,
                timeout,
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
        })
    }

    /// Closes connections that idled too long or whose endpoint drains or is gone. Streams in flight finish.
    pub(crate) fn tidy(&self) {
        self.endpoints.borrow_mut().retain(|_, kept| {
            if kept.endpoint.retired.load(Relaxed) {
                return false;
            }
            kept.h1
                .retain(|idle| idle.since.elapsed() < idle.timeout && idle.connection.is_open());
            kept.h2.retain(|shared| {
                let idle = shared.sender.streams() == 0 && shared.used.elapsed() >= shared.timeout;
                !shared.sender.is_closed() && !idle
            });
            !(kept.h1.is_empty() && kept.h2.is_empty())
        });
    }
}
