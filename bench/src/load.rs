//! The load generator: constant rate (open loop) or as fast as answers come (closed loop), over HTTP/1.1, HTTP/2 or TCP.
//!
//! In the open loop the clock sets the send times, not the answers: a request that had to wait for a free connection is
//! measured from the time it should have been sent. A timer that fires late while a connection is free is the generator's
//! own fault, and is left out.

mod exchange;
mod record;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use record::{Failure, Record, TaskSeen};

use exchange::Link;

/// What is spoken to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wire {
    /// HTTP/1.1, one request at a time per connection.
    Http1,
    /// HTTP/2 with prior knowledge, several streams per connection.
    Http2,
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
    /// Connections held open.
    pub connections: usize,
    /// Requests at once per connection (HTTP/2 only).
    pub streams: usize,
    /// Stop after so many requests.
    pub requests: Option<u64>,
    /// Stop after so long.
    pub duration: Option<Duration>,
    /// A request without a complete answer after so long has failed.
    pub timeout: Duration,
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
            connections: 64,
            streams: 1,
            requests: None,
            duration: None,
            timeout: Duration::from_secs(20),
        }
    }
}

/// Load that is running; dropping it ends it at once.
#[derive(Debug)]
pub struct Load {
    workers: JoinSet<()>,
    records: Vec<Arc<Mutex<Record>>>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Starts the workers on the current runtime.
    pub fn start(plan: Plan) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        let mut records = Vec::new();
        let clock = Arc::new(Clock {
            start: Instant::now(),
            tickets: AtomicU64::new(0),
        });
        let streams = if plan.wire == Wire::Http2 {
            plan.streams.max(1)
        } else {
            1
        };
        let plan = Arc::new(plan);
        for _ in 0..plan.connections.max(1) {
            let shared = Arc::default();
            for _ in 0..streams {
                let record = Arc::new(Mutex::new(Record::default()));
                let link = Link::new(plan.wire, &shared);
                workers.spawn(work(
                    Arc::clone(&plan),
                    Arc::clone(&clock),
                    link,
                    Arc::clone(&record),
                    stopped.clone(),
                ));
                records.push(record);
            }
        }
        Self {
            workers,
            records,
            stop,
        }
    }

    /// Everything recorded so far.
    pub fn snapshot(&self) -> Record {
        let mut total = Record::default();
        for record in &self.records {
            total.merge(&record.lock().unwrap_or_else(PoisonError::into_inner));
        }
        total
    }

    /// Sends no more, waits for the answers under way, and returns the whole record.
    pub async fn stop(self) -> Record {
        self.stop.send_replace(true);
        self.finished().await
    }

    /// Waits until the plan's count or duration is reached.
    pub async fn finished(mut self) -> Record {
        while self.workers.join_next().await.is_some() {}
        self.snapshot()
    }
}

/// Hands out send times in order, to whichever worker is free.
#[derive(Debug)]
struct Clock {
    start: Instant,
    tickets: AtomicU64,
}

impl Clock {
    /// The next request's intended time (`None` in it: at once), or `None` when the plan is done.
    fn next(&self, plan: &Plan) -> Option<Option<Instant>> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if plan.requests.is_some_and(|limit| ticket >= limit) {
            return None;
        }
        let offset = match plan.rate {
            Some(rate) => Duration::from_secs_f64(ticket as f64 / f64::from(rate.max(1))),
            None => self.start.elapsed(),
        };
        if plan.duration.is_some_and(|limit| offset >= limit) {
            return None;
        }
        Some(plan.rate.map(|_| self.start + offset))
    }
}

async fn work(
    plan: Arc<Plan>,
    clock: Arc<Clock>,
    mut link: Link,
    record: Arc<Mutex<Record>>,
    mut stopped: watch::Receiver<bool>,
) {
    while !*stopped.borrow() {
        let Some(intended) = clock.next(&plan) else {
            return;
        };
        let Some(sent) = send_time(intended, &mut stopped).await else {
            return;
        };
        let outcome = match tokio::time::timeout(plan.timeout, link.exchange(&plan)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                link.abandon();
                Err(format!("no complete answer in {:?}", plan.timeout))
            }
        };
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        record.note(sent, Instant::now(), outcome);
    }
}

/// Waits for the intended time; `None` when stopped before it.
async fn send_time(
    intended: Option<Instant>,
    stopped: &mut watch::Receiver<bool>,
) -> Option<Instant> {
    let now = Instant::now();
    match intended {
        None => Some(now),
        Some(late) if late <= now => Some(late),
        Some(future) => {
            tokio::select! {
                () = tokio::time::sleep_until(future.into()) => Some(Instant::now()),
                _ = stopped.wait_for(|stop| *stop) => None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
