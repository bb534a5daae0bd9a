//! Whether the other end may be believed: its chain to a root, its time, and the identity in its leaf (X509-SVID sections 4 and 5).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};

use super::config::provider;
use super::credentials::Roots;
use crate::identity::SpiffeId;

/// How far two clocks may be apart: a certificate is taken so long before it begins and after it ends.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Who the other end must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// One of these.
    OneOf(Vec<SpiffeId>),
    /// Any identity of this trust domain.
    TrustDomain(String),
    /// Any identity of the trust domain that our own is of.
    OwnTrustDomain,
    /// The same; where our own certificate has no identity, whoever a root vouches for.
    Kin,
    /// Whoever a root vouches for, if it has the name that was dialled.
    Dns,
    /// Whoever a root vouches for.
    Anybody,
}

/// A certificate that is good, of somebody else.
struct WrongIdentity {
    is: Option<SpiffeId>,
    expected: Peer,
}

impl fmt::Display for WrongIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.is {
            Some(id) => write!(f, "the peer is {id}")?,
            None => f.write_str("the peer's certificate has not exactly one SPIFFE id")?,
        }
        match &self.expected {
            Peer::OneOf(ids) => {
                f.write_str(", expected")?;
                ids.iter().try_for_each(|id| write!(f, " {id}"))
            }
            Peer::TrustDomain(domain) => write!(f, ", expected one of spiffe://{domain}"),
            Peer::OwnTrustDomain | Peer::Kin | Peer::Dns | Peer::Anybody => Ok(()),
        }
    }
}

impl Peer {
    /// Without a reference to who we are; `None` where we have no SPIFFE id to be of a trust domain by.
    pub(super) fn seen_by(&self, own: Option<&SpiffeId>) -> Option<Self> {
        match self {
            Self::OwnTrustDomain => own.map(|own| Self::TrustDomain(own.trust_domain().to_owned())),
            Self::Kin if own.is_some() => Self::OwnTrustDomain.seen_by(own),
            Self::Kin => Some(Self::Anybody),
            other => Some(other.clone()),
        }
    }
}

/// rustls shows it so.
impl fmt::Debug for WrongIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for WrongIdentity {}

/// A certificate whose time has not come or is over, by more than clocks may differ.
struct OutOfTime {
    seconds: u64,
    over: bool,
}

impl fmt::Display for OutOfTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, skew) = (self.seconds, CLOCK_SKEW.as_secs());
        if self.over {
            write!(f, "the peer's certificate ended {seconds} s ago")?;
        } else {
            write!(f, "the peer's certificate begins in {seconds} s")?;
        }
        write!(f, " by this clock; {skew} s of difference are tolerated")
    }
}

/// rustls shows it so.
impl fmt::Debug for OutOfTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for OutOfTime {}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Why a handshake failed, for a log.
pub fn reason(error: &std::io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(CertificateError::Other(why))) => why.to_string(),
        Some(Error::AlertReceived(alert)) => format!("the peer refused: alert {alert:?}"),
        Some(tls) => tls.to_string(),
        None => error.to_string(),
    }
}

/// Whether a handshake failed because the peer has proved to be somebody else than was meant.
pub fn is_wrong_identity(error: &std::io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) = tls else {
        return false;
    };
    let by_name = matches!(
        why.downcast_ref(),
        Some(webpki::Error::CertNotValidForName(_))
    );
    by_name || why.is::<WrongIdentity>()
}

/// The one SPIFFE id of a leaf (X509-SVID section 2: exactly one URI name).
pub fn identity_of(leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
    let leaf = EndEntityCert::try_from(leaf).ok()?;
    let mut names = leaf.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => name.parse().ok(),
        _ => None,
    }
}

/// Whether a leaf's time is not over, for one that a resumed session stands on and nobody has looked at since.
pub fn is_current(leaf: &CertificateDer<'_>, now: UnixTime) -> bool {
    x509_parser::parse_x509_certificate(leaf).is_ok_and(|(_, parsed)| {
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        now.as_secs() <= ends.saturating_add(CLOCK_SKEW.as_secs())
    })
}

/// What both of rustls' traits ask of a verifier beside its verdict on a chain: signatures, of TLS 1.3 alone.
macro_rules! tls13_alone {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not spoken".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(
                message,
                leaf,
                signed,
                &provider().signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}
pub(super) use tls13_alone;

/// Verifies either end.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Roots,
    peer: Peer,
    mandatory: bool,
}

impl Verifier {
    pub(super) fn new(roots: Roots, peer: Peer, mandatory: bool) -> Self {
        Self {
            roots,
            peer,
            mandatory,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: Option<&ServerName<'_>>,
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(refused)?;
        let all = provider().signature_verification_algorithms.all;
        let at = |time| self.chain(&certificate, intermediates, time, usage, all);
        match at(now) {
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                let seconds = now.as_secs().saturating_sub(not_after.as_secs());
                tolerated(seconds, true)?;
                at(not_after).map_err(refused)?;
            }
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
                let seconds = not_before.as_secs().saturating_sub(now.as_secs());
                tolerated(seconds, false)?;
                at(not_before).map_err(refused)?;
            }
            result => result.map_err(refused)?,
        }
        let is = identity_of(leaf);
        let expected = match &self.peer {
            Peer::OneOf(ids) => is.as_ref().is_some_and(|id| ids.contains(id)),
            Peer::TrustDomain(domain) => is.as_ref().is_some_and(|id| id.trust_domain() == domain),
            Peer::Dns => {
                let name = name.ok_or(CertificateError::NotValidForName)?;
                certificate
                    .verify_is_valid_for_subject_name(name)
                    .map_err(refused)?;
                true
            }
            Peer::Anybody => true,
            // It has become one that is named.
            Peer::OwnTrustDomain | Peer::Kin => false,
        };
        if expected {
            return Ok(());
        }
        let expected = self.peer.clone();
        Err(other(WrongIdentity { is, expected }))
    }

    fn chain(
        &self,
        certificate: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        time: UnixTime,
        usage: KeyUsage,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), webpki::Error> {
        let anchors = &self.roots.store.roots;
        let verified = certificate.verify_for_usage(
            algorithms,
            anchors,
            intermediates,
            time,
            usage,
            None,
            None,
        );
        verified.map(drop)
    }
}

fn tolerated(seconds: u64, over: bool) -> Result<(), Error> {
    if seconds <= CLOCK_SKEW.as_secs() {
        return Ok(());
    }
    Err(other(OutOfTime { seconds, over }))
}

fn refused(error: webpki::Error) -> Error {
    match error {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding.into(),
        error => other(error),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(
            leaf,
            intermediates,
            Some(name),
            now,
            KeyUsage::server_auth(),
        )?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_alone!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, None, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    tls13_alone!();
}
