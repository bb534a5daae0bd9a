//! The command line and environment, checked as a whole before anything starts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use outrigger_xds::identity::SpiffeId;

pub use self::agent::{AgentConfig, CertAgentArgs};
pub use self::args::{Args, Cli, Command, IdentityArgs};
use self::identity::{IdentityConfig, Source};
use self::values::{
    auto_or_off, egress_mode, flag, ip_address, socket_address, text, uris, vip_cidr,
    vip_cidr_default, workers,
};
use crate::mesh::document::{self, ServiceConnect};
use crate::mesh::state::StateDir;
use crate::restart;

pub mod accepted;
mod agent;
mod args;
pub(crate) mod fields;
pub mod identity;
pub mod secret;
pub mod static_file;
pub mod tls;
mod values;
mod workers;

/// The checked configuration of this process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where listeners and clusters come from.
    pub mode: Mode,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Availability zone of this task; empty when unknown.
    pub zone: String,
    /// Admin pages; always a loopback address.
    pub admin: SocketAddr,
    /// The ECS agent's pages.
    pub admin_socket: Option<PathBuf>,
    /// `/metrics` and `/ready` alone.
    pub metrics: Option<SocketAddr>,
    /// Bound on the drain after SIGTERM.
    pub drain_timeout: Duration,
    /// State directory.
    pub state: Option<PathBuf>,
    /// Where a sidecar hands over to the next one; `None` when it does not.
    pub hot_restart: Option<PathBuf>,
    /// Hosts file in which a block of names is managed.
    pub hosts_file: Option<PathBuf>,
    /// Where egress VIPs are placed.
    pub vip_cidr: Ipv4Net,
    /// How egress connections reach the sidecar.
    pub egress: EgressMode,
}

/// Where listeners and clusters come from.
#[derive(Debug, Clone)]
pub enum Mode {
    /// A TOML file.
    Static(PathBuf),
    /// A control server.
    Mesh(Box<MeshConfig>),
}

/// How egress connections reach the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EgressMode {
    /// The sidecar binds `VIP:port`.
    Bind,
    /// One port behind a redirect; refused until it is built.
    Capture,
}

/// What a sidecar with a control server knows of itself.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// API servers (`http://host:port`, or `https:` with an identity), tried in order; empty when nothing is announced.
    pub control: Vec<http::Uri>,
    /// ADS servers, in the same form, tried in order.
    pub xds: Vec<http::Uri>,
    /// Cloud Map namespace.
    pub namespace: String,
    /// Node id and Cloud Map instance id.
    pub task_id: String,
    /// Availability zone; empty when unknown.
    pub zone: String,
    /// Address other tasks reach this one at.
    pub address: IpAddr,
    /// Where the application of this task listens.
    pub app_address: IpAddr,
    /// What this task declares; `None` for a client that brought no document.
    pub document: Option<ServiceConnect>,
    /// Deployment that the declaration belongs to; `None` derives it from the declaration.
    pub revision: Option<String>,
    /// Who this task is; `None` speaks plaintext to everybody.
    pub identity: Option<MeshIdentity>,
}

/// Who a task of the mesh is.
#[derive(Debug, Clone)]
pub struct MeshIdentity {
    /// How it comes by its certificate.
    pub config: IdentityConfig,
    /// What the control server is asked for: the identity of the document's `serviceName`.
    pub service: SpiffeId,
}

/// Every error of the configuration; one line each when displayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// One error: the field, the value it had, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value:?}: {reason}")]
pub struct ConfigError {
    /// Flag, or path within a document.
    pub field: String,
    /// As it was written.
    pub value: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl ConfigError {
    /// An error of `field`.
    pub fn new(
        field: impl Into<String>,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            value: value.into(),
            reason: reason.into(),
        }
    }
}

