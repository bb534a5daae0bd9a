//! The other end of a connection, as its certificate says.

use std::fmt::Write;

use bytes::Bytes;
use http::HeaderValue;
use outrigger_xds::identity::SpiffeId;
use outrigger_xds::tls::identity_of;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

/// Made once per connection, and shared by its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// `None` where the certificate has no SPIFFE id (a static file's own CA).
    pub(crate) identity: Option<SpiffeId>,
    /// Who this end is on that connection.
    pub(crate) own: Option<SpiffeId>,
    /// `x-forwarded-client-cert`.
    pub(crate) forwarded: HeaderValue,
}

impl Peer {
    /// Of a chain that was verified, met by `own`; `None` if there is no certificate.
    pub(crate) fn of(chain: &[CertificateDer<'_>], own: Option<&SpiffeId>) -> Option<Self> {
        let leaf = chain.first()?;
        let identity = identity_of(leaf);
        let forwarded = forwarded(own, Sha256::digest(leaf).into(), identity.as_ref());
        Some(Self {
            forwarded: HeaderValue::from_maybe_shared(Bytes::from(forwarded))
                .expect("identities and digits are ASCII"),
            identity,
            own: own.cloned(),
        })
    }
}

/// One element of `x-forwarded-client-cert` (Envoy, "HTTP header manipulation"). A SPIFFE id has none of the characters that
/// would have to be quoted.
fn forwarded(own: Option<&SpiffeId>, hash: [u8; 32], identity: Option<&SpiffeId>) -> String {
    let mut text = String::new();
    if let Some(own) = own {
        text = format!("By={own};");
    }
    text.push_str("Hash=");
    for byte in hash {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    if let Some(identity) = identity {
        let _ = write!(text, ";URI={identity}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_is_told_who_called_in_envoys_words() {
        let id = |service| SpiffeId::service("td", "shop", service).expect("it is an id");
        let hash = std::array::from_fn(|at| at as u8);
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        assert_eq!(
            forwarded(Some(&id("orders")), hash, Some(&id("cart"))),
            format!(
                "By=spiffe://td/ns/shop/svc/orders;Hash={hex};URI=spiffe://td/ns/shop/svc/cart"
            )
        );
        assert_eq!(forwarded(None, hash, None), format!("Hash={hex}"));
    }
}
