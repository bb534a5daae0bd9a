//! The rows of the registry as they are kept, and the changes that lead from one state to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
pub(crate) type Millis = u64;

/// A name shared by services that find each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespace {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) creator_request_id: Option<String>,
    pub(crate) created: Millis,
    pub(crate) tags: Vec<Tag>,
    pub(crate) operation_id: String,
}

/// A tag as `CreateHttpNamespace` and `CreateService` take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tag {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// A service: its discovery name, its declaration (the attributes) and what it was created with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) id: String,
    pub(crate) namespace_id: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) creator_request_id: Option<String>,
    pub(crate) created: Millis,
    pub(crate) tags: Vec<Tag>,
    pub(crate) health_check: Option<HealthCheckConfig>,
    /// `HealthCheckCustomConfig.FailureThreshold`; the outer option is whether the configuration was given.
    pub(crate) custom_health: Option<Option<u32>>,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Declarations in the order in which they were first seen; the last is the newest.
    pub(crate) revisions: Vec<String>,
}

/// `HealthCheckConfig`: the sidecars run these probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthCheckConfig {
    pub(crate) kind: String,
    pub(crate) path: Option<String>,
    pub(crate) failure_threshold: Option<u32>,
}

/// One task of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) service_id: String,
    pub(crate) id: String,
    pub(crate) creator_request_id: Option<String>,
    pub(crate) attributes: BTreeMap<String, String>,
    /// `UpdateInstanceCustomHealthStatus`, or `AWS_INIT_HEALTH_STATUS`.
    pub(crate) healthy: bool,
    pub(crate) operation_id: String,
}

/// What an asynchronous call did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) sequence: u64,
    pub(crate) id: String,
    pub(crate) kind: OperationKind,
    pub(crate) at: Millis,
    pub(crate) namespace_id: Option<String>,
    pub(crate) service_id: Option<String>,
    pub(crate) instance_id: Option<String>,
    /// A deregistration whose instance still drains; everything else is done when its call is answered.
    #[serde(default)]
    pub(crate) pending: bool,
}

impl Operation {
    pub(crate) const fn status(&self) -> &'static str {
        if self.pending { "PENDING" } else { "SUCCESS" }
    }
}

/// The documented operation types that this server's calls have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum OperationKind {
    CreateNamespace,
    DeleteNamespace,
    RegisterInstance,
    DeregisterInstance,
}

impl OperationKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::CreateNamespace => "CREATE_NAMESPACE",
            Self::DeleteNamespace => "DELETE_NAMESPACE",
            Self::RegisterInstance => "REGISTER_INSTANCE",
            Self::DeregisterInstance => "DEREGISTER_INSTANCE",
        }
    }
}

/// The address offset of one (namespace, dnsName).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vip {
    pub(crate) namespace: String,
    pub(crate) dns_name: String,
    pub(crate) offset: u16,
    /// When the last alias of this name went away; the offset rests from then on.
    pub(crate) released: Option<Millis>,
}

/// What a task may enrol with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) id: String,
    /// SHA-256 of the token, hex. The token itself is kept nowhere.
    pub(crate) digest: String,
    /// The fingerprint of the root that it pins, if it says one.
    #[serde(default)]
    pub(crate) pin: Option<String>,
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// How often it is good; `None` is shared.
    pub(crate) uses: Option<u32>,
    pub(crate) created: Millis,
    pub(crate) expires: Option<Millis>,
    pub(crate) revoked: bool,
    pub(crate) used: u32,
    pub(crate) recent: Vec<Use>,
}

/// A use of a token a moment ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    /// SHA-256 of the key that was signed and of its node, hex.
    pub(crate) key: String,
    pub(crate) at: Millis,
}

/// One step between two states; a plan is a list of them, and is committed as a whole or not at all.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Namespace(Arc<Namespace>),
    DropNamespace(String),
    Service(Arc<Service>),
    DropService(String),
    /// `InstancesRevision` of a service.
    Revision(String, u64),
    Instance(Arc<Instance>),
    DropInstance {
        service: String,
        instance: String,
    },
    Operation(Arc<Operation>),
    DropOperation(u64),
    Vip(Arc<Vip>),
    DropVip {
        namespace: String,
        dns_name: String,
    },
    Token(Arc<Token>),
    /// By digest.
    DropToken(String),
    /// The liveness of a node has expired.
    Lost(String),
    /// A lost node is back, or nothing is bound to it any more.
    Found(String),
}
