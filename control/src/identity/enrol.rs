//! Whether a node may be a service: its proof is checked, used up and only then its key signed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::identity::{Certificate, CertificateRequest, Proof, SpiffeId};
use rcgen::PublicKeyData;
use sha2::{Digest, Sha256};

use super::{Authority, IdentityError, sign};
use crate::accept::Caller;
use crate::registry::{Error, Shown};
use crate::writer::Writer;

/// How long a wrong proof waits for its answer, so that nobody tries many on one connection.
const PENANCE: Duration = Duration::from_millis(250);
/// What the common name of a leaf holds (RFC 5280, ub-common-name): every leaf says its node.
const MAX_NODE: usize = 64;

/// Why there is no certificate.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The request says what cannot be meant.
    Invalid(String),
    /// A word for programs, and a sentence.
    Denied(&'static str, String),
    /// Our fault.
    Failed(String),
}

impl Refusal {
    pub(super) fn denied(code: &'static str, message: impl fmt::Display) -> Self {
        Self::Denied(code, message.to_string())
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// SHA-256, hex.
pub(super) fn digest(bytes: impl AsRef<[u8]>) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a certificate is given for, and the id of the token by which its node enrolled.
type By = (String, Option<String>);

fn by_token(id: String) -> By {
    (id.clone(), Some(id))
}

/// Gives out certificates.
pub(crate) struct Enrolment {
    pub(crate) authority: Arc<Authority>,
    pub(crate) writer: Writer,
}

impl Enrolment {
    /// Signs the key of a request whose proof is good.
    pub(crate) async fn enrol(
        &self,
        caller: &Caller,
        request: CertificateRequest,
    ) -> Result<Certificate, Refusal> {
        let (namespace, service) = (request.namespace.clone(), request.service.clone());
        let (node, peer) = (request.node.clone(), caller.address);
        let given = request.proof.as_ref().map(kind);
        let result = self.check(caller, request).await;
        match &result {
            Ok((_, by)) => {
                tracing::info!(%peer, namespace, service, node, by, "a certificate is signed");
            }
            Err(Refusal::Denied(code, reason)) => {
                tracing::warn!(%peer, namespace, service, node, given, code, reason, "no certificate is signed");
                tokio::time::sleep(PENANCE).await;
            }
            Err(Refusal::Invalid(reason)) => {
                tracing::warn!(%peer, reason, "a request for a certificate cannot be meant");
            }
            Err(Refusal::Failed(reason)) => {
                tracing::error!(%peer, reason, "a certificate could not be signed");
            }
        }
        result.map(|(certificate, _)| certificate)
    }

    /// The certificate, and what it was given for.
    async fn check(
        &self,
        caller: &Caller,
        request: CertificateRequest,
    ) -> Result<(Certificate, String), Refusal> {
        let domain = &self.authority.settings().trust_domain;
        let identity = SpiffeId::service(domain, &request.namespace, &request.service)
            .map_err(Refusal::Invalid)?;
        let node = &request.node;
        if node.is_empty()
            || node.len() > MAX_NODE
            || !node.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let reason = format!("must have 1 to {MAX_NODE} printable characters without spaces");
            return Err(Refusal::Invalid(format!("node {node:?} {reason}")));
        }
        let key = sign::key_of_request(&request.csr)
            .map_err(|reason| Refusal::Invalid(format!("csr: {reason}")))?;
        self.is_free(node, &identity)?;
        let (by, token) = match &request.proof {
            None => self.renewal(caller, &identity, node)?,
            Some(_) if !caller.encrypted && !caller.is_local() => {
                let reason = "a proof is not taken over an unencrypted connection from another host; use https, and hold this one for stolen";
                return Err(Refusal::denied("unencrypted", reason));
            }
            Some(Proof::JoinToken(token)) => {
                by_token(self.token(token, true, &request, &key).await?)
            }
            Some(Proof::ServiceToken(token)) => {
                by_token(self.token(token, false, &request, &key).await?)
            }
            Some(Proof::Document(document)) => {
                let Some(documents) = &self.authority.settings().documents else {
                    let reason = "documents are not taken here: there is no --document-jwks";
                    return Err(Refusal::denied("no_documents", reason));
                };
                documents.verify(document, &request)?;
                ("document".to_owned(), None)
            }
        };
        let certificate = self
            .authority
            .sign(identity, node, token.as_deref(), &key)?;
        Ok((certificate, by))
    }

    /// Whether no other service has instances that take TLS on the node.
    fn is_free(&self, node: &str, identity: &SpiffeId) -> Result<(), Refusal> {
        let registry = self.writer.read();
        match registry.other_identity_bound_to(node, Some(identity)) {
            Some(other) => {
                let reason = format!("node {node:?} has instances of {other}");
                Err(Refusal::denied("node_of_another_service", reason))
            }
            None => Ok(()),
        }
    }

    /// Whoever has a certificate gets the next one, for the same service and node, unless the token that it first had is revoked.
    fn renewal(&self, caller: &Caller, identity: &SpiffeId, node: &str) -> Result<By, Refusal> {
        let Some(leaf) = &caller.leaf else {
            let reason = "there is neither a proof nor a certificate on the connection";
            return Err(Refusal::denied("no_proof", reason));
        };
        if !leaf.is_current() {
            let reason = "the certificate on the connection has ended; show a proof";
            return Err(Refusal::denied("expired_certificate", reason));
        }
        if leaf.identity != *identity {
            let reason = format!("the connection's certificate is for {}", leaf.identity);
            return Err(Refusal::denied("certificate_of_another_service", reason));
        }
        if leaf.node.as_deref() != Some(node) {
            let reason = match &leaf.node {
                Some(own) => format!("the connection's certificate is for node {own:?}"),
                None => "the connection's certificate says no node".to_owned(),
            };
            return Err(Refusal::denied("certificate_of_another_node", reason));
        }
        if let Some(token) = &leaf.token
            && self.writer.read().is_revoked(token)
        {
            let reason = format!("token {token}, by which this node enrolled, is revoked");
            return Err(Refusal::denied("revoked_token", reason));
        }
        Ok(("certificate".to_owned(), leaf.token.clone()))
    }

    async fn token(
        &self,
        token: &str,
        once: bool,
        request: &CertificateRequest,
        key: &impl PublicKeyData,
    ) -> Result<String, Refusal> {
        let shown = Shown {
            digest: digest(token),
            once,
            namespace: request.namespace.clone(),
            service: request.service.clone(),
            key: digest([key.der_bytes(), request.node.as_bytes()].concat()),
        };
        let used = self
            .writer
            .call(move |registry, context| registry.use_token(context, &shown))
            .await?;
        used.map_err(|refused| Refusal::denied(refused.code(), refused))
    }
}

const fn kind(proof: &Proof) -> &'static str {
    match proof {
        Proof::JoinToken(_) => "join token",
        Proof::ServiceToken(_) => "service token",
        Proof::Document(_) => "document",
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::identity::Settings;
    use crate::store::Store;

    #[tokio::test]
    async fn a_token_in_plaintext_from_another_host_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (store, loaded) = Store::in_memory(&mut StdRng::seed_from_u64(1)).unwrap();
        let (writer, _) = Writer::start(store, loaded.registry, drop).unwrap();
        let authority = Authority::open(folder.path(), Settings::default()).unwrap();
        let enrolment = Enrolment {
            authority: Arc::new(authority),
            writer,
        };
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key);
        let request = || CertificateRequest {
            csr: csr.as_ref().unwrap().pem().unwrap(),
            namespace: "shop".to_owned(),
            service: "orders".to_owned(),
            node: "n".to_owned(),
            proof: Some(Proof::JoinToken("t".to_owned())),
        };
        for (from, expected) in [
            ("10.0.0.1:1", "unencrypted"),
            ("127.0.0.1:1", "unknown_token"),
        ] {
            let caller = Caller::plain(from.parse().unwrap());
            let Err(Refusal::Denied(code, _)) = enrolment.enrol(&caller, request()).await else {
                panic!("it is denied")
            };
            assert_eq!(code, expected);
        }
    }
}
