//! Who this task is: enrolled with the control server, renewed in time, and kept over a restart.

mod enrol;
mod files;
mod kept;
mod schedule;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::Uri;
use outrigger_xds::identity::SpiffeId;
use outrigger_xds::tls::{CLOCK_SKEW, Connector, Identity, Peer};
use rand::Rng as _;
use tokio::sync::watch;

use self::enrol::{Answer, Requester};
pub(crate) use self::files::Following;
pub(crate) use self::kept::Issued;
use super::client::Tls;
use super::state::StateDir;
use crate::config::identity::Enrolment;
use crate::observe::metrics::IdentityCounts;
use crate::observe::ready::{Readiness, State};
use crate::upstream::resolve::Resolver;

/// The readiness task: this task has a certificate that is good. Problems are told under the same name.
pub(crate) const IDENTITY: &str = "identity";
/// Under which it is told that it cannot be kept.
const UNKEPT: &str = "identity-state";

/// How a task enrols.
pub(crate) struct EnrolConfig {
    /// Its proof.
    pub(crate) enrolment: Enrolment,
    /// Whose identity it asks for.
    pub(crate) service: SpiffeId,
    /// Its node id.
    pub(crate) node: String,
    /// The control servers' API, tried in order.
    pub(crate) control: Vec<Uri>,
    /// Finds their addresses.
    pub(crate) resolver: Arc<Resolver>,
    /// Keeps certificate and key over a restart.
    pub(crate) state: Option<StateDir>,
    /// Told of everything.
    pub(crate) ready: Arc<Readiness>,
    /// Counts everything.
    pub(crate) counts: Arc<IdentityCounts>,
}

/// Keeps an [`Identity`] good.
pub(crate) struct Keeper {
    identity: Arc<Identity>,
    requester: Requester,
    enrolment: Enrolment,
    state: Option<StateDir>,
    ready: Arc<Readiness>,
    counts: Arc<IdentityCounts>,
    issued: watch::Sender<Option<Arc<Issued>>>,
}

/// What connections to a control server of the trust domain are made with.
pub(crate) fn control_tls(identity: &Arc<Identity>, server: SpiffeId, alpn: &[&[u8]]) -> Tls {
    let connector = Connector::new(Arc::clone(identity), Peer::OneOf(vec![server]), alpn, &[]);
    Arc::new(move || connector.config())
}

/// The identity of the control servers of a service's trust domain.
pub(crate) fn control_of(service: &SpiffeId) -> SpiffeId {
    SpiffeId::control(service.trust_domain())
        .expect("the trust domain stands in a SPIFFE id already")
}

impl Keeper {
    /// `identity` is at once what was kept, if that is still good.
    pub(crate) fn new(config: EnrolConfig, identity: Arc<Identity>) -> Self {
        let this = Self {
            identity,
            requester: Requester {
                control: config.control,
                resolver: config.resolver,
                server: control_of(&config.service),
                service: config.service,
                node: config.node,
                pending: Mutex::default(),
                state: config.state.clone(),
            },
            enrolment: config.enrolment,
            state: config.state,
            ready: config.ready,
            counts: config.counts,
            issued: watch::Sender::new(None),
        };
        let waiting = State::Waiting("not enrolled yet".to_owned());
        this.ready.set(IDENTITY, waiting);
        this.take_kept();
        this
    }

    /// Every certificate, with its key.
    pub(crate) fn issued(&self) -> watch::Receiver<Option<Arc<Issued>>> {
        self.issued.subscribe()
    }

    fn take_kept(&self) {
        let Some(state) = &self.state else { return };
        let pin = self.enrolment.read().ok().map(|(_, pin)| pin);
        let pinned = pin.as_ref().map(|pin| pin.fingerprints());
        let now = SystemTime::now();
        let own = (&self.requester.service, self.requester.node.as_str());
        match kept::load(state, own, pinned, now) {
            Ok(Some(answer)) => {
                let ends = httpdate::fmt_http_date(answer.1.not_after());
                tracing::info!(identity = %answer.0.identity, ends, "kept from an earlier run");
                self.put(answer);
            }
            Ok(None) => {}
            Err(reason) => tracing::warn!("{reason}; enrolling anew"),
        }
    }

