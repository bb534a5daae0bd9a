//! Identities in a whole system: the way from plaintext to strict, certificates and roots that are replaced, each under load.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use common::*;
use outrigger_bench::fleet::{
    AppProtocol, Fleet, Service, Sidecar, Task, client_document, wait_for,
};
use outrigger_bench::load::{Load, Plan, Wire};
use serde_json::Value;

/// Three tasks of `orders` and a caller, all enrolled.
struct Mesh {
    tasks: Vec<Task>,
    client: Sidecar,
    address: SocketAddr,
    port: u16,
    fleet: Fleet,
}

impl Mesh {
    async fn start(first: u8, protocol: AppProtocol, flags: &[&str]) -> anyhow::Result<Self> {
        let binaries = tokio::task::spawn_blocking(binaries).await??;
        let fleet = Fleet::secure(binaries, flags).await?;
        let port = free_port()?;
        let service = Service {
            name: "orders".to_owned(),
            port,
            protocol,
        };
        let mut tasks = Vec::new();
        for n in 1..=3 {
            let (id, number) = (format!("orders-{n}"), first + n);
            tasks.push(Task::start(&fleet, &service, &id, number, [127, number]).await?);
        }
        let document = client_document();
        let client = Sidecar::start(&fleet, "client", first, [127, first], &document).await?;
        let address = dial(&client, "orders", port).await?;
        let mesh = Self {
            tasks,
            client,
            address,
            port,
            fleet,
        };
        mesh.endpoints("three tasks", |endpoints| endpoints.len() == 3)
            .await?;
        Ok(mesh)
    }

    /// As an operator sets it.
    async fn set_mode(&self, mode: &str) -> anyhow::Result<()> {
        let service = ["--namespace", "demo", "--service", "orders"];
        let policy = [&["policy", "set"][..], &service, &["--tls", mode]].concat();
        let set = self.fleet.operator(&policy).await?;
        ensure!(set["tls"] == mode, "{set}");
        Ok(())
    }

