//! The flags and their environment variables, as they were given.

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
}
