//! Who may call whom in a mesh with identities: control server, sidecars that enrol, and policies that are declared.

mod common;

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, address, client_document, wait_for};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A task of `orders` under this policy.
async fn orders(
    fleet: &Fleet,
    id: &str,
    number: u8,
    alias: u16,
    policy: &Value,
) -> anyhow::Result<(Process, Sidecar)> {
    let listen = SocketAddr::new(address(number), 0);
    let (app, listening) = application(fleet.folder(), id, listen).await?;
    let mut document = orders_document(listening.port(), alias);
    document["serviceConnectConfiguration"]["services"][0]["policy"] = policy.clone();
    let sidecar = Sidecar::start(fleet, id, number, [127, number], &document).await?;
    sidecar.ready().await?;
    Ok((app, sidecar))
}

/// A task that only calls others, as `service`.
async fn caller(fleet: &Fleet, service: &str, number: u8) -> anyhow::Result<Sidecar> {
    let mut document = client_document();
    document["serviceName"] = service.into();
    let sidecar = Sidecar::start(fleet, service, number, [127, number], &document).await?;
    sidecar.ready().await?;
    Ok(sidecar)
}

/// One connection of an application to its sidecar, kept.
struct Kept(TcpStream);

impl Kept {
    async fn open(sidecar: &Sidecar, port: u16) -> anyhow::Result<Self> {
        let address = dial(sidecar, "orders", port).await?;
        Ok(Self(TcpStream::connect(address).await?))
    }

    /// The status of the answer to a GET.
    async fn get(&mut self) -> anyhow::Result<u16> {
        let request = b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
        self.0.write_all(request).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await?);
        }
        let head = String::from_utf8(head)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let named = name.eq_ignore_ascii_case("content-length");
            named.then(|| value.parse::<usize>().ok()).flatten()
        });
        let mut body = vec![0; length.context("a length")?];
        self.0.read_exact(&mut body).await?;
        let status = head.get(9..12).context("a status")?;
        Ok(status.parse()?)
    }

    async fn until(&mut self, status: u16) -> anyhow::Result<()> {
        let what = format!("an answer {status}");
        let start = tokio::time::Instant::now();
        loop {
            let seen = self.get().await?;
            if seen == status {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("{what}: still {seen}");
            }
        }
    }
}

fn allows(callers: &[&str]) -> Value {
    json!({ "tls": "strict", "authorization": { "allow": [{ "from": callers }] } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_called_by_those_whom_it_lists_until_it_lists_others() -> anyhow::Result<()> {
    bounded(async {
        let binaries = tokio::task::spawn_blocking(binaries).await??;
        let fleet = Fleet::secure(binaries, &["--tls", "permissive"]).await?;
        let port = free_port()?;
        let (_app, first) = orders(&fleet, "one", 60, port, &allows(&["cart"])).await?;
        let cart = caller(&fleet, "cart", 61).await?;
        let stock = caller(&fleet, "stock", 62).await?;
        let mut listed = Kept::open(&cart, port).await?;
        let mut other = Kept::open(&stock, port).await?;
        with_log(listed.until(200).await, &cart)?;
        with_log(other.until(403).await, &stock)?;
        ensure!(listed.get().await? == 200 && other.get().await? == 403);

        let page = json_page(first.admin, "/config").await?;
        let ingress = &page["listeners"]["ingress/orders"];
        let identity = "spiffe://outrigger.internal/ns/demo/svc/orders";
        let tls = json!({ "mode": "strict", "identity": identity, "accepts": ["tls"] });
        ensure!(ingress["tls"] == tls, "{ingress}");
        ensure!(
            ingress["authorization"]["allow"][0]["from"] == json!(["cart"]),
            "{ingress}"
        );
        let denied = metric(
            first.admin,
            "outrigger_authorization_total",
            "verdict=\"denied\"",
        );
        ensure!(denied.await? >= 2.0);

        let at = ingress["address"].as_str().context("an address")?;
        let mut stranger = TcpStream::connect(at).await?;
        stranger
            .write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        let _closed_or_reset = stranger.read_to_end(&mut answer).await;
        ensure!(!answer.starts_with(b"HTTP"), "plaintext is answered");

        // A newer deployment says otherwise: the tasks that run hear of it, under the connections that are open.
        let (_app, _second) = orders(&fleet, "two", 63, port, &allows(&["stock"])).await?;
        with_log(other.until(200).await, &stock)?;
        with_log(listed.until(403).await, &cart)?;
        wait_for("the first task to hear of it", PATIENCE, || async {
            let page = json_page(first.admin, "/config").await?;
            let ingress = &page["listeners"]["ingress/orders"];
            let heard = ingress["authorization"]["allow"][0]["from"] == json!(["stock"]);
            Ok(heard.then_some(()))
        })
        .await
    })
    .await
}
