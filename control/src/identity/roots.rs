//! The roots of the embedded CA, and their stages from one to the next: `ca.json` in the data directory says which there are.
//!
//! A new root is published first while the old one signs. Then it signs, and the old one is trusted until the last leaf that it
//! signed has ended. The old one also vouches for the new one's key (`cross`), so that whoever missed the publication can
//! still check what the new one signs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use outrigger_xds::tls;
use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};

use super::files::{check_folder, read_private, write_private};
use super::{IdentityError, Settings, key, sign};

const STATE: &str = "ca.json";
const KEY: &str = "ca-key.pem";

/// A root, and where its key is while it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    /// PEM.
    pub(super) certificate: String,
    /// SHA-256, hex.
    pub(crate) fingerprint: String,
    /// Relative to the data directory if it was named here; absolute if `--ca-key` named it.
    key: Option<PathBuf>,
    /// Its key certified by the root before it, PEM.
    pub(super) cross: Option<String>,
    pub(crate) stage: Stage,
    /// Seconds since the epoch.
    pub(crate) not_after: u64,
}

/// What a root is for. Times are seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Trusted already; it does not sign yet.
    Published { since: u64 },
    /// It signs.
    Signing,
    /// It does not sign any more; it is trusted until the last leaf that it signed has ended.
    Leaving { until: u64 },
    /// Trusted by nobody who knows a newer one; sent along until it ends, so that what pins it finds it, and from there the next.
    Gone,
}

/// All roots, oldest first; exactly one signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roots(pub(crate) Vec<Root>);

impl Root {
    /// Whether it is what is said of it, and this trust domain's.
    fn check(&self, settings: &Settings) -> Result<(), String> {
        let found = fingerprint(&self.certificate).map_err(|error| error.to_string())?;
        if found != self.fingerprint {
            let said = &self.fingerprint;
            return Err(format!(
                "says the fingerprint {said} of a root that has {found}"
            ));
        }
        let (id, domain) = (sign::uri_of(&self.certificate)?, &settings.trust_domain);
        let own = id.as_deref().and_then(|id| id.strip_prefix("spiffe://"));
        if own != Some(domain) {
            let own = own.unwrap_or_default();
            return Err(format!(
                "has a root of trust domain {own:?}, and --trust-domain is {domain:?}"
            ));
        }
        Ok(())
    }

    /// Whether it does not stay what it is.
    fn is_over(&self, now: u64) -> bool {
        match self.stage {
            Stage::Leaving { until } => until <= now,
            Stage::Gone => self.not_after <= now,
            Stage::Published { .. } | Stage::Signing => false,
        }
    }
}

