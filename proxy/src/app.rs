//! The life of a sidecar: start every part, keep them told of each other, and end in order. The only file that knows all parts.

mod cert_agent;
mod descriptors;
mod joining;
mod leaving;
mod member;
mod memory;
mod pages;
mod restarting;
mod running;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use outrigger_xds::tls::Identity;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::cert_agent::run_agent;
use self::joining::join_mesh;
use self::leaving::Deadlines;
use self::pages::Pages;
use self::restarting::{Ending, Succession};
use self::running::{LISTENERS, Running, Shared};
use crate::config::accepted::{Accepted, Change};
use crate::config::identity::Source;
use crate::config::{Config, ConfigErrors, Mode, static_file};
use crate::downstream::listener::{self, Handle, MAX_COMMANDS, Workers};
use crate::drain::Drain;
use crate::mesh::state::StateError;
use crate::mesh::subscribe::CONFIGURATION;
use crate::observe::metrics::{Metrics, Owner};
use crate::observe::ready::{Readiness, State};
use crate::request::worker::Worker;
use crate::restart::RestartError;
use crate::routing::snapshot::Current;
use crate::tls::Tls;
use crate::upstream::clusters::Clusters;
use crate::upstream::resolve::Resolver;

/// Between two tries to bind what could not be bound.
const BIND_AGAIN: Duration = Duration::from_secs(1);
/// When half of so many connections have left, what they took goes back to the kernel.
const CROWD: u64 = 1000;

/// Why a sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it was told is wrong; the process exits with 2.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another process runs with this state directory, and it does not hand over.
    #[error("hot restart: {0}; nothing is changed, see --hot-restart")]
    Restart(#[from] RestartError),
    /// The process that runs would be followed by one with less than it has.
    #[error("hot restart: this process could not take over, the other one goes on: {0}")]
    NotReady(String),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The refusal.
        source: io::Error,
    },
}

impl StartError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

/// Runs a sidecar until SIGTERM or SIGINT and its drain. The calling thread becomes the control runtime.
pub fn run(config: Config) -> Result<(), StartError> {
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::io("control runtime"))?;
    control.block_on(live(config))
}

/// The parts that live as long as the process.
struct Parts {
    ready: Arc<Readiness>,
    metrics: Arc<Metrics>,
    clusters: Arc<Clusters>,
    resolver: Arc<Resolver>,
    workers: Workers,
    drain: Drain,
    running: Shared,
    /// Who this process is in the mesh; `None` where it is nobody in particular.
    identity: Option<Arc<Identity>>,
}

