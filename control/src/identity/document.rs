//! Signed documents (JWT, RFC 7519) of whoever runs the tasks: they say which service a task may be.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use outrigger_xds::identity::CertificateRequest;
use outrigger_xds::tls::CLOCK_SKEW;
use serde::Deserialize;

use super::IdentityError;
use super::enrol::Refusal;
use super::files::read_public;

/// Signatures with a key pair. With a shared key (HS256) whoever checks a document could write one (RFC 8725 section 3.1).
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Whose documents are believed.
#[derive(Debug, Clone)]
pub struct Documents {
    /// The keys (RFC 7517), read anew for every document.
    pub jwks: PathBuf,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
}

#[derive(Deserialize)]
struct Claims {
    namespace: String,
    service: String,
    /// If it is said, for this node alone.
    node: Option<String>,
    /// Looked at apart, for a clear answer.
    iat: Option<u64>,
}

impl Documents {
    /// Refuses a file without keys.
    pub(super) fn check(&self) -> Result<(), IdentityError> {
        self.keys().map(drop)
    }

    fn keys(&self) -> Result<JwkSet, IdentityError> {
        let text = read_public("--document-jwks", &self.jwks)?;
        let wrong = |reason: &dyn std::fmt::Display| {
            IdentityError::of("--document-jwks", &self.jwks, reason)
        };
        let keys: JwkSet = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        match keys.keys.is_empty() {
            true => Err(wrong(&"has no keys")),
            false => Ok(keys),
        }
    }

    /// Whether the document says that the request may be made.
    pub(super) fn verify(
        &self,
        document: &str,
        request: &CertificateRequest,
    ) -> Result<(), Refusal> {
        let keys = self.keys()?;
        let header = decode_header(document)
            .map_err(|_| Refusal::denied("bad_document", "the document is no signed JWT"))?;
        if !ALGORITHMS.contains(&header.alg) {
            let reason = format!("documents signed with {:?} are not taken", header.alg);
            return Err(Refusal::denied("bad_document", reason));
        }
        let key = match &header.kid {
            Some(kid) => keys.find(kid),
            None if keys.keys.len() == 1 => keys.keys.first(),
            None => None,
        };
        let key = key.filter(|key| !matches!(key.algorithm, AlgorithmParameters::OctetKey(_)));
        let key = key.and_then(|key| DecodingKey::from_jwk(key).ok());
        let Some(key) = key else {
            let reason = "the document is signed with a key that is not known here";
            return Err(Refusal::denied("unknown_key", reason));
        };
        let mut validation = Validation::new(header.alg);
        validation.leeway = CLOCK_SKEW.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        let claims =
            decode::<Claims>(document, &key, &validation).map_err(|error| refused(&error))?;
        allows(&claims.claims, request)
    }
}

fn allows(claims: &Claims, request: &CertificateRequest) -> Result<(), Refusal> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let latest = now.unwrap_or_default() + CLOCK_SKEW;
    if claims.iat.is_some_and(|made| made > latest.as_secs()) {
        let reason = "the document is from the future by this clock";
        return Err(Refusal::denied("clock", reason));
    }
    if (&claims.namespace, &claims.service) != (&request.namespace, &request.service) {
        let (namespace, service) = (&claims.namespace, &claims.service);
        let reason = format!("the document is for service {service:?} in namespace {namespace:?}");
        return Err(Refusal::denied("document_of_another_service", reason));
    }
    match &claims.node {
        Some(node) if *node != request.node => {
            let reason = format!("the document is for node {node:?}");
            Err(Refusal::denied("document_of_another_node", reason))
        }
        _ => Ok(()),
    }
}

fn refused(error: &Error) -> Refusal {
    let (code, reason) = match error.kind() {
        ErrorKind::ExpiredSignature => ("expired_document", "the document has expired".to_owned()),
        ErrorKind::ImmatureSignature => {
            let reason = "the document is not good yet by this clock".to_owned();
            ("clock", reason)
        }
        ErrorKind::InvalidIssuer => ("bad_document", "the document's iss is another".to_owned()),
        ErrorKind::InvalidAudience => ("bad_document", "the document's aud is another".to_owned()),
        ErrorKind::InvalidSignature => {
            let reason = "the document's signature is wrong".to_owned();
            ("bad_document", reason)
        }
        ErrorKind::MissingRequiredClaim(claim) => {
            ("bad_document", format!("the document has no {claim}"))
        }
        _ => {
            let reason = "the document cannot be read; it needs namespace and service".to_owned();
            ("bad_document", reason)
        }
    };
    Refusal::Denied(code, reason)
}
