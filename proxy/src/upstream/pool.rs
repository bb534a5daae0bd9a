//! The connections one worker keeps open, by endpoint. No lock: a pool belongs to its worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::body::Body;
use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::connect;
use super::endpoint::Endpoint;
use crate::error::{Kind, ProxyError};

/// Idle h1 connections kept per endpoint and worker.
const MAX_IDLE: usize = 256;
/// h2 connections kept per endpoint and worker; more are made when all are out of streams.
const MAX_H2: usize = 4;
/// How long an unused connection is kept unless the cluster says otherwise.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

struct Idle<B> {
    sender: http1::SendRequest<B>,
    since: Instant,
    timeout: Duration,
}

struct Kept<B> {
    endpoint: Arc<Endpoint>,
    h1: Vec<Idle<B>>,
    h2: Vec<http2::SendRequest<B>>,
}

/// One worker's connections.
pub(crate) struct Pool<B> {
    endpoints: RefCell<HashMap<u64, Kept<B>>>,
}

impl<B> Pool<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(crate) fn new() -> Self {
        Self {
            endpoints: RefCell::new(HashMap::new()),
        }
    }

    /// The most recently used idle h1 connection, if one is still open.
    pub(crate) fn idle_h1(&self, endpoint: &Endpoint) -> Option<http1::SendRequest<B>> {
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = endpoints.get_mut(&endpoint.id)?;
        while let Some(idle) = kept.h1.pop() {
            if !idle.sender.is_closed() && idle.since.elapsed() < idle.timeout {
                return Some(idle.sender);
            }
        }
        None
    }

    /// Gives an h1 connection back after its response has ended.
    pub(crate) fn put_h1(
        &self,
        endpoint: &Arc<Endpoint>,
        sender: http1::SendRequest<B>,
        timeout: Duration,
    ) {
        if endpoint.retired.load(Relaxed) || sender.is_closed() || timeout.is_zero() {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = Self::kept(&mut endpoints, endpoint);
        if kept.h1.len() < MAX_IDLE {
            kept.h1.push(Idle {
                sender,
                since: Instant::now(),
                timeout,
            });
        }
    }

    /// A new h1 connection, counted among the cluster's pending connects while it is made.
    pub(crate) async fn connect_h1(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
    ) -> Result<http1::SendRequest<B>, ProxyError> {
        let _pending = cluster.try_connect().ok_or(Kind::Overflow)?;
        connect::h1(connect::tcp(endpoint.address, cluster.connect_timeout()).await?).await
    }

    /// An h2 connection with room for a stream, made if there is none. `true` when it was open before.
    pub(crate) async fn h2(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<(http2::SendRequest<B>, bool), ProxyError> {
        if let Some(open) = self.open_h2(endpoint) {
            return Ok((open, true));
        }
        let _pending = cluster.try_connect().ok_or(Kind::Overflow)?;
        let sender =
            connect::h2(connect::tcp(endpoint.address, cluster.connect_timeout()).await?).await?;
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = Self::kept(&mut endpoints, endpoint);
        if kept.h2.len() < MAX_H2 {
            kept.h2.push(sender.clone());
        }
        Ok((sender, false))
    }

    /// Forgets the endpoint's h2 connections: one of them no longer takes streams. Streams in flight finish.
    pub(crate) fn forget_h2(&self, endpoint: &Endpoint) {
        if let Some(kept) = self.endpoints.borrow_mut().get_mut(&endpoint.id) {
            kept.h2.clear();
        }
    }

    fn open_h2(&self, endpoint: &Endpoint) -> Option<http2::SendRequest<B>> {
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = endpoints.get_mut(&endpoint.id)?;
        kept.h2.retain(|sender| !sender.is_closed());
        kept.h2.iter().find(|sender| sender.is_ready()).cloned()
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
                .retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < idle.timeout);
            kept.h2.retain(|sender| !sender.is_closed());
            !(kept.h1.is_empty() && kept.h2.is_empty())
        });
    }
}
