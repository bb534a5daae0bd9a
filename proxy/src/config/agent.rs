//! The command line of `outrigger-proxy cert-agent`, checked as a whole.

use std::path::PathBuf;

use outrigger_xds::identity::SpiffeId;

use super::args::IdentityArgs;
use super::identity::{Enrolment, IdentityConfig, Source};
use super::values::{flag, text, uris};
use super::{ConfigError, ConfigErrors};

/// Who may connect to the socket unless another mode is given: this process's own user.
const SOCKET_MODE: u32 = 0o600;

/// Flags and their environment variables, still unchecked.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CertAgentArgs {
    /// Control server's API; a comma list is tried in order
    #[arg(long, value_name = "URL", env = "OUTRIGGER_CONTROL")]
    pub control: Option<String>,
    /// Cloud Map namespace
    #[arg(long, value_name = "N", env = "OUTRIGGER_NAMESPACE")]
    pub namespace: Option<String>,
    /// The ECS service whose task this is
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_SERVICE")]
    pub service: Option<String>,
    /// Id of this task [default: random, kept in --state]
    #[arg(long, value_name = "ID", env = "OUTRIGGER_TASK_ID")]
    pub task_id: Option<String>,
    /// Directory where the certificate and its key are kept, so that a restart needs no second token
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE")]
    pub state: Option<String>,
    /// Unix socket on which secrets are served (SDS): outrigger-identity and outrigger-trust-bundle
    #[arg(long, value_name = "PATH", env = "OUTRIGGER_SDS")]
    pub sds: Option<String>,
    /// Mode of that socket: whoever may connect gets the key [default: 0600]
    #[arg(long, value_name = "OCTAL", env = "OUTRIGGER_SDS_MODE")]
    pub sds_mode: Option<String>,
    /// Directory for tls.crt, tls.key (0600) and ca.crt, replaced whenever they change
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_OUT_DIR")]
    pub out_dir: Option<String>,
    /// How it enrols.
    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// The checked configuration of a cert-agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// API servers, tried in order.
    pub control: Vec<http::Uri>,
    /// Whose identity it asks for.
    pub service: SpiffeId,
    /// Node id of this task.
    pub task_id: String,
    /// How it proves that.
    pub enrolment: Enrolment,
    /// State directory.
    pub state: Option<PathBuf>,
    /// Where SDS is served, and the socket's mode.
    pub sds: Option<(PathBuf, u32)>,
    /// Where files are written.
    pub out_dir: Option<PathBuf>,
}

impl AgentConfig {
    /// Checks everything and reports all errors at once.
    pub fn from_args(args: &CertAgentArgs) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let state = text(args.state.as_deref()).map(PathBuf::from);
        let control = required("--control", args.control.as_deref(), &mut errors);
        let control = flag("--control", Some(&control), &mut errors, uris);
        for server in control.iter().flatten() {
            if server.scheme_str() == Some("http") {
                let reason = "must be https://…: a token is never sent unencrypted";
                let server = server.to_string();
                errors.push(ConfigError::new("--control", server, reason));
            }
        }
        let identity = IdentityConfig::read(&args.identity, state.as_deref(), &mut errors);
        if identity.is_none() && super::identity::given(&args.identity).is_empty() {
            errors.push(ConfigError::new("--join-token", "", MEANS));
        }
        let service = service(args, identity.as_ref(), &mut errors);
        let enrolment = match identity.map(|identity| identity.source) {
            Some(Source::Enrol(enrolment)) => Some(enrolment),
            Some(Source::Files(files)) => {
                let file = files.cert.display().to_string();
                errors.push(ConfigError::new("--tls-cert", file, MEANS));
                None
            }
            None => None,
        };
        let mode = flag("--sds-mode", args.sds_mode.as_deref(), &mut errors, mode);
        let sds = text(args.sds.as_deref()).map(PathBuf::from);
        let out_dir = text(args.out_dir.as_deref()).map(PathBuf::from);
        if sds.is_none() && out_dir.is_none() {
            let reason = "is required, or --out-dir: nobody would get the certificate";
            errors.push(ConfigError::new("--sds", "", reason));
        }
        let task_id = super::task_id(args.task_id.as_deref(), state.as_deref(), &mut errors);
        match (service, enrolment) {
            (Some(service), Some(enrolment)) if errors.is_empty() => Ok(Self {
                control: control.unwrap_or_default(),
                service,
                task_id,
                enrolment,
                state,
                sds: sds.map(|path| (path, mode.unwrap_or(SOCKET_MODE))),
                out_dir,
            }),
            _ => Err(ConfigErrors(errors)),
        }
    }
}

const MEANS: &str =
    "the agent enrols: give --join-token, --service-token-file or --identity-document";

fn required(field: &str, value: Option<&str>, errors: &mut Vec<ConfigError>) -> String {
    let value = text(value).unwrap_or_default();
    if value.is_empty() {
        errors.push(ConfigError::new(field, "", "is required"));
    }
    value.to_owned()
}

fn service(
    args: &CertAgentArgs,
    identity: Option<&IdentityConfig>,
    errors: &mut Vec<ConfigError>,
) -> Option<SpiffeId> {
    let namespace = required("--namespace", args.namespace.as_deref(), errors);
    let service = required("--service", args.service.as_deref(), errors);
    if namespace.is_empty() || service.is_empty() {
        return None;
    }
    let id = SpiffeId::service(&identity?.trust_domain, &namespace, &service);
    id.map_err(|reason| errors.push(ConfigError::new("--service", service, reason)))
        .ok()
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok();
    let mode = mode.filter(|mode| mode & !0o777 == 0 && mode & 0o600 == 0o600);
    mode.ok_or_else(|| "must be octal, from 0600 to 0777, like 0660".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(flags: &[&str]) -> Vec<String> {
        use clap::Parser as _;
        let all = ["outrigger-proxy", "cert-agent"].iter().chain(flags);
        let cli = super::super::Cli::try_parse_from(all).expect("the flags exist");
        let Some(super::super::Command::CertAgent(args)) = cli.command else {
            panic!("the agent")
        };
        match AgentConfig::from_args(&args) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.0.into_iter().map(|error| error.field).collect(),
        }
    }

    #[test]
    fn an_agent_needs_to_know_whom_to_ask_for_whom_by_what_and_where_to() {
        let expected = [
            "--control",
            "--join-token",
            "--namespace",
            "--service",
            "--sds",
        ];
        assert_eq!(fields(&[]), expected);
        let token = format!("ojt1.{}.s3cret", "ab".repeat(32));
        let good = [
            "--control",
            "https://c:1",
            "--namespace",
            "n",
            "--service",
            "s",
            "--join-token",
            &token,
        ];
        let with = |more: &[&str]| fields(&[&good[..], more].concat());
        assert_eq!(with(&["--sds", "/s"]), [""; 0]);
        assert_eq!(with(&["--out-dir", "/s"]), [""; 0]);
        assert_eq!(with(&["--sds", "/s", "--sds-mode", "0660"]), [""; 0]);
        for wrong in ["9", "060", "1777", "rw"] {
            assert_eq!(with(&["--sds", "/s", "--sds-mode", wrong]), ["--sds-mode"]);
        }
        let plain = [
            "--control",
            "http://c:1",
            "--namespace",
            "n",
            "--service",
            "s p",
            "--sds",
            "/s",
        ];
        let plain = [&plain[..], &["--join-token", &token]].concat();
        assert_eq!(fields(&plain), ["--control", "--service"]);
    }
}