/// Seconds since the epoch.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl Roots {
    /// Those of a data directory; a first one is made if there is none.
    pub(super) fn open(folder: &Path, settings: &Settings) -> Result<Self, IdentityError> {
        check_folder("data directory", folder)?;
        let path = folder.join(STATE);
        if path.exists() {
            let text = read_private("CA state", &path)?;
            let roots: Self = serde_json::from_str(&text)
                .map_err(|error| IdentityError::of("CA state", &path, error))?;
            roots.check(&path, settings)?;
            return Ok(roots);
        }
        let file = named(settings)?.unwrap_or_else(|| KEY.into());
        let at = folder.join(&file);
        let own = folder.join(KEY);
        if own.exists() {
            let reason = format!(
                "is not there, though {} is: put it back, or remove that key, and nobody trusts what it signed",
                own.display()
            );
            return Err(IdentityError::of("CA state", &path, reason));
        }
        // A key that --ca-key names may be there before us.
        let pair = if at.exists() {
            key::read(&at, settings.passphrase.as_ref())?
        } else {
            let pair = generate()?;
            key::write(&at, &pair, settings.passphrase.as_ref())?;
            pair
        };
        let params = root_params(settings, SystemTime::now());
        let roots = Self(vec![root(&params, &pair, file, Stage::Signing)?]);
        roots.save(folder)?;
        Ok(roots)
    }

    fn check(&self, path: &Path, settings: &Settings) -> Result<(), IdentityError> {
        let signing = self.0.iter().filter(|root| root.stage == Stage::Signing);
        if signing.count() != 1 {
            let reason = "has not exactly one root that signs";
            return Err(IdentityError::of("CA state", path, reason));
        }
        if self.signing().key.is_none() {
            let reason = "says of the root that signs no key";
            return Err(IdentityError::of("CA state", path, reason));
        }
        for root in &self.0 {
            root.check(settings)
                .map_err(|reason| IdentityError::of("CA state", path, reason))?;
        }
        // After a rotation the key is one that was made here, whatever the flag says.
        let first = self.signing().key.as_deref();
        let first = first.filter(|file| file.is_absolute() || *file == Path::new(KEY));
        if let (Some(given), Some(first)) = (named(settings)?, first)
            && given != first
        {
            let (given, first) = (given.display(), first.display());
            let reason = format!("says that the key is in {first}, and --ca-key in {given}");
            return Err(IdentityError::of("CA state", path, reason));
        }
        Ok(())
    }

    fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let path = folder.join(STATE);
        let wrong = |error: &dyn std::fmt::Display| IdentityError::of("CA state", &path, error);
        let text = serde_json::to_vec_pretty(self).map_err(|error| wrong(&error))?;
        write_private(&path, &text).map_err(|error| wrong(&error))
    }

    pub(crate) fn signing(&self) -> &Root {
        let mut all = self.0.iter();
        all.find(|root| root.stage == Stage::Signing)
            .expect("exactly one root signs")
    }

    pub(crate) fn published(&self) -> Option<&Root> {
        let mut all = self.0.iter();
        all.find(|root| matches!(root.stage, Stage::Published { .. }))
    }

    /// Those that are given out.
    pub(super) fn trusted(&self) -> impl Iterator<Item = &Root> {
        self.0.iter().filter(|root| root.stage != Stage::Gone)
    }

    /// The key that signs.
    pub(super) fn key(&self, folder: &Path, settings: &Settings) -> Result<KeyPair, IdentityError> {
        let root = self.signing();
        let file = root.key.as_ref().expect("a root that signs has its key");
        let path = folder.join(file);
        let pair = key::read(&path, settings.passphrase.as_ref())?;
        sign::check_pair(&root.certificate, &pair)
            .map_err(|reason| IdentityError::of("CA key", &path, reason))?;
        Ok(pair)
    }

    /// Makes the next root, which is trusted from now on and vouched for by the one that signs.
    pub(super) fn begin(&self, folder: &Path, settings: &Settings) -> Result<Self, IdentityError> {
        if self.trusted().count() > 1 {
            let reason = "one is under way; `ca show` says how far it is";
            return Err(IdentityError::new("rotation", reason));
        }
        let old = self.key(folder, settings)?;
        let pair = generate()?;
        let file = PathBuf::from(format!("ca-key-{:08x}.pem", rand::rng().random::<u32>()));
        key::write(&folder.join(&file), &pair, settings.passphrase.as_ref())?;
        let now = SystemTime::now();
        let params = root_params(settings, now);
        let since = seconds(now);
        let mut new = root(&params, &pair, file, Stage::Published { since })?;
        new.cross = Some(cross(&params, &pair, self.signing(), old)?);
        let mut next = self.clone();
        next.0.push(new);
        next.save(folder)?;
        Ok(next)
    }

    /// The published root signs from now on; the one before it is trusted for `lifetime` yet.
    pub(super) fn promote(&self, folder: &Path, lifetime: Duration) -> Result<Self, IdentityError> {
        let until = seconds(SystemTime::now() + lifetime) + 1;
        let mut next = self.clone();
        // What pins it cannot follow two steps: the first would have to vouch for a root that vouches.
        next.0.retain(|root| root.stage != Stage::Gone);
        let mut unused = None;
        for root in &mut next.0 {
            match root.stage {
                Stage::Signing => {
                    root.stage = Stage::Leaving { until };
                    unused = root.key.take();
                }
                Stage::Published { .. } => root.stage = Stage::Signing,
                Stage::Leaving { .. } | Stage::Gone => {}
            }
        }
        next.save(folder)?;
        if let Some(file) = unused {
            let path = folder.join(&file);
            if file.is_absolute() {
                tracing::warn!(path = %path.display(), "the key that --ca-key names is not used any more; it is yours to remove");
            } else if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "the old CA's key is not used any more and could not be removed");
            }
        }
        Ok(next)
    }

    /// Whether there are roots whose stage is over.
    pub(super) fn has_old(&self, now: u64) -> bool {
        self.0.iter().any(|root| root.is_over(now))
    }

    /// With the next stage of those.
    pub(super) fn without_old(&self, folder: &Path) -> Result<Self, IdentityError> {
        let now = seconds(SystemTime::now());
        let mut next = self.clone();
        next.0
            .retain(|root| root.stage != Stage::Gone || !root.is_over(now));
        for root in next.0.iter_mut().filter(|root| root.is_over(now)) {
            root.stage = Stage::Gone;
        }
        if let Some(first) = next.0.first_mut() {
            // Whoever vouched for it is not sent any more.
            first.cross = None;
        }
        next.save(folder)?;
        Ok(next)
    }
}

