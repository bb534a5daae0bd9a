//! What a service declares of itself, shown and changed by whoever operates it: another TLS mode without a deployment.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, Subcommand};
use outrigger_xds::identity::TlsMode;
use serde_json::{Value, json};

use super::client::Client;
use super::{Server, print};

/// The attribute that holds it, and the one that says since when.
const POLICY: &str = "OUTRIGGER_POLICY";
const REVISION: &str = "OUTRIGGER_REVISION";

/// What a service declares: TLS, who may call it, and its resilience.
#[derive(Args)]
pub struct PolicyArgs {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Print a service's policy; what it does not say has its default.
    Show(Service),
    /// Change a part of it, at once and in every task. It lasts until a deployment declares something new.
    Set(Set),
}

#[derive(Args)]
struct Service {
    /// The namespace of the service.
    #[arg(long)]
    namespace: String,
    /// Its discovery name.
    #[arg(long)]
    service: String,
}

#[derive(Args)]
#[group(id = "change", required = true, multiple = true)]
struct Set {
    #[command(flatten)]
    service: Service,
    /// What connections its tasks take: disable, permissive or strict.
    #[arg(long, group = "change", value_name = "MODE")]
    tls: Option<TlsMode>,
    /// Who may call it: JSON, as in a document's `policy.authorization`; null is everybody.
    #[arg(long, group = "change", value_parser = json_value, value_name = "JSON")]
    authorization: Option<Value>,
}

fn json_value(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

/// `outrigger-control policy …`.
pub async fn policy(PolicyArgs { server, command }: PolicyArgs) -> anyhow::Result<()> {
    let client = Client::open(&server.server, &server.operator)?;
    let (PolicyCommand::Show(service) | PolicyCommand::Set(Set { service, .. })) = &command;
    let id = service.id(&client).await?;
    let mut attributes = declared(&client, &id).await?;
    let said = attributes[POLICY].as_str().unwrap_or("{}");
    let mut policy: Value =
        serde_json::from_str(said).with_context(|| format!("its {POLICY} is not JSON"))?;
    if let PolicyCommand::Set(set) = &command {
        if let Some(mode) = set.tls {
            policy["tls"] = mode.as_str().into();
        }
        if let Some(authorization) = &set.authorization {
            policy["authorization"] = authorization.clone();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        attributes[POLICY] = policy.to_string().into();
        attributes[REVISION] = format!("operator-{}", now.as_millis()).into();
        // A declaration is replaced as a whole.
        let input = json!({ "ServiceId": id, "Attributes": attributes });
        client.cloud_map("UpdateServiceAttributes", &input).await?;
    }
    print(&format!("{policy:#}"))
}

/// The attributes of a service.
async fn declared(client: &Client, id: &str) -> anyhow::Result<Value> {
    let input = json!({ "ServiceId": id });
    let mut answer = client.cloud_map("GetServiceAttributes", &input).await?;
    Ok(answer["ServiceAttributes"]["Attributes"].take())
}

impl Service {
    async fn id(&self, client: &Client) -> anyhow::Result<String> {
        let namespace = find(
            client,
            ["Namespaces", "NAME", &self.namespace],
            &self.namespace,
        )
        .await?
        .with_context(|| format!("there is no namespace {:?}", self.namespace))?;
        find(
            client,
            ["Services", "NAMESPACE_ID", &namespace],
            &self.service,
        )
        .await?
        .with_context(|| {
            let Self { namespace, service } = self;
            format!("there is no service {service:?} in namespace {namespace:?}")
        })
    }
}

/// The id of what has this name, of those that a filter leaves.
async fn find(
    client: &Client,
    [list, filter, value]: [&str; 3],
    name: &str,
) -> anyhow::Result<Option<String>> {
    let mut input = json!({ "Filters": [{ "Name": filter, "Values": [value] }] });
    loop {
        let answer = client.cloud_map(&format!("List{list}"), &input).await?;
        let mut items = answer[list].as_array().into_iter().flatten();
        if let Some(found) = items.find(|item| item["Name"] == name) {
            return Ok(found["Id"].as_str().map(str::to_owned));
        }
        match answer["NextToken"].as_str() {
            Some(token) => input["NextToken"] = token.into(),
            None => return Ok(None),
        }
    }
}
