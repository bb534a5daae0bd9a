//! What goes over the wire between a sidecar and its control server, seen by a relay that counts bytes.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{bail, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, wait_for};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const SERVICES: usize = 60;

/// Bytes that came from the server since the last look.
#[derive(Debug, Clone, Default)]
struct Received(Arc<AtomicU64>);

impl Received {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }

    fn so_far(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Stands before `server`, whose address stays the same when it is restarted.
async fn relay(server: SocketAddr, received: Received) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Refused while the server is away: the client meets a closed connection and comes back.
            let Ok(server) = TcpStream::connect(server).await else {
                continue;
            };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(copy(from_client, to_server, Received::default()));
            tokio::spawn(copy(from_server, to_client, received.clone()));
        }
    });
    Ok(address)
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    count: Received,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        count.0.fetch_add(length as u64, Ordering::SeqCst);
        to.write_all(&buffer[..length]).await?;
    }
}

async fn create(fleet: &Fleet, namespace: &Value, name: &str, port: u16) -> anyhow::Result<()> {
    let input = json!({ "Name": name, "NamespaceId": namespace });
    let created = fleet.cloud_map("CreateService", input).await?;
    let service = &created["Service"]["Id"];
    let attributes = json!({
        "OUTRIGGER_REVISION": "1",
        "OUTRIGGER_ALIAS": format!("{name}:{port}"),
        "OUTRIGGER_APP_PROTOCOL": "http",
    });
    let input = json!({ "ServiceId": service, "Attributes": attributes });
    fleet.cloud_map("UpdateServiceAttributes", input).await?;
    let attributes = json!({ "AWS_INSTANCE_IPV4": "127.0.6.1", "AWS_INSTANCE_PORT": "8080" });
    let input = json!({ "ServiceId": service, "InstanceId": "one", "Attributes": attributes });
    fleet.cloud_map("RegisterInstance", input).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_control_server_sends_nothing_that_has_not_changed() -> anyhow::Result<()> {
    bounded(async {
        let mut fleet = fleet().await?;
        let port = free_port()?;
        fleet
            .cloud_map("CreateHttpNamespace", json!({ "Name": "demo" }))
            .await?;
        let namespaces = fleet.cloud_map("ListNamespaces", json!({})).await?;
        let namespace = &namespaces["Namespaces"][0]["Id"];
        for n in 0..SERVICES {
            create(&fleet, namespace, &format!("service-{n}"), port).await?;
        }
        let received = Received::default();
        let server = fleet.xds;
        fleet.xds = relay(server, received.clone()).await?;
        let client = Beside::new(&fleet, "client", 196).start(&fleet).await?;
        fleet.xds = server;
        for n in 0..SERVICES {
            dial(&client, &format!("service-{n}"), port).await?;
        }
        all_endpoints(client.admin).await?;
        let at_first = received.take();

        fleet.control.kill().await?;
        problem(&client, "control-server").await?;
        received.take();
        start_control(&mut fleet).await?;
        connected(&fleet, "client", true).await?;
        // What changes now comes after whatever the reconnection has brought.
        create(&fleet, namespace, "later", port).await?;
        dial(&client, "later", port).await?;
        let again = received.so_far();
        ensure!(
            again * 10 < at_first,
            "{at_first} bytes at first, {again} after the restart"
        );
        Ok(())
    })
    .await
}

async fn all_endpoints(admin: SocketAddr) -> anyhow::Result<()> {
    wait_for("every service's endpoint", PATIENCE, || async {
        let clusters = page(admin, "/clusters").await?;
        let count = clusters.matches("127.0.6.1:8080").count();
        if count == SERVICES {
            Ok(Some(()))
        } else {
            bail!("{count} endpoints")
        }
    })
    .await
}

/// "Well under 100 ms" is the demo's to measure; a machine under test load gets ten times that.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_registry_reaches_a_connected_sidecar_at_once() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let port = free_port()?;
        fleet
            .cloud_map("CreateHttpNamespace", json!({ "Name": "demo" }))
            .await?;
        let namespaces = fleet.cloud_map("ListNamespaces", json!({})).await?;
        let namespace = &namespaces["Namespaces"][0]["Id"];
        let client = Beside::new(&fleet, "client", 198).start(&fleet).await?;
        client.ready().await?;
        connected(&fleet, "client", true).await?;
        create(&fleet, namespace, "first", port).await?;
        let start = std::time::Instant::now();
        wait_for("the endpoint", PATIENCE, || async {
            let clusters = page(client.admin, "/clusters").await?;
            Ok(clusters.contains("127.0.6.1:8080").then_some(()))
        })
        .await?;
        let took = start.elapsed();
        ensure!(took.as_millis() < 1000, "it took {took:?}");
        Ok(())
    })
    .await
}