async fn live(config: Config) -> Result<(), StartError> {
    let parts = start_workers(&config)?;
    if let Some(shortfall) = descriptors::raise() {
        tracing::warn!("{shortfall}");
    }
    let mut succession = Succession::begin(&config, &parts.running).await?;
    let drain_asked = CancellationToken::new();
    let pages = Pages::bind(&config, &parts)?;
    let mut joining = match &config.mode {
        Mode::Static(path) => {
            let accepted = Arc::new(static_file::load(path)?);
            run_static(&parts, &config, accepted)?;
            None
        }
        Mode::Mesh(mesh) => Some(join_mesh(&parts, &config, mesh, &drain_asked)?),
    };
    if let Some(succession) = &mut succession
        && succession.take_over(&parts).await?
        && let Some(joining) = &mut joining
        && let Err(error) = joining.subscription.reload()
    {
        parts.ready.problem("state", error.to_string());
    }
    let door = succession.and_then(|succession| succession.open(&parts));
    parts.running.lock().begin();
    let mut ending = Ending::default();
    let lent = pages.serve(&parts, &drain_asked, &mut ending)?;
    let announcer = joining.and_then(|joining| joining.join(&parts, &drain_asked, &mut ending));
    tokio::spawn(bind_again(parts.running.clone()));

    let mut terminate =
        signal(SignalKind::terminate()).map_err(StartError::io("SIGTERM handler"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(StartError::io("SIGINT handler"))?;
    let told_to_stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(told_to_stop);
    let succeeded = ending.until.succeeded.clone();
    let end = {
        let handed = restarting::hand_over(door.as_ref(), &parts, &lent, &mut ending);
        tokio::pin!(handed);
        let end = tokio::select! {
            biased;
            () = &mut handed => End::Succeeded,
            () = &mut told_to_stop => End::Stopped,
            () = drain_asked.cancelled() => End::Drained,
        };
        if end != End::Succeeded && succeeded.is_cancelled() {
            // Another process has been told that it is alone: the task is left to it, and not drained.
            handed.await;
            End::Succeeded
        } else {
            end
        }
    };
    drop(lent);
    let bound = config.drain_timeout;
    let gone = match end {
        End::Succeeded => {
            drop(door);
            restarting::finish(&parts, bound).await;
            Instant::now()
        }
        End::Stopped | End::Drained => {
            restarting::close(door);
            drain_asked.cancel();
            let deadlines = Deadlines::within(bound);
            let summary = leaving::drain_ingress(&parts, announcer.as_ref(), deadlines).await;
            let part = leaving::part(&parts, announcer.as_ref(), deadlines, summary);
            let quiet = async {
                let gone = match end {
                    End::Drained => {
                        told_to_stop.await;
                        Instant::now() + bound
                    }
                    End::Stopped | End::Succeeded => deadlines.gone,
                };
                leaving::quiet(&parts, gone).await;
                gone
            };
            tokio::join!(part, quiet).1
        }
    };
    leaving::close(&parts, gone).await;
    ending.end_pages(leaving::CLOSING).await;
    Ok(())
}

/// Why a sidecar leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A signal.
    Stopped,
    /// The admin page: the traffic goes, the process stays until a signal.
    Drained,
    /// Another process has taken over.
    Succeeded,
}

/// Worker threads, each with a runtime of its own, waiting for sockets.
fn start_workers(config: &Config) -> Result<Parts, StartError> {
    let owner = match &config.mode {
        Mode::Mesh(mesh) => mesh
            .document
            .as_ref()
            .map_or_else(Owner::default, |document| Owner {
                service: document.service_name.clone(),
                cluster: document.cluster_name.clone(),
            }),
        Mode::Static(_) => Owner::default(),
    };
    let asked = match &config.mode {
        Mode::Mesh(mesh) => mesh.identity.as_ref(),
        Mode::Static(_) => None,
    };
    let identity: Option<Arc<Identity>> = asked.map(|_| Arc::default());
    // Who brings its own certificate brings its roots, too.
    let enrols = asked.is_some_and(|asked| matches!(asked.config.source, Source::Enrol(_)));
    let believing = identity.clone().filter(|_| enrols);
    let ready = Arc::new(Readiness::new(&[CONFIGURATION, LISTENERS]));
    let metrics = Metrics::new(config.workers, owner);
    if let Some(identity) = &identity {
        metrics.watch(identity);
    }
    let resolver = Arc::new(Resolver::system());
    let clusters = Clusters::new(
        Arc::clone(&metrics),
        Arc::clone(&resolver),
        tokio::runtime::Handle::current(),
        &config.zone,
        Arc::new(Tls::new(identity.clone())),
    );
    let current = Current::default();
    let drain = Drain::new();
    let (handles, queues): (Vec<_>, Vec<_>) = (0..config.workers)
        .map(|_| {
            let (commands, queue) = mpsc::channel(MAX_COMMANDS);
            (
                Handle {
                    commands,
                    connections: AtomicU32::new(0),
                },
                queue,
            )
        })
        .unzip();
    let workers = Workers::new(handles);
    for (id, commands) in queues.into_iter().enumerate() {
        let (current, workers, drain) = (Arc::clone(&current), workers.clone(), drain.clone());
        let retired = clusters.retirements();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(Default::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, id, "worker cannot start"),
            };
            runtime.block_on(async move {
                let worker = Worker::new(id, current);
                tokio::task::spawn_local(worker.sweep.clone().run());
                tokio::task::spawn_local(std::rc::Rc::clone(&worker).tidy(retired));
                listener::run_worker(worker, workers, commands, drain).await;
            });
        };
        let spawned = std::thread::Builder::new()
            .name(format!("worker-{id}"))
            .spawn(run);
        spawned.map_err(StartError::io("worker thread"))?;
    }
    let running = Running::new(
        current,
        Arc::clone(&clusters),
        Arc::clone(&metrics),
        workers.clone(),
        Arc::clone(&ready),
        believing,
    );
    Ok(Parts {
        ready,
        metrics,
        clusters,
        resolver,
        workers,
        drain,
        running: Shared::new(running),
        identity,
    })
}

/// Runs on a file, read again at SIGHUP; a file with errors changes nothing.
fn run_static(parts: &Parts, config: &Config, accepted: Arc<Accepted>) -> Result<(), StartError> {
    let Mode::Static(path) = config.mode.clone() else {
        return Ok(());
    };
    let report = |rejections: Vec<outrigger_xds::Rejection>, ready: &Readiness| {
        for rejection in rejections {
            ready.problem(
                format!("rejected/{}", rejection.name),
                rejection.to_string(),
            );
        }
    };
    let whole = Change {
        structure: true,
        ..Change::default()
    };
    report(parts.running.lock().take(&accepted, &whole), &parts.ready);
    parts.ready.set(CONFIGURATION, State::Ready);
    let mut hangup = signal(SignalKind::hangup()).map_err(StartError::io("SIGHUP handler"))?;
    let (running, ready) = (parts.running.clone(), Arc::clone(&parts.ready));
    tokio::spawn(async move {
        let mut before = accepted;
        while hangup.recv().await.is_some() {
            match static_file::load(&path) {
                Ok(accepted) => {
                    let accepted = Arc::new(accepted);
                    let change = accepted.change_from(&before);
                    report(running.lock().take(&accepted, &change), &ready);
                    ready.clear("static-file");
                    tracing::info!(file = %path.display(), "read again");
                    before = accepted;
                }
                Err(errors) => {
                    ready.problem("static-file", format!("{}: {errors}", path.display()))
                }
            }
        }
    });
    Ok(())
}

async fn bind_again(running: Shared) {
    let mut most = 0;
    loop {
        tokio::time::sleep(BIND_AGAIN).await;
        let (restructured, connections) = {
            let mut running = running.lock();
            running.bind_missing();
            (running.was_restructured(), running.connections())
        };
        most = most.max(connections);
        let crowd_has_left = most >= CROWD && 2 * connections <= most;
        if restructured || crowd_has_left {
            memory::give_back();
            most = connections;
        }
    }
}