impl Config {
    /// Checks everything and reports all errors at once. Reads the document and creates the state directory.
    pub fn from_args(args: Args) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let admin = flag(
            "--admin",
            args.admin.as_deref(),
            &mut errors,
            socket_address,
        )
        .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)));
        if !admin.ip().is_loopback() {
            let reason =
                "must be a loopback address: /drain is there; use --metrics for other addresses";
            errors.push(ConfigError::new("--admin", admin.to_string(), reason));
        }
        let vip_cidr = flag(
            "--vip-cidr",
            args.vip_cidr.as_deref(),
            &mut errors,
            vip_cidr,
        )
        .unwrap_or_else(vip_cidr_default);
        let state = text(args.state.as_deref()).map(PathBuf::from);
        let config = Self {
            workers: flag("--workers", args.workers.as_deref(), &mut errors, workers)
                .unwrap_or_else(workers::default_workers),
            zone: text(args.zone.as_deref()).unwrap_or_default().to_owned(),
            metrics: flag(
                "--metrics",
                args.metrics.as_deref(),
                &mut errors,
                socket_address,
            ),
            drain_timeout: flag(
                "--drain-timeout",
                args.drain_timeout.as_deref(),
                &mut errors,
                fields::parse_duration,
            )
            .unwrap_or(Duration::from_secs(20)),
            egress: flag("--egress", args.egress.as_deref(), &mut errors, egress_mode)
                .unwrap_or(EgressMode::Bind),
            admin_socket: text(args.admin_socket.as_deref()).map(PathBuf::from),
            hosts_file: text(args.hosts_file.as_deref()).map(PathBuf::from),
            hot_restart: hot_restart(&args, state.as_deref(), &mut errors),
            mode: mode(&args, state.as_deref(), &mut errors),
            admin,
            state,
            vip_cidr,
        };
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(errors))
        }
    }
}

/// Where the hand-over happens: what is handed over is this node, and it is known by its state directory.
fn hot_restart(
    args: &Args,
    state: Option<&std::path::Path>,
    errors: &mut Vec<ConfigError>,
) -> Option<PathBuf> {
    let asked = text(args.hot_restart.as_deref()).unwrap_or("auto");
    let asked = flag("--hot-restart", Some(asked), errors, auto_or_off)?;
    let path = restart::path(state.filter(|_| asked)?);
    path.map_err(|reason| {
        let state = text(args.state.as_deref()).unwrap_or_default();
        errors.push(ConfigError::new("--state", state, reason));
    })
    .ok()
}

fn mode(args: &Args, state: Option<&std::path::Path>, errors: &mut Vec<ConfigError>) -> Mode {
    if let Some(path) = text(args.static_file.as_deref()) {
        if let Some((field, value)) = identity::given(&args.identity).into_iter().next() {
            let reason = "cannot be combined with --static: the file has a tls table for each listener and cluster";
            errors.push(ConfigError::new(field, value, reason));
        }
        for (field, value) in [("--control", &args.control), ("--xds", &args.xds)] {
            if let Some(value) = text(value.as_deref()) {
                errors.push(ConfigError::new(
                    field,
                    value,
                    "cannot be combined with --static",
                ));
            }
        }
        return Mode::Static(PathBuf::from(path));
    }
    Mode::Mesh(Box::new(mesh(args, state, errors)))
}

fn mesh(args: &Args, state: Option<&std::path::Path>, errors: &mut Vec<ConfigError>) -> MeshConfig {
    let document =
        text(args.service_connect.as_deref()).and_then(|source| match document::load(source) {
            Ok(document) => Some(document),
            Err(more) => {
                errors.extend(more.0);
                None
            }
        });
    let declares = document
        .as_ref()
        .is_some_and(|document| !document.services.is_empty());
    let xds = flag("--xds", args.xds.as_deref(), errors, uris).unwrap_or_default();
    if text(args.xds.as_deref()).is_none() {
        errors.push(ConfigError::new(
            "--xds",
            "",
            "is required (or --static FILE)",
        ));
    }
    let control = flag("--control", args.control.as_deref(), errors, uris).unwrap_or_default();
    if declares && text(args.control.as_deref()).is_none() {
        errors.push(ConfigError::new(
            "--control",
            "",
            "is required, as the document declares services",
        ));
    }
    let namespace = namespace(args, document.as_ref(), errors);
    let identity = mesh_identity(args, state, document.as_ref(), &namespace, errors);
    encrypted(args, !identity::given(&args.identity).is_empty(), errors);
    let address = flag("--address", args.address.as_deref(), errors, ip_address);
    match address {
        None if declares && text(args.address.as_deref()).is_none() => {
            errors.push(ConfigError::new(
                "--address",
                "",
                "is required, as the document declares services",
            ));
        }
        Some(address) if address.is_unspecified() => {
            let reason = "must be an address that other tasks can dial";
            errors.push(ConfigError::new("--address", address.to_string(), reason));
        }
        _ => {}
    }
    MeshConfig {
        namespace,
        task_id: task_id(args.task_id.as_deref(), state, errors),
        zone: text(args.zone.as_deref()).unwrap_or_default().to_owned(),
        address: address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        app_address: flag(
            "--app-address",
            args.app_address.as_deref(),
            errors,
            ip_address,
        )
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        revision: text(args.revision.as_deref()).map(str::to_owned),
        control,
        xds,
        document,
        identity,
    }
}