/// The place for the key that `--ca-key` names, as seen from the working directory.
fn named(settings: &Settings) -> Result<Option<PathBuf>, IdentityError> {
    let absolute = settings.ca_key.as_ref().map(std::path::absolute);
    absolute
        .transpose()
        .map_err(|error| IdentityError::new("--ca-key", error))
}

fn generate() -> Result<KeyPair, IdentityError> {
    KeyPair::generate().map_err(|error| IdentityError::new("CA key", error))
}

/// A root of the embedded CA (X509-SVID sections 3 and 4.1: a signing certificate has the trust domain's id).
fn root_params(settings: &Settings, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Below a root there may be the next one, vouched for.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let domain = &settings.trust_domain;
    params
        .subject_alt_names
        .extend(sign::uri(&format!("spiffe://{domain}")));
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, domain.as_str());
    // Chains are built by names: no two roots have the same.
    let name = format!("Outrigger CA {:08x}", rand::rng().random::<u32>());
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    sign::valid(&mut params, now, settings.root_lifetime);
    params
}

fn root(
    params: &CertificateParams,
    pair: &KeyPair,
    key: PathBuf,
    stage: Stage,
) -> Result<Root, IdentityError> {
    let certificate = params
        .self_signed(pair)
        .map_err(|error| IdentityError::new("CA certificate", error))?;
    Ok(Root {
        fingerprint: fingerprint(&certificate.pem())?,
        certificate: certificate.pem(),
        key: Some(key),
        cross: None,
        stage,
        not_after: u64::try_from(params.not_after.unix_timestamp()).unwrap_or(0),
    })
}

/// SHA-256 of a certificate, hex.
pub(super) fn fingerprint(pem: &str) -> Result<String, IdentityError> {
    let roots = tls::Roots::from_pem(pem.as_bytes());
    let roots = roots.map_err(|error| IdentityError::new("CA certificate", error))?;
    Ok(roots.fingerprints().concat())
}

/// The new root's key, certified by the root before it.
fn cross(
    params: &CertificateParams,
    pair: &KeyPair,
    before: &Root,
    key: KeyPair,
) -> Result<String, IdentityError> {
    let wrong = |error| IdentityError::new("CA certificate", error);
    let issuer = Issuer::from_ca_cert_pem(&before.certificate, key).map_err(wrong)?;
    let mut params = params.clone();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(sign::serial());
    params.not_after = params.not_after.min(sign::time(before.not_after));
    let signed = params.signed_by(pair, &issuer).map_err(wrong)?;
    Ok(signed.pem())
}
