//! The resource model: plain structs that the control server produces, the wire carries and the sidecar runs on.
//!
//! Every value here has been checked; `decode` (from Envoy's v3 protos) and the sidecar's static file are the two ways in.
//! Durations follow one rule: `None` means "the default of the protocol applies", `Some(ZERO)` means "off".

mod policy;
mod policy_check;
mod service_policy;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::policy::{
    AdaptiveConcurrency, CircuitBreakers, FailurePercentage, HealthCheck, OutlierDetection, Probe,
    RetryPolicy, SuccessRate,
};
pub use self::policy_check::{MAX_PRIORITY, MAX_RETRIES};
pub use self::service_policy::{PolicyError, ServicePolicy};
use crate::hop::{Identity, Tokens};
use crate::identity::{Authorization, SpiffeId, TlsMode};

/// Service Connect's default for one HTTP request, from the complete request to the response head (ECS `TimeoutConfiguration`).
pub const DEFAULT_PER_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Service Connect's default idle timeout for `http`, `http2` and `grpc` (ECS `TimeoutConfiguration`).
pub const DEFAULT_HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Service Connect's default idle timeout for TCP (ECS `TimeoutConfiguration`).
pub const DEFAULT_TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long one attempt may take to connect, TLS included.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client may take to send a complete request head.
pub const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an HTTP/1.1 request that is not complete may stand still.
pub const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Which way traffic crosses the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the application of this task to other services.
    Egress,
    /// From other tasks to the application of this task.
    Ingress,
}

impl Direction {
    /// The word used in configuration, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// What is spoken on a connection. `Auto` is only for listeners: the first bytes decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Detected from the first bytes; opaque TCP after one second of silence.
    Auto,
    /// HTTP/1.1 (a listener also takes HTTP/2 with prior knowledge).
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, which is HTTP/2 with prior knowledge and trailers.
    Grpc,
    /// Opaque bytes; also what an unset `appProtocol` means.
    Tcp,
}

impl Protocol {
    /// The word used in configuration, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Whether requests (not only bytes) can be told apart.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "http" => Ok(Self::Http),
            "http2" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            "tcp" => Ok(Self::Tcp),
            other => Err(format!(
                "{other:?} is not one of auto, http, http2, grpc, tcp"
            )),
        }
    }
}

/// One address at which applications (egress) or other tasks (ingress) connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Unique name, shown in errors and on the admin pages.
    pub name: String,
    /// Which way its traffic crosses the sidecar.
    pub direction: Direction,
    /// The *match address*: what a client dialled. In bind mode it is bound as it is (after the VIP is placed in `--vip-cidr`).
    pub address: SocketAddr,
    /// DNS names that resolve to `address` (egress); one hosts line each.
    pub names: Vec<String>,
    /// The persistent 16-bit offset of the name's VIP within `127.255.0.0/16` (egress from the control server).
    pub vip_offset: Option<u16>,
    /// What clients speak.
    pub protocol: Protocol,
    /// Where its traffic goes.
    pub target: Target,
    /// Time for a complete request head; `None` is [`DEFAULT_HEADER_TIMEOUT`].
    pub header_timeout: Option<Duration>,
    /// HTTP/1.1: time without a byte either way while the request is incomplete; `None` is [`DEFAULT_BODY_TIMEOUT`].
    pub body_timeout: Option<Duration>,
    /// Time without a byte either way; `None` is the protocol's default.
    pub idle_timeout: Option<Duration>,
    /// Connections accepted at once; `None` is the sidecar's default.
    pub max_connections: Option<u32>,
    /// Requests under way at once; `None` is the sidecar's default.
    pub max_requests: Option<u32>,
    /// Size of a request head in bytes; `None` is the sidecar's default.
    pub max_header_bytes: Option<u32>,
    /// Size of a request target in bytes; `None` is the sidecar's default.
    pub max_uri_bytes: Option<u32>,
    /// Whom hops are taken for (ingress, never pushed); `None` takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop: Option<Identity>,
    /// Who takes TLS on it and who may call (ingress, never pushed): an [`Inbound`] by name; `None` is plaintext for everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound: Option<String>,
}

