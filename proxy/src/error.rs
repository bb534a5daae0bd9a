//! What can go wrong with a request, whose fault it is, and what may be done about it.

use std::error::Error;
use std::fmt;

use http::StatusCode;

use crate::policy::retry::Retriable;

/// Who caused a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The client that connected to us.
    Downstream,
    /// The endpoint we called.
    Upstream,
    /// This sidecar.
    Internal,
    /// What we were told to do.
    Config,
}

/// What went wrong. Status, response flag and retriability are exhaustive matches on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// No route of the listener matches the request.
    NoRoute,
    /// The route names a cluster of which nothing has come within the request's own deadline.
    NoCluster,
    /// The cluster has no endpoint that may be offered.
    NoHealthyEndpoint,
    /// TCP, TLS or protocol handshake with the endpoint failed.
    ConnectFailed,
    /// The endpoint did not complete the connection in time.
    ConnectTimeout,
    /// The TLS handshake with the endpoint failed.
    TlsFailed,
    /// The endpoint's certificate is good and of somebody else.
    TlsIdentity,
    /// The endpoint takes TLS alone, and this sidecar has no identity to show it.
    NoIdentity,
    /// Whoever answers at the endpoint's address is not the task that is meant (`proxy/HOP.md`).
    Misdirected,
    /// The request was handed back before a byte of it was written.
    Unsent,
    /// The endpoint refused the stream (REFUSED_STREAM, or a stream above GOAWAY's last id; RFC 9113 section 8.7).
    RefusedStream,
    /// The connection ended after bytes were written and before a response head.
    ConnectionTermination,
    /// The endpoint reset the stream after bytes were written.
    RemoteReset,
    /// The endpoint's answer is not valid HTTP.
    UpstreamProtocol,
    /// The per-request timeout passed.
    RequestTimeout,
    /// One attempt did not answer within its share of the time.
    PerTryTimeout,
    /// No byte moved either way for the idle timeout.
    IdleTimeout,
    /// The client began a request head and did not end it in time.
    HeaderTimeout,
    /// No byte moved while the client owed the rest of its request.
    BodyTimeout,
    /// A limit of this sidecar was reached.
    Overflow,
    /// The client went away or broke off its request.
    DownstreamTermination,
    /// The client's message is not valid HTTP, or asks for what is refused.
    DownstreamProtocol,
    /// The request's head is larger than HTTP/2 towards the endpoint may carry.
    HeadTooLarge,
    /// The method is refused (plain CONNECT).
    MethodRefused,
    /// The protocol upgrade could not be completed.
    UpgradeFailed,
    /// The service does not list the caller.
    Unauthorized,
}

impl Kind {
    /// Every kind, for the metric's label set.
    pub(crate) const ALL: [Self; 26] = [
        Self::NoRoute,
        Self::NoCluster,
        Self::NoHealthyEndpoint,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::TlsFailed,
        Self::TlsIdentity,
        Self::NoIdentity,
        Self::Misdirected,
        Self::Unsent,
        Self::RefusedStream,
        Self::ConnectionTermination,
        Self::RemoteReset,
        Self::UpstreamProtocol,
        Self::RequestTimeout,
        Self::PerTryTimeout,
        Self::IdleTimeout,
        Self::HeaderTimeout,
        Self::BodyTimeout,
        Self::Overflow,
        Self::DownstreamTermination,
        Self::DownstreamProtocol,
        Self::HeadTooLarge,
        Self::MethodRefused,
        Self::UpgradeFailed,
        Self::Unauthorized,
    ];

