//! Membership and active probes of one cluster, carried by pingora's `Backends` on the control runtime.
//!
//! Health is keyed by address, so a changed weight does not reset it (pingora's own key is the whole backend). pingora starts
//! new backends as healthy, which is what a registry of announced tasks wants.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use outrigger_xds::model::{HealthCheck, Probe};
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::{HttpHealthCheck, TcpHealthCheck};
use pingora_load_balancing::{Backend, Backends, HealthRegistry};

use crate::policy::balance::{backend, endpoint_of};
use crate::policy::endpoint::Endpoint;

/// What xDS or the static file last said, in pingora's terms.
#[derive(Default)]
struct Pushed(ArcSwap<BTreeSet<Backend>>);

struct Discovery(Arc<Pushed>);

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora_error::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        Ok((self.0.0.load().as_ref().clone(), HashMap::new()))
    }
}

/// The probed members of one cluster.
pub(crate) struct Probes {
    pushed: Arc<Pushed>,
    backends: Backends,
}

impl Probes {
    pub(crate) fn new(check: &HealthCheck, host: &str) -> Self {
        let pushed = Arc::new(Pushed::default());
        let by_address = HealthRegistry::with_equivalence(|backend| {
            let mut hasher = DefaultHasher::new();
            backend.addr.hash(&mut hasher);
            hasher.finish()
        });
        let mut backends = Backends::new_with_health_registry(
            Box::new(Discovery(Arc::clone(&pushed))),
            Arc::new(by_address),
        );
        backends.set_health_check(match &check.probe {
            Probe::Http(path) => Box::new(http_check(check, host, path)),
            // The gRPC probe is not built yet: that the task accepts is what can be asked.
            Probe::Tcp | Probe::Grpc(_) => tcp_check(check),
        });
        Self { pushed, backends }
    }

    /// Takes over new members; what is known of an address that stays is kept.
    pub(crate) async fn set_members(&self, endpoints: &[Arc<Endpoint>]) {
        self.pushed.0.store(Arc::new(
            endpoints
                .iter()
                .map(|endpoint| backend(endpoint, 1))
                .collect(),
        ));
        if let Err(error) = self.backends.update(|_| {}).await {
            tracing::warn!(%error, "probes keep their old members");
        }
    }

    /// Probes every member once. Returns whether any verdict changed.
    pub(crate) async fn run(&self) -> bool {
        self.backends.run_health_check(true).await;
        let mut changed = false;
        for backend in self.backends.get_backend().iter() {
            let unhealthy = !self.backends.ready(backend);
            let endpoint = endpoint_of(backend);
            if endpoint.probed_unhealthy.swap(unhealthy, Relaxed) != unhealthy {
                tracing::info!(endpoint = %endpoint.address, unhealthy, "active probe changed its verdict");
                changed = true;
            }
        }
        changed
    }
}

fn tcp_check(check: &HealthCheck) -> Box<TcpHealthCheck> {
    let mut probe = TcpHealthCheck::new();
    probe.consecutive_success = check.healthy_threshold as usize;
    probe.consecutive_failure = check.unhealthy_threshold as usize;
    probe.peer_template.options.connection_timeout = Some(check.timeout);
    probe.peer_template.options.total_connection_timeout = Some(check.timeout);
    probe
}

fn http_check(check: &HealthCheck, host: &str, path: &str) -> HttpHealthCheck {
    let mut probe = HttpHealthCheck::new(host, false);
    probe.consecutive_success = check.healthy_threshold as usize;
    probe.consecutive_failure = check.unhealthy_threshold as usize;
    probe.peer_template.options.connection_timeout = Some(check.timeout);
    probe.peer_template.options.read_timeout = Some(check.timeout);
    if let Ok(uri) = path.parse() {
        probe.req.set_uri(uri);
    }
    probe
}
