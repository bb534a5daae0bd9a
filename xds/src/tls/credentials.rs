//! A certificate with its key, the roots that are trusted, and the place where both are replaced.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::config::provider;
use super::verify::identity_of;
use crate::identity::SpiffeId;

/// Why certificates, keys or roots cannot be used. It shows nothing of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct TlsError {
    /// `certificate`, `key` or `roots`.
    pub what: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl TlsError {
    fn new(what: &'static str, reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        Self { what, reason }
    }
}

/// What one end proves itself by.
pub struct Credentials {
    key: Arc<CertifiedKey>,
    /// Of the leaf; `None` if it has no SPIFFE id.
    identity: Option<SpiffeId>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Credentials {
    /// From PEM: a chain, leaf first, and its private key. Refused if they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates("certificate", chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| TlsError::new("key", "is no private key in PEM"))?;
        Self::new(chain, key)
    }

    /// The same from DER.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let wrong = |reason: &dyn fmt::Display| TlsError::new("certificate", reason);
        let leaf = chain.first().ok_or_else(|| wrong(&"there is none"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(leaf).map_err(|error| wrong(&error))?;
        let validity = parsed.validity();
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        };
        let (not_before, not_after) = (at(validity.not_before), at(validity.not_after));
        let identity = identity_of(leaf);
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::new("key", "is not that of the certificate")
            }
            other => TlsError::new("key", other),
        })?;
        Ok(Self {
            key: Arc::new(key),
            identity,
            not_before,
            not_after,
        })
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Who it says we are.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref()
    }

    /// When it begins to be good.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf and what leads to a root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Whom one end believes.
#[derive(Debug, Clone)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
    fingerprints: Vec<String>,
}

impl Roots {
    /// From PEM: at least one certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        Self::new(&certificates("roots", pem)?)
    }

    /// The same from DER.
    pub fn new(all: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in all {
            store
                .add(certificate.clone())
                .map_err(|error| TlsError::new("roots", error))?;
        }
        Ok(Self {
            store: Arc::new(store),
            fingerprints: all.iter().map(|one| fingerprint(one)).collect(),
        })
    }

    /// SHA-256 of each in hex, in their order.
    pub fn fingerprints(&self) -> &[String] {
        &self.fingerprints
    }
}

/// SHA-256 of a certificate in hex, as `openssl x509 -fingerprint -sha256` has it without the colons, in lower case.
pub(super) fn fingerprint(certificate: &[u8]) -> String {
    let digest = Sha256::digest(certificate);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| TlsError::new(what, format!("is not PEM: {error}")))?;
    if all.is_empty() {
        return Err(TlsError::new(what, "has no certificate in PEM"));
    }
    Ok(all)
}

/// Both, at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) roots: Option<Roots>,
}

impl State {
    /// Who we are, once that is known.
    pub(super) fn identity(&self) -> Option<&SpiffeId> {
        self.credentials.as_ref()?.identity()
    }
}

/// What one end proves itself by and whom it believes, both replaced while connections are made.
#[derive(Debug)]
pub struct Identity {
    state: ArcSwap<State>,
    generation: watch::Sender<u64>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            state: ArcSwap::default(),
            generation: watch::Sender::new(0),
        }
    }
}

impl Identity {
    /// From now on we are this.
    pub fn set_credentials(&self, credentials: Credentials) {
        let credentials = Some(Arc::new(credentials));
        self.state.rcu(|state| State {
            credentials: credentials.clone(),
            ..State::clone(state)
        });
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// From now on these are believed; the same ones again change nothing.
    pub fn set_roots(&self, roots: Roots) {
        let before = self.state.load();
        let known = before.roots.as_ref();
        if known.is_some_and(|known| known.fingerprints == roots.fingerprints) {
            return;
        }
        self.state.rcu(|state| State {
            roots: Some(roots.clone()),
            ..State::clone(state)
        });
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// What we are, once that is known.
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.state.load().credentials.clone()
    }

    /// Whom we believe, once that is known.
    pub fn roots(&self) -> Option<Roots> {
        self.state.load().roots.clone()
    }

    /// Who we are, once that is known.
    pub fn id(&self) -> Option<SpiffeId> {
        self.credentials()?.identity().cloned()
    }

    /// Whether connections can be made.
    pub fn is_ready(&self) -> bool {
        let state = self.state.load();
        state.credentials.is_some() && state.roots.is_some()
    }

    /// Rises with every change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The state, and the generation that is at most as new.
    pub(super) fn now(&self) -> (u64, Arc<State>) {
        let generation = *self.generation.borrow();
        (generation, self.state.load_full())
    }

    pub(super) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }
}
