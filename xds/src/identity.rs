//! Who a task is: SPIFFE ids, the TLS mode of a service, and who may call it. Nothing here knows of certificates.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest id (SPIFFE-ID section 2.3).
const MAX_LENGTH: usize = 2048;
/// The longest trust domain (SPIFFE-ID section 2.3).
const MAX_TRUST_DOMAIN: usize = 255;
const SCHEME: &str = "spiffe://";

/// The trust domain of a control server that is not told another.
pub const DEFAULT_TRUST_DOMAIN: &str = "outrigger.internal";

/// The name under which SDS carries the roots.
pub const TRUST_BUNDLE: &str = "outrigger-trust-bundle";

/// A SPIFFE id (SPIFFE-ID section 2). A service's is `spiffe://<trust domain>/ns/<namespace>/svc/<service>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId(String);

impl SpiffeId {
    /// The identity of a service's tasks. The error names the part that cannot stand in an id.
    pub fn service(trust_domain: &str, namespace: &str, service: &str) -> Result<Self, String> {
        for (part, value) in [("namespace", namespace), ("service", service)] {
            segment(value).map_err(|reason| format!("{part} {value:?} {reason}"))?;
        }
        format!("{SCHEME}{trust_domain}/ns/{namespace}/svc/{service}").parse()
    }

    /// The identity of the control servers of a trust domain.
    pub fn control(trust_domain: &str) -> Result<Self, String> {
        format!("{SCHEME}{trust_domain}/outrigger/control").parse()
    }

    /// The identity of whoever operates a trust domain's control servers.
    pub fn operator(trust_domain: &str) -> Result<Self, String> {
        format!("{SCHEME}{trust_domain}/outrigger/operator").parse()
    }

    /// The part before the path.
    pub fn trust_domain(&self) -> &str {
        self.split().0
    }

    /// Namespace and service, if it is a service's.
    pub fn as_service(&self) -> Option<(&str, &str)> {
        let (_, path) = self.split();
        let (namespace, service) = path.strip_prefix("/ns/")?.split_once("/svc/")?;
        let whole = !namespace.contains('/') && !service.contains('/');
        whole.then_some((namespace, service))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Trust domain, and path with its slash.
    fn split(&self) -> (&str, &str) {
        let rest = &self.0[SCHEME.len()..];
        rest.split_at(rest.find('/').unwrap_or(rest.len()))
    }
}

impl FromStr for SpiffeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |reason: &str| Err(format!("{text:?} is not a SPIFFE id: {reason}"));
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return refuse("it does not begin with spiffe://");
        };
        if text.len() > MAX_LENGTH {
            return refuse("it is longer than 2048 bytes");
        }
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if let Err(reason) = trust_domain(domain) {
            return refuse(&format!("the trust domain {reason}"));
        }
        for part in path.split('/').skip(1) {
            if let Err(reason) = segment(part) {
                return refuse(&format!("a part of its path {reason}"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether a trust domain may be named so (SPIFFE-ID section 2.1).
pub fn trust_domain(text: &str) -> Result<(), &'static str> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if text.is_empty() || text.len() > MAX_TRUST_DOMAIN {
        return Err("must have 1 to 255 characters");
    }
    if !text.bytes().all(allowed) {
        return Err("may have lower-case letters, digits, dots, dashes and underscores alone");
    }
    Ok(())
}

/// SPIFFE-ID section 2.2.
fn segment(text: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if text.is_empty() || text == "." || text == ".." {
        return Err("is empty, or dots alone");
    }
    if !text.bytes().all(allowed) {
        return Err("has other characters than letters, digits, dots, dashes and underscores");
    }
    Ok(())
}

impl TryFrom<String> for SpiffeId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the tasks of a service take TLS, and nothing else. The stricter mode is the greater one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// Plaintext alone.
    #[default]
    Disable,
    /// Both, told apart by the first byte: for the way from one to the other.
    Permissive,
    /// Mutual TLS alone.
    Strict,
}

impl TlsMode {
    /// The word used in configuration, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TlsMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "disable" => Ok(Self::Disable),
            "permissive" => Ok(Self::Permissive),
            "strict" => Ok(Self::Strict),
            _ => Err("must be disable, permissive or strict".to_owned()),
        }
    }
}

/// Who may call a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Authorization {
    /// What happens to a request that no rule allows.
    pub default: Access,
    /// What would be refused is passed on, logged and counted.
    pub dry_run: bool,
    /// A request is allowed if one of them matches.
    pub allow: Vec<Rule>,
}

/// Whether a request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It is.
    Allow,
    /// It is not.
    #[default]
    Deny,
}

/// Some callers, and what they may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Callers, see [`Caller`]; at least one.
    pub from: Vec<Caller>,
    /// HTTP methods; empty is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Prefixes of the path, by whole segments unless they end in a slash; empty is any. A gRPC method is `/package.Service/Method`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

/// Some identities: `*` (every one of the trust domain), `service` (of the called service's own namespace), `namespace/service`,
/// `namespace/*`, or a SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Caller {
    /// Every identity of the trust domain.
    Any,
    /// Of the trust domain; the namespace is the called service's own if it is not said.
    Service {
        /// Cloud Map namespace.
        namespace: Option<String>,
        /// ECS service name; `None` is every one.
        service: Option<String>,
    },
    /// Exactly this one, of whatever trust domain.
    Id(SpiffeId),
}

