//! From one root to the next, step by step: no step is taken before everybody who is connected can follow it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use outrigger_xds::identity::TRUST_BUNDLE;
use outrigger_xds::model::TrustBundle;
use tokio::time::{Instant, MissedTickBehavior};

use super::roots::{Stage, seconds};
use super::{Authority, IdentityError};
use crate::ads::Nodes;
use crate::publish::Publisher;

const TICK: Duration = Duration::from_secs(1);
/// After a start nobody is connected yet; so long, at most, the sidecars get to come back before a new root signs.
const RETURN: Duration = Duration::from_secs(60);
/// An operator is told so long before the CA ends.
const SOON: Duration = Duration::from_secs(90 * 24 * 3600);

/// Moves the CA's roots from stage to stage.
pub(crate) struct Rotation {
    authority: Arc<Authority>,
    publisher: Arc<Publisher>,
    nodes: Arc<Nodes>,
    started: Instant,
    /// By namespace, the sequence from which on the newest roots are in what was published.
    published: Mutex<BTreeMap<String, u64>>,
}

impl Authority {
    /// As it is published.
    pub(crate) fn trust(&self) -> TrustBundle {
        TrustBundle {
            name: TRUST_BUNDLE.to_owned(),
            roots: self.now().bundle.clone(),
        }
    }
}

impl Rotation {
    pub(crate) fn new(
        authority: Arc<Authority>,
        publisher: Arc<Publisher>,
        nodes: Arc<Nodes>,
    ) -> Self {
        Self {
            authority,
            publisher,
            nodes,
            started: Instant::now(),
            published: Mutex::default(),
        }
    }

    /// The nodes that are connected and have not taken the newest roots.
    pub(crate) fn waiting_for(&self) -> Vec<String> {
        let published = self.published.lock();
        let published = published.unwrap_or_else(PoisonError::into_inner);
        self.nodes.lagging(&published, TRUST_BUNDLE)
    }

    /// Publishes roots that changed, and takes the steps that are due; for ever.
    pub(crate) async fn run(&self) {
        let mut changed = self.authority.changed();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.warn();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if let Err(error) = self.step().await {
                        tracing::error!(%error, "the CA's rotation does not go on; it is tried again");
                    }
                }
                changed = changed.changed() => match changed {
                    Ok(()) => self.publish().await,
                    Err(_) => return,
                },
            }
        }
    }

    fn warn(&self) {
        let ends = self.authority.now().not_after();
        if ends < seconds(SystemTime::now() + SOON) {
            tracing::warn!("the CA ends in less than {} days", SOON.as_secs() / 86_400);
        }
    }

    async fn publish(&self) {
        self.publisher.all_changed();
        self.publisher.flushed().await;
        let sequences = self.publisher.sequences();
        *self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = sequences;
    }

    async fn step(&self) -> Result<(), IdentityError> {
        let current = self.authority.now();
        let Some(roots) = &current.roots else {
            return Ok(());
        };
        let now = seconds(SystemTime::now());
        let authority = Arc::clone(&self.authority);
        if roots.has_old(now) {
            blocking(move || authority.drop_old()).await?;
            tracing::info!("an old root is trusted no more");
            return Ok(());
        }
        let Some(Stage::Published { since }) = roots.published().map(|root| root.stage) else {
            return Ok(());
        };
        let overlap = self.authority.settings().overlap();
        let up = self.started.elapsed() >= overlap.min(RETURN);
        if up && now >= since.saturating_add(overlap.as_secs()) && self.waiting_for().is_empty() {
            blocking(move || authority.promote()).await?;
            tracing::info!("a new root signs");
        }
        Ok(())
    }
}

/// A passphrase takes its time.
async fn blocking(
    step: impl FnOnce() -> Result<(), IdentityError> + Send + 'static,
) -> Result<(), IdentityError> {
    let done = tokio::task::spawn_blocking(step).await;
    done.unwrap_or_else(|error| Err(IdentityError::new("rotation", error)))
}
