//! What an operator's commands do: they ask a running server.

mod client;
mod policy;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use client::Client;
pub use policy::{PolicyArgs, policy};

use crate::identity::CreateToken;

/// Where the server is, and who asks.
#[derive(Args)]
pub struct Server {
    /// The API of the running server; it is spoken to in TLS.
    #[arg(
        long,
        env = "OUTRIGGER_SERVER",
        default_value = "127.0.0.1:8471",
        value_name = "HOST:PORT",
        global = true
    )]
    server: String,
    /// The file with the operator's certificate, which the server keeps in its data directory.
    #[arg(
        long,
        env = "OUTRIGGER_OPERATOR",
        default_value = "./outrigger-data/operator.json",
        value_name = "FILE",
        global = true
    )]
    operator: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// Tokens by which tasks enrol for their first certificate.
#[derive(Args)]
pub struct TokenArgs {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token and print it; it is shown this once. It holds the fingerprint of the CA, which a task pins at its first contact.
    Create(Create),
    /// List the tokens; what is listed is good for nothing.
    List,
    /// Have a token taken no more. Certificates that were given for it live until they end, and are not renewed: what enrolled by it
    /// needs another token.
    Revoke {
        /// As `token list` has it.
        id: String,
    },
}

#[derive(Args)]
struct Create {
    /// The namespace of the service.
    #[arg(long)]
    namespace: String,
    /// The service that whoever shows the token may be.
    #[arg(long)]
    service: String,
    /// Good as often as one likes, until it is revoked: for all tasks of the service.
    #[arg(long, conflicts_with = "uses")]
    shared: bool,
    /// How often it is good. [default: 1]
    #[arg(long, value_name = "N")]
    uses: Option<u32>,
    /// How long it is good. [default: 1h; of a shared one: for ever]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    ttl: Option<Duration>,
    /// Take the token in the first line of this file, of 32 characters or more, instead of making one.
    #[arg(long, requires = "shared", value_name = "FILE")]
    from_file: Option<PathBuf>,
}

/// The CA that signs the tasks' certificates.
#[derive(Args)]
pub struct CaArgs {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Subcommand)]
enum CaCommand {
    /// List the roots, their fingerprints and stages.
    Show {
        /// Print the roots themselves, for --control-ca and for openssl.
        #[arg(long)]
        pem: bool,
    },
    /// Make the next root. It is published first, signs when everybody knows it, and the old one is trusted until the last
    /// certificate that it signed has ended. What pins the old root (tokens, documents) is good until the next rotation; make shared
    /// tokens anew before that.
    Rotate,
}

/// `outrigger-control token …`.
pub async fn token(TokenArgs { server, command }: TokenArgs) -> anyhow::Result<()> {
    let client = Client::open(&server.server, &server.operator)?;
    match command {
        TokenCommand::Create(wanted) => {
            let wanted = serde_json::to_value(wanted.request()?)?;
            let made = client.call("POST", "/v1/tokens", &wanted).await?;
            if server.json {
                return print(&format!("{made:#}"));
            }
            print(text(&made["token"]))?;
            let (id, kind) = (text(&made["id"]), text(&made["kind"]));
            eprintln!("{kind} token {id}, {}", until(&made["expires"]));
            Ok(())
        }
        TokenCommand::List => {
            let all = client.call("GET", "/v1/tokens", &Value::Null).await?;
            if server.json {
                return print(&format!("{all:#}"));
            }
            let row = |one: &Value| {
                let uses = match one["uses"].as_u64() {
                    Some(uses) => format!("{}/{uses}", one["used"]),
                    None => "shared".to_owned(),
                };
                let service = format!("{}/{}", text(&one["namespace"]), text(&one["service"]));
                let (id, state) = (text(&one["id"]).to_owned(), text(&one["state"]).to_owned());
                vec![id, service, uses, state, until(&one["expires"])]
            };
            table(&["ID", "SERVICE", "USED", "STATE", "TIME"], &all, row)
        }
        TokenCommand::Revoke { id } => {
            let path = format!("/v1/tokens/{id}");
            client.call("DELETE", &path, &Value::Null).await?;
            match server.json {
                true => print(&json!({ "id": id, "state": "revoked" }).to_string()),
                false => print(&format!("{id} is revoked")),
            }
        }
    }
}

impl Create {
    fn request(self) -> anyhow::Result<CreateToken> {
        let token = match &self.from_file {
            None => None,
            Some(path) => Some(crate::identity::read_token(path)?),
        };
        Ok(CreateToken {
            namespace: self.namespace,
            service: self.service,
            shared: self.shared,
            uses: self.uses,
            ttl: self.ttl.map(|ttl| ttl.as_secs()),
            token,
        })
    }
}

/// `outrigger-control ca …`.
pub async fn ca(CaArgs { server, command }: CaArgs) -> anyhow::Result<()> {
    let client = Client::open(&server.server, &server.operator)?;
    let (rotated, pem) = match command {
        CaCommand::Rotate => {
            client.call("POST", "/v1/ca/rotate", &Value::Null).await?;
            (true, false)
        }
        CaCommand::Show { pem } => (false, pem),
    };
    let shown = client.call("GET", "/v1/ca", &Value::Null).await?;
    if rotated {
        eprintln!(
            "tokens that pin the root of now are good until the next rotation; make shared ones anew before that (`token list`)"
        );
    }
    if server.json {
        return print(&format!("{shown:#}"));
    }
    if pem {
        return print(text(&shown["bundle"]).trim_end());
    }
    if shown["embedded"] == false {
        return print(&format!("{}\tyours", text(&shown["fingerprint"])));
    }
    table(
        &["ROOT", "STAGE", "NEXT STAGE", "ENDS"],
        &shown["roots"],
        |root| {
            let next = match root["until"].as_u64() {
                Some(_) => until(&root["until"]),
                None => "-".to_owned(),
            };
            let (root_is, stage) = (
                text(&root["fingerprint"]).to_owned(),
                text(&root["stage"]).to_owned(),
            );
            vec![root_is, stage, next, date(&root["not_after"])]
        },
    )?;
    let waiting = shown["waiting_for"].as_array().map_or(0, Vec::len);
    if waiting > 0 {
        eprintln!("{waiting} sidecars do not know the new root yet; --json names them");
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// How long from now.
fn until(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_u64() else {
        return "for ever".to_owned();
    };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    match at.duration_since(SystemTime::now()) {
        Ok(left) => format!(
            "{} left",
            humantime::format_duration(Duration::from_secs(left.as_secs()))
        ),
        Err(_) => "over".to_owned(),
    }
}

fn date(seconds: &Value) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.as_u64().unwrap_or(0));
    humantime::format_rfc3339_seconds(at).to_string()
}

fn table(head: &[&str], rows: &Value, row: impl Fn(&Value) -> Vec<String>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(head.to_vec());
    for one in rows.as_array().into_iter().flatten() {
        table.add_row(row(one));
    }
    print(&table.trim_fmt())
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
