//! Announces this task with plain Cloud Map calls: level-triggered, so that a crash between any two is repaired by the next pass.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_xds::hop::Tokens;
use outrigger_xds::identity::TlsMode;
use outrigger_xds::tls::Identity;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod attributes;
mod leave;
mod registry;

use super::client::{CALL_TIMEOUT, CallError, Client};
use super::document::{PortMapping, Service};
use super::readiness::{Application, Verdict};
use crate::config::MeshConfig;
use crate::observe::ready::Readiness;
use registry::Held;

/// Between two looks at what the registry holds of us.
const RECHECK: Duration = Duration::from_secs(10);
/// Between two tries to tell what the registry does not know yet.
const RETRY: Duration = Duration::from_secs(2);
/// Problems in one report: the control server takes no more.
const MAX_PROBLEMS: usize = 64;

/// By the listener's name.
pub type TlsModes = BTreeMap<String, TlsMode>;

/// What is announced, and to whom.
pub struct AnnounceConfig {
    /// This task.
    pub mesh: MeshConfig,
    /// Ingress ports by port name.
    pub ports: BTreeMap<String, u16>,
    /// By which callers' sidecars know this one.
    pub hop: Tokens,
    /// As whom this task takes TLS, if it does; known once the sidecar is ready.
    pub identity: Option<Arc<Identity>>,
    /// The TLS modes that its listeners are in.
    pub modes: watch::Receiver<TlsModes>,
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
    /// Service ids by discovery name, as far as they are known.
    ids: Mutex<BTreeMap<String, String>>,
}

impl Announcer {
    /// Does nothing until [`Self::run`].
    pub fn new(config: AnnounceConfig, ready: Arc<Readiness>) -> Self {
        Self {
            config,
            ready,
            ids: Mutex::default(),
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
        let mut reconnected = self.config.reconnected.subscribe();
        let mut modes = self.config.modes.clone();
        let mut told = Told::Nothing;
        loop {
            modes.mark_unchanged();
            let now = *verdict.borrow_and_update();
            let announced = match (now, self.ready.problem_of(&ingress)) {
                (Verdict::Waiting, _) => Ok(None),
                (Verdict::Refusing, _) => {
                    self.spare(service).await.map_err(|error| error.to_string())
                }
                (Verdict::Passing | Verdict::Failing, Some(reason)) => {
                    Err(format!("not announced, its ingress is not bound: {reason}"))
                }
                (Verdict::Passing | Verdict::Failing, None) => self
                    .announce(service, mapping, port, now == Verdict::Passing, &mut told)
                    .await
                    .map_err(|error| error.to_string()),
            };
            let pause = match announced {
                Ok(_) => RECHECK,
                Err(_) => RETRY,
            };
            match announced {
                Ok(None) => self.ready.clear(&key),
                Ok(Some(refused)) => self.ready.problem(key.as_str(), refused),
                Err(reason) => self.ready.problem(key.as_str(), reason),
            }
            tokio::select! {
                Ok(()) = reconnected.changed() => {}
                Ok(()) = verdict.changed() => {}
                Ok(()) = modes.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The application has not passed in this run. What an earlier one registered is still offered, so its callers are told.
    async fn spare(&self, service: &Service) -> Result<Option<String>, CallError> {
        let Some(id) = self.service_id(&service.discovery_name).await? else {
            return Ok(None);
        };
        match self.shown_health(&id).await? {
            None | Some(Some(false)) => {}
            Some(Some(true) | None) => self.tell_health(service, &id, false).await?,
        }
        Ok(None)
    }

    /// One pass; `Ok(Some(reason))` is a declaration that is not in force while the instance is registered.
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
        // Before anything is registered there: an answer may never come, or come too late.
        self.ids()
            .insert(service.discovery_name.clone(), id.clone());
        let declaration =
            json!({"ServiceId": id, "Attributes": self.declaration(service, mapping)});
        let refused = match self.call("UpdateServiceAttributes", &declaration).await {
            Ok(answer) => self.superseded(service, &id, &answer).await?,
            Err(error) if error.is("InvalidInput") => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        let attributes = self.instance(mapping, port);
        let held = match told {
            Told::Nothing => Held::Otherwise,
            Told::Registered | Told::Health(_) => self.held(&id, &attributes).await?,
        };
        match held {
            Held::AsWanted => {}
            Held::Otherwise => {
                self.register(service, &id, attributes, healthy).await?;
                *told = Told::Registered;
            }
            Held::TakenOut => {
                let service = &service.discovery_name;
                tracing::warn!(service, "taken out of the registry");
                self.config.standing.taken_out.cancel();
                return Ok(refused);
            }
        }
        // What was told may be undone since: by an old copy of the registry, or by whoever else may say it.
        let undone =
            *told == Told::Health(healthy) && self.shown_health(&id).await? == Some(Some(!healthy));
        if undone || *told != Told::Health(healthy) {
            self.tell_health(service, &id, healthy).await?;
            *told = Told::Health(healthy);
        }
        Ok(refused)
    }

    async fn register(
        &self,
        service: &Service,
        id: &str,
        mut attributes: BTreeMap<&'static str, String>,
        healthy: bool,
    ) -> Result<(), CallError> {
        let port = attributes.get("AWS_INSTANCE_PORT").cloned();
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
        tracing::info!(service = service.discovery_name, port, "registered");
        self.config.standing.registered.cancel();
        Ok(())
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

    /// Tells the control server what is wrong here, whenever that changes.
    async fn keep_reported(&self) {
        let path = format!("/v1/nodes/{}/report", self.config.mesh.task_id);
        let mut changed = self.ready.watch();
        let mut reconnected = self.config.reconnected.subscribe();
        let mut told: Option<Vec<String>> = None;
        loop {
            changed.borrow_and_update();
            let problems = at_most(self.ready.problems(), MAX_PROBLEMS);
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

    fn ids(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last of them says how many more there are.
fn at_most(mut problems: Vec<String>, most: usize) -> Vec<String> {
    if problems.len() > most {
        let more = problems.split_off(most - 1).len();
        problems.push(format!("and {more} more"));
    }
    problems
}

#[cfg(test)]
mod tests;
