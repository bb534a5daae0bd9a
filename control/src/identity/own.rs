//! What this server and its operator's commands prove themselves by, renewed before it ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::identity::SpiffeId;
use outrigger_xds::tls;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::files::write_private;
use super::{Authority, IdentityError, OPERATOR_FILE, OperatorFile};

/// Between attempts to renew.
const PAUSE: Duration = Duration::from_secs(1);

/// The server's own identity, in step with its CA.
pub(crate) struct Own {
    pub(crate) identity: Arc<tls::Identity>,
    authority: Arc<Authority>,
    control: SpiffeId,
    operator: SpiffeId,
    operator_file: PathBuf,
}

impl Own {
    /// Signs both for the first time.
    pub(crate) fn new(authority: Arc<Authority>, folder: &Path) -> Result<Self, IdentityError> {
        let domain = &authority.settings().trust_domain;
        let wrong = |reason| IdentityError::new("--trust-domain", reason);
        let own = Self {
            identity: Arc::default(),
            control: SpiffeId::control(domain).map_err(wrong)?,
            operator: SpiffeId::operator(domain).map_err(wrong)?,
            operator_file: folder.join(OPERATOR_FILE),
            authority,
        };
        own.renew()?;
        Ok(own)
    }

    /// Who may do everything.
    pub(crate) fn operator(&self) -> &SpiffeId {
        &self.operator
    }

    /// Renews at two thirds of a leaf's time, and whenever the CA changes; for ever.
    pub(crate) async fn run(&self) {
        let mut changed = self.authority.changed();
        let every = self.authority.settings().lifetime * 2 / 3;
        let mut due = Instant::now() + every;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                changed = changed.changed() => if changed.is_err() { return },
            }
            due = match self.renew() {
                Ok(()) => Instant::now() + every,
                Err(error) => {
                    tracing::error!(%error, "the server's own certificate is not renewed; it is tried again");
                    Instant::now() + PAUSE
                }
            };
        }
    }

    fn renew(&self) -> Result<(), IdentityError> {
        let current = self.authority.now();
        let roots = tls::Roots::from_pem(current.bundle.as_bytes())
            .map_err(|error| IdentityError::new("CA certificate", error))?;
        let names = &self.authority.settings().names;
        let (chain, key) = self.authority.own(&self.control, names)?;
        let credentials = tls::Credentials::from_pem(chain.as_bytes(), key.as_bytes())
            .map_err(|error| IdentityError::new("own certificate", error))?;
        self.identity.set_roots(roots);
        self.identity.set_credentials(credentials);
        let (chain, key) = self.authority.own(&self.operator, &[])?;
        let bundle = current.bundle.clone();
        let failed = |error: &dyn std::fmt::Display| {
            IdentityError::of("operator's file", &self.operator_file, error)
        };
        let file = serde_json::to_vec(&OperatorFile { chain, key, bundle });
        let file = Zeroizing::new(file.map_err(|error| failed(&error))?);
        write_private(&self.operator_file, &file).map_err(|error| failed(&error))
    }
}
