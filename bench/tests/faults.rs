//! Upstreams that refuse, reset, hang or are frozen, behind a real sidecar on a static file.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use common::*;
use http::StatusCode;
use outrigger_bench::fleet::{call, wait_for};
use outrigger_bench::load::{Load, Plan};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What `resetting` servers have read in whole.
type Seen = Arc<AtomicU64>;

/// A server that reads a request and its five-byte body, counts it, and resets the connection.
async fn resetting(seen: &Seen) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let seen = Arc::clone(seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(read_and_reset(stream, Arc::clone(&seen)));
        }
    });
    Ok(address)
}

async fn read_and_reset(mut stream: TcpStream, seen: Seen) -> std::io::Result<()> {
    let mut request = Vec::new();
    let complete = |request: &[u8]| {
        let text = String::from_utf8_lossy(request);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        !head.is_empty() && (!head.starts_with("POST") || body.len() >= 5)
    };
    while !complete(&request) {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    seen.fetch_add(1, Ordering::SeqCst);
    stream.set_zero_linger()
}

/// A server that promises 100,000 bytes, sends ten, and closes when it is told to.
async fn breaking_off(now: &Arc<Notify>) -> anyhow::Result<SocketAddr> {
    let now = Arc::clone(now);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nhalf of it";
            if stream.read(&mut request).await.is_ok() {
                // A client that has gone already is no concern of this server.
                let _gone = stream.write_all(answer).await;
                now.notified().await;
            }
        }
    });
    Ok(address)
}

