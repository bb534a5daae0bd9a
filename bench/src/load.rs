//! The load generator: constant rate (open loop) or as fast as answers come (closed loop), over HTTP/1.1, HTTP/2, gRPC or TCP.
//!
//! In the open loop the clock sets the send times, not the answers, and every latency counts from the intended send time,
//! whoever was late: the wait for a free connection and the generator's own late wake-up are both in it. The second is also
//! recorded apart ([`Record::late`]): a generator that shares its CPU shows there, and in every peer measured beside it.

pub mod command;
pub(crate) mod deferred;
pub(crate) mod exchange;
mod http1;
mod pace;
mod record;
mod stream;
pub mod tls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use pace::Arrivals;
pub use record::{Ended, Failure, Record, Sent, TaskSeen};

use exchange::Link;
use pace::Pacer;

/// Idle connections that are being opened at once.
const OPENING: usize = 32;

/// What is spoken to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wire {
    /// HTTP/1.1, one request at a time per connection.
    Http1,
    /// HTTP/2 with prior knowledge, several streams per connection.
    Http2,
    /// gRPC unary: one message each way, over HTTP/2; the body is the message.
    Grpc,
    /// gRPC bidirectional: one stream of several messages, each echoed before the next is sent.
    Bidi,
    /// The body sent as raw bytes to an echo server, read back in full.
    Tcp,
}

/// One run of load.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where connections go.
    pub address: SocketAddr,
    /// `Host` or `:authority`.
    pub authority: String,
    /// Path and query of every request.
    pub path: String,
    /// Request method.
    pub method: http::Method,
    /// Body of every request; for [`Wire::Tcp`], the bytes of one round trip.
    pub body: Bytes,
    /// What is spoken.
    pub wire: Wire,
    /// Requests per second over all connections; `None` is the closed loop.
    pub rate: Option<u32>,
    /// When the requests of a constant rate are due.
    pub arrivals: Arrivals,
    /// Seeds [`Arrivals::Poisson`].
    pub seed: u64,
    /// Connections held open.
    pub connections: usize,
    /// Requests at once per connection (HTTP/2 only).
    pub streams: usize,
    /// Messages each way on a stream of [`Wire::Bidi`].
    pub messages: u32,
    /// Pause between two of them.
    pub gap: Duration,
    /// With it every request carries the id [`crate::ledger::id`] of this prefix, and how each ended is kept
    /// ([`Record::requests`]). Not for [`Wire::Tcp`].
    pub ids: Option<String>,
    /// Stop after so many requests.
    pub requests: Option<u64>,
    /// Stop after so long.
    pub duration: Option<Duration>,
    /// A request without a complete answer after so long has failed; it may take twice that to notice.
    pub timeout: Duration,
    /// Around [`Wire::Http1`]; the others go without.
    pub tls: Option<tls::Tls>,
}

impl Plan {
    /// A GET of `/` by HTTP/1.1 on 64 connections, closed loop, until stopped.
    pub fn new(address: SocketAddr, authority: impl Into<String>) -> Self {
        Self {
            address,
            authority: authority.into(),
            path: "/".to_owned(),
            method: http::Method::GET,
            body: Bytes::new(),
            wire: Wire::Http1,
            rate: None,
            arrivals: Arrivals::Uniform,
            seed: 0,
            connections: 64,
            streams: 1,
            messages: 8,
            gap: Duration::from_millis(50),
            ids: None,
            requests: None,
            duration: None,
            timeout: Duration::from_secs(20),
            tls: None,
        }
    }

    /// Requests that can be under way at once.
    pub fn concurrency(&self) -> usize {
        let streams = match self.wire {
            Wire::Http2 | Wire::Grpc | Wire::Bidi => self.streams.max(1),
            Wire::Http1 | Wire::Tcp => 1,
        };
        self.connections.max(1) * streams
    }
}

/// Load that is running; dropping it ends it at once.
#[derive(Debug)]
pub struct Load {
    workers: JoinSet<()>,
    record: Arc<Mutex<Record>>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Starts the workers on the current runtime.
    pub fn start(plan: Plan) -> Self {
        let (stop, stopped) = watch::channel(false);
        let record = Arc::<Mutex<Record>>::default();
        let start = Instant::now();
        let shared = Arc::new(Shared {
            start,
            tickets: AtomicU64::new(0),
            pacer: plan
                .rate
                .map(|rate| Pacer::new(start, rate, plan.arrivals, plan.seed).into()),
            record: Arc::clone(&record),
            plan,
        });
        let mut workers = JoinSet::new();
        let connections = shared.plan.connections.max(1);
        for _ in 0..connections {
            let h2 = Arc::default();
            for _ in 0..shared.plan.concurrency() / connections {
                let link = Link::new(&shared.plan, &h2);
                workers.spawn(work(Arc::clone(&shared), link, stopped.clone()));
            }
        }
        Self {
            workers,
            record,
            stop,
        }
    }

