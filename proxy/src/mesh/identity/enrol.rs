//! One exchange with the control server: a key made here, a request for it, and a certificate that is checked before it is used.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use http::Uri;
use outrigger_xds::identity::{Certificate, CertificateRequest, Proof, SpiffeId};
use outrigger_xds::tls::{Connector, Credentials, Identity, Peer, Pin, Roots, alpn};
use rcgen::{CertificateParams, KeyPair, SanType};
use zeroize::Zeroizing;

use super::kept::{Issued, Pending};
use super::schedule;
use crate::mesh::client::{CALL_TIMEOUT, CallError, Client, Dialler, Tls};
use crate::mesh::state::StateDir;
use crate::upstream::resolve::Resolver;

/// Whom to ask, and as whom.
pub(super) struct Requester {
    pub(super) control: Vec<Uri>,
    pub(super) resolver: Arc<Resolver>,
    /// Whose certificate it is to be.
    pub(super) service: SpiffeId,
    /// Node id of this task.
    pub(super) node: String,
    /// Who the control server must be.
    pub(super) server: SpiffeId,
    /// A key that there is no certificate for yet. An answer may be lost, and a join token is good again for the same key alone.
    pub(super) pending: Mutex<Option<Arc<Pending>>>,
    /// Keeps that key over a crash between request and answer.
    pub(super) state: Option<StateDir>,
}

/// What came, checked, and as it came.
pub(super) type Answer = (Issued, Credentials, Roots);

/// Why there is none.
enum Failure {
    /// No server was believed and said anything.
    Unanswered(String),
    Answered(String),
}

impl Failure {
    fn reason(self) -> String {
        let (Self::Unanswered(reason) | Self::Answered(reason)) = self;
        reason
    }
}

/// Where nobody is believed any more.
const REMEDY: &str = "if the control server's CA was replaced, give a new token, or --control-ca with the fingerprint of the CA as it is now";

impl Requester {
    /// By the certificate that `identity` has.
    pub(super) async fn renew(
        &self,
        identity: &Arc<Identity>,
        pinned: &[String],
    ) -> Result<Answer, String> {
        let connector = Connector::new(Arc::clone(identity), self.peer(), &[alpn::HTTP1], &[]);
        let asked = self.ask(Arc::new(move || connector.config()), None, pinned);
        asked.await.map_err(Failure::reason)
    }

    /// By a proof, which only a server that is known by `identity`'s roots or by the pin gets to see. The pin is of use beside roots
    /// to a task that has missed a whole rotation: those it holds are no more.
    pub(super) async fn enrol(
        &self,
        identity: &Arc<Identity>,
        proof: Proof,
        pin: &Pin,
    ) -> Result<Answer, String> {
        let config = pin.connect(self.peer(), &[alpn::HTTP1]);
        let by_pin: Tls = Arc::new(move || Some(Arc::clone(&config)));
        let pinned = pin.fingerprints();
        if identity.roots().is_none() {
            let asked = self.ask(by_pin, Some(proof), pinned).await;
            return asked.map_err(Failure::reason);
        }
        let connector = Connector::anonymous(Arc::clone(identity), self.peer(), &[alpn::HTTP1]);
        let by_roots: Tls = Arc::new(move || connector.config());
        let unanswered = match self.ask(by_roots, Some(proof.clone()), pinned).await {
            Err(Failure::Unanswered(reason)) => reason,
            other => return other.map_err(Failure::reason),
        };
        match self.ask(by_pin, Some(proof), pinned).await {
            Err(Failure::Unanswered(reason)) if reason != unanswered => Err(format!(
                "by the roots of before: {unanswered}; by the pin: {reason}; {REMEDY}"
            )),
            other => other.map_err(Failure::reason),
        }
    }

    fn peer(&self) -> Peer {
        Peer::OneOf(vec![self.server.clone()])
    }