impl Listener {
    /// A listener without names, on the defaults of its protocol and of the sidecar.
    pub fn new(
        name: impl Into<String>,
        direction: Direction,
        address: SocketAddr,
        protocol: Protocol,
        target: Target,
    ) -> Self {
        Self {
            name: name.into(),
            direction,
            address,
            names: Vec::new(),
            vip_offset: None,
            protocol,
            target,
            header_timeout: None,
            body_timeout: None,
            idle_timeout: None,
            max_connections: None,
            max_requests: None,
            max_header_bytes: None,
            max_uri_bytes: None,
            hop: None,
            inbound: None,
        }
    }
}

/// Where a listener sends its traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// HTTP: a [`RouteConfig`] by name.
    Routes(String),
    /// Opaque TCP: a cluster by name.
    Cluster(String),
}

/// An ordered list of routes; the first match wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteConfig {
    /// Unique name, what a listener's [`Target::Routes`] refers to.
    pub name: String,
    /// In order of preference.
    pub routes: Vec<Route>,
}

/// Host, path and header conditions, and what applies to the requests that meet them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Hosts (without port, lower case) for which it applies; empty is any. `*.suffix` matches any label before the suffix.
    pub hosts: Vec<String>,
    /// Path condition.
    pub path: PathMatch,
    /// Header conditions, all of which must hold.
    pub headers: Vec<HeaderMatch>,
    /// The cluster that serves it.
    pub cluster: String,
    /// `perRequestTimeoutSeconds`. `None`: 15 s, ending at the response head. `Some`: covers the whole response; zero is off.
    pub per_request_timeout: Option<Duration>,
    /// Time without a byte either way on the stream; `None` is 300 s, zero is off.
    pub idle_timeout: Option<Duration>,
    /// What may be tried again.
    pub retry: RetryPolicy,
}

/// A condition on the request path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// The path begins with this text; `/` is every path.
    Prefix(String),
    /// The path (without query) is this text.
    Exact(String),
}

/// A condition on one request header (exact value, as ECS `testTrafficRules` have it; `None` is presence).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Lower-case header name.
    pub name: String,
    /// The exact value; `None` asks only for presence.
    pub value: Option<String>,
}

/// One service, as its callers see it. Its endpoints are an [`EndpointSet`] of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Unique name.
    pub name: String,
    /// What is spoken to the endpoints.
    pub protocol: Protocol,
    /// The order in which endpoints are offered.
    pub lb: LbPolicy,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// Time for one attempt to connect, TLS included; `None` is [`DEFAULT_CONNECT_TIMEOUT`].
    pub connect_timeout: Option<Duration>,
    /// Time an unused upstream connection is kept; `None` is the sidecar's default.
    pub idle_timeout: Option<Duration>,
    /// When an endpoint is ejected; `None` switches ejection off.
    pub outlier_detection: Option<OutlierDetection>,
    /// Active probes; `None` is no probes.
    pub health_check: Option<HealthCheck>,
    /// What may be under way to it at once.
    #[serde(default)]
    pub circuit_breakers: CircuitBreakers,
    /// With a smaller share of healthy endpoints (percent) all are offered that do not drain (Envoy's panic threshold). 0: only
    /// when none is healthy.
    #[serde(default)]
    pub panic_threshold: u8,
    /// A new endpoint's share grows to its full weight over so long (Envoy's slow start); `None` is at once.
    #[serde(default)]
    pub slow_start: Option<Duration>,
    /// Endpoints of the sidecar's own zone are preferred, as far as they can carry their part.
    #[serde(default = "yes")]
    pub zone_aware: bool,
    /// The registry's service behind it; `None` for clusters of a static file.
    pub service: Option<ServiceRef>,
    /// The identities that its endpoints may have. Those that speak TLS ([`Endpoint::tls`]) and prove none of these are not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<SpiffeId>,
}

