//! Announces this task with plain Cloud Map calls: level-triggered, so that a crash between any two is repaired by the next pass.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_xds::hop::Tokens;
use outrigger_xds::model::ServicePolicy;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod leave;

use super::client::{CALL_TIMEOUT, CallError, Client};
use super::document::{PortMapping, Service};
use super::readiness::{Application, Verdict};
use super::state::sha256_hex;
use crate::config::MeshConfig;
use crate::observe::ready::Readiness;

/// Between two looks at what the registry holds of us.
const RECHECK: Duration = Duration::from_secs(10);
/// Between two tries to tell what the registry does not know yet.
const RETRY: Duration = Duration::from_secs(2);
/// The tokens of the hop protocol, which the registry does not show.
const HOP: &str = "OUTRIGGER_HOP";

/// What is announced, and to whom.
pub struct AnnounceConfig {
    /// This task.
    pub mesh: MeshConfig,
    /// Ingress ports by port name.
    pub ports: BTreeMap<String, u16>,
    /// By which callers' sidecars know this one.
    pub hop: Tokens,
    /// The control servers.
    pub client: Client,
    /// Counts connections (see `SubscriptionConfig::reconnected`).
    pub reconnected: Arc<watch::Sender<u64>>,
    /// Kept up to date.
    pub standing: Standing,
}

/// What has become of this task in the registry; each is cancelled when it is so, and stays.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// This run of the sidecar has registered it.
    pub registered: CancellationToken,
    /// Somebody else has drained or deregistered it.
    pub taken_out: CancellationToken,
}

/// What the registry holds of an instance.
enum Held {
    AsWanted,
    /// Something else, or nothing: it is registered again.
    Otherwise,
    /// It was drained or deregistered, and is not to come back.
    TakenOut,
}

/// What the registry has been told of an instance by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Registered,
    /// And whether its application passes.
    Health(bool),
}

/// Announces, drains and deregisters one task.
pub struct Announcer {
    config: AnnounceConfig,
    ready: Arc<Readiness>,
    /// Service ids by discovery name, of what is registered.
    registered: Mutex<BTreeMap<String, String>>,
}

impl Announcer {
    /// Does nothing until [`Self::run`].
    pub fn new(config: AnnounceConfig, ready: Arc<Readiness>) -> Self {
        Self {
            config,
            ready,
            registered: Mutex::default(),
        }
    }

    /// Waits for readiness, then keeps everything announced and the problems reported, until `drain`.
    pub async fn run(&self, drain: CancellationToken) {
        let work = async {
            self.ready.wait().await;
            tokio::join!(self.keep_announced(), self.keep_reported());
        };
        tokio::select! {
            () = drain.cancelled() => {}
            () = work => {}
        }
    }

    async fn keep_announced(&self) {
        let Some(document) = &self.config.mesh.document else {
            return;
        };
        let each = document.services.iter().filter_map(|service| {
            let mapping = document.port_mapping(&service.port_name)?;
            let port = *self.config.ports.get(&service.port_name)?;
            Some(self.keep_service(service, mapping, port))
        });
        futures_util::future::join_all(each).await;
    }

    async fn keep_service(&self, service: &Service, mapping: &PortMapping, port: u16) {
        let application = Application::new(service, mapping, self.config.mesh.app_address);
        let verdict = watch::Sender::new(Verdict::Waiting);
        tokio::join!(
            application.watch(&verdict, &self.ready),
            self.keep_registered(service, mapping, port, verdict.subscribe()),
        );
    }

