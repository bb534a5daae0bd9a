//! The end of what was announced: everybody is told that this task drains, and it is taken out of the registry.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Announcer;
use crate::mesh::client::CallError;

/// On telling everybody, however often the control server must be asked: its own bound is 10 s.
pub(super) const DRAIN_BOUND: Duration = Duration::from_secs(11);
/// Between two tries, in milliseconds: not all sidecars of a host at once.
const AGAIN: RangeInclusive<u64> = 50..=200;

/// What the drain achieved; displayed as `14/14 acknowledged`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct DrainReport {
    /// Other sidecars that no longer offer this task.
    pub acknowledged: u64,
    /// Other sidecars that were connected.
    pub connected: u64,
    /// Those that did not answer in time.
    pub left_out: Vec<String>,
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, connected) = (self.acknowledged, self.connected);
        write!(f, "{acknowledged}/{connected} acknowledged")?;
        if !self.left_out.is_empty() {
            write!(f, " without {}", self.left_out.join(", "))?;
        }
        Ok(())
    }
}

impl Announcer {
    /// Marks this task DRAINING everywhere; returns when the connected sidecars have acknowledged, at the latest after `bound` or 11 s.
    /// A control server that fails meanwhile is asked again: it takes a drain twice. Where none was there to begin with, nobody is
    /// waited for.
    pub async fn drain(&self, bound: Duration) -> Result<DrainReport, CallError> {
        let end = Instant::now() + bound.min(DRAIN_BOUND);
        let path = format!("/v1/nodes/{}/drain", self.config.mesh.task_id);
        let input = json!({});
        let mut failed = CallError::Unreachable {
            server: path.clone(),
            reason: "no answer in time".to_owned(),
            reached: true,
        };
        let mut heard = false;
        loop {
            let call = self.config.client.operator(&path, &input, DRAIN_BOUND);
            match tokio::time::timeout_at(end, call).await {
                Ok(Ok(report)) => return Ok(serde_json::from_value(report).unwrap_or_default()),
                Ok(Err(error)) => {
                    let (again, reached) = may_change(&error);
                    heard |= reached;
                    if !again || !heard {
                        return Err(error);
                    }
                    failed = error;
                }
                Err(_) => return Err(failed),
            }
            let pause = rand::random_range(AGAIN);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Takes this task out of the registry, within `bound`. What fails is logged, and stays there: as lost, once the control server
    /// has missed this task for long enough, until somebody deregisters it.
    pub async fn deregister(&self, bound: Duration) {
        let document = self.config.mesh.document.as_ref();
        let services = document.into_iter().flat_map(|document| &document.services);
        let each = services.map(|service| async {
            let name = &service.discovery_name;
            match tokio::time::timeout(bound, self.deregister_from(name)).await {
                Ok(Ok(true)) => tracing::info!(service = name, "deregistered"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(service = name, %error, "not deregistered"),
                Err(_) => tracing::warn!(service = name, ?bound, "not deregistered in time"),
            }
        });
        futures_util::future::join_all(each).await;
    }

    /// Whether there was something to take out. An earlier run may have registered what this one knows nothing of.
    async fn deregister_from(&self, service: &str) -> Result<bool, CallError> {
        let Some(id) = self.service_id(service).await? else {
            return Ok(false);
        };
        let input = json!({"ServiceId": id, "InstanceId": self.config.mesh.task_id});
        match self.call("DeregisterInstance", &input).await {
            Ok(_) => Ok(true),
            Err(error) if error.is("InstanceNotFound") || error.is("ServiceNotFound") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether another try may be answered otherwise, and whether this one may have been heard.
fn may_change(error: &CallError) -> (bool, bool) {
    match error {
        CallError::Unreachable { reached, .. } => (true, *reached),
        CallError::Refused { status, .. } => (status.is_server_error(), true),
    }
}
