//! What is kept of an identity in the state directory: a restart needs no second token.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_xds::identity::SpiffeId;
use outrigger_xds::tls::{CLOCK_SKEW, Credentials, Roots, TlsError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::mesh::state::{KEPT, StateDir, StateError};

/// A certificate, its key and whom to believe, as they came. There is no `Debug`, as the key is in it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issued {
    /// Whom it is for.
    pub(super) identity: SpiffeId,
    /// Node id of the task: nobody else may renew it.
    node: String,
    /// Fingerprints of what was pinned when this task enrolled.
    pub(super) pinned: Vec<String>,
    /// Seconds since 1970.
    received: u64,
    /// PEM, leaf first.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) key: Zeroizing<String>,
    /// PEM.
    pub(crate) bundle: String,
}

impl Issued {
    pub(super) fn new(
        (identity, node): (SpiffeId, String),
        pinned: Vec<String>,
        received: SystemTime,
        (chain, key, bundle): (String, Zeroizing<String>, String),
    ) -> Self {
        let received = received.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            identity,
            node,
            pinned,
            received: received.as_secs(),
            chain,
            key,
            bundle,
        }
    }

    /// When it came.
    pub(super) fn received(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.received)
    }

    pub(super) fn parse(&self) -> Result<(Credentials, Roots), TlsError> {
        let credentials = Credentials::from_pem(self.chain.as_bytes(), self.key.as_bytes())?;
        Ok((credentials, Roots::from_pem(self.bundle.as_bytes())?))
    }
}

/// The file with a key that there is no certificate for yet.
const PENDING: &str = "identity-pending";

/// A key, and the request for its certificate. There is no `Debug`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    /// Whom it is for.
    pub(super) identity: SpiffeId,
    /// Node id of the task.
    pub(super) node: String,
    /// PEM.
    pub(super) key: Zeroizing<String>,
    /// PEM.
    pub(super) csr: String,
    /// Why the first certificate for it that came was not used.
    #[serde(skip)]
    pub(super) unused: OnceLock<String>,
}

impl Pending {
    /// What is not of use is left alone: the next one replaces it.
    pub(super) fn load(state: &StateDir, (identity, node): (&SpiffeId, &str)) -> Option<Self> {
        let kept = state.read_private(PENDING);
        let kept = kept.inspect_err(|error| tracing::warn!("{error}; with another key"));
        let kept: Self = serde_json::from_str(&kept.ok()??).ok()?;
        (kept.identity == *identity && kept.node == node).then_some(kept)
    }

    pub(super) fn save(&self, state: &StateDir) -> Result<(), StateError> {
        write(state, PENDING, self)
    }

    pub(super) fn remove(state: &StateDir) -> Result<(), StateError> {
        state.remove(PENDING)
    }
}

/// What was kept, if it is of use; the error says why it is not.
pub(super) fn load(
    state: &StateDir,
    (identity, node): (&SpiffeId, &str),
    pinned: Option<&[String]>,
    now: SystemTime,
) -> Result<Option<(Issued, Credentials, Roots)>, String> {
    let shown = |error: StateError| error.to_string();
    let Some(text) = state.read_private(KEPT).map_err(shown)? else {
        return Ok(None);
    };
    let mut issued: Issued = serde_json::from_str(&text)
        // What serde says of it may show the key.
        .map_err(|error| {
            format!(
                "the kept identity is not understood at column {}",
                error.column()
            )
        })?;
    if issued.identity != *identity {
        return Err(format!(
            "the kept identity is {}, not {identity}",
            issued.identity
        ));
    }
    if issued.node != node {
        return Err(format!(
            "the kept identity is of task {:?}, not {node:?}",
            issued.node
        ));
    }
    let (credentials, roots) = issued
        .parse()
        .map_err(|error| format!("the kept identity: {error}"))?;
    if let Some(pinned) = pinned.filter(|pinned| *pinned != issued.pinned) {
        // The roots came from a server that was known: a new pin may be of the CA after a rotation.
        if !pinned.iter().any(|one| roots.fingerprints().contains(one)) {
            return Err(
                "the kept identity is of another CA than the one that is pinned".to_owned(),
            );
        }
        issued.pinned = pinned.to_vec();
    }
    if now > credentials.not_after() + CLOCK_SKEW {
        let ended = httpdate::fmt_http_date(credentials.not_after());
        return Err(format!("the kept identity ended on {ended}"));
    }
    Ok(Some((issued, credentials, roots)))
}

/// Replaces what is kept.
pub(super) fn save(state: &StateDir, issued: &Issued) -> Result<(), StateError> {
    write(state, KEPT, issued)
}

fn write(state: &StateDir, name: &str, secret: &impl Serialize) -> Result<(), StateError> {
    let text = serde_json::to_string(secret).map(Zeroizing::new);
    let text = text.map_err(|error| StateError::Refused {
        path: name.into(),
        reason: error.to_string(),
    })?;
    state.write(name, text.as_bytes())
}
