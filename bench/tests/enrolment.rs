//! How a task comes by its identity, with a real control server: tokens, restarts, renewal, and what nobody gets to see.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, wait_for};
use serde_json::{Value, json};
use tokio::process::Command;

/// A client-only task of the service `cart`, whose state and token are in a folder of its own.
struct Joining<'a> {
    fleet: &'a Fleet,
    number: u8,
    folder: PathBuf,
    /// Flags that say how it enrols.
    source: Vec<String>,
}

impl<'a> Joining<'a> {
    fn new(fleet: &'a Fleet, number: u8) -> anyhow::Result<Self> {
        let folder = fleet.folder().join(format!("cart-{number}"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("hosts"), "127.0.0.1 localhost\n")?;
        Ok(Self {
            fleet,
            number,
            folder,
            source: Vec::new(),
        })
    }

    /// Enrols with a token in a file.
    fn with(mut self, flag: &str, token: &str) -> anyhow::Result<Self> {
        let file = self.folder.join("token");
        std::fs::write(&file, token)?;
        self.source = vec![flag.to_owned(), file.display().to_string()];
        Ok(self)
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn log(&self) -> anyhow::Result<String> {
        let file = self
            .fleet
            .folder()
            .join(format!("cart-{}.log", self.number));
        Ok(std::fs::read_to_string(file)?)
    }

    fn command(&self, scheme: &str) -> Command {
        let document = json!({
            "serviceName": "cart",
            "serviceConnectConfiguration": { "enabled": true, "namespace": "demo" },
        });
        let mut command = Command::new(&self.fleet.binaries.proxy);
        command.args(["--xds", &format!("{scheme}://{}", self.fleet.xds)]);
        command.args(["--control", &format!("{scheme}://{}", self.fleet.api)]);
        command.args(["--service-connect", &document.to_string()]);
        command.args(["--vip-cidr", &format!("127.{}.0.0/16", self.number)]);
        command.args(["--admin", "127.0.0.1:0", "--workers", "1"]);
        command.arg("--hosts-file").arg(self.folder.join("hosts"));
        command.arg("--state").arg(self.state());
        command.args(&self.source);
        command.env("OUTRIGGER_LOG", "trace");
        command
    }

    async fn start(&self) -> anyhow::Result<Sidecar> {
        let name = format!("cart-{}", self.number);
        let process = Process::spawn(&name, self.command("https"), self.fleet.folder())?;
        let admin = process.listening("admin", PATIENCE).await?;
        Ok(Sidecar {
            process,
            admin,
            hosts_file: self.folder.join("hosts"),
            agent: self.folder.join("agent.sock"),
        })
    }

    /// Waits until the control server shows this task as connected.
    async fn connected(&self) -> anyhow::Result<()> {
        let id = std::fs::read_to_string(self.state().join("task-id"))?;
        connected(self.fleet, id.trim(), true).await.map(drop)
    }
}

/// Asks the control server as its operator does; answers what it prints.
async fn operator(fleet: &Fleet, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(&fleet.binaries.control);
    command.args(args);
    command.args(["--server", &fleet.api.to_string(), "--operator"]);
    command.arg(fleet.folder().join("registry/operator.json"));
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {said}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

const CREATE: [&str; 6] = [
    "token",
    "create",
    "--namespace",
    "demo",
    "--service",
    "cart",
];

/// The same control server with other flags.
async fn with_flags(fleet: &mut Fleet, flags: &[&str]) -> anyhow::Result<()> {
    fleet.control.kill().await?;
    let mut command = Command::new(&fleet.binaries.control);
    command.args(["serve", "--api", &fleet.api.to_string()]);
    command.args(["--xds", &fleet.xds.to_string(), "--data"]);
    command.arg(fleet.folder().join("registry")).args(flags);
    fleet.control = Process::spawn("control-flags", command, fleet.folder())?;
    fleet.control.listening("xds", PATIENCE).await.map(drop)
}

async fn issued(sidecar: &Sidecar) -> anyhow::Result<f64> {
    metric(
        sidecar.admin,
        "outrigger_certificate_requests_total",
        "issued",
    )
    .await
}

/// The private key that is kept, and the token's own part: what is to be seen nowhere.
fn secrets(state: &Path, token: &str) -> anyhow::Result<Vec<String>> {
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(state.join("identity"))?)?;
    let key = kept["key"].as_str().context("a key")?;
    let mut lines = key.lines().filter(|line| !line.starts_with("-----"));
    let secret = token.rsplit('.').next().unwrap_or(token);
    Ok(vec![
        lines.next().context("a line of the key")?.to_owned(),
        secret.to_owned(),
        "PRIVATE KEY".to_owned(),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_good_once_a_restart_needs_none_and_nobody_sees_key_or_token()
-> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let token = operator(&fleet, &CREATE).await?;
        let task = Joining::new(&fleet, 170)?.with("--join-token", &token)?;
        let mut sidecar = task.start().await?;
        with_log(sidecar.ready().await, &sidecar)?;
        task.connected().await?;
        let hidden = secrets(&task.state(), &token)?;
        let (ready, config) = (
            page(sidecar.admin, "/ready").await?,
            page(sidecar.admin, "/config").await?,
        );
        let shown = [
            ready,
            config,
            page(sidecar.admin, "/metrics").await?,
            page(sidecar.admin, "/clusters").await?,
            task.log()?,
        ];
        for text in &shown {
            for secret in &hidden {
                ensure!(!text.contains(secret), "{secret} is shown in {text}");
            }
        }
        ensure!(shown[4].contains("TRACE"), "the log has everything");
        for entry in std::fs::read_dir(task.state())? {
            let entry = entry?;
            let mode = entry.metadata()?.mode();
            let plain = entry.file_type()?.is_file();
            ensure!(
                !plain || mode & 0o077 == 0,
                "{:?} has mode {mode:o}",
                entry.path()
            );
        }

        sidecar.process.kill().await?;
        std::fs::remove_file(task.folder.join("token"))?;
        let again = task.start().await?;
        with_log(again.ready().await, &again)?;
        task.connected().await?;
        ensure!(issued(&again).await? == 0.0, "what was kept is still good");

        let other = Joining::new(&fleet, 171)?.with("--join-token", &token)?;
        let sidecar = other.start().await?;
        let reason = problem(&sidecar, "identity").await?;
        ensure!(reason.contains("used"), "{reason}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_is_good_until_it_is_revoked_and_then_the_reason_is_told()
-> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let token = operator(&fleet, &[&CREATE[..], &["--shared"]].concat()).await?;
        for number in [172, 173] {
            let task = Joining::new(&fleet, number)?.with("--service-token-file", &token)?;
            let sidecar = task.start().await?;
            with_log(sidecar.ready().await, &sidecar)?;
            task.connected().await?;
        }
        let listed: Value =
            serde_json::from_str(&operator(&fleet, &["token", "list", "--json"]).await?)?;
        let id = listed[0]["id"]
            .as_str()
            .with_context(|| listed.to_string())?;
        operator(&fleet, &["token", "revoke", id]).await?;
        let task = Joining::new(&fleet, 174)?.with("--service-token-file", &token)?;
        let sidecar = task.start().await?;
        let reason = problem(&sidecar, "identity").await?;
        ensure!(
            reason.contains("not enrolled") && reason.contains("revoked"),
            "{reason}"
        );
        ensure!(task.log()?.contains(&reason), "it is not in the log");
        let ready = json_page(sidecar.admin, "/ready").await?;
        ensure!(
            ready["ready"] == false && ready["tasks"]["identity"]["state"] == "waiting",
            "{ready}"
        );
        ensure!(
            metric(
                sidecar.admin,
                "outrigger_certificate_requests_total",
                "failed"
            )
            .await?
                >= 1.0
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_server_of_another_ca_is_refused_before_it_gets_the_token() -> anyhow::Result<()>
{
    bounded(async {
        let fleet = fleet().await?;
        let token = operator(&fleet, &CREATE).await?;
        let secret = token.rsplit('.').next().unwrap_or_default();
        let foreign = format!("ojt1.{}.{secret}", "5a".repeat(32));
        let task = Joining::new(&fleet, 175)?.with("--join-token", &foreign)?;
        let sidecar = task.start().await?;
        let reason = problem(&sidecar, "identity").await?;
        ensure!(reason.contains("does not end in the root"), "{reason}");
        let log = std::fs::read_to_string(fleet.folder().join("control.log"))?;
        ensure!(
            !log.contains("no certificate is signed"),
            "it was asked: {log}"
        );
        drop(sidecar);
        let task = Joining::new(&fleet, 176)?.with("--join-token", &token)?;
        let sidecar = task.start().await?;
        with_log(sidecar.ready().await, &sidecar)?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_every_few_seconds_keeps_the_stream_and_a_hot_restart_the_identity()
-> anyhow::Result<()> {
    bounded(async {
        let mut fleet = fleet().await?;
        with_flags(&mut fleet, &["--certificate-lifetime", "4s"]).await?;
        let token = operator(&fleet, &CREATE).await?;
        let task = Joining::new(&fleet, 177)?.with("--join-token", &token)?;
        let mut sidecar = task.start().await?;
        with_log(sidecar.ready().await, &sidecar)?;
        task.connected().await?;
        let renewed = |sidecar: &Sidecar, times: f64| {
            let admin = sidecar.admin;
            wait_for("renewals", PATIENCE, move || async move {
                let times_now =
                    metric(admin, "outrigger_certificate_requests_total", "issued").await?;
                Ok((times_now >= times).then_some(()))
            })
        };
        with_log(renewed(&sidecar, 4.0).await, &sidecar)?;
        let connects = |log: String| log.matches("control server connected").count();
        ensure!(connects(task.log()?) == 1, "the stream was dropped");
        let ready = json_page(sidecar.admin, "/ready").await?;
        ensure!(
            ready["ready"] == true && ready["problems"] == json!({}),
            "{ready}"
        );

        std::fs::remove_file(task.folder.join("token"))?;
        let successor = task.start().await?;
        with_log(successor.ready().await, &successor)?;
        sidecar.process.ended(PATIENCE).await?;
        with_log(renewed(&successor, 2.0).await, &successor)?;
        ensure!(connects(task.log()?) == 2, "{}", task.log()?);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_is_believed_before_it_signs_and_nothing_is_dropped() -> anyhow::Result<()> {
    bounded(async {
        let mut fleet = fleet().await?;
        with_flags(&mut fleet, &["--certificate-lifetime", "4s"]).await?;
        let token = operator(&fleet, &CREATE).await?;
        let task = Joining::new(&fleet, 178)?.with("--join-token", &token)?;
        let sidecar = task.start().await?;
        with_log(sidecar.ready().await, &sidecar)?;
        let roots = || {
            let kept = std::fs::read_to_string(task.state().join("identity"))?;
            let kept: Value = serde_json::from_str(&kept)?;
            let bundle = kept["bundle"].as_str().unwrap_or_default().to_owned();
            anyhow::Ok(bundle)
        };
        let before = roots()?;
        operator(&fleet, &["ca", "rotate"]).await?;
        let gone = wait_for("the old root to be gone", PATIENCE, || async {
            let now = roots()?;
            Ok((now.matches("BEGIN").count() == 1 && now != before).then_some(()))
        });
        with_log(gone.await, &sidecar)?;
        let ready = json_page(sidecar.admin, "/ready").await?;
        ensure!(
            ready["ready"] == true && ready["problems"] == json!({}),
            "{ready}"
        );
        ensure!(task.log()?.matches("control server connected").count() == 1);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_server_in_plaintext_is_an_error_at_the_start() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let token = format!("ojt1.{}.s3cret", "5a".repeat(32));
        let task = Joining::new(&fleet, 179)?.with("--join-token", &token)?;
        let output = task.command("http").kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, output).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
        if !(said.contains("--control") && said.contains("never sent unencrypted")) {
            bail!("{said}");
        }
        ensure!(!said.contains("s3cret"), "{said}");
        Ok(())
    })
    .await
}