    async fn ask(
        &self,
        tls: Tls,
        proof: Option<Proof>,
        pinned: &[String],
    ) -> Result<Answer, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Answered(error.to_string());
        let pending = self.pending().map_err(|error| failed(&error))?;
        if let Some(state) = self.state.as_ref().filter(|_| proof.is_some())
            && let Err(error) = pending.save(state)
        {
            tracing::warn!(%error, "a crash before the answer may use up the token");
        }
        let (namespace, service) = self.service.as_service().unwrap_or_default();
        let request = CertificateRequest {
            csr: pending.csr.clone(),
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            node: self.node.clone(),
            proof,
        };
        let request = serde_json::to_value(&request).map_err(|error| failed(&error))?;
        let dialler = Dialler {
            resolver: Arc::clone(&self.resolver),
            tls: Some(tls),
        };
        let client = Client::new(self.control.clone(), dialler);
        let answer = client.operator("/v1/identity", &request, CALL_TIMEOUT);
        let answer = answer.await.map_err(|error| match error {
            CallError::Unreachable { .. } => Failure::Unanswered(error.to_string()),
            CallError::Refused { .. } => Failure::Answered(match pending.unused.get() {
                Some(first) => {
                    format!("{error}; a certificate that came before was not used: {first}")
                }
                None => error.to_string(),
            }),
        })?;
        let certificate = serde_json::from_value(answer).map_err(|error| {
            Failure::Answered(format!(
                "the control server's answer is not understood: {error}"
            ))
        })?;
        // What is refused here may be good later, when a clock was set: the key stays, as the token is good for no other.
        self.check(certificate, pending.key.clone(), pinned)
            .map_err(|reason| {
                pending.unused.get_or_init(|| reason.clone());
                Failure::Answered(reason)
            })
    }

    /// There is a certificate, and it is kept if it can be.
    pub(super) fn settled(&self) {
        *self.lock() = None;
        if let Some(state) = &self.state
            && let Err(error) = Pending::remove(state)
        {
            tracing::warn!(%error, "the key of an enrolment that is over cannot be removed");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Pending>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that is waiting for its certificate, or a new one.
    fn pending(&self) -> Result<Arc<Pending>, rcgen::Error> {
        if let Some(pending) = &*self.lock() {
            return Ok(Arc::clone(pending));
        }
        let own = (&self.service, self.node.as_str());
        let state = self.state.as_ref();
        if let Some(kept) = state.and_then(|state| Pending::load(state, own)) {
            let pending = Arc::new(kept);
            *self.lock() = Some(Arc::clone(&pending));
            return Ok(pending);
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(self.service.as_str().try_into()?)];
        let pending = Arc::new(Pending {
            identity: self.service.clone(),
            node: self.node.clone(),
            unused: OnceLock::new(),
            csr: params.serialize_request(&key)?.pem()?,
            key: Zeroizing::new(key.serialize_pem()),
        });
        *self.lock() = Some(Arc::clone(&pending));
        Ok(pending)
    }

    fn check(
        &self,
        certificate: Certificate,
        key: Zeroizing<String>,
        pinned: &[String],
    ) -> Result<Answer, String> {
        let Certificate { chain, bundle, .. } = certificate;
        let now = SystemTime::now();
        let pem = (chain, key, bundle);
        let own = (self.service.clone(), self.node.clone());
        let issued = Issued::new(own, pinned.to_vec(), now, pem);
        let parsed = issued.parse();
        let (credentials, roots) =
            parsed.map_err(|error| format!("the control server's answer: {error}"))?;
        if credentials.identity() != Some(&self.service) {
            let is = credentials.identity().map(ToString::to_string);
            let is = is.unwrap_or_else(|| "nobody".to_owned());
            let asked = &self.service;
            return Err(format!(
                "the control server's certificate is for {is}, and was asked for {asked}"
            ));
        }
        schedule::clocks(credentials.not_before(), credentials.not_after(), now)?;
        Ok((issued, credentials, roots))
    }
}