    /// Everything recorded so far.
    pub fn snapshot(&self) -> Record {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Requests that have ended since the record began.
    pub fn sent(&self) -> u64 {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.sent
    }

    /// Whether this task has answered.
    pub fn heard_from(&self, task: &str) -> bool {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.by_task.contains_key(task)
    }

    /// Everything recorded so far, and begins a new record: what came before is a warm-up.
    pub fn take(&self) -> Record {
        std::mem::take(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends no more, waits for the answers under way, and returns the whole record.
    pub async fn stop(self) -> Record {
        self.stop.send_replace(true);
        self.finished().await
    }

    /// Like [`Load::finished`]; tells how many requests have ended, twice a second.
    pub async fn watched(mut self, mut tell: impl FnMut(u64)) -> Record {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                done = self.workers.join_next() => if done.is_none() {
                    return self.take();
                },
                _ = tick.tick() => tell(self.sent()),
            }
        }
    }

    /// Waits until the plan's count or duration is reached.
    pub async fn finished(mut self) -> Record {
        while self.workers.join_next().await.is_some() {}
        self.take()
    }
}

/// Connections of HTTP/1.1 that idle; they are reset when dropped, so that none lingers in the kernel.
#[derive(Debug)]
pub struct Idle {
    _connections: Vec<http1::Connection>,
}

/// Opens `count` connections, each of which does one request of the plan and then nothing.
pub async fn hold_idle(plan: &Plan, count: usize) -> Result<Idle, String> {
    let request = http1::Request::render(plan);
    let opened = futures_util::stream::iter(0..count).map(async |_| {
        let stream = exchange::dial(plan.address).await?;
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .map_err(|error| format!("SO_LINGER: {error}"))?;
        let mut tls = plan.tls.as_ref().map(tls::Client::new);
        let mut connection = exchange::connect(stream, &mut tls).await?;
        let (answer, kept) = connection.exchange(request.bytes(), false).await?;
        match (kept, answer.status.is_success()) {
            (true, true) => Ok(connection),
            _ => Err(format!("status {}, kept: {kept}", answer.status)),
        }
    });
    Ok(Idle {
        _connections: opened.buffer_unordered(OPENING).try_collect().await?,
    })
}

/// What all workers of one load share.
struct Shared {
    plan: Plan,
    start: Instant,
    tickets: AtomicU64,
    /// The lock is fair: the worker that has waited longest holds it until the next request is due, and sends that.
    pacer: Option<tokio::sync::Mutex<Pacer>>,
    record: Arc<Mutex<Record>>,
}

impl Shared {
    /// The next request's number, when it should be sent and, if a connection was free before that, by how much its sending
    /// is late; `None` when the plan is done.
    async fn next(&self) -> Option<(u64, Instant, Option<Duration>)> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if self.plan.requests.is_some_and(|limit| ticket >= limit) {
            return None;
        }
        let end = self.plan.duration.map(|limit| self.start + limit);
        let (due, late) = match &self.pacer {
            Some(pacer) => pacer.lock().await.next(end).await?,
            None => (Instant::now(), None),
        };
        if end.is_some_and(|end| due >= end) {
            return None;
        }
        Some((ticket, due, late))
    }
}

async fn work(shared: Arc<Shared>, mut link: Link, mut stopped: watch::Receiver<bool>) {
    let plan = &shared.plan;
    // One timer for all requests of a worker, moved only when it fires: a request may live for up to twice the bound.
    let mut alarm = std::pin::pin!(tokio::time::sleep(plan.timeout));
    loop {
        let next = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => return,
            next = shared.next() => next,
        };
        let Some((number, due, late)) = next else {
            return;
        };
        let began = Instant::now();
        let outcome = {
            let mut exchange = std::pin::pin!(link.exchange(plan, number));
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut exchange => break Some(outcome),
                    () = &mut alarm => {
                        let over = began.elapsed() >= plan.timeout;
                        let from = if over { Instant::now() } else { began };
                        alarm.as_mut().reset((from + plan.timeout).into());
                        if over {
                            break None;
                        }
                    }
                }
            }
        };
        let outcome = outcome.unwrap_or_else(|| {
            link.abandon();
            Err(format!("no complete answer in {:?}", plan.timeout))
        });
        let mut record = shared.record.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if plan.ids.is_some() {
            record.keep(number, due, now, &outcome);
        }
        record.note(due, now, outcome);
        if let Some(late) = late {
            record.note_late(late);
        }
    }
}

#[cfg(test)]
mod tests;