    /// Registers once the application has passed, and from then on tells whether it does.
    async fn keep_registered(
        &self,
        service: &Service,
        mapping: &PortMapping,
        port: u16,
        mut verdict: watch::Receiver<Verdict>,
    ) {
        let key = format!("announce/{}", service.discovery_name);
        let ingress = format!("listener/ingress/{}", mapping.name);
        let passed = verdict.wait_for(|verdict| *verdict == Verdict::Passing);
        if passed.await.is_err() {
            return;
        }
        let mut reconnected = self.config.reconnected.subscribe();
        let mut told = Told::Nothing;
        loop {
            let healthy = *verdict.borrow_and_update() == Verdict::Passing;
            let announced = match self.ready.problem_of(&ingress) {
                Some(reason) => Err(format!("not announced, its ingress is not bound: {reason}")),
                None => self
                    .announce(service, mapping, port, healthy, &mut told)
                    .await
                    .map_err(|error| error.to_string()),
            };
            match announced {
                Ok(None) => self.ready.clear(&key),
                Ok(Some(refused)) => self.ready.problem(key.as_str(), refused),
                Err(reason) => self.ready.problem(key.as_str(), reason),
            }
            let pause = if told == Told::Health(healthy) {
                RECHECK
            } else {
                RETRY
            };
            tokio::select! {
                Ok(()) = reconnected.changed() => {}
                Ok(()) = verdict.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One pass; `Ok(Some(reason))` is a declaration the registry refused while the instance is registered.
    async fn announce(
        &self,
        service: &Service,
        mapping: &PortMapping,
        port: u16,
        healthy: bool,
        told: &mut Told,
    ) -> Result<Option<String>, CallError> {
        let namespace = self.namespace_id().await?;
        let id = self.create_service(service, &namespace).await?;
        let declaration =
            json!({"ServiceId": id, "Attributes": self.declaration(service, mapping)});
        let refused = match self.call("UpdateServiceAttributes", &declaration).await {
            Ok(_) => None,
            Err(error) if error.is("InvalidInput") => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        let mut attributes = self.instance(port);
        let held = match told {
            Told::Nothing => Held::Otherwise,
            Told::Registered | Told::Health(_) => self.held(&id, &attributes).await?,
        };
        if let Held::TakenOut = held {
            tracing::warn!(
                service = service.discovery_name,
                "taken out of the registry"
            );
            self.config.standing.taken_out.cancel();
            return Ok(refused);
        }
        if let Held::Otherwise = held {
            if !healthy {
                attributes.insert("AWS_INIT_HEALTH_STATUS", "UNHEALTHY".to_owned());
            }
            let input = json!({
                "ServiceId": id,
                "InstanceId": self.config.mesh.task_id,
                "CreatorRequestId": super::state::random_hex(16),
                "Attributes": attributes,
            });
            self.call("RegisterInstance", &input).await?;
            *told = Told::Registered;
            tracing::info!(service = service.discovery_name, port, "registered");
            self.config.standing.registered.cancel();
        }
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(service.discovery_name.clone(), id.clone());
        if *told != Told::Health(healthy) {
            self.tell_health(service, &id, healthy).await?;
            *told = Told::Health(healthy);
        }
        Ok(refused)
    }

    /// By the custom health status: an operator's DRAINING is an attribute, and stays.
    async fn tell_health(
        &self,
        service: &Service,
        id: &str,
        healthy: bool,
    ) -> Result<(), CallError> {
        let status = if healthy { "HEALTHY" } else { "UNHEALTHY" };
        let input = json!({
            "ServiceId": id,
            "InstanceId": self.config.mesh.task_id,
            "Status": status,
        });
        let operation = "UpdateInstanceCustomHealthStatus";
        match self.call(operation, &input).await {
            // Of a service that knows no such status there is nothing to take back.
            Err(error) if healthy && error.is("CustomHealthNotFound") => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::info!(service = service.discovery_name, status, "told");
                Ok(())
            }
        }
    }

    async fn namespace_id(&self) -> Result<String, CallError> {
        let name = &self.config.mesh.namespace;
        let filter = json!({"Filters": [{"Name": "NAME", "Values": [name], "Condition": "EQ"}]});
        if let Some(id) = self
            .find("ListNamespaces", "Namespaces", filter.clone(), name)
            .await?
        {
            return Ok(id);
        }
        let input = json!({"Name": name, "CreatorRequestId": super::state::random_hex(16)});
        match self.call("CreateHttpNamespace", &input).await {
            Ok(_) => {}
            Err(error) if error.is("NamespaceAlreadyExists") => {}
            Err(error) => return Err(error),
        }
        let found = self
            .find("ListNamespaces", "Namespaces", filter, name)
            .await?;
        found.ok_or_else(|| pending(format!("namespace {name:?} is being created")))
    }

    async fn create_service(
        &self,
        service: &Service,
        namespace: &str,
    ) -> Result<String, CallError> {
        let name = &service.discovery_name;
        let input = json!({
            "Name": name,
            "NamespaceId": namespace,
            "CreatorRequestId": super::state::random_hex(16),
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
        let filter = json!({"Filters": [{"Name": "NAMESPACE_ID", "Values": [namespace], "Condition": "EQ"}]});
        let found = self.find("ListServices", "Services", filter, name).await?;
        found.ok_or_else(|| pending(format!("service {name:?} is being created")))
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
    async fn held(
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
        let mut compared = wanted.iter().filter(|(name, _)| **name != HOP);
        let same = compared.all(|(name, value)| held[*name] == **value);
        Ok(if same {
            Held::AsWanted
        } else {
            Held::Otherwise
        })
    }

    /// Service attributes; the revision is the deployment's, or follows from everything else.
    fn declaration(
        &self,
        service: &Service,
        mapping: &PortMapping,
    ) -> BTreeMap<&'static str, String> {
        let mut attributes =
            BTreeMap::from([("OUTRIGGER_APP_PROTOCOL", mapping.protocol.to_string())]);
        if let Some(alias) = &service.alias {
            let default = || format!("{}.{}", service.discovery_name, self.config.mesh.namespace);
            let name = alias.dns_name.clone().unwrap_or_else(default);
            attributes.insert("OUTRIGGER_ALIAS", format!("{name}:{}", alias.port));
        }
        if let Some(timeout) = service.per_request_timeout {
            attributes.insert(
                "OUTRIGGER_PER_REQUEST_TIMEOUT",
                timeout.as_secs().to_string(),
            );
        }
        if let Some(timeout) = service.idle_timeout {
            attributes.insert("OUTRIGGER_IDLE_TIMEOUT", timeout.as_secs().to_string());
        }
        if service.policy != ServicePolicy::default() {
            attributes.insert("OUTRIGGER_POLICY", service.policy.to_json().to_string());
        }
        let derived = || sha256_hex(format!("{attributes:?}").as_bytes())[..32].to_owned();
        let revision = self.config.mesh.revision.clone().unwrap_or_else(derived);
        attributes.insert("OUTRIGGER_REVISION", revision);
        attributes
    }

    fn instance(&self, port: u16) -> BTreeMap<&'static str, String> {
        let mesh = &self.config.mesh;
        let address = match mesh.address {
            IpAddr::V4(_) => "AWS_INSTANCE_IPV4",
            IpAddr::V6(_) => "AWS_INSTANCE_IPV6",
        };
        let document = mesh.document.as_ref();
        let optional = [
            ("AVAILABILITY_ZONE", mesh.zone.clone()),
            (
                "ECS_CLUSTER_NAME",
                document
                    .map(|one| one.cluster_name.clone())
                    .unwrap_or_default(),
            ),
            (
                "ECS_SERVICE_NAME",
                document
                    .map(|one| one.service_name.clone())
                    .unwrap_or_default(),
            ),
        ];
        let mut attributes = BTreeMap::from([
            (address, mesh.address.to_string()),
            ("AWS_INSTANCE_PORT", port.to_string()),
            (HOP, self.config.hop.to_string()),
            ("OUTRIGGER_NODE", mesh.task_id.clone()),
            ("OUTRIGGER_SIDECAR", "true".to_owned()),
            ("OUTRIGGER_STATE", "ACTIVE".to_owned()),
        ]);
        attributes.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
        attributes
    }

    /// Tells the control server what is wrong here, whenever that changes.
    async fn keep_reported(&self) {
        let path = format!("/v1/nodes/{}/report", self.config.mesh.task_id);
        let mut changed = self.ready.watch();
        let mut reconnected = self.config.reconnected.subscribe();
        let mut told: Option<Vec<String>> = None;
        loop {
            changed.borrow_and_update();
            let problems = self.ready.problems();
            if told.as_ref() != Some(&problems) {
                let sent = self
                    .config
                    .client
                    .operator(&path, &json!({"problems": problems}), CALL_TIMEOUT)
                    .await;
                told = sent.is_ok().then_some(problems);
            }
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                // What was told before may be forgotten: a report lives as long as the connection.
                Ok(()) = reconnected.changed() => told = None,
                () = tokio::time::sleep(RECHECK) => {}
            }
        }
    }

    async fn call(&self, operation: &str, input: &Value) -> Result<Value, CallError> {
        self.config.client.cloud_map(operation, input).await
    }
}

fn pending(reason: String) -> CallError {
    CallError::Unreachable {
        server: "control server".to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests;
