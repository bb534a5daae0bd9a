//! The real counterpart of the modelled task: an HTTP/1.1 application with so many workers and a queue before them, whose manners a
//! scenario changes while it runs. It writes each request that it begins to act upon to the ledger.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::service_time::{ServiceTime, times};
use crate::ledger::{ID_HEADER, Ledger};
use crate::origin::TASK_HEADER;

/// A GET of it, straight to the application, sets the manners that the query says.
const MANNERS_PATH: &str = "/-/manners";

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Answered in `x-task`
    #[arg(long)]
    name: String,
    /// Where it listens; printed as `application listening on ADDR`
    #[arg(long)]
    listen: SocketAddr,
    /// Where requests are written down
    #[arg(long)]
    ledger: PathBuf,
    /// How long it works on a request: `20ms`, `exponential 20ms` or `log_normal 10ms 80ms`
    #[arg(long)]
    service_time: ServiceTime,
    /// Requests it works on at once
    #[arg(long)]
    concurrency: usize,
    /// Requests that wait for that; it answers 503 to more
    #[arg(long)]
    queue: usize,
    /// Seeds the service times
    #[arg(long)]
    seed: u64,
}

/// How it treats requests that come from now on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Manners {
    /// Work takes so many times as long.
    pub(super) factor: f64,
    /// This share is answered 503 …
    pub(super) unavailable: f64,
    /// … after having been acted upon, or at once.
    pub(super) acted: bool,
}

impl Manners {
    pub(super) const GOOD: Self = Self {
        factor: 1.0,
        unavailable: 0.0,
        acted: false,
    };

    /// The path and query that ask an application for them.
    pub(super) fn path(self) -> String {
        let (factor, unavailable, acted) = (self.factor, self.unavailable, u8::from(self.acted));
        format!("{MANNERS_PATH}?{factor}&{unavailable}&{acted}")
    }

    fn read(query: &str) -> Option<Self> {
        let mut parts = query.split('&');
        Some(Self {
            factor: parts.next()?.parse().ok()?,
            unavailable: parts
                .next()?
                .parse()
                .ok()
                .filter(|share| (0.0..=1.0).contains(share))?,
            acted: parts.next()? == "1",
        })
    }
}

struct Application {
    options: Options,
    ledger: Ledger,
    workers: Semaphore,
    waiting: AtomicUsize,
    changing: Mutex<(Manners, StdRng)>,
}

/// Serves until it is killed.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let ledger = Ledger::open(&options.ledger, &options.name)
        .with_context(|| options.ledger.display().to_string())?;
    let listener = TcpListener::bind(options.listen).await?;
    println!("application listening on {}", listener.local_addr()?);
    let application = Arc::new(Application {
        ledger,
        workers: Semaphore::new(options.concurrency),
        waiting: AtomicUsize::new(0),
        changing: Mutex::new((Manners::GOOD, StdRng::seed_from_u64(options.seed))),
        options,
    });
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream, Arc::clone(&application)));
    }
}

async fn connection(stream: TcpStream, application: Arc<Application>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let service = service_fn(|request| answer(&application, request));
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(
    application: &Application,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = match request.uri().path() {
        MANNERS_PATH => application.change(request.uri().query().unwrap_or_default()),
        _ => application.act(&request).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the ledger is not written");
            StatusCode::INTERNAL_SERVER_ERROR
        }),
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    if let Ok(name) = HeaderValue::from_str(&application.options.name) {
        response.headers_mut().insert(TASK_HEADER, name);
    }
    Ok(response)
}

impl Application {
    fn changing<T>(&self, each: impl FnOnce(&mut Manners, &mut StdRng) -> T) -> T {
        let mut guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (manners, rng) = &mut *guard;
        each(manners, rng)
    }

    fn change(&self, query: &str) -> StatusCode {
        match Manners::read(query) {
            Some(asked) => {
                self.changing(|manners, _| *manners = asked);
                StatusCode::OK
            }
            None => StatusCode::BAD_REQUEST,
        }
    }

    /// What the model of a task does, in real time. A caller who goes away drops it, wherever it is.
    async fn act(&self, request: &Request<Incoming>) -> io::Result<StatusCode> {
        let (manners, unavailable) = self.changing(|manners, rng| {
            (
                *manners,
                manners.unavailable > 0.0 && rng.random_bool(manners.unavailable),
            )
        });
        if unavailable && !manners.acted {
            return Ok(StatusCode::SERVICE_UNAVAILABLE);
        }
        let Some(_worker) = self.worker().await else {
            return Ok(StatusCode::SERVICE_UNAVAILABLE);
        };
        let id = request.headers().get(ID_HEADER);
        if let Some(id) = id.and_then(|id| id.to_str().ok()) {
            self.ledger.note(id)?;
        }
        let work = self
            .changing(|manners, rng| times(self.options.service_time.sample(rng), manners.factor));
        tokio::time::sleep(work).await;
        Ok(if unavailable {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        })
    }

    /// A free worker, awaited in the queue if there is a place; `None` when that is full.
    async fn worker(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(free) = self.workers.try_acquire() {
            return Some(free);
        }
        let place = Place::take(&self.waiting, self.options.queue)?;
        let worker = self.workers.acquire().await.ok();
        drop(place);
        worker
    }
}

/// A place in the queue, given back by `Drop`.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let before = waiting.fetch_add(1, Relaxed);
        let place = Self(waiting);
        (before < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manners_are_read_as_they_are_written() {
        let bad = Manners {
            factor: 2.5,
            unavailable: 0.25,
            acted: true,
        };
        for manners in [bad, Manners::GOOD] {
            let path = manners.path();
            let (_, query) = path.split_once('?').unwrap();
            assert_eq!(Manners::read(query), Some(manners));
        }
        assert_eq!(Manners::read("1&2&0"), None);
    }
}
