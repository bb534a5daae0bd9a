//! The whole control server, put together; the only file that knows all parts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use outrigger_xds::identity::TlsMode;
use outrigger_xds::tls::{Acceptor, Clients, Peer, alpn};
use outrigger_xds::transport::serve_ads;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::accept::{Caller, Door, Incoming};
use crate::access::Access;
use crate::ads::Nodes;
use crate::drain::Drains;
use crate::identity::{
    self, Authority, Enrolment, IdentityApi, IdentityError, Own, Rotation, Settings,
};
use crate::operator::Operator;
use crate::publish::{Publisher, from_registry};
use crate::store::{Store, StoreError};
use crate::writer::Writer;
use crate::{cloudmap, operator};

/// How long a stop waits for calls and streams to end by themselves.
const STOP: Duration = Duration::from_secs(5);

/// Where it listens and where it keeps its registry.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cloud Map and operator API; port 0 takes a free one.
    pub api: SocketAddr,
    /// ADS; port 0 takes a free one.
    pub xds: SocketAddr,
    /// Directory of the registry's file; made if it is not there.
    pub data: PathBuf,
    /// Who is given which certificate, and who may come without.
    pub identity: Settings,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error("{flag} {address}: {source}")]
    Listen {
        /// Which option.
        flag: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The registry's file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The writer's thread could not be started.
    #[error("registry writer: {0}")]
    Writer(std::io::Error),
}

/// A server that is running.
pub struct Running {
    /// The bound address of the Cloud Map and operator API.
    pub api_addr: SocketAddr,
    /// The bound address of ADS.
    pub xds_addr: SocketAddr,
    stop: watch::Sender<bool>,
    nodes: Arc<Nodes>,
    background: JoinSet<()>,
    servers: JoinSet<Result<(), String>>,
    writer: std::thread::JoinHandle<()>,
}

/// Starts the server: both addresses accept when this returns.
pub async fn start(options: Options) -> Result<Running, StartError> {
    let (store, loaded) = Store::open(&options.data, &mut StdRng::from_os_rng())?;
    let identity = Identities::open(&options.data, options.identity)?;
    let (api, api_addr) = listen("--api", options.api).await?;
    let (xds, xds_addr) = listen("--xds", options.xds).await?;

    let publisher = Arc::new(Publisher::default());
    let told = Arc::clone(&publisher);
    let (writer, thread) = Writer::start(store, loaded.registry, move |namespaces| {
        told.changed(namespaces)
    })
    .map_err(StartError::Writer)?;
    let nodes = Nodes::new(Arc::clone(&publisher), writer.clone(), Instant::now());
    let nodes = Arc::new(match identity.mode {
        TlsMode::Disable => nodes.without_identities(),
        TlsMode::Permissive | TlsMode::Strict => nodes,
    });

    let mut background = JoinSet::new();
    let (publishing, read) = (Arc::clone(&publisher), writer.clone());
    let authority = identity.authority.clone();
    let trust = move || authority.as_ref().map(|authority| authority.trust());
    background.spawn(async move { publishing.run(from_registry(|| read.read(), trust)).await });
    let living = Arc::clone(&nodes);
    background.spawn(async move { living.run().await });

    let stop = watch::Sender::new(false);
    let drains = Drains {
        writer: writer.clone(),
        publisher: Arc::clone(&publisher),
        nodes: Arc::clone(&nodes),
    };
    let resuming = drains.clone();
    background.spawn(async move { resuming.resume().await });
    let access = identity.access();
    let operator = Operator {
        drains: drains.clone(),
        nodes: Arc::clone(&nodes),
        epoch: Arc::from(loaded.epoch.as_str()),
        access: access.clone(),
    };
    let router = cloudmap::router(drains, access).merge(operator::router(operator));
    let rotation = identity.rotation(&publisher, &nodes);
    let router = router.merge(identity.router(&writer, rotation.as_ref()));
    let (at_api, at_xds) = identity.doors();
    let api = Incoming::start(api, api_addr, at_api);
    let xds = Incoming::start(xds, xds_addr, at_xds).for_ads();
    if let Some(own) = identity.own {
        background.spawn(async move { own.run().await });
    }
    if let Some(rotation) = rotation {
        background.spawn(async move { rotation.run().await });
    }
    let mut servers = JoinSet::new();
    let stopped = stopped(&stop);
    servers.spawn(async move {
        axum::serve(api, router.into_make_service_with_connect_info::<Caller>())
            .with_graceful_shutdown(stopped)
            .await
            .map_err(|error| format!("api: {error}"))
    });
    let stopped = self::stopped(&stop);
    let events = Arc::clone(&nodes);
    servers.spawn(async move {
        serve_ads(xds, events, loaded.epoch, stopped)
            .await
            .map_err(|error| format!("xds: {error}"))
    });
    Ok(Running {
        api_addr,
        xds_addr,
        stop,
        nodes,
        background,
        servers,
        writer: thread,
    })
}

