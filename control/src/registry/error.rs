//! Why the registry refused something, in the error names that Cloud Map documents.

/// A refusal; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{field}: {reason}")]
    InvalidInput { field: String, reason: String },
    #[error("namespace {0:?} does not exist")]
    NamespaceNotFound(String),
    #[error("namespace {name:?} already exists as {namespace_id}")]
    NamespaceAlreadyExists {
        name: String,
        namespace_id: String,
        creator_request_id: Option<String>,
    },
    #[error("service {0:?} does not exist")]
    ServiceNotFound(String),
    #[error("service {name:?} already exists in the namespace as {service_id}")]
    ServiceAlreadyExists {
        name: String,
        service_id: String,
        creator_request_id: Option<String>,
    },
    #[error("instance {instance:?} does not exist in service {service}")]
    InstanceNotFound {
        service: String,
        instance: String,
        /// The operation that took it out, while that is remembered.
        deregistered: Option<String>,
    },
    #[error("operation {0:?} does not exist, or is too old to be remembered")]
    OperationNotFound(String),
    #[error("{0}")]
    ResourceInUse(String),
    #[error("{0}")]
    ResourceLimitExceeded(String),
    #[error("service {0} has no HealthCheckCustomConfig")]
    CustomHealthNotFound(String),
    #[error("service {service} would have {count} attributes, more than {limit}")]
    ServiceAttributesLimitExceeded {
        service: String,
        count: usize,
        limit: usize,
    },
    #[error("Tags: {count} tags are more than {limit}")]
    TooManyTags { count: usize, limit: usize },
    #[error("token {0:?} does not exist")]
    TokenNotFound(String),
    #[error("{0}")]
    AccessDenied(String),
    #[error("the registry could not be written: {0}")]
    Internal(String),
}

impl Error {
    /// The error's name on the wire.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::InvalidInput { .. } => "InvalidInput",
            Self::NamespaceNotFound(_) => "NamespaceNotFound",
            Self::NamespaceAlreadyExists { .. } => "NamespaceAlreadyExists",
            Self::ServiceNotFound(_) => "ServiceNotFound",
            Self::ServiceAlreadyExists { .. } => "ServiceAlreadyExists",
            Self::InstanceNotFound { .. } => "InstanceNotFound",
            Self::OperationNotFound(_) => "OperationNotFound",
            Self::ResourceInUse(_) => "ResourceInUse",
            Self::ResourceLimitExceeded(_) => "ResourceLimitExceeded",
            Self::CustomHealthNotFound(_) => "CustomHealthNotFound",
            Self::ServiceAttributesLimitExceeded { .. } => {
                "ServiceAttributesLimitExceededException"
            }
            Self::TooManyTags { .. } => "TooManyTagsException",
            Self::TokenNotFound(_) => "TokenNotFound",
            Self::AccessDenied(_) => "AccessDeniedException",
            Self::Internal(_) => "InternalFailure",
        }
    }
}

/// A refusal of one field.
pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::InvalidInput {
        field: field.into(),
        reason: reason.into(),
    }
}
