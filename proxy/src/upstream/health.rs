//! Active probes of endpoints: TCP, HTTP and gRPC, by the connector that requests take.
//!
//! pingora counts how many probes in a row it takes (`HealthCheck`, `Backends`); what is asked, and when, is ours. Each endpoint has
//! a view of its own: in one that they share, the next pass waits for the slowest (pingora-load-balancing 0.9.1).

mod probe;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use pingora_error::{Error, ErrorType};
use pingora_load_balancing::discovery::Static;
use pingora_load_balancing::health_check::HealthCheck;
use pingora_load_balancing::{Backend, Backends};
use rand::Rng;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::probe::Prober;
use crate::policy::balance::{backend, endpoint_of};
use crate::policy::endpoint::Endpoint;

/// The first probes of a cluster's endpoints are spread over at most so long.
const SPREAD: Duration = Duration::from_secs(1);

/// The probed endpoints of one cluster; dropping it ends the probes and takes their verdicts back.
pub(crate) struct Probes {
    /// What is asked.
    pub(crate) prober: Arc<Prober>,
    changed: Arc<Notify>,
    /// By the endpoint's id.
    running: HashMap<u64, Running>,
}

struct Running {
    endpoint: Arc<Endpoint>,
    _task: AbortOnDropHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.endpoint.probed_unhealthy.store(false, Relaxed);
    }
}

impl Probes {
    /// `changed` is told when a verdict changes.
    pub(crate) fn new(prober: Prober, changed: Arc<Notify>) -> Self {
        Self {
            prober: Arc::new(prober),
            changed,
            running: HashMap::new(),
        }
    }

    /// Takes over new members; what is known of one that stays is kept.
    pub(crate) fn set_endpoints(&mut self, endpoints: impl Iterator<Item = Arc<Endpoint>>) {
        let mut before = std::mem::take(&mut self.running);
        for endpoint in endpoints {
            let running = before
                .remove(&endpoint.id)
                .unwrap_or_else(|| self.start(endpoint));
            self.running.insert(running.endpoint.id, running);
        }
    }

    fn start(&self, endpoint: Arc<Endpoint>) -> Running {
        let (prober, changed) = (Arc::clone(&self.prober), Arc::clone(&self.changed));
        let task = tokio::spawn(watch(Arc::clone(&endpoint), prober, changed));
        Running {
            endpoint,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

/// Probes one endpoint, over and over.
async fn watch(endpoint: Arc<Endpoint>, prober: Arc<Prober>, changed: Arc<Notify>) {
    let interval = prober.check.interval;
    let start = rand::rng().random_range(Duration::ZERO..=interval.min(SPREAD));
    tokio::time::sleep(start).await;
    let failure = Arc::new(ArcSwapOption::empty());
    let backend = backend(&endpoint, 1);
    let mut view = Backends::new(Static::new(BTreeSet::from([backend.clone()])));
    view.set_health_check(Box::new(Check {
        prober,
        failure: Arc::clone(&failure),
    }));
    if let Err(error) = view.update(|_| {}).await {
        tracing::error!(%error, endpoint = %endpoint.address, "not probed");
        return;
    }
    loop {
        view.run_health_check(false).await;
        let unhealthy = !view.ready(&backend);
        if endpoint.probed_unhealthy.swap(unhealthy, Relaxed) != unhealthy {
            tell(&endpoint, failure.load_full());
            changed.notify_one();
        }
        tokio::time::sleep(interval).await;
    }
}

fn tell(endpoint: &Endpoint, failure: Option<Arc<String>>) {
    let (address, instance) = (endpoint.address, &endpoint.instance);
    match failure {
        Some(failure) => {
            tracing::warn!(endpoint = %address, instance, "active probes find it unhealthy: {failure}");
        }
        None => tracing::info!(endpoint = %address, instance, "active probes find it healthy"),
    }
}

/// The probe as pingora runs it; the last one's failure is kept, which pingora does not hand out.
struct Check {
    prober: Arc<Prober>,
    failure: Arc<ArcSwapOption<String>>,
}

#[async_trait]
impl HealthCheck for Check {
    async fn check(&self, target: &Backend) -> pingora_error::Result<()> {
        let asked = self.prober.ask_endpoint(endpoint_of(target)).await;
        let failure = asked.err().map(|error| error.to_string());
        self.failure.store(failure.clone().map(Arc::new));
        failure.map_or(Ok(()), |failure| {
            Err(Error::explain(ErrorType::Custom("probe"), failure))
        })
    }

    fn health_threshold(&self, success: bool) -> usize {
        let check = &self.prober.check;
        let in_a_row = match success {
            true => check.healthy_threshold,
            false => check.unhealthy_threshold,
        };
        in_a_row as usize
    }
}

#[cfg(test)]
mod tests;
