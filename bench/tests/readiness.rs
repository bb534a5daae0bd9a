//! The sidecar beside a task owns what callers are told of it: an application that does not pass its health check, dies, or comes
//! back.

mod common;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, bail, ensure};
use common::*;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, call, wait_for};
use outrigger_bench::load::{Load, Plan};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// An application whose `/healthz` answers what it is set to; everything else is 200.
async fn switchable(
    ip: Ipv4Addr,
    name: &'static str,
    health: &Arc<AtomicU16>,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0)).await?;
    let address = listener.local_addr()?;
    let health = Arc::clone(health);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let health = Arc::clone(&health);
            let service = service_fn(move |request: Request<Incoming>| {
                let status = match request.uri().path() {
                    "/healthz" => health.load(Ordering::SeqCst),
                    _ => 200,
                };
                async move {
                    let mut response = Response::new(Full::new(Bytes::new()));
                    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                    let task = http::HeaderValue::from_static(name);
                    response.headers_mut().insert("x-task", task);
                    Ok::<_, Infallible>(response)
                }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

/// A sidecar for an application of `orders`.
async fn beside(
    fleet: &Fleet,
    id: &str,
    number: u8,
    alias: u16,
    app: SocketAddr,
    policy: Value,
) -> anyhow::Result<Sidecar> {
    let mut document = orders_document(app.port(), alias);
    document["serviceConnectConfiguration"]["services"][0]["policy"] = policy;
    let beside = Beside {
        document: Some(document),
        ..Beside::new(fleet, id, number)
    };
    beside.start(fleet).await
}

/// Waits until the caller's sidecar has been told this of an instance.
async fn told(client: &Sidecar, instance: &str, wanted: &str) -> anyhow::Result<()> {
    let what = format!("{instance} to be {wanted} for the client");
    let told = wait_for(&what, PATIENCE, || async {
        let clusters = json_page(client.admin, "/clusters").await?;
        let endpoints = clusters[0]["endpoints"].as_array().context("endpoints")?;
        let known = endpoints.iter().find(|one| one["instance"] == instance);
        match known {
            Some(one) if one["health"] == wanted => Ok(Some(())),
            _ => bail!("{clusters}"),
        }
    });
    with_log(told.await, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_spare_a_task_whose_health_check_fails_and_no_request_does() -> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let alias = free_port()?;
        let health = Arc::new(AtomicU16::new(503));
        let app = switchable(Ipv4Addr::new(127, 0, 1, 150), "sick", &health).await?;
        let policy = json!({ "health_check": { "path": "/healthz", "interval": "200ms" } });
        let sick = beside(&fleet, "sick", 150, alias, app, policy.clone()).await?;
        let always = Arc::new(AtomicU16::new(204));
        let app = switchable(Ipv4Addr::new(127, 0, 1, 151), "well", &always).await?;
        let _well = beside(&fleet, "well", 151, alias, app, policy).await?;
        let client = Beside::new(&fleet, "client", 152).start(&fleet).await?;
        let address = dial(&client, "orders", alias).await?;

        let reason = problem(&sick, "application/orders").await?;
        ensure!(
            reason.contains("not announced yet") && reason.contains("503"),
            "{reason}"
        );
        with_log(answered_by(address, "orders", &["well"]).await, &client)?;
        let clusters = page(client.admin, "/clusters").await?;
        ensure!(
            !clusters.contains("\"sick\""),
            "it was announced: {clusters}"
        );

        health.store(200, Ordering::SeqCst);
        told(&client, "sick", "healthy").await?;
        with_log(
            answered_by(address, "orders", &["sick", "well"]).await,
            &client,
        )?;
        let load = Load::start(Plan {
            rate: Some(200),
            ..Plan::new(address, format!("orders:{alias}"))
        });
        health.store(503, Ordering::SeqCst);
        told(&client, "sick", "unhealthy").await?;
        with_log(answered_by(address, "orders", &["well"]).await, &client)?;
        let reason = problem(&sick, "application/orders").await?;
        ensure!(
            reason.contains("spare") && reason.contains("503"),
            "{reason}"
        );
        let record = load.stop().await;
        ensure!(record.failed == 0, "{:?}", record.reasons);

        health.store(200, Ordering::SeqCst);
        told(&client, "sick", "healthy").await?;
        with_log(
            answered_by(address, "orders", &["sick", "well"]).await,
            &client,
        )
    })
    .await
}

/// A task of the next test: its application is a process that can be killed.
async fn killable(
    fleet: &Fleet,
    id: &'static str,
    number: u8,
    alias: u16,
) -> anyhow::Result<(Process, SocketAddr, Sidecar)> {
    let listen = SocketAddr::from(([127, 0, 1, number], 0));
    let (process, app) = application(fleet.folder(), id, listen).await?;
    let sidecar = beside(fleet, id, number, alias, app, json!({})).await?;
    Ok((process, app, sidecar))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_dies_is_spared_and_comes_back_on_its_port_and_the_last_is_offered_anyway()
-> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let alias = free_port()?;
        let (mut first, app, _first) = killable(&fleet, "first", 153, alias).await?;
        let (mut second, _, _second) = killable(&fleet, "second", 154, alias).await?;
        let client = Beside::new(&fleet, "client", 155).start(&fleet).await?;
        let address = dial(&client, "orders", alias).await?;
        with_log(
            answered_by(address, "orders", &["first", "second"]).await,
            &client,
        )?;

        let load = Load::start(Plan {
            rate: Some(200),
            ..Plan::new(address, format!("orders:{alias}"))
        });
        first.kill().await?;
        told(&client, "first", "unhealthy").await?;
        with_log(answered_by(address, "orders", &["second"]).await, &client)?;
        let (mut again, _) = application(fleet.folder(), "first", app).await?;
        told(&client, "first", "healthy").await?;
        with_log(
            answered_by(address, "orders", &["first", "second"]).await,
            &client,
        )?;
        let record = load.stop().await;
        ensure!(record.failed == 0, "{:?}", record.reasons);

        second.kill().await?;
        told(&client, "second", "unhealthy").await?;
        again.kill().await?;
        told(&client, "first", "unhealthy").await?;
        let clusters = json_page(client.admin, "/clusters").await?;
        ensure!(
            clusters[0]["offered"] == 2,
            "with none healthy, all are offered: {clusters}"
        );
        let (status, body) = call(address, Request::get("/"), String::new()).await?;
        ensure!(status.is_server_error(), "{status}: {body}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_starts_beside_a_dead_application_does_not_leave_it_offered()
-> anyhow::Result<()> {
    bounded(async {
        let fleet = fleet().await?;
        let alias = free_port()?;
        let (mut app, at, mut sidecar) = killable(&fleet, "first", 156, alias).await?;
        let client = Beside::new(&fleet, "client", 157).start(&fleet).await?;
        let address = dial(&client, "orders", alias).await?;
        with_log(answered_by(address, "orders", &["first"]).await, &client)?;
        // Both at once, so that nobody tells the registry.
        sidecar.process.kill().await?;
        app.kill().await?;
        let again = beside(&fleet, "first", 156, alias, at, json!({})).await?;
        connected(&fleet, "first", true).await?;
        let reason = problem(&again, "application/orders").await?;
        ensure!(reason.contains("not announced yet"), "{reason}");
        told(&client, "first", "unhealthy").await?;
        let (_app, _) = application(fleet.folder(), "first", at).await?;
        told(&client, "first", "healthy").await?;
        with_log(answered_by(address, "orders", &["first"]).await, &client)
    })
    .await
}
