//! Identities of sidecars: the CA that signs them, who may have which, and the server's own.

mod api;
mod authority;
mod document;
mod enrol;
mod files;
mod key;
mod own;
mod roots;
mod rotation;
mod sign;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use outrigger_xds::identity::{DEFAULT_TRUST_DOMAIN, TlsMode, trust_domain};

pub(crate) use api::{CreateToken, IdentityApi, disabled, router};
pub(crate) use authority::Authority;
pub use document::Documents;
pub(crate) use enrol::Enrolment;
pub use key::Passphrase;
pub(crate) use own::Own;
pub(crate) use rotation::Rotation;
pub(crate) use sign::{node_of, token_of};

/// The file in the data directory by which an operator's commands prove who they are.
pub const OPERATOR_FILE: &str = "operator.json";

/// What that file holds; `Debug` is not for it.
#[derive(Serialize, Deserialize)]
pub(crate) struct OperatorFile {
    /// PEM.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) key: Zeroizing<String>,
    /// PEM.
    pub(crate) bundle: String,
}

impl OperatorFile {
    pub(crate) fn read(path: &Path) -> Result<Self, IdentityError> {
        let text = files::read_private("--operator", path)?;
        let wrong = |_| IdentityError::of("--operator", path, "is not an operator's file");
        serde_json::from_str(&text).map_err(wrong)
    }
}

/// The token in the first line of a file.
pub(crate) fn read_token(path: &Path) -> Result<String, IdentityError> {
    let text = files::read_private("--from-file", path)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Why identities cannot be given out. It shows no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {reason}")]
pub struct IdentityError {
    subject: String,
    reason: String,
}

impl IdentityError {
    pub(crate) fn new(subject: impl Into<String>, reason: impl fmt::Display) -> Self {
        let (subject, reason) = (subject.into(), reason.to_string());
        Self { subject, reason }
    }

    fn of(what: &str, path: &Path, reason: impl fmt::Display) -> Self {
        Self::new(format!("{what} {}", path.display()), reason)
    }
}

/// How identities are given out, and who may connect without one.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What both listeners take; `Disable` has no CA at all.
    pub tls: TlsMode,
    /// Of every identity.
    pub trust_domain: String,
    /// Names and addresses by which this server is reached, beside its identity.
    pub names: Vec<String>,
    /// Of a leaf.
    pub lifetime: Duration,
    /// Of a root that is made here.
    pub root_lifetime: Duration,
    /// How long a new root is published before it signs; `None` is a leaf's lifetime, in which everybody has come by.
    pub overlap: Option<Duration>,
    /// Your own CA: the certificate that signs and what leads to its root, PEM.
    pub ca_cert: Option<PathBuf>,
    /// Its key; without `ca_cert` the place for the key that is made here.
    pub ca_key: Option<PathBuf>,
    /// The key's passphrase.
    pub passphrase: Option<Passphrase>,
    /// Roots that are trusted beside the CA's own, PEM.
    pub ca_roots: Option<PathBuf>,
    /// Whose documents are a proof; `None` takes none.
    pub documents: Option<Documents>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tls: TlsMode::Permissive,
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            names: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
            lifetime: Duration::from_secs(24 * 3600),
            root_lifetime: Duration::from_secs(10 * 365 * 24 * 3600),
            overlap: None,
            ca_cert: None,
            ca_key: None,
            passphrase: None,
            ca_roots: None,
            documents: None,
        }
    }
}

impl Settings {
    /// Refuses what cannot be meant, naming field, value and reason.
    pub(crate) fn check(&self) -> Result<(), IdentityError> {
        let domain = &self.trust_domain;
        trust_domain(domain)
            .map_err(|reason| IdentityError::new(format!("--trust-domain {domain:?}"), reason))?;
        if self.lifetime < Duration::from_secs(1) {
            let subject = format!("--certificate-lifetime {:?}", self.lifetime);
            return Err(IdentityError::new(subject, "must be at least 1s"));
        }
        if self.root_lifetime < self.lifetime * 2 {
            let subject = format!("--ca-lifetime {:?}", self.root_lifetime);
            let reason = "must be at least twice the certificates' lifetime";
            return Err(IdentityError::new(subject, reason));
        }
        for name in &self.names {
            if name.parse::<IpAddr>().is_err()
                && rustls_pki_types::DnsName::try_from(name.as_str()).is_err()
            {
                let subject = format!("--tls-name {name:?}");
                let reason = "is neither a DNS name nor an IP address";
                return Err(IdentityError::new(subject, reason));
            }
        }
        if self.ca_cert.is_some() && self.ca_key.is_none() {
            let reason = "needs --ca-key beside it";
            return Err(IdentityError::new("--ca-cert", reason));
        }
        if let Some(documents) = &self.documents {
            documents.check()?;
        }
        Ok(())
    }

    pub(crate) fn overlap(&self) -> Duration {
        self.overlap.unwrap_or(self.lifetime)
    }
}