    /// Whose fault it is.
    pub(crate) const fn source(self) -> Source {
        match self {
            Self::NoRoute | Self::NoCluster => Source::Config,
            Self::NoHealthyEndpoint
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailed
            | Self::TlsIdentity
            | Self::Misdirected
            | Self::Unsent
            | Self::RefusedStream
            | Self::ConnectionTermination
            | Self::RemoteReset
            | Self::UpstreamProtocol
            | Self::RequestTimeout
            | Self::PerTryTimeout
            | Self::UpgradeFailed => Source::Upstream,
            Self::IdleTimeout
            | Self::HeaderTimeout
            | Self::BodyTimeout
            | Self::DownstreamTermination
            | Self::DownstreamProtocol
            | Self::HeadTooLarge
            | Self::MethodRefused
            | Self::Unauthorized => Source::Downstream,
            Self::Overflow | Self::NoIdentity => Source::Internal,
        }
    }

    /// What the client is answered.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoCluster
            | Self::NoHealthyEndpoint
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailed
            | Self::TlsIdentity
            | Self::NoIdentity
            | Self::Misdirected
            | Self::Unsent
            | Self::RefusedStream
            | Self::Overflow => StatusCode::SERVICE_UNAVAILABLE,
            // 503 would invite a client to send again what may have been acted upon.
            Self::ConnectionTermination
            | Self::RemoteReset
            | Self::UpstreamProtocol
            | Self::UpgradeFailed => StatusCode::BAD_GATEWAY,
            Self::RequestTimeout | Self::PerTryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::IdleTimeout | Self::HeaderTimeout | Self::BodyTimeout => {
                StatusCode::REQUEST_TIMEOUT
            }
            Self::DownstreamTermination | Self::DownstreamProtocol => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized => StatusCode::FORBIDDEN,
        }
    }

    /// The response flag, in Envoy's spelling (`%RESPONSE_FLAGS%` of Envoy's access log documentation). Envoy has none for its
    /// RBAC filter, which says `rbac_access_denied` in `%RESPONSE_CODE_DETAILS%`.
    pub(crate) const fn flag(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NoHealthyEndpoint => "UH",
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailed
            | Self::TlsIdentity
            | Self::NoIdentity
            | Self::Misdirected
            | Self::Unsent => "UF",
            Self::RefusedStream | Self::RemoteReset => "UR",
            Self::ConnectionTermination => "UC",
            Self::UpstreamProtocol | Self::UpgradeFailed => "UPE",
            Self::RequestTimeout | Self::PerTryTimeout => "UT",
            Self::IdleTimeout | Self::BodyTimeout => "SI",
            Self::Overflow => "UO",
            Self::DownstreamTermination => "DC",
            Self::HeaderTimeout
            | Self::DownstreamProtocol
            | Self::HeadTooLarge
            | Self::MethodRefused => "DPE",
            Self::Unauthorized => "RBAC",
        }
    }

    /// What may be tried again after it.
    pub(crate) const fn retriable(self) -> Retriable {
        match self {
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailed
            | Self::TlsIdentity
            | Self::NoIdentity
            | Self::Misdirected
            | Self::Unsent
            | Self::RefusedStream => Retriable::Undelivered,
            Self::ConnectionTermination
            | Self::RemoteReset
            | Self::UpstreamProtocol
            | Self::PerTryTimeout => Retriable::Unknown,
            Self::NoRoute
            | Self::NoCluster
            | Self::NoHealthyEndpoint
            | Self::RequestTimeout
            | Self::IdleTimeout
            | Self::HeaderTimeout
            | Self::BodyTimeout
            | Self::Overflow
            | Self::DownstreamTermination
            | Self::DownstreamProtocol
            | Self::HeadTooLarge
            | Self::MethodRefused
            | Self::UpgradeFailed
            | Self::Unauthorized => Retriable::No,
        }
    }

    /// Whether the endpoint, not the client or the configuration, is to blame in outlier detection.
    pub(crate) const fn blames_endpoint(self) -> bool {
        match self {
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailed
            | Self::TlsIdentity
            | Self::Misdirected
            | Self::ConnectionTermination
            | Self::RemoteReset
            | Self::UpstreamProtocol
            | Self::RequestTimeout
            | Self::PerTryTimeout => true,
            Self::NoRoute
            | Self::NoCluster
            | Self::NoHealthyEndpoint
            | Self::NoIdentity
            | Self::Unsent
            | Self::RefusedStream
            | Self::IdleTimeout
            | Self::HeaderTimeout
            | Self::BodyTimeout
            | Self::Overflow
            | Self::DownstreamTermination
            | Self::DownstreamProtocol
            | Self::HeadTooLarge
            | Self::MethodRefused
            | Self::UpgradeFailed
            | Self::Unauthorized => false,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::NoRoute => "no route matches this request",
            Self::NoCluster => "the route's service is not known",
            Self::NoHealthyEndpoint => "no task can be offered",
            Self::ConnectFailed => "connecting to the task failed",
            Self::ConnectTimeout => "the task did not accept the connection in time",
            Self::TlsFailed => "the TLS handshake with the task failed",
            Self::TlsIdentity => "the task is not of the service that is meant, by its certificate",
            Self::NoIdentity => "this sidecar has no identity yet to show the task",
            Self::Misdirected => "the task is not at its address any more",
            Self::Unsent => "the connection to the task closed before the request was sent",
            Self::RefusedStream => "the task refused the stream",
            Self::ConnectionTermination => "the task closed the connection before it answered",
            Self::RemoteReset => "the task reset the stream before it answered",
            Self::UpstreamProtocol => "the task's answer is not valid HTTP",
            Self::RequestTimeout => "the task did not answer within the request timeout",
            Self::PerTryTimeout => "no attempt was answered within the timeout of one",
            Self::IdleTimeout => "no byte moved within the idle timeout",
            Self::HeaderTimeout => "the request head did not come whole within the header timeout",
            Self::BodyTimeout => "the request body stood still for the body timeout",
            Self::Overflow => "a limit of the sidecar was reached",
            Self::DownstreamTermination => "the client broke off its request",
            Self::DownstreamProtocol => "the request is not valid HTTP",
            Self::HeadTooLarge => "the request's head is too large for HTTP/2 to the task",
            Self::MethodRefused => "CONNECT is not served here",
            Self::UpgradeFailed => "the protocol upgrade failed",
            Self::Unauthorized => "access denied",
        }
    }
}