impl Caller {
    /// Whether `peer` is among them, as the callee with the identity `own` sees it.
    pub fn is(&self, peer: &SpiffeId, own: &SpiffeId) -> bool {
        if let Self::Id(id) = self {
            return id == peer;
        }
        if peer.trust_domain() != own.trust_domain() {
            return false;
        }
        let Self::Service { namespace, service } = self else {
            return true;
        };
        let own_namespace = own.as_service().map(|(namespace, _)| namespace);
        peer.as_service().is_some_and(|(of, name)| {
            namespace.as_deref().or(own_namespace) == Some(of)
                && service.as_deref().is_none_or(|service| service == name)
        })
    }
}

impl FromStr for Caller {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.starts_with(SCHEME) {
            return text.parse().map(Self::Id);
        }
        let (namespace, service) = match text.split_once('/') {
            Some((namespace, service)) => (Some(namespace), service),
            None => (None, text),
        };
        let service = match (namespace, service) {
            (Some(_), "*") => None,
            (_, service) => Some(service),
        };
        for part in namespace.iter().chain(&service) {
            segment(part).map_err(|reason| {
                format!(
                    "{text:?} {reason}; a caller is a service, namespace/service, namespace/*, * or a SPIFFE id"
                )
            })?;
        }
        Ok(Self::Service {
            namespace: namespace.map(str::to_owned),
            service: service.map(str::to_owned),
        })
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Id(id) => id.fmt(f),
            Self::Service { namespace, service } => {
                if let Some(namespace) = namespace {
                    write!(f, "{namespace}/")?;
                }
                f.write_str(service.as_deref().unwrap_or("*"))
            }
        }
    }
}

impl TryFrom<String> for Caller {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Caller> for String {
    fn from(caller: Caller) -> Self {
        caller.to_string()
    }
}

/// What a sidecar sends to the control server for a certificate, as JSON: `POST /v1/identity`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// PKCS #10, PEM. Its key is the leaf's; what it asks for beside that is not looked at.
    pub csr: String,
    /// Cloud Map namespace.
    pub namespace: String,
    /// The service that the task belongs to (`serviceName` of its document).
    pub service: String,
    /// Node id of the task.
    pub node: String,
    /// Why it may be that service. `None` where it comes over a connection with a certificate of the same identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// Why a node may be a service. `Debug` hides them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Good once.
    JoinToken(String),
    /// Shared by the tasks of a service.
    ServiceToken(String),
    /// A signed document (JWT) of whoever runs the task.
    Document(String),
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JoinToken(_) => "JoinToken",
            Self::ServiceToken(_) => "ServiceToken",
            Self::Document(_) => "Document",
        })
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The leaf and what leads to a root, PEM.
    pub chain: String,
    /// All roots that are trusted now, PEM.
    pub bundle: String,
    /// Whom it is for.
    pub identity: SpiffeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_a_trust_domain_and_a_service() {
        let id = SpiffeId::service("example.org", "shop", "orders").unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/ns/shop/svc/orders");
        assert_eq!(id.trust_domain(), "example.org");
        assert_eq!(id.as_service(), Some(("shop", "orders")));
        let other: SpiffeId = "spiffe://example.org/a/b".parse().unwrap();
        assert_eq!(other.as_service(), None);
        let root: SpiffeId = "spiffe://example.org".parse().unwrap();
        assert_eq!(root.trust_domain(), "example.org");
        for wrong in [
            "",
            "https://example.org/a",
            "spiffe://",
            "spiffe:///a",
            "spiffe://Example.org/a",
            "spiffe://example.org/",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/a//b",
            "spiffe://example.org/a?b",
            "spiffe://example.org:80/a",
        ] {
            assert!(wrong.parse::<SpiffeId>().is_err(), "{wrong}");
        }
        assert!(SpiffeId::service("example.org", "shop/x", "orders").is_err());
    }

    #[test]
    fn callers_are_told_by_service_namespace_or_id() {
        let own = SpiffeId::service("td", "shop", "orders").unwrap();
        let of =
            |domain, namespace, service| SpiffeId::service(domain, namespace, service).unwrap();
        for (text, peer, is) in [
            ("*", of("td", "a", "b"), true),
            ("*", of("other", "a", "b"), false),
            ("cart", of("td", "shop", "cart"), true),
            ("cart", of("td", "else", "cart"), false),
            ("else/cart", of("td", "else", "cart"), true),
            ("else/*", of("td", "else", "anything"), true),
            ("else/*", of("td", "shop", "cart"), false),
            ("cart", of("other", "shop", "cart"), false),
            (
                "spiffe://other/ns/shop/svc/cart",
                of("other", "shop", "cart"),
                true,
            ),
            (
                "spiffe://other/ns/shop/svc/cart",
                of("td", "shop", "cart"),
                false,
            ),
        ] {
            let caller: Caller = text.parse().unwrap();
            assert_eq!(caller.is(&peer, &own), is, "{text} {peer}");
            assert_eq!(caller.to_string(), text);
        }
        for wrong in ["", "a/b/c", "a b", "/b", "a/", "spiffe://X/a"] {
            assert!(wrong.parse::<Caller>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nobody_sees_a_proof_in_a_log() {
        let shown = format!("{:?}", Proof::ServiceToken("s3cret".to_owned()));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
