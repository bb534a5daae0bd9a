//! What the registry holds: namespaces and services by name, and what it shows of this task.

use std::collections::BTreeMap;

use outrigger_xds::identity::TlsMode;
use serde_json::{Value, json};

use super::Announcer;
use super::attributes::{HOP, TLS};
use crate::mesh::client::CallError;
use crate::mesh::document::Service;
use crate::mesh::state::random_hex;

/// What the revisions of an operator's `policy set` begin with.
const OPERATOR: &str = "operator-";

/// What the registry holds of an instance.
pub(super) enum Held {
    AsWanted,
    /// Something else, or nothing: it is registered again.
    Otherwise,
    /// It was drained or deregistered, and is not to come back.
    TakenOut,
}

impl Announcer {
    /// Of the service of this name, which may not exist: nothing is created.
    pub(super) async fn service_id(&self, name: &str) -> Result<Option<String>, CallError> {
        let known = self.ids().get(name).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let Some(namespace) = self.find_namespace().await? else {
            return Ok(None);
        };
        let found = self.find_service(name, &namespace).await?;
        if let Some(id) = &found {
            self.ids().insert(name.to_owned(), id.clone());
        }
        Ok(found)
    }

    pub(super) async fn namespace_id(&self) -> Result<String, CallError> {
        if let Some(id) = self.find_namespace().await? {
            return Ok(id);
        }
        let name = &self.config.mesh.namespace;
        let input = json!({"Name": name, "CreatorRequestId": random_hex(16)});
        match self.call("CreateHttpNamespace", &input).await {
            Ok(_) => {}
            Err(error) if error.is("NamespaceAlreadyExists") => {}
            Err(error) => return Err(error),
        }
        let found = self.find_namespace().await?;
        found.ok_or_else(|| pending(format!("namespace {name:?} is being created")))
    }

    async fn find_namespace(&self) -> Result<Option<String>, CallError> {
        let name = &self.config.mesh.namespace;
        let filter = json!({"Filters": [{"Name": "NAME", "Values": [name], "Condition": "EQ"}]});
        self.find("ListNamespaces", "Namespaces", filter, name)
            .await
    }

    async fn find_service(&self, name: &str, namespace: &str) -> Result<Option<String>, CallError> {
        let filter = json!({"Filters": [{"Name": "NAMESPACE_ID", "Values": [namespace], "Condition": "EQ"}]});
        self.find("ListServices", "Services", filter, name).await
    }

    pub(super) async fn create_service(
        &self,
        service: &Service,
        namespace: &str,
    ) -> Result<String, CallError> {
        let name = &service.discovery_name;
        let input = json!({
            "Name": name,
            "NamespaceId": namespace,
            "CreatorRequestId": random_hex(16),
            "HealthCheckCustomConfig": {"FailureThreshold": 1},
        });
        match self.call("CreateService", &input).await {
            Ok(output) => {
                let id = output["Service"]["Id"].as_str().map(str::to_owned);
                return id.ok_or_else(|| pending(format!("service {name:?} has no id yet")));
            }
            Err(CallError::Refused { kind, body, .. }) if kind == "ServiceAlreadyExists" => {
                if let Some(id) = body["ServiceId"].as_str() {
                    return Ok(id.to_owned());
                }
            }
            Err(error) => return Err(error),
        }
        let found = self.find_service(name, namespace).await?;
        found.ok_or_else(|| pending(format!("service {name:?} is being created")))
    }

    /// What to say of a declaration that was answered so, if another revision is in force. An operator's is meant to be, unless it
    /// asks for less than the document: that is not done (see `Accepted::merge`).
    pub(super) async fn superseded(
        &self,
        service: &Service,
        id: &str,
        answer: &Value,
    ) -> Result<Option<String>, CallError> {
        let Some(revision) = answer["Superseded"].as_str() else {
            return Ok(None);
        };
        let input = json!({"ServiceId": id});
        let held = self.call("GetServiceAttributes", &input).await?;
        let policy = held["ServiceAttributes"]["Attributes"]["OUTRIGGER_POLICY"].as_str();
        let policy: Value = policy
            .and_then(|policy| serde_json::from_str(policy).ok())
            .unwrap_or_default();
        let mode = policy["tls"].as_str().and_then(|mode| mode.parse().ok());
        let (mode, own): (TlsMode, _) = (mode.unwrap_or_default(), service.policy.tls);
        if revision.starts_with(OPERATOR) && mode >= own {
            return Ok(None);
        }
        let mut said = format!("this task's declaration is superseded by revision {revision}");
        if mode != own {
            let in_force = mode.max(own);
            said += &format!(": tls {mode} instead of {own}; this task takes {in_force}");
        }
        Ok(Some(said))
    }

    async fn find(
        &self,
        operation: &str,
        list: &str,
        mut input: Value,
        name: &str,
    ) -> Result<Option<String>, CallError> {
        loop {
            let output = self.call(operation, &input).await?;
            let mut items = output[list].as_array().into_iter().flatten();
            if let Some(id) = items
                .find(|item| item["Name"] == name)
                .and_then(|item| item["Id"].as_str())
            {
                return Ok(Some(id.to_owned()));
            }
            match output["NextToken"].as_str() {
                Some(token) if input["NextToken"] != token => input["NextToken"] = json!(token),
                _ => return Ok(None),
            }
        }
    }

    /// An instance that is gone was taken out only if the registry knows of that: it may also have been emptied, or be an old copy.
    pub(super) async fn held(
        &self,
        service: &str,
        wanted: &BTreeMap<&'static str, String>,
    ) -> Result<Held, CallError> {
        let input = json!({"ServiceId": service, "InstanceId": self.config.mesh.task_id});
        let output = match self.call("GetInstance", &input).await {
            Ok(output) => output,
            Err(CallError::Refused { kind, body, .. }) if kind == "InstanceNotFound" => {
                let deregistered = body["OperationId"].is_string();
                return Ok(if deregistered {
                    Held::TakenOut
                } else {
                    Held::Otherwise
                });
            }
            Err(error) => return Err(error),
        };
        let held = &output["Instance"]["Attributes"];
        if held["OUTRIGGER_STATE"] == "DRAINING" {
            return Ok(Held::TakenOut);
        }
        // Of the tokens a control server shows a digest.
        let shown = self.config.hop.shown();
        let same = wanted
            .iter()
            .all(|(name, value)| held[*name] == **value || *name == HOP && held[*name] == *shown);
        let same = same && held[TLS].is_string() == wanted.contains_key(TLS);
        Ok(if same {
            Held::AsWanted
        } else {
            Held::Otherwise
        })
    }

    /// Whether the registry shows this instance as healthy: `Some(None)` where it does not know, `None` where it has no such instance.
    pub(super) async fn shown_health(&self, id: &str) -> Result<Option<Option<bool>>, CallError> {
        let task = &self.config.mesh.task_id;
        let input = json!({"ServiceId": id, "Instances": [task]});
        match self.call("GetInstancesHealthStatus", &input).await {
            Ok(output) => Ok(Some(match output["Status"][task].as_str() {
                Some("HEALTHY") => Some(true),
                Some("UNHEALTHY") => Some(false),
                _ => None,
            })),
            Err(error) if error.is("InstanceNotFound") || error.is("ServiceNotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn pending(reason: String) -> CallError {
    CallError::Unreachable {
        server: "control server".to_owned(),
        reason,
        reached: true,
    }
}