/// A failed attempt or request: what, how far it got, and the cause underneath.
#[derive(Debug)]
pub(crate) struct ProxyError {
    /// What went wrong.
    pub(crate) kind: Kind,
    /// The cause underneath, for the log; never sent to a client.
    pub(crate) cause: Option<Box<dyn Error + Send + Sync>>,
}

impl ProxyError {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self { kind, cause: None }
    }

    pub(crate) fn caused(kind: Kind, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind,
            cause: Some(cause.into()),
        }
    }
}

impl From<Kind> for ProxyError {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}, {:?})",
            self.kind.words(),
            self.kind.flag(),
            self.kind.source()
        )?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl Error for ProxyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_the_label_set_once() {
        let mut seen = std::collections::HashSet::new();
        assert!(Kind::ALL.iter().all(|kind| seen.insert(*kind)));
    }

    #[test]
    fn only_failures_before_delivery_are_retriable_for_any_method() {
        let undelivered: Vec<_> = Kind::ALL
            .into_iter()
            .filter(|kind| kind.retriable() == Retriable::Undelivered)
            .collect();
        assert_eq!(
            undelivered,
            [
                Kind::ConnectFailed,
                Kind::ConnectTimeout,
                Kind::TlsFailed,
                Kind::TlsIdentity,
                Kind::NoIdentity,
                Kind::Misdirected,
                Kind::Unsent,
                Kind::RefusedStream
            ]
        );
    }

    #[test]
    fn a_client_is_told_503_only_of_what_was_not_delivered() {
        for kind in Kind::ALL {
            let status = kind.status();
            match kind.retriable() {
                Retriable::Undelivered => assert_eq!(status.as_u16(), 503, "{kind:?}"),
                Retriable::Unknown => assert!([502, 504].contains(&status.as_u16()), "{kind:?}"),
                Retriable::No => {}
            }
        }
    }
}
