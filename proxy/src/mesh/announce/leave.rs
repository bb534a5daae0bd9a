//! The end of what was announced: everybody is told that this task drains, and it is taken out of the registry.

use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::json;

use super::Announcer;
use crate::mesh::client::CallError;

/// On the drain call: the control server's own bound is 10 s.
const DRAIN_BOUND: Duration = Duration::from_secs(12);

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
    /// Marks this task DRAINING everywhere; returns when the connected sidecars have acknowledged, at the latest after 12 s.
    pub async fn drain(&self) -> Result<DrainReport, CallError> {
        let path = format!("/v1/nodes/{}/drain", self.config.mesh.task_id);
        let input = json!({});
        let call = self.config.client.operator(&path, &input, DRAIN_BOUND);
        match tokio::time::timeout(DRAIN_BOUND, call).await {
            Ok(Ok(report)) => Ok(serde_json::from_value(report).unwrap_or_default()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CallError::Unreachable {
                server: path,
                reason: "no answer in time".to_owned(),
            }),
        }
    }

    /// Takes this task out of the registry; what fails is logged, and its liveness will expire.
    pub async fn deregister(&self) {
        let registered = std::mem::take(
            &mut *self
                .registered
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for (name, id) in registered {
            let input = json!({"ServiceId": id, "InstanceId": self.config.mesh.task_id});
            match self.call("DeregisterInstance", &input).await {
                Ok(_) => tracing::info!(service = name, "deregistered"),
                Err(error) if error.is("InstanceNotFound") || error.is("ServiceNotFound") => {}
                Err(error) => tracing::warn!(service = name, %error, "not deregistered"),
            }
        }
    }
}