    /// Enrols and renews for ever.
    pub(crate) async fn run(self) {
        let mut failures = 0;
        loop {
            if failures > 0 {
                let jitter = rand::rng().random_range(0.5..1.0);
                let pause = schedule::back_off(failures, self.lifetime(), jitter);
                tokio::time::sleep(pause).await;
            } else {
                self.until_due().await;
            }
            let first = !self.identity.is_ready();
            match self.attempt().await {
                Ok(answer) => {
                    failures = 0;
                    let ends = httpdate::fmt_http_date(answer.1.not_after());
                    let identity = &answer.0.identity;
                    match first {
                        true => tracing::info!(%identity, ends, "enrolled"),
                        false => tracing::debug!(%identity, ends, "renewed"),
                    }
                    self.keep(&answer.0);
                    self.requester.settled();
                    self.put(answer);
                    self.counts.issued();
                }
                Err(reason) => {
                    failures = failures.saturating_add(1);
                    self.counts.failed();
                    self.tell(&reason);
                }
            }
        }
    }

    /// Of the certificate in force, from when it came.
    fn lifetime(&self) -> Option<Duration> {
        let held = self.identity.credentials()?;
        let received = self.issued.borrow().as_ref()?.received();
        let lifetime = held.not_after().duration_since(received);
        Some(lifetime.unwrap_or_default())
    }

    /// Returns when the certificate in force is to be replaced, or there is none.
    async fn until_due(&self) {
        let (held, issued) = (self.identity.credentials(), self.issued.borrow().clone());
        let (Some(held), Some(issued)) = (held, issued) else {
            return;
        };
        let jitter = rand::rng().random_range(0.9..1.1);
        let due = schedule::renewal(issued.received(), held.not_after(), jitter);
        while let Some(pause) = schedule::sleep(SystemTime::now(), due) {
            tokio::time::sleep(pause).await;
        }
    }

    /// By the certificate while it is taken; by the proof without one, or when it is over.
    async fn attempt(&self) -> Result<Answer, String> {
        let now = SystemTime::now();
        let held = self.identity.credentials();
        let mut refused = String::new();
        if let Some(held) = held.filter(|held| now <= held.not_after() + CLOCK_SKEW) {
            let issued = self.issued.borrow().clone();
            let pinned = issued.map_or_else(Vec::new, |issued| issued.pinned.clone());
            match self.requester.renew(&self.identity, &pinned).await {
                Ok(answer) => return Ok(answer),
                Err(reason) if now <= held.not_after() => return Err(reason),
                Err(reason) => refused = format!("{reason}; by the proof again: "),
            }
        }
        let (proof, pin) = self.enrolment.read()?;
        let enrolled = self.requester.enrol(&self.identity, proof, &pin).await;
        enrolled.map_err(|reason| refused + &reason)
    }

    fn put(&self, (issued, credentials, roots): Answer) {
        self.identity.set_roots(roots);
        self.identity.set_credentials(credentials);
        self.issued.send_replace(Some(Arc::new(issued)));
        self.ready.clear(IDENTITY);
        self.ready.set(IDENTITY, State::Ready);
    }

    fn keep(&self, issued: &Issued) {
        let Some(state) = &self.state else { return };
        match kept::save(state, issued) {
            Ok(()) => self.ready.clear(UNKEPT),
            Err(error) => {
                let text = format!("a restart will have to enrol again: {error}");
                self.ready.problem(UNKEPT, text);
            }
        }
    }

    fn tell(&self, reason: &str) {
        let held = self.identity.credentials();
        let Some(ends) = held.map(|held| held.not_after()) else {
            let text = format!("not enrolled: {reason}");
            self.ready.set(IDENTITY, State::Waiting(text.clone()));
            return self.ready.problem(IDENTITY, text);
        };
        let date = httpdate::fmt_http_date(ends);
        if SystemTime::now() <= ends {
            let text = format!("not renewed: {reason}; the certificate is good until {date}");
            return self.ready.problem(IDENTITY, text);
        }
        let text = format!("the certificate ended on {date}, and there is no other: {reason}");
        self.ready.set(IDENTITY, State::Waiting(text.clone()));
        self.ready.problem(IDENTITY, text);
    }
}