async fn folder_and_egress(
    last: u8,
    endpoints: &[SocketAddr],
    more: &str,
) -> anyhow::Result<(
    tempfile::TempDir,
    outrigger_bench::fleet::Process,
    SocketAddr,
    SocketAddr,
)> {
    let folder = tempfile::tempdir()?;
    let address = free_address(Ipv4Addr::new(127, 0, 3, last))?;
    let text = file("egress", address, "http", "http", endpoints, more);
    let (process, admin) = static_sidecar(folder.path(), "egress", &text).await?;
    Ok((folder, process, admin, address))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_fate_is_unknown_is_delivered_once_and_a_get_is_tried_elsewhere()
-> anyhow::Result<()> {
    bounded(async {
        let seen = Seen::default();
        let endpoints = [resetting(&seen).await?, resetting(&seen).await?];
        let (_folder, _egress, _, address) = folder_and_egress(1, &endpoints, "").await?;
        let post = call(address, http::Request::post("/"), "five!".to_owned()).await?;
        let deliveries = seen.swap(0, Ordering::SeqCst);
        ensure!(post.0.is_server_error(), "{post:?}");
        ensure!(deliveries == 1, "a POST was delivered {deliveries} times");
        let get = call(address, http::Request::get("/"), String::new()).await?;
        let deliveries = seen.load(Ordering::SeqCst);
        ensure!(get.0.is_server_error(), "{get:?}");
        ensure!(
            (2..=3).contains(&deliveries),
            "a GET was tried {deliveries} times"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_connect_is_refused_goes_to_the_next_task() -> anyhow::Result<()> {
    bounded(async {
        let folder = tempfile::tempdir()?;
        let listen = SocketAddr::from(([127, 0, 3, 10], 0));
        let (_app, app) = application(folder.path(), "app", listen).await?;
        let refusing = free_address(Ipv4Addr::new(127, 0, 3, 11))?;
        let (_folder, egress, admin, address) =
            folder_and_egress(12, &[refusing, app], "outlier_detection = false").await?;
        let plan = Plan {
            method: http::Method::POST,
            path: "/echo".to_owned(),
            body: "five!".into(),
            connections: 1,
            requests: Some(40),
            ..Plan::new(address, "orders")
        };
        let record = Load::start(plan).finished().await;
        ensure!(
            record.failed == 0,
            "{:?}\n{}",
            record.reasons,
            egress.log_tail()
        );
        let retries = metric(admin, "outrigger_retries_total", "").await?;
        ensure!(retries >= 1.0, "{retries} retries were counted");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_task_costs_timeouts_until_it_is_ejected() -> anyhow::Result<()> {
    bounded(async {
        let folder = tempfile::tempdir()?;
        let mut apps = Vec::new();
        for (name, last) in [("frozen", 20), ("well", 21)] {
            let listen = SocketAddr::from(([127, 0, 3, last], 0));
            apps.push(application(folder.path(), name, listen).await?);
        }
        let endpoints: Vec<_> = apps.iter().map(|(_, address)| *address).collect();
        let timeout = "per_request_timeout = \"300ms\"";
        let (_folder, egress, admin, address) = folder_and_egress(22, &endpoints, timeout).await?;
        apps[0].0.signal(Signal::STOP)?;
        let ejected = wait_for("the frozen task's ejection", PATIENCE, || async {
            let start = Instant::now();
            let (status, body) = call(address, http::Request::get("/"), String::new()).await?;
            let took = start.elapsed();
            let fine = status == StatusCode::OK || status == StatusCode::GATEWAY_TIMEOUT;
            ensure!(fine, "{status}: {body}");
            if took >= Duration::from_secs(3) {
                bail!("a timeout of 300 ms took {took:?}");
            }
            let clusters = json_page(admin, "/clusters").await?;
            let all = clusters[0]["endpoints"].as_array().cloned();
            let frozen = endpoints[0].to_string();
            let is_ejected = all
                .unwrap_or_default()
                .iter()
                .any(|one| one["address"] == frozen.as_str() && one["ejected"] == true);
            Ok(is_ejected.then_some(()))
        });
        let log = egress.log_tail();
        ejected.await.map_err(|error| error.context(log))?;
        let record = gets(address, "orders", 30).await;
        ensure!(record.failed == 0, "{:?}", record.reasons);
        ensure!(record.by_task["well"].answers == 30, "{record:?}");
        let timeouts = metric(admin, "outrigger_errors_total", "flag=\"UT\"").await?;
        ensure!(timeouts >= 5.0, "{timeouts} timeouts were counted");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_task_that_comes_back_answers_again_when_it_was_not_ejected() -> anyhow::Result<()>
{
    bounded(async {
        let folder = tempfile::tempdir()?;
        let listen = SocketAddr::from(([127, 0, 3, 30], 0));
        let (app, endpoint) = application(folder.path(), "app", listen).await?;
        let more = "per_request_timeout = \"300ms\"\noutlier_detection = false";
        let (_folder, _egress, _, address) = folder_and_egress(31, &[endpoint], more).await?;
        app.signal(Signal::STOP)?;
        let (status, body) = call(address, http::Request::get("/"), String::new()).await?;
        ensure!(status == StatusCode::GATEWAY_TIMEOUT, "{status}: {body}");
        ensure!(body.contains("outrigger"), "{body}");
        app.signal(Signal::CONT)?;
        let record = gets(address, "orders", 10).await;
        ensure!(record.failed == 0, "{:?}", record.reasons);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_reaches_the_client_as_broken() -> anyhow::Result<()> {
    bounded(async {
        let now = Arc::new(Notify::new());
        let endpoint = breaking_off(&now).await?;
        let (_folder, _egress, _, address) = folder_and_egress(41, &[endpoint], "").await?;
        let mut stream = TcpStream::connect(address).await?;
        let head = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"half of it") {
            ensure!(stream.read_buf(&mut answer).await? > 0, "{answer:?}");
        }
        now.notify_one();
        // A reset or an early end are both honest; the promised length must not be reached.
        let _end = stream.read_to_end(&mut answer).await;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        ensure!(answer.ends_with(b"half of it"), "{answer:?}");
        ensure!(answer.len() < 100_000, "{} bytes came", answer.len());
        Ok(())
    })
    .await
}
