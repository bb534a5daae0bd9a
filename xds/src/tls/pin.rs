//! The first contact: nobody is believed yet but a root that was named beforehand.

use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
};

use super::config::provider;
use super::credentials::{Roots, fingerprint};
use super::verify::{Peer, Verifier, tls13_alone};

/// The root by which a control server is known before there is a bundle.
#[derive(Debug, Clone)]
pub enum Pin {
    /// SHA-256 of the root, 64 hex digits in lower case; the server sends the root itself.
    Fingerprint(String),
    /// The root, or several.
    Roots(Roots),
}

/// A fingerprint as Outrigger or `openssl x509 -fingerprint -sha256` writes it.
impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.replace(':', "").to_ascii_lowercase();
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("must be a SHA-256 fingerprint: 64 hex digits".to_owned());
        }
        Ok(Self::Fingerprint(hex))
    }
}

impl Pin {
    /// Of every root that it names.
    pub fn fingerprints(&self) -> &[String] {
        match self {
            Self::Fingerprint(one) => std::slice::from_ref(one),
            Self::Roots(roots) => roots.fingerprints(),
        }
    }

    /// Connects without a certificate to `peer` alone, whose chain has to end in what is pinned.
    pub fn connect(&self, peer: Peer, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let pinned = Pinned {
            pin: self.clone(),
            peer,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

/// What was sent has another root.
#[derive(thiserror::Error)]
#[error(
    "the server's chain does not end in the root with the fingerprint {expected}, but has {sent}"
)]
struct NotPinned {
    expected: String,
    sent: String,
}

/// rustls shows it so.
impl std::fmt::Debug for NotPinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[derive(Debug)]
struct Pinned {
    pin: Pin,
    peer: Peer,
}

impl Pinned {
    /// The roots, one of which was sent if only its fingerprint is known.
    fn roots(&self, sent: &[CertificateDer<'_>]) -> Result<Roots, Error> {
        let expected = match &self.pin {
            Pin::Roots(roots) => return Ok(roots.clone()),
            Pin::Fingerprint(expected) => expected,
        };
        let sent_fingerprints: Vec<_> = sent.iter().map(|one| fingerprint(one)).collect();
        let found = sent_fingerprints.iter().position(|one| one == expected);
        let root = found.map(|index| sent[index].clone().into_owned());
        let root = root.ok_or_else(|| NotPinned {
            expected: expected.clone(),
            sent: match sent_fingerprints.is_empty() {
                true => "only a leaf".to_owned(),
                false => sent_fingerprints.join(" "),
            },
        });
        let wrong = |error| CertificateError::Other(OtherError(Arc::new(error)));
        Roots::new(&[root.map_err(wrong)?]).map_err(|_| CertificateError::BadEncoding.into())
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.roots(intermediates)?;
        Verifier::new(roots, self.peer.clone(), true).verify_server_cert(
            leaf,
            intermediates,
            name,
            ocsp,
            now,
        )
    }

    tls13_alone!();
}