/// The CA and this server's own identity; neither where TLS is disabled.
struct Identities {
    mode: TlsMode,
    authority: Option<Arc<Authority>>,
    own: Option<Own>,
}

impl Identities {
    fn open(data: &Path, settings: Settings) -> Result<Self, IdentityError> {
        settings.check()?;
        let mode = settings.tls;
        if mode == TlsMode::Disable {
            return Ok(Self {
                mode,
                authority: None,
                own: None,
            });
        }
        let authority = Arc::new(Authority::open(data, settings)?);
        let own = Own::new(Arc::clone(&authority), data)?;
        Ok(Self {
            mode,
            authority: Some(authority),
            own: Some(own),
        })
    }

    fn access(&self) -> Access {
        Access {
            mode: self.mode,
            operator: self.own.as_ref().map(|own| own.operator().clone()),
        }
    }

    fn rotation(&self, publisher: &Arc<Publisher>, nodes: &Arc<Nodes>) -> Option<Arc<Rotation>> {
        let authority = Arc::clone(self.authority.as_ref()?);
        let rotation = Rotation::new(authority, Arc::clone(publisher), Arc::clone(nodes));
        Some(Arc::new(rotation))
    }

    fn router(&self, writer: &Writer, rotation: Option<&Arc<Rotation>>) -> Router {
        let (Some(authority), Some(own), Some(rotation)) = (&self.authority, &self.own, rotation)
        else {
            return identity::disabled();
        };
        let enrolment = Enrolment {
            authority: Arc::clone(authority),
            writer: writer.clone(),
        };
        let operator = own.operator().clone();
        identity::router(Arc::new(IdentityApi {
            enrolment,
            operator,
            rotation: Arc::clone(rotation),
        }))
    }

    /// Of the API, where a task comes before it has a certificate, and of ADS.
    fn doors(&self) -> (Door, Door) {
        let door = |must: bool, protocol: &[u8]| {
            let acceptor = self.authority.as_ref().zip(self.own.as_ref());
            let acceptor = acceptor.map(|(authority, own)| {
                let peer = Peer::TrustDomain(authority.settings().trust_domain.clone());
                let clients = match must {
                    true => Clients::Must(peer),
                    false => Clients::May(peer),
                };
                let identity = Arc::clone(&own.identity);
                Arc::new(Acceptor::new(identity, clients, &[protocol], &[], None))
            });
            Door {
                mode: self.mode,
                acceptor,
            }
        };
        let strict = self.mode == TlsMode::Strict;
        (door(false, alpn::HTTP1), door(strict, alpn::H2))
    }
}

async fn listen(
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        flag,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move {
        // An error means that the server itself is gone.
        let _gone = stop.wait_for(|stop| *stop).await;
    }
}

impl Running {
    /// Resolves if a listener ends by itself, which it only does on failure; answers the reason.
    pub async fn failed(&mut self) -> String {
        match self.servers.join_next().await {
            Some(Ok(Ok(()))) => "a listener ended".to_owned(),
            Some(Ok(Err(reason))) => reason,
            Some(Err(error)) => error.to_string(),
            None => "no listener is left".to_owned(),
        }
    }

    /// Ends streams and calls, and closes the registry's file.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        self.nodes.close();
        let ended = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP, ended).await.is_err() {
            tracing::warn!("some calls or streams did not end in time");
        }
        self.servers.shutdown().await;
        self.background.shutdown().await;
        drop(self.nodes);
        let writer = self.writer;
        let joined = tokio::task::spawn_blocking(move || writer.join());
        if tokio::time::timeout(STOP, joined).await.is_err() {
            tracing::warn!("the registry's file is still in use");
        }
    }
}
