//! How a fleet's sidecars find their control server: in the clear, or with an identity that they enrol for.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::Fleet;

/// What a task enrols with.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// A file with the token that the tasks of its service share.
    pub token: PathBuf,
    /// The CA's SHA-256.
    pub fingerprint: String,
}

impl Fleet {
    /// Whether sidecars have identities.
    pub fn is_secure(&self) -> bool {
        !self.control_flags.is_empty()
    }

    /// The flags by which a sidecar of `service` reaches the control server.
    pub(super) async fn reach_control(
        &self,
        command: &mut Command,
        service: &str,
    ) -> anyhow::Result<()> {
        let scheme = if self.is_secure() { "https" } else { "http" };
        let url = |address| format!("{scheme}://{address}");
        command.args(["--control", &url(self.api), "--xds", &url(self.xds)]);
        if self.is_secure() {
            let enrolment = self.enrolment(service).await?;
            command.arg("--service-token-file").arg(enrolment.token);
            command.args(["--control-ca", &enrolment.fingerprint]);
        }
        Ok(())
    }

    /// A new token for the tasks of `service`, as an operator makes it.
    pub async fn enrolment(&self, service: &str) -> anyhow::Result<Enrolment> {
        let arguments = ["token", "create", "--shared", "--namespace", "demo"];
        let made = self
            .operator(&[&arguments[..], &["--service", service]].concat())
            .await?;
        let text = made["token"].as_str().context("token")?;
        let fingerprint = text.split('.').nth(1).context("a fingerprint in it")?;
        let id = made["id"].as_str().context("id")?;
        let token = self.folder().join(format!("{id}.token"));
        std::fs::write(&token, text)?;
        Ok(Enrolment {
            token,
            fingerprint: fingerprint.to_owned(),
        })
    }

    /// What a command of `outrigger-control` answers, as its operator.
    pub async fn operator(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(&self.binaries.control);
        command.args(arguments).arg("--json");
        command.args(["--server", &self.api.to_string(), "--operator"]);
        command.arg(self.folder().join("registry/operator.json"));
        let output = command.stdin(Stdio::null()).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?}: {said}"))
    }
}
