//! The flags and their environment variables, as they were given.

use super::agent::CertAgentArgs;
use super::secret::Secret;

/// The command line: the sidecar's flags, or one of the other commands.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(
    name = "outrigger-proxy",
    version,
    about = "The sidecar: an application dials a short name, every request reaches a healthy task of that service.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// `None` runs the sidecar.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Of the sidecar.
    #[command(flatten)]
    pub sidecar: Args,
}

/// What the program does besides being the sidecar.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Beside a proxy that is not ours: enrols, renews, and hands it certificate, key and roots by SDS or as files
    CertAgent(Box<CertAgentArgs>),
}

/// Flags and their environment variables, still unchecked: every value is text, so that all errors are reported at once.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(
    name = "outrigger-proxy",
    version,
    about = "The sidecar: an application dials a short name, every request reaches a healthy task of that service."
)]
pub struct Args {
    /// Control server's API, for announcing this task; a comma list is tried in order
    #[arg(long, value_name = "URL", env = "OUTRIGGER_CONTROL")]
    pub control: Option<String>,
    /// Control server's ADS (gRPC); a comma list is tried in order
    #[arg(long, value_name = "URL", env = "OUTRIGGER_XDS_URL")]
    pub xds: Option<String>,
    /// Cloud Map namespace [default: the document's]
    #[arg(long, value_name = "N", env = "OUTRIGGER_NAMESPACE")]
    pub namespace: Option<String>,
    /// Id of this task, unique in the namespace [default: random, kept in --state]
    #[arg(long, value_name = "ID", env = "OUTRIGGER_TASK_ID")]
    pub task_id: Option<String>,
    /// Availability zone of this task
    #[arg(long, value_name = "Z", env = "OUTRIGGER_ZONE")]
    pub zone: Option<String>,
    /// Address other tasks reach this one at (registered); required when the document declares services
    #[arg(long, value_name = "IP", env = "OUTRIGGER_ADDRESS")]
    pub address: Option<String>,
    /// Where the application of this task listens [default: 127.0.0.1]
    #[arg(long, value_name = "IP", env = "OUTRIGGER_APP_ADDRESS")]
    pub app_address: Option<String>,
    /// Egress VIPs are placed in it; sidecars that share a network namespace need one each [default: 127.255.0.0/16]
    #[arg(long, value_name = "CIDR", env = "OUTRIGGER_VIP_CIDR")]
    pub vip_cidr: Option<String>,
    /// ECS service-connect document: a file, or the JSON itself
    #[arg(long, value_name = "FILE|JSON", env = "OUTRIGGER_SERVICE_CONNECT")]
    pub service_connect: Option<String>,
    /// Deployment that this task's declaration belongs to [default: derived from the declaration]
    #[arg(long, value_name = "ID", env = "OUTRIGGER_REVISION")]
    pub revision: Option<String>,
    /// How egress connections reach the sidecar: bind | capture [default: bind]
    #[arg(long, value_name = "MODE", env = "OUTRIGGER_EGRESS")]
    pub egress: Option<String>,
    /// Serves /metrics and /ready alone, on any address
    #[arg(long, value_name = "ADDR", env = "OUTRIGGER_METRICS")]
    pub metrics: Option<String>,
    /// Hosts file in which a block of names is managed
    #[arg(long, value_name = "PATH", env = "OUTRIGGER_HOSTS_FILE")]
    pub hosts_file: Option<String>,
    /// Directory for the last accepted configuration and this task's identity
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE")]
    pub state: Option<String>,
    /// Admin pages, on loopback only [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDR", env = "OUTRIGGER_ADMIN")]
    pub admin: Option<String>,
    /// Unix socket on which the ECS agent asks for a drain [default: APPNET_AGENT_ADMIN_UDS_PATH, if that is set]
    #[arg(long, value_name = "PATH", env = "OUTRIGGER_ADMIN_SOCKET")]
    pub admin_socket: Option<String>,
    /// Worker threads [default: the cgroup's CPU quota rounded up, at most 4; else 1]
    #[arg(long, value_name = "N", env = "OUTRIGGER_WORKERS")]
    pub workers: Option<String>,
    /// Longest time to finish what is in flight after SIGTERM [default: 20s]
    #[arg(long, value_name = "DURATION", env = "OUTRIGGER_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<String>,
    /// Take over from the sidecar that runs with the same --state, and let the next one take over: auto | off [default: auto]
    #[arg(long, value_name = "MODE", env = "OUTRIGGER_HOT_RESTART")]
    pub hot_restart: Option<String>,
    /// No control server: the configuration is this TOML file, re-read on SIGHUP
    #[arg(long = "static", value_name = "FILE", env = "OUTRIGGER_STATIC")]
    pub static_file: Option<String>,
    /// Where this task has its identity from.
    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// Where this task has its identity from.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Identity (one source turns mutual TLS on)")]
pub struct IdentityArgs {
    /// Enrol with a token that is good once, in a file or given itself (the command line is visible to all in /proc, so prefer the file); it
    /// contains the fingerprint of the control server's CA
    #[arg(
        long,
        value_name = "FILE|TOKEN",
        env = "OUTRIGGER_JOIN_TOKEN",
        hide_env_values = true
    )]
    pub join_token: Option<Secret>,
    /// Enrol with a token that the tasks of a service share; one of your own making needs --control-ca
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_SERVICE_TOKEN_FILE")]
    pub service_token_file: Option<String>,
    /// Enrol with a signed document (JWT) of whoever runs this task; needs --control-ca
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_IDENTITY_DOCUMENT")]
    pub identity_document: Option<String>,
    /// The control server's CA, for the first contact: its SHA-256 fingerprint, or a PEM file
    #[arg(long, value_name = "FINGERPRINT|FILE", env = "OUTRIGGER_CONTROL_CA")]
    pub control_ca: Option<String>,
    /// Certificate, key and CA of your own, watched for change: tls.crt, tls.key, ca.crt, or svid.pem, svid_key.pem, bundle.pem
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_TLS_DIR")]
    pub tls_dir: Option<String>,
    /// The same, file by file: the certificate with its chain
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_TLS_CERT")]
    pub tls_cert: Option<String>,
    /// Its private key
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_TLS_KEY")]
    pub tls_key: Option<String>,
    /// Whom to believe
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_TLS_CA")]
    pub tls_ca: Option<String>,
    /// SPIFFE trust domain of this task, its peers and its control servers [default: outrigger.internal]
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_TRUST_DOMAIN")]
    pub trust_domain: Option<String>,
}
