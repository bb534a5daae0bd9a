//! Who signs: the embedded CA, or an intermediate of yours.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use outrigger_xds::identity::{Certificate, SpiffeId};
use outrigger_xds::tls;
use pem::{EncodeConfig, LineEnding};
use rcgen::{Issuer, KeyPair, PublicKeyData};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::files::read_public;
use super::roots::{Roots, Stage, fingerprint, seconds};
use super::{IdentityError, Settings, key, sign};

/// Signs leaves, and says whom to trust.
pub(crate) struct Authority {
    settings: Settings,
    folder: PathBuf,
    current: watch::Sender<Arc<Current>>,
    /// Held while the roots change.
    changing: Mutex<()>,
}

/// Who signs now, and who is trusted.
pub(crate) struct Current {
    issuer: Issuer<'static, KeyPair>,
    /// What leads from a leaf to a root, PEM.
    intermediates: String,
    /// What the server's own chain goes on with, so that a first contact can pin a root, PEM.
    ends: String,
    /// All trusted roots, PEM.
    pub(crate) bundle: String,
    /// Of the root that leaves lead to.
    pub(crate) fingerprint: String,
    /// Seconds since the epoch.
    not_after: u64,
    /// Of the embedded CA.
    pub(crate) roots: Option<Roots>,
}

