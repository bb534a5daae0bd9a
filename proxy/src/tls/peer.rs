//! The other end of a connection, as its certificate says.

use outrigger_xds::identity::SpiffeId;
use outrigger_xds::tls::identity_of;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

/// Made once per connection, and shared by its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// `None` where the certificate has no SPIFFE id (a static file's own CA).
    pub(crate) identity: Option<SpiffeId>,
    /// SHA-256 of the leaf, as `x-forwarded-client-cert` has it in `Hash`.
    pub(crate) hash: [u8; 32],
}

impl Peer {
    /// Of a chain that was verified; `None` if there is no certificate.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = chain.first()?;
        Some(Self {
            identity: identity_of(leaf),
            hash: Sha256::digest(leaf).into(),
        })
    }
}