/// The identity's source, and the service that it is to be the identity of.
fn mesh_identity(
    args: &Args,
    state: Option<&std::path::Path>,
    document: Option<&ServiceConnect>,
    namespace: &str,
    errors: &mut Vec<ConfigError>,
) -> Option<MeshIdentity> {
    let before = errors.len();
    let config = IdentityConfig::read(&args.identity, state, errors);
    let Some(config) = config else {
        // With a source that is wrong there is one error, not two.
        if errors.len() == before {
            document::needs_no_identity(document, errors);
        }
        return None;
    };
    if matches!(config.source, Source::Enrol(_)) && text(args.control.as_deref()).is_none() {
        let reason = "is required: it is where this task enrols";
        errors.push(ConfigError::new("--control", "", reason));
    }
    let Some(document) = document else {
        if text(args.service_connect.as_deref()).is_none() {
            let reason = "is required with an identity: its serviceName says whose task this is";
            errors.push(ConfigError::new("--service-connect", "", reason));
        }
        return None;
    };
    let name = &document.service_name;
    if name.is_empty() {
        let reason = "is required with an identity: it says whose task this is";
        errors.push(ConfigError::new("serviceName", "", reason));
        return None;
    }
    match SpiffeId::service(&config.trust_domain, namespace, name) {
        Ok(service) => Some(MeshIdentity { config, service }),
        Err(reason) => {
            errors.push(ConfigError::new("serviceName", name, reason));
            None
        }
    }
}

/// Where there is an identity nothing is said in plaintext, and without one nobody can be believed.
fn encrypted(args: &Args, identity: bool, errors: &mut Vec<ConfigError>) {
    for (field, value) in [("--control", &args.control), ("--xds", &args.xds)] {
        let servers = text(value.as_deref()).unwrap_or_default();
        let is = |server: &str, scheme| server.trim().starts_with(scheme);
        for server in servers.split(',') {
            let reason = match identity {
                true if is(server, "http://") => {
                    "must be https://…: a token, or what an identity protects, is never sent unencrypted"
                }
                false if is(server, "https://") => &format!(
                    "needs a source of this task's identity, which says whom to believe: {}",
                    identity::SOURCES
                ),
                _ => continue,
            };
            errors.push(ConfigError::new(field, server.trim(), reason));
        }
    }
}

fn namespace(
    args: &Args,
    document: Option<&ServiceConnect>,
    errors: &mut Vec<ConfigError>,
) -> String {
    let declared = document.and_then(|document| document.namespace.as_deref());
    let chosen = text(args.namespace.as_deref());
    match (chosen, declared) {
        (Some(chosen), Some(declared)) if chosen != declared => {
            let reason = format!("the document says {declared:?}; they must agree");
            errors.push(ConfigError::new("--namespace", chosen, reason));
        }
        (None, None) => {
            errors.push(ConfigError::new(
                "--namespace",
                "",
                "is required, as no document names one",
            ));
        }
        _ => {}
    }
    let name = chosen.or(declared).unwrap_or_default();
    let bad = |c: char| c.is_whitespace() || c.is_control() || "<>\"/".contains(c);
    if name.starts_with("arn:") {
        let reason = "an ARN cannot be looked up here, give the namespace's name";
        errors.push(ConfigError::new("--namespace", name, reason));
    } else if name.chars().any(bad) || name.len() > 1024 {
        let reason = "must be at most 1024 characters without space, < > \" or /";
        errors.push(ConfigError::new("--namespace", name, reason));
    }
    name.to_owned()
}

fn task_id(
    given: Option<&str>,
    state: Option<&std::path::Path>,
    errors: &mut Vec<ConfigError>,
) -> String {
    if let Some(id) = text(given) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
        if id.len() > 64 || !id.chars().all(allowed) {
            let reason = "must be at most 64 letters, digits and - _ . : @ (it is the Cloud Map instance id)";
            errors.push(ConfigError::new("--task-id", id, reason));
        }
        return id.to_owned();
    }
    let Some(dir) = state else {
        return crate::mesh::state::random_hex(8);
    };
    match StateDir::open(dir).and_then(|dir| dir.task_id()) {
        Ok(id) => id,
        Err(error) => {
            errors.push(ConfigError::new(
                "--state",
                dir.display().to_string(),
                error.to_string(),
            ));
            String::new()
        }
    }
}

#[cfg(test)]
mod tests;
