//! One exchange with the control server: a key made here, a request for it, and a certificate that is checked before it is used.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use http::Uri;
use outrigger_xds::identity::{Certificate, CertificateRequest, Proof, SpiffeId};
use outrigger_xds::tls::{Connector, Credentials, Identity, Peer, Pin, Roots, alpn};
use rcgen::{CertificateParams, KeyPair, SanType};
use zeroize::Zeroizing;

use super::kept::Issued;
use super::schedule;
use crate::mesh::client::{CALL_TIMEOUT, Client, Dialler, Tls};
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
}

/// A key, and the request for its certificate. There is no `Debug`.
pub(super) struct Pending {
    /// PEM.
    key: Zeroizing<String>,
    /// PEM.
    csr: String,
}

/// What came, checked, and as it came.
pub(super) type Answer = (Issued, Credentials, Roots);

impl Requester {
    /// By the certificate that `identity` has.
    pub(super) async fn renew(
        &self,
        identity: &Arc<Identity>,
        pinned: &[String],
    ) -> Result<Answer, String> {
        let connector = Connector::new(Arc::clone(identity), self.peer(), &[alpn::HTTP1], &[]);
        self.ask(Arc::new(move || connector.config()), None, pinned)
            .await
    }

    /// By a proof, which only a server that is known by `identity`'s roots, or else by the pin, gets to see.
    pub(super) async fn enrol(
        &self,
        identity: &Arc<Identity>,
        proof: Proof,
        pin: &Pin,
    ) -> Result<Answer, String> {
        let tls: Tls = match identity.roots() {
            Some(_) => {
                let identity = Arc::clone(identity);
                let connector = Connector::anonymous(identity, self.peer(), &[alpn::HTTP1]);
                Arc::new(move || connector.config())
            }
            None => {
                let config = pin.connect(self.peer(), &[alpn::HTTP1]);
                Arc::new(move || Some(Arc::clone(&config)))
            }
        };
        self.ask(tls, Some(proof), pin.fingerprints()).await
    }

    fn peer(&self) -> Peer {
        Peer::OneOf(vec![self.server.clone()])
    }

    async fn ask(
        &self,
        tls: Tls,
        proof: Option<Proof>,
        pinned: &[String],
    ) -> Result<Answer, String> {
        let pending = self.pending().map_err(|error| error.to_string())?;
        let (namespace, service) = self.service.as_service().unwrap_or_default();
        let request = CertificateRequest {
            csr: pending.csr.clone(),
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            node: self.node.clone(),
            proof,
        };
        let request = serde_json::to_value(&request).map_err(|error| error.to_string())?;
        let dialler = Dialler {
            resolver: Arc::clone(&self.resolver),
            tls: Some(tls),
        };
        let client = Client::new(self.control.clone(), dialler);
        let answer = client.operator("/v1/identity", &request, CALL_TIMEOUT);
        let answer = answer.await.map_err(|error| error.to_string())?;
        let certificate = serde_json::from_value(answer)
            .map_err(|error| format!("the control server's answer is not understood: {error}"))?;
        let checked = self.check(certificate, pending.key.clone(), pinned);
        *self.lock() = None;
        checked
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Pending>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that is waiting for its certificate, or a new one.
    fn pending(&self) -> Result<Arc<Pending>, rcgen::Error> {
        if let Some(pending) = &*self.lock() {
            return Ok(Arc::clone(pending));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(self.service.as_str().try_into()?)];
        let pending = Arc::new(Pending {
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
