//! The connections one worker keeps open, by endpoint. No lock: a pool belongs to its worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fnv::FnvHashMap;
use tokio::time::Instant;

use self::making::Making;
use super::cluster::Cluster;
use super::connect;
use super::keepalive::Observed;
use super::{h1, h2};
use crate::error::{Kind, ProxyError};
use crate::hop::hello;
use crate::http1::buffers::Buffers;
use crate::policy::endpoint::Endpoint;
use crate::policy::limits::Share;
use crate::tls::dial::Inside;
use crate::tls::transport::Transport;

mod making;

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

impl Idle {
    /// For how long it was seen idle and open, by the last look.
    fn seen_open(&self, looked: Instant) -> Duration {
        looked.saturating_duration_since(self.since)
    }
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
    /// The h2 connection that is being made.
    making: Option<Rc<Making>>,
    observed: Observed,
}

impl Kept {
    /// The h2 connection with the fewest streams. One that has many is `crowded`: another one may be made.
    fn shared(&mut self, crowded: bool, now: Instant) -> Option<h2::Sender> {
        self.h2.retain(|shared| !shared.sender.is_closed());
        let full = self.h2.len() >= MAX_H2;
        let shared = self
            .h2
            .iter_mut()
            .min_by_key(|shared| shared.sender.streams())?;
        if shared.sender.streams() >= STREAMS && !full && !crowded {
            return None;
        }
        shared.used = now;
        Some(shared.sender.clone())
    }
}

/// One worker's connections.
pub(crate) struct Pool {
    endpoints: RefCell<FnvHashMap<u64, Kept>>,
    worker: usize,
    buffers: Rc<Buffers>,
    /// When [`Self::tidy`] last found every idle connection open, or dropped it.
    looked: Cell<Instant>,
}

impl Pool {
    /// The buffers are the worker's.
    pub(crate) fn new(worker: usize, buffers: Rc<Buffers>) -> Self {
        Self {
            worker,
            endpoints: RefCell::new(FnvHashMap::default()),
            buffers,
            looked: Cell::new(Instant::now()),
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
            let sender = kept.shared(false, now)?;
            let open = !careful || sender.is_open_now();
            return open.then_some(Connection::H2(sender));
        }
        while let Some(idle) = kept.h1.pop() {
            let age = now - idle.since;
            let open = match careful {
                true => idle.connection.is_open_now(),
                false => idle.connection.is_open(),
            };
            if !open {
                kept.observed.closed(idle.seen_open(self.looked.get()), now);
            } else if age < idle.timeout {
                return Some(Connection::H1(idle.connection));
            }
        }
        None
    }

    /// A connection other than those that [`Self::reuse`] has, and whether another request has made it. This one is counted among
    /// the cluster's pending ones meanwhile.
    pub(crate) async fn connect(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        http2: bool,
    ) -> Result<(Connection, bool), ProxyError> {
        let _pending = cluster.try_connect().ok_or(Kind::Overflow)?;
        if http2 {
            let (sender, shared) = self.share(cluster, endpoint).await?;
            return Ok((Connection::H2(sender), shared));
        }
        let open = open(cluster, endpoint).ok_or(Kind::Overflow)?;
        let stream = self.dial(cluster, endpoint, false).await?;
        let idle = h1::Idle::new(stream, &self.buffers, open);
        Ok((Connection::H1(idle), false))
    }

    /// A connection with room. One is made at a time; whoever else needs it waits for its end, and fails as it does. Where its maker
    /// goes away, the next one makes it.
    async fn share(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<(h2::Sender, bool), ProxyError> {
        while let Some(making) = self.making(endpoint) {
            making.end().await?;
            if let Some(sender) = self.shared(endpoint, false) {
                return Ok((sender, true));
            }
        }
        let Some(open) = open(cluster, endpoint) else {
            // A crowded one is better than none.
            let crowded = self.shared(endpoint, true).ok_or(Kind::Overflow)?;
            return Ok((crowded, true));
        };
        let maker = Making::begin(self, endpoint);
        let made = async {
            let stream = self.dial(cluster, endpoint, true).await?;
            h2::h2(stream, endpoint.hop.is_some(), open).await
        };
        let sender = made.await.inspect_err(|error| maker.failed(error))?;
        self.keep(
            endpoint,
            Shared {
                sender: sender.clone(),
                used: Instant::now(),
                timeout: cluster.settings().idle_timeout.unwrap_or(IDLE_TIMEOUT),
            },
        );
        Ok((sender, false))
    }

    /// A new connection; on a hop, to the task that is meant.
    async fn dial(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        http2: bool,
    ) -> Result<Transport, ProxyError> {
        if endpoint.takes_tls() {
            let inside = Inside::http(http2, endpoint.hop.is_some());
            return connect::tls(cluster, endpoint, inside, self.worker).await;
        }
        let timeout = cluster.connect_timeout();
        let mut stream = connect::tcp(endpoint.address, timeout).await?;
        if let Some(tokens) = &endpoint.hop {
            let target = connect::target(&cluster.service(), endpoint);
            hello::ask(&mut stream, &target, tokens, timeout).await?;
        }
        Ok(stream.into())
    }

    fn keep(&self, endpoint: &Arc<Endpoint>, shared: Shared) {
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = Self::kept(&mut endpoints, endpoint);
        if kept.h2.len() < MAX_H2 {
            kept.h2.push(shared);
        }
    }

    fn making(&self, endpoint: &Endpoint) -> Option<Rc<Making>> {
        self.endpoints.borrow().get(&endpoint.id)?.making.clone()
    }

    fn shared(&self, endpoint: &Endpoint, crowded: bool) -> Option<h2::Sender> {
        let mut endpoints = self.endpoints.borrow_mut();
        let kept = endpoints.get_mut(&endpoint.id)?;
        kept.shared(crowded, Instant::now())
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
            making: None,
            observed: Observed::default(),
        })
    }

    /// Closes connections that idled too long or whose endpoint drains or is gone. Streams in flight finish.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        let looked = self.looked.replace(now);
        self.endpoints.borrow_mut().retain(|_, kept| {
            if kept.endpoint.retired.load(Relaxed) {
                return false;
            }
            let observed = &mut kept.observed;
            kept.h1.retain(|idle| {
                let open = idle.connection.is_open();
                if !open {
                    observed.closed(idle.seen_open(looked), now);
                }
                open && now - idle.since < idle.timeout
            });
            kept.h2.retain(|shared| {
                let idle = shared.sender.streams() == 0 && shared.used.elapsed() >= shared.timeout;
                !shared.sender.is_closed() && !idle
            });
            let known = kept.observed.limit(now).is_some();
            known || kept.making.is_some() || !(kept.h1.is_empty() && kept.h2.is_empty())
        });
    }
}

/// A place among the cluster's connections, held until the connection closes.
fn open(cluster: &Cluster, endpoint: &Endpoint) -> Option<Share> {
    cluster.try_open(endpoint.in_flight() <= 1)
}

#[cfg(test)]
mod tests;