    /// Waits until the caller knows endpoints such as these.
    async fn endpoints(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> anyhow::Result<()> {
        let waited = wait_for(what, PATIENCE, || async {
            let clusters = json_page(self.client.admin, "/clusters").await?;
            let endpoints = clusters[0]["endpoints"].as_array().context("endpoints")?;
            Ok(is(endpoints).then_some(()))
        });
        with_log(waited.await, &self.client)
    }

    /// Waits until the caller knows of all tasks that they take TLS.
    async fn all_take_tls(&self) -> anyhow::Result<()> {
        self.endpoints("tasks that take TLS", |all| {
            all.len() == 3 && all.iter().all(|one| one["tls"] == true)
        })
        .await
    }

    /// Waits until every task's ingress is in this mode.
    async fn ingress_is(&self, mode: &str) -> anyhow::Result<()> {
        for task in &self.tasks {
            let what = format!("{} to be {mode}", task.id);
            let label = format!("mode=\"{mode}\"");
            let waited = wait_for(&what, PATIENCE, || async {
                let set = metric(task.sidecar.admin, "outrigger_listener_tls_mode", &label);
                Ok((set.await? == 1.0).then_some(()))
            });
            with_log(waited.await, &task.sidecar)?;
        }
        Ok(())
    }

    /// Connections that the tasks have accepted by TLS or in the clear.
    async fn accepted(&self, security: &str) -> anyhow::Result<f64> {
        let label = format!("security=\"{security}\"");
        let mut sum = 0.0;
        for task in &self.tasks {
            let admin = task.sidecar.admin;
            sum += metric(admin, "outrigger_tls_connections_total", &label).await?;
        }
        Ok(sum)
    }

    fn plan(&self, method: http::Method) -> Plan {
        Plan {
            method,
            path: "/echo".to_owned(),
            body: Bytes::from_static(b"order"),
            connections: 4,
            rate: Some(100),
            ..Plan::new(self.address, format!("orders:{}", self.port))
        }
    }

    fn loads(&self) -> Vec<Load> {
        let http2 = Plan {
            wire: Wire::Http2,
            ..self.plan(http::Method::POST)
        };
        let plans = [
            self.plan(http::Method::GET),
            self.plan(http::Method::POST),
            http2,
        ];
        plans.into_iter().map(Load::start).collect()
    }

    async fn more(&self, loads: &[Load]) -> anyhow::Result<()> {
        for load in loads {
            let before = load.sent();
            wait_for("more requests", PATIENCE, || async {
                Ok((load.sent() > before + 50).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn none_failed(&self, loads: Vec<Load>) -> anyhow::Result<()> {
        for load in loads {
            let record = load.stop().await;
            let last = || self.client.process.log_tail();
            ensure!(record.failed == 0, "{:?}\n{}", record.reasons, last());
            ensure!(record.sent > 100, "{} were sent", record.sent);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_from_plaintext_to_strict_and_back_loses_no_request() -> anyhow::Result<()> {
    bounded(async {
        let mesh = Mesh::start(210, AppProtocol::Http, &["--tls", "permissive"]).await?;
        let loads = mesh.loads();
        mesh.more(&loads).await?;
        ensure!(
            mesh.accepted("tls").await? == 0.0,
            "nobody has said TLS yet"
        );
        mesh.set_mode("permissive").await?;
        mesh.ingress_is("permissive").await?;
        mesh.all_take_tls().await?;
        mesh.more(&loads).await?;
        ensure!(mesh.accepted("tls").await? > 0.0, "all is still plaintext");
        mesh.set_mode("strict").await?;
        mesh.ingress_is("strict").await?;
        mesh.more(&loads).await?;
        mesh.set_mode("permissive").await?;
        mesh.ingress_is("permissive").await?;
        mesh.more(&loads).await?;
        mesh.none_failed(loads).await
    })
    .await
}

/// Every certificate lives for three seconds, and the root changes on the way.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_renewed_every_two_seconds_and_a_new_root_fail_no_request()
-> anyhow::Result<()> {
    let seconds = std::env::var("OUTRIGGER_ROTATION_SECONDS").ok();
    let seconds: u32 = seconds.and_then(|text| text.parse().ok()).unwrap_or(12);
    let whole = async {
        let flags = ["--tls", "strict", "--certificate-lifetime", "3s"];
        let mesh = Mesh::start(220, AppProtocol::Http, &flags).await?;
        mesh.set_mode("strict").await?;
        mesh.ingress_is("strict").await?;
        mesh.all_take_tls().await?;
        let loads = mesh.loads();
        let renewed = |sidecar: &Sidecar| {
            let admin = sidecar.admin;
            async move {
                let label = "result=\"issued\"";
                metric(admin, "outrigger_certificate_requests_total", label).await
            }
        };
        let before = renewed(&mesh.client).await?;
        mesh.fleet.operator(&["ca", "rotate"]).await?;
        let wanted = before + f64::from(seconds) / 2.0 - 1.0;
        for sidecar in mesh
            .tasks
            .iter()
            .map(|task| &task.sidecar)
            .chain([&mesh.client])
        {
            let bound = PATIENCE + Duration::from_secs(seconds.into());
            let done = wait_for("renewals", bound, || async {
                Ok((renewed(sidecar).await? >= wanted).then_some(()))
            });
            with_log(done.await, sidecar)?;
        }
        mesh.more(&loads).await?;
        let roots = mesh.fleet.operator(&["ca", "show"]).await?;
        ensure!(roots.to_string().contains("signing"), "{roots:#}");
        mesh.none_failed(loads).await
    };
    let bound = Duration::from_secs(u64::from(seconds) + 90);
    tokio::time::timeout(bound, whole)
        .await
        .context("it takes too long")?
}
