//! The command line of the control server.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use outrigger_control::app::{self, Options, Running};
use outrigger_control::commands::{self, CaArgs, PolicyArgs, TokenArgs};
use outrigger_control::identity::{Documents, IdentityError, Passphrase, Settings};
use outrigger_xds::identity::{DEFAULT_TRUST_DOMAIN, TlsMode};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Outrigger's control server: a registry with the AWS Cloud Map API, pushed to sidecars over xDS.
#[derive(Parser)]
#[command(name = "outrigger-control", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the Cloud Map API, the operator API and ADS.
    Serve(Box<Serve>),
    /// Make, list and revoke the tokens by which tasks enrol.
    Token(TokenArgs),
    /// Show the CA's roots, and make the next one.
    Ca(CaArgs),
    /// Show and change what a service declares: TLS, who may call it, its resilience.
    Policy(PolicyArgs),
}

#[derive(Args)]
struct Serve {
    /// Address of the Cloud Map API and the operator API.
    #[arg(
        long,
        env = "OUTRIGGER_API",
        default_value = "127.0.0.1:8471",
        value_name = "ADDR"
    )]
    api: SocketAddr,
    /// Address of ADS (gRPC).
    #[arg(
        long,
        env = "OUTRIGGER_XDS",
        default_value = "127.0.0.1:8472",
        value_name = "ADDR"
    )]
    xds: SocketAddr,
    /// Directory that holds the registry.
    #[arg(
        long,
        env = "OUTRIGGER_DATA",
        default_value = "./outrigger-data",
        value_name = "DIR"
    )]
    data: PathBuf,
    #[command(flatten)]
    identity: Identity,
}

/// TLS, and the CA that gives every task its identity.
#[derive(Args)]
#[command(next_help_heading = "TLS and identities")]
struct Identity {
    /// What both listeners take: `disable` (plaintext; there is no CA), `permissive` (TLS and plaintext, told apart by the
    /// first byte), `strict` (TLS; of a connection without a certificate the API takes enrolment and reading, ADS nothing).
    #[arg(
        long,
        env = "OUTRIGGER_TLS",
        default_value = "permissive",
        value_name = "MODE"
    )]
    tls: TlsMode,
    /// The trust domain of every identity.
    #[arg(
        long,
        env = "OUTRIGGER_TRUST_DOMAIN",
        default_value = DEFAULT_TRUST_DOMAIN,
        value_name = "DOMAIN"
    )]
    trust_domain: String,
    /// DNS names and IP addresses in this server's own certificate, for clients that look for one.
    #[arg(
        long,
        env = "OUTRIGGER_TLS_NAME",
        value_delimiter = ',',
        default_value = "localhost,127.0.0.1,::1",
        value_name = "NAME"
    )]
    tls_name: Vec<String>,
    /// How long a certificate is good; sidecars renew at two thirds of it.
    #[arg(
        long,
        env = "OUTRIGGER_CERTIFICATE_LIFETIME",
        value_parser = humantime::parse_duration,
        default_value = "24h",
        value_name = "TIME"
    )]
    certificate_lifetime: Duration,
    /// How long a root that is made here is good.
    #[arg(
        long,
        value_parser = humantime::parse_duration,
        default_value = "3650d",
        value_name = "TIME"
    )]
    ca_lifetime: Duration,
    /// How long a new root is published, at least, before it signs. [default: the certificates' lifetime]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    ca_overlap: Option<Duration>,
    /// A CA of your own: the certificate that signs, and what leads to its root, PEM. [default: one is made]
    #[arg(long, requires = "ca_key", value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// The key of --ca-cert, or where the first key that is made is kept; only its owner may read it. Keys that `ca rotate` makes
    /// are in --data. [default: ca-key.pem in --data]
    #[arg(long, value_name = "FILE")]
    ca_key: Option<PathBuf>,
    /// The passphrase of the key, in the first line of a file that only its owner may read; or set OUTRIGGER_CA_PASSPHRASE.
    #[arg(long, value_name = "FILE")]
    ca_passphrase_file: Option<PathBuf>,
    /// Roots to be trusted beside the CA's own, PEM.
    #[arg(long, value_name = "FILE")]
    ca_roots: Option<PathBuf>,
    /// Keys (JWKS) by which signed documents (JWT) are a proof of what a task may be, by their claims `namespace` and
    /// `service`, and `node` if there is one. The file is read anew for every document.
    #[arg(
        long,
        requires = "document_issuer",
        requires = "document_audience",
        value_name = "FILE"
    )]
    document_jwks: Option<PathBuf>,
    /// What `iss` must be.
    #[arg(long, requires = "document_jwks", value_name = "TEXT")]
    document_issuer: Option<String>,
    /// What `aud` must be, or contain.
    #[arg(long, requires = "document_jwks", value_name = "TEXT")]
    document_audience: Option<String>,
}

impl Identity {
    fn settings(self) -> Result<Settings, IdentityError> {
        let passphrase = match (
            self.ca_passphrase_file,
            std::env::var("OUTRIGGER_CA_PASSPHRASE"),
        ) {
            (Some(path), _) => Some(Passphrase::read(&path)?),
            (None, Ok(text)) => Some(Passphrase::new(&text)?),
            (None, Err(_)) => None,
        };
        Ok(Settings {
            tls: self.tls,
            trust_domain: self.trust_domain,
            names: self.tls_name,
            lifetime: self.certificate_lifetime,
            root_lifetime: self.ca_lifetime,
            overlap: self.ca_overlap,
            ca_cert: self.ca_cert,
            ca_key: self.ca_key,
            passphrase,
            ca_roots: self.ca_roots,
            documents: self.document_jwks.map(|jwks| Documents {
                jwks,
                issuer: self.document_issuer.unwrap_or_default(),
                audience: self.document_audience.unwrap_or_default(),
            }),
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("OUTRIGGER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = || {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    };
    let done = match Cli::parse().command {
        Command::Serve(serve) => {
            log();
            // It says by itself what caused it.
            run(*serve)
                .await
                .map_err(|error| anyhow::anyhow!("{error}"))
        }
        Command::Token(token) => commands::token(token).await,
        Command::Ca(ca) => commands::ca(ca).await,
        Command::Policy(policy) => commands::policy(policy).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(serve: Serve) -> anyhow::Result<()> {
    let identity = serve.identity.settings()?;
    let mode = identity.tls;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut running = app::start(Options {
        api: serve.api,
        xds: serve.xds,
        data: serve.data,
        identity,
    })
    .await?;
    greet(&running, mode);
    tokio::select! {
        reason = running.failed() => anyhow::bail!(reason),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    running.shutdown().await;
    Ok(())
}

fn greet(running: &Running, mode: TlsMode) {
    let scheme = match mode {
        TlsMode::Strict => "https",
        TlsMode::Disable | TlsMode::Permissive => "http",
    };
    let (api, xds) = (running.api_addr, running.xds_addr);
    let text = format!(
        "api listening on {scheme}://{api}\n\
         xds listening on {scheme}://{xds}\n\
         AWS SDKs and CLI: export AWS_DISABLE_HOST_PREFIX_INJECTION=true (else they ask data-{api})\n"
    );
    // Whoever started the server may have closed its output; that is no reason to stop.
    let _unread = std::io::stdout().write_all(text.as_bytes());
}