impl Authority {
    /// Reads the CA, or makes it.
    pub(crate) fn open(folder: &Path, settings: Settings) -> Result<Self, IdentityError> {
        let current = match &settings.ca_cert {
            Some(chain) => external(chain, &settings)?,
            None => embedded(Roots::open(folder, &settings)?, folder, &settings)?,
        };
        Ok(Self {
            settings,
            folder: folder.to_owned(),
            current: watch::Sender::new(Arc::new(current)),
            changing: Mutex::new(()),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn now(&self) -> Arc<Current> {
        Arc::clone(&self.current.borrow())
    }

    pub(crate) fn changed(&self) -> watch::Receiver<Arc<Current>> {
        self.current.subscribe()
    }

    /// Signs a leaf for a node of a service, which enrolled by the token with this id.
    pub(crate) fn sign(
        &self,
        identity: SpiffeId,
        node: &str,
        token: Option<&str>,
        key: &impl PublicKeyData,
    ) -> Result<Certificate, IdentityError> {
        let current = self.now();
        let leaf = current.leaf(&self.settings, &identity, (Some(node), token), &[], key)?;
        Ok(Certificate {
            chain: format!("{leaf}{}", current.intermediates),
            bundle: current.bundle.clone(),
            identity,
        })
    }

    /// A certificate and a key of this server itself, PEM; the chain ends with the root.
    pub(super) fn own(
        &self,
        identity: &SpiffeId,
        names: &[String],
    ) -> Result<(String, Zeroizing<String>), IdentityError> {
        let current = self.now();
        let key = KeyPair::generate();
        let key = key.map_err(|error| IdentityError::new("own certificate", error))?;
        let leaf = current.leaf(&self.settings, identity, (None, None), names, &key)?;
        let chain = format!("{leaf}{}{}", current.intermediates, current.ends);
        Ok((chain, Zeroizing::new(key.serialize_pem())))
    }

    /// Makes the next root and publishes it.
    pub(crate) fn rotate(&self) -> Result<(), IdentityError> {
        self.change(|roots| roots.begin(&self.folder, &self.settings))
    }

    /// The published root signs from now on.
    pub(crate) fn promote(&self) -> Result<(), IdentityError> {
        let lifetime = self.settings.lifetime;
        self.change(|roots| roots.promote(&self.folder, lifetime))
    }

    /// Drops the roots whose time is over.
    pub(crate) fn drop_old(&self) -> Result<(), IdentityError> {
        self.change(|roots| roots.without_old(&self.folder))
    }

    fn change(
        &self,
        step: impl FnOnce(&Roots) -> Result<Roots, IdentityError>,
    ) -> Result<(), IdentityError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let Some(roots) = &now.roots else {
            let reason = "the CA is yours: put its next certificate into --ca-roots everywhere first, then into --ca-cert";
            return Err(IdentityError::new("rotation", reason));
        };
        let next = embedded(step(roots)?, &self.folder, &self.settings)?;
        self.current.send_replace(Arc::new(next));
        Ok(())
    }
}

impl Current {
    /// When nothing is signed any more; seconds since the epoch.
    pub(super) const fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Whether a first contact finds the root with this fingerprint in what the server sends.
    pub(super) fn sends(&self, pin: &str) -> bool {
        let mut roots = self.roots.iter().flat_map(|roots| &roots.0);
        self.fingerprint == pin || roots.any(|root| root.fingerprint == pin)
    }

    fn leaf(
        &self,
        settings: &Settings,
        identity: &SpiffeId,
        (node, token): (Option<&str>, Option<&str>),
        names: &[String],
        key: &impl PublicKeyData,
    ) -> Result<String, IdentityError> {
        let now = SystemTime::now();
        if self.not_after <= seconds(now) {
            return Err(IdentityError::new("CA certificate", "its time is over"));
        }
        let mut params = sign::leaf(identity, node, token, names);
        sign::valid(&mut params, now, settings.lifetime);
        params.not_after = params.not_after.min(sign::time(self.not_after));
        let signed = params.signed_by(key, &self.issuer);
        let signed = signed.map_err(|error| IdentityError::new("certificate", error))?;
        Ok(signed.pem())
    }
}

fn embedded(roots: Roots, folder: &Path, settings: &Settings) -> Result<Current, IdentityError> {
    let key = roots.key(folder, settings)?;
    let signing = roots.signing();
    let cross = signing.cross.clone().unwrap_or_default();
    // A task needs no way from a root that is gone; whoever comes for the first time may know no other.
    let gone = roots.0.iter().any(|root| root.stage == Stage::Gone);
    let (intermediates, first) = match gone {
        true => (String::new(), cross),
        false => (cross, String::new()),
    };
    let others = roots.0.iter().filter(|root| *root != signing);
    // The one that signs is the last.
    let ends = others.map(|root| root.certificate.as_str());
    let ends = [first.as_str()].into_iter().chain(ends);
    let ends = ends.chain([signing.certificate.as_str()]).collect();
    let own = roots.trusted().map(|root| root.certificate.as_str());
    Ok(Current {
        issuer: issuer(&signing.certificate, key)?,
        intermediates,
        ends,
        bundle: bundle(own.collect(), settings)?,
        fingerprint: signing.fingerprint.clone(),
        not_after: signing.not_after,
        roots: Some(roots),
    })
}

/// The first certificate signs; those that are signed by themselves are roots, and without one the last is.
fn external(path: &Path, settings: &Settings) -> Result<Current, IdentityError> {
    let wrong = |reason: &str| IdentityError::of("--ca-cert", path, reason);
    let text = read_public("--ca-cert", path)?;
    let all = pem::parse_many(text).map_err(|_| wrong("is not PEM"))?;
    let lines = EncodeConfig::new().set_line_ending(LineEnding::LF);
    let text = |one| pem::encode_config(one, lines);
    let all: Vec<String> = all.iter().map(text).collect();
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return Err(wrong("has no certificate in PEM"));
    };
    let Some(key_path) = &settings.ca_key else {
        return Err(wrong("needs --ca-key beside it"));
    };
    let key = key::read(key_path, settings.passphrase.as_ref())?;
    sign::check_pair(first, &key)
        .map_err(|reason| IdentityError::of("--ca-key", key_path, reason))?;
    let mut not_after = u64::MAX;
    let (mut roots, mut intermediates) = (Vec::new(), Vec::new());
    for certificate in &all {
        let described = sign::describe(certificate).map_err(wrong)?;
        not_after = not_after.min(described.not_after);
        match described.self_signed {
            true => roots.push(certificate.as_str()),
            false => intermediates.push(certificate.as_str()),
        }
    }
    if roots.is_empty() {
        roots.push(last);
    }
    let root = roots.last().copied().unwrap_or(last);
    Ok(Current {
        issuer: issuer(first, key)?,
        intermediates: intermediates.concat(),
        ends: root.to_owned(),
        bundle: bundle(roots.concat(), settings)?,
        fingerprint: fingerprint(root)?,
        not_after,
        roots: None,
    })
}

fn issuer(pem: &str, key: KeyPair) -> Result<Issuer<'static, KeyPair>, IdentityError> {
    Issuer::from_ca_cert_pem(pem, key).map_err(|error| IdentityError::new("CA certificate", error))
}

/// The CA's own roots and those of `--ca-roots`.
fn bundle(own: String, settings: &Settings) -> Result<String, IdentityError> {
    let more = match &settings.ca_roots {
        Some(path) => read_public("--ca-roots", path)?,
        None => String::new(),
    };
    let bundle = own + &more;
    tls::Roots::from_pem(bundle.as_bytes())
        .map_err(|error| IdentityError::new("--ca-roots", error))?;
    Ok(bundle)
}
