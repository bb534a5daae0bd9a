//! The connections one worker keeps open, by endpoint. No lock: a pool belongs to its worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::body::Body;
use hyper::client::conn::http2;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::connect;
use super::endpoint::Endpoint;
use super::h1;
use crate::error::{Kind, ProxyError};
use crate::http1::buffers::Buffers;

/// Idle h1 connections kept per endpoint and worker.
const MAX_IDLE: usize = 256;
/// h2 connections kept per endpoint and worker; more are made when all are out of streams.
const MAX_H2: usize = 4;
/// How long an unused connection is kept unless the cluster says otherwise.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Streams on one h2 connection before another one is made; peers commonly allow 100 (RFC 9113 section 6.5.2).
const STREAMS: usize = 100;

/// A connection that a request is sent on.
pub(crate) enum Connection<B> {
    /// Exclusive until its response has ended.
    H1(h1::Idle),
    /// Shared; the token counts the stream until it is dropped.
    H2(http2::SendRequest<B>, Stream),
}

/// One stream of an h2 connection, counted until it is dropped.
pub(crate) type Stream = Rc<()>;

struct Idle {
    connection: h1::Idle,
    since: Instant,
    timeout: Duration,
}

/// An h2 connection; the token has one holder more than it has streams.
struct Shared<B> {
    sender: http2::SendRequest<B>,
    token: Rc<()>,
    used: Instant,
    timeout: Duration,
}

impl<B> Shared<B> {
    fn streams(&self) -> usize {
        Rc::strong_count(&self.token) - 1
    }
}

struct Kept<B> {
    endpoint: Arc<Endpoint>,
    h1: Vec<Idle>,
    h2: Vec<Shared<B>>,
}

/// One worker's connections.
pub(crate) struct Pool<B> {
    endpoints: RefCell<HashMap<u64, Kept<B>>>,
    buffers: Rc<Buffers>,
}

impl<B> Pool<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The buffers are the worker's.
    pub(crate) fn new(buffers: Rc<Buffers>) -> Self {
        Self {
            endpoints: RefCell::new(HashMap::new()),
            buffers,
        }
    }

    /// A connection that is open already, if one has room.
    pub(crate) fn reuse(
        &self,
        endpoint: &Endpoint,
        http2: bool,
        now: Instant,
    ) -> Option<Connection<B>> {
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = endpoints.get_mut(&endpoint.id)?;
        if http2 {
            kept.h2.retain(|shared| !shared.sender.is_closed());
            let full = kept.h2.len() >= MAX_H2;
            let shared = kept.h2.iter_mut().min_by_key(|shared| shared.streams())?;
            if shared.streams() >= STREAMS && !full {
                return None;
            }
            shared.used = now;
            let stream = Rc::clone(&shared.token);
            return Some(Connection::H2(shared.sender.clone(), stream));
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
    ) -> Result<Connection<B>, ProxyError> {
        let _pending = cluster.try_connect().ok_or(Kind::Overflow)?;
        let stream = connect::tcp(endpoint.address, cluster.connect_timeout()).await?;
        if !http2 {
            return Ok(Connection::H1(h1::Idle::new(stream, &self.buffers)));
        }
        let (sender, token) = (connect::h2(stream).await?, Rc::new(()));
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = Self::kept(&mut endpoints, endpoint);
        if kept.h2.len() < MAX_H2 {
            kept.h2.push(Shared {
                sender: sender.clone(),
                token: Rc::clone(&token),
                used: Instant::now(),
                timeout: cluster.policy().idle_timeout.unwrap_or(IDLE_TIMEOUT),
            });
        }
        Ok(Connection::H2(sender, token))
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
        endpoints: &'a mut HashMap<u64, Kept<B>>,
        endpoint: &Arc<Endpoint>,
    ) -> &'a mut Kept<B> {
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
                let idle = shared.streams() == 0 && shared.used.elapsed() >= shared.timeout;
                !shared.sender.is_closed() && !idle
            });
            !(kept.h1.is_empty() && kept.h2.is_empty())
        });
    }
}