const fn yes() -> bool {
    true
}

impl Cluster {
    /// A cluster of pushed endpoints on the defaults, of no service in the registry.
    pub fn new(name: impl Into<String>, protocol: Protocol) -> Self {
        Self {
            name: name.into(),
            protocol,
            lb: LbPolicy::default(),
            discovery: Discovery::Eds,
            connect_timeout: None,
            idle_timeout: None,
            outlier_detection: Some(OutlierDetection::default()),
            health_check: None,
            circuit_breakers: CircuitBreakers::default(),
            panic_threshold: 0,
            slow_start: None,
            zone_aware: true,
            service: None,
            identities: Vec::new(),
        }
    }
}

/// A service of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceRef {
    /// Namespace name.
    pub namespace: String,
    /// Discovery name (the Cloud Map service name).
    pub name: String,
}

/// The order in which endpoints are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LbPolicy {
    /// Power of two choices by requests in flight.
    #[default]
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// Consistent hashing (ketama) of the request's host and path.
    RingHash,
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// Pushed as an [`EndpointSet`] (EDS), or written in the static file.
    Eds,
    /// Endpoints are host names, resolved by the sidecar (Envoy's STRICT_DNS).
    StrictDns,
}

/// The endpoints of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSet {
    /// The cluster's name.
    pub cluster: String,
    /// In a stable order (the producer sorts).
    pub endpoints: Vec<Endpoint>,
}

/// One task of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it is reached.
    pub address: Address,
    /// Availability zone; empty when unknown.
    pub zone: String,
    /// Relative share of traffic; 0 is offered to nobody.
    pub weight: u32,
    /// 0 is offered first; the next one when too few of it are healthy (Envoy's priorities).
    #[serde(default)]
    pub priority: u32,
    /// What the registry says of it.
    pub health: EndpointHealth,
    /// The registry's instance id; empty for the static file.
    pub instance: String,
    /// Whether one of our own sidecars stands in front of it.
    pub sidecar: bool,
    /// The sidecar speaks the hop protocol, and knows itself by these tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop: Option<Tokens>,
    /// It takes mutual TLS, and is never spoken to without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
}

impl Endpoint {
    /// A healthy endpoint of weight 1 without a zone, of no instance in the registry.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            zone: String::new(),
            weight: 1,
            priority: 0,
            health: EndpointHealth::Healthy,
            instance: String::new(),
            sidecar: false,
            hop: None,
            tls: false,
        }
    }
}

/// What the tasks of one service do with those who call them. It has no address: each sidecar applies it to its own listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// `namespace/service`, by the discovery name.
    pub name: String,
    /// What connections are taken.
    pub tls: TlsMode,
    /// Who may call; `None` is everybody.
    pub authorization: Option<Authorization>,
}

/// The roots of a trust domain, as SDS carries them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// Unique name: [`crate::identity::TRUST_BUNDLE`].
    pub name: String,
    /// Certificates, PEM, one after the other.
    pub roots: String,
}

/// An IP address with port, or a host name with port (only in a [`Discovery::StrictDns`] cluster).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Address {
    /// Dialled as it is.
    Ip(SocketAddr),
    /// Resolved first.
    Host {
        /// DNS name.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// What the registry says of an endpoint; a sidecar's own findings (ejected, probed unhealthy) are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointHealth {
    /// Offered.
    Healthy,
    /// Not offered, unless nothing else is left (panic mode).
    Unhealthy,
    /// Never offered; what is in flight finishes.
    Draining,
}

/// Metadata that resources carry beside their fields, in Envoy's `filter_metadata["outrigger"]`.
pub type Metadata = BTreeMap<String, String>;
