//! What is under way when a sidecar drains: long requests, streams, and the client that must be told.

mod common;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use common::*;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_bench::fleet::{AppProtocol, Fleet, Process, Service, Sidecar, Task, call, wait_for};
use outrigger_bench::load::{Load, Plan, Record, Wire};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::Command;

/// Two tasks of a service and a client without a document.
struct Pair {
    tasks: Vec<Task>,
    client: Sidecar,
    address: SocketAddr,
    service: Service,
    fleet: Fleet,
}

impl Pair {
    async fn start(first: u8, protocol: AppProtocol) -> anyhow::Result<Self> {
        let fleet = fleet().await?;
        let service = Service {
            name: "slow".to_owned(),
            port: free_port()?,
            protocol,
        };
        let mut tasks = Vec::new();
        for n in 1..=2 {
            let number = first + n;
            let id = format!("slow-{n}");
            tasks.push(Task::start(&fleet, &service, &id, number, [127, number]).await?);
        }
        let client = Beside::new(&fleet, "client", first).start(&fleet).await?;
        let address = dial(&client, "slow", service.port).await?;
        wait_for("both tasks in the client's cluster", PATIENCE, || async {
            let clusters = page(client.admin, "/clusters").await?;
            let both = clusters.contains("slow-1") && clusters.contains("slow-2");
            Ok(both.then_some(()))
        })
        .await?;
        Ok(Self {
            tasks,
            client,
            address,
            service,
            fleet,
        })
    }

    fn authority(&self) -> String {
        format!("slow:{}", self.service.port)
    }
}

/// Not even a POST may fail: a drain is announced, unlike a death.
#[tokio::test(flavor = "multi_thread")]
async fn long_posts_under_way_finish_and_none_fails_while_a_task_drains() -> anyhow::Result<()> {
    bounded(async {
        let mut pair = Pair::start(170, AppProtocol::Http).await?;
        let load = Load::start(Plan {
            method: http::Method::POST,
            path: "/echo?ms=700".to_owned(),
            body: Bytes::from_static(b"order"),
            connections: 24,
            ..Plan::new(pair.address, pair.authority())
        });
        wait_for("both tasks to have answered", PATIENCE, || async {
            Ok((load.snapshot().by_task.len() == 2).then_some(()))
        })
        .await?;
        let took = pair.tasks.remove(0).drain(PATIENCE).await?;
        ensure!(took < Duration::from_secs(15), "the drain took {took:?}");
        let before = load.snapshot().sent;
        wait_for("more requests", PATIENCE, || async {
            Ok((load.snapshot().sent > before + 24).then_some(()))
        })
        .await?;
        none_failed(load.stop().await, &pair.client)
    })
    .await
}

/// As fast as answers come, so that a request is on its way at every moment of each drain.
async fn rolling_replacement(first: u8, protocol: AppProtocol, wire: Wire) -> anyhow::Result<()> {
    let mut pair = Pair::start(first, protocol).await?;
    let load = Load::start(Plan {
        wire,
        method: http::Method::POST,
        path: "/echo".to_owned(),
        body: Bytes::from_static(b"order"),
        connections: 4,
        streams: 4,
        ..Plan::new(pair.address, pair.authority())
    });
    for n in 3..=4 {
        let id = format!("slow-{n}");
        let number = first + n;
        let next = Task::start(&pair.fleet, &pair.service, &id, number, [127, number]).await?;
        wait_for("answers of the next task", PATIENCE, || async {
            Ok(load.snapshot().by_task.contains_key(&id).then_some(()))
        })
        .await?;
        pair.tasks.push(next);
        pair.tasks.remove(0).drain(PATIENCE).await?;
    }
    none_failed(load.stop().await, &pair.client)
}

fn none_failed(record: Record, client: &Sidecar) -> anyhow::Result<()> {
    let (failed, sent) = (record.failed, record.sent);
    let verdict = match failed {
        0 => Ok(()),
        _ => Err(anyhow::anyhow!(
            "{failed} of {sent} failed: {:?}",
            record.reasons
        )),
    };
    with_log(verdict, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_replacement_at_full_speed_fails_no_post() -> anyhow::Result<()> {
    bounded(rolling_replacement(50, AppProtocol::Http, Wire::Http1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_replacement_at_full_speed_fails_no_post_over_http2() -> anyhow::Result<()> {
    bounded(rolling_replacement(44, AppProtocol::Http2, Wire::Http2)).await
}

/// A death is not announced: what is idempotent is tried elsewhere, over connections with many streams, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_full_speed_fails_no_get_over_http2() -> anyhow::Result<()> {
    bounded(async {
        let mut pair = Pair::start(38, AppProtocol::Http2).await?;
        let load = Load::start(Plan {
            wire: Wire::Http2,
            path: "/?ms=20".to_owned(),
            connections: 4,
            streams: 4,
            ..Plan::new(pair.address, pair.authority())
        });
        wait_for("both tasks to have answered", PATIENCE, || async {
            Ok((load.snapshot().by_task.len() == 2).then_some(()))
        })
        .await?;
        pair.tasks.remove(0).kill().await?;
        let before = load.snapshot().sent;
        wait_for("more requests", PATIENCE, || async {
            Ok((load.snapshot().sent > before + 500).then_some(()))
        })
        .await?;
        none_failed(load.stop().await, &pair.client)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_until_its_end_while_its_task_drains() -> anyhow::Result<()> {
    bounded(async {
        let mut pair = Pair::start(174, AppProtocol::Grpc).await?;
        let stream = TcpStream::connect(pair.address).await?;
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await?;
        tokio::spawn(connection);
        let (messages, queue) = tokio::sync::mpsc::channel::<io::Result<Frame<Bytes>>>(1);
        let queue = futures_util::stream::unfold(queue, |mut queue| async {
            queue.recv().await.map(|next| (next, queue))
        });
        let request = Request::post(format!("http://{}/echo.Echo/Bidi", pair.authority()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(Box::pin(queue)))?;
        let response = sender.send_request(request).await?;
        let task = response.headers()["x-task"].to_str()?.to_owned();
        let mut body = response.into_body();
        messages.send(Ok(Frame::data("before".into()))).await?;
        let frame = body.frame().await.context("a frame")??;
        ensure!(
            frame.data_ref().is_some_and(|data| data == "before"),
            "{frame:?}"
        );

        let at = pair
            .tasks
            .iter()
            .position(|one| one.id == task)
            .context("the task that answers")?;
        let mut leaver = pair.tasks.remove(at);
        leaver.sidecar.process.terminate()?;
        let log = || leaver.sidecar.process.log_tail();
        wait_for("the client to be told", PATIENCE, || async {
            let clusters = json_page(pair.client.admin, "/clusters").await?;
            let endpoints = clusters[0]["endpoints"].as_array().context("endpoints")?;
            let leaving = endpoints
                .iter()
                .find(|one| one["instance"] == task.as_str());
            let told = leaving.is_none_or(|one| one["health"] == "draining");
            Ok(told.then_some(()))
        })
        .await
        .with_context(log)?;
        for text in ["during", "still"] {
            messages.send(Ok(Frame::data(text.into()))).await?;
            let frame = body.frame().await.context("a frame")?;
            let frame = frame.with_context(|| format!("the stream broke:\n{}", log()))?;
            ensure!(
                frame.data_ref().is_some_and(|data| data == text),
                "{frame:?}"
            );
        }
        drop(messages);
        let last = body.frame().await.context("a last frame")??;
        let trailers = last.trailers_ref().context("trailers")?;
        ensure!(trailers["grpc-status"] == "0", "{trailers:?}");
        let start = std::time::Instant::now();
        leaver.sidecar.process.ended(PATIENCE).await?;
        let took = start.elapsed();
        ensure!(
            took < Duration::from_secs(8),
            "with nothing left to do, the end took {took:?}:\n{}",
            leaver.sidecar.process.log_tail()
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_asked_for_on_the_admin_page_moves_the_traffic_and_leaves_the_process()
-> anyhow::Result<()> {
    bounded(async {
        let mut pair = Pair::start(178, AppProtocol::Http).await?;
        let leaver = &mut pair.tasks[0];
        let ask = call(
            leaver.sidecar.admin,
            http::Request::post("/drain"),
            String::new(),
        );
        let (status, body) = ask.await?;
        ensure!(status == http::StatusCode::ACCEPTED, "{status}: {body}");
        let (status, _) = call(
            leaver.sidecar.admin,
            http::Request::get("/ready"),
            String::new(),
        )
        .await?;
        ensure!(
            status == http::StatusCode::SERVICE_UNAVAILABLE,
            "a draining sidecar says {status}"
        );
        with_log(
            answered_by(pair.address, "slow", &["slow-2"]).await,
            &pair.client,
        )?;
        ensure!(
            json_page(leaver.sidecar.admin, "/ready").await?["draining"] == true,
            "the process is not there any more"
        );
        leaver.sidecar.process.terminate()?;
        let status = leaver.sidecar.process.ended(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sidecar_drains_at_once_without_the_control_server() -> anyhow::Result<()> {
    bounded(async {
        let mut pair = Pair::start(182, AppProtocol::Http).await?;
        pair.fleet.control.kill().await?;
        let took = pair.tasks.remove(0).drain(PATIENCE).await?;
        ensure!(took < Duration::from_secs(5), "the drain took {took:?}");
        let start = std::time::Instant::now();
        pair.client.process.terminate()?;
        pair.client.process.ended(PATIENCE).await?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(5), "the client's took {took:?}");
        Ok(())
    })
    .await
}

/// Both ways in which somebody else takes a task out. A client that does not answer shows what happens meanwhile.
async fn taken_out(first: u8, deregistered: bool) -> anyhow::Result<()> {
    let mut pair = Pair::start(first, AppProtocol::Http).await?;
    let witness = Beside::new(&pair.fleet, "witness", first + 3)
        .start(&pair.fleet)
        .await?;
    connected(&pair.fleet, "witness", true).await?;
    dial(&witness, "slow", pair.service.port).await?;
    let load = Load::start(Plan {
        method: http::Method::POST,
        path: "/echo".to_owned(),
        body: Bytes::from_static(b"order"),
        connections: 4,
        ..Plan::new(pair.address, pair.authority())
    });
    wait_for("both tasks to have answered", PATIENCE, || async {
        Ok((load.snapshot().by_task.len() == 2).then_some(()))
    })
    .await?;
    let discovered =
        json!({ "NamespaceName": "demo", "ServiceName": "slow", "HealthStatus": "ALL" });
    let services = pair.fleet.cloud_map("ListServices", json!({})).await?;
    let service = services["Services"][0]["Id"].clone();
    let instance = json!({ "ServiceId": service, "InstanceId": "slow-1" });
    witness.process.signal(Signal::STOP)?;
    if deregistered {
        let begun = pair.fleet.cloud_map("DeregisterInstance", instance).await?;
        let operation = async || pair.fleet.cloud_map("GetOperation", begun.clone()).await;
        let pending = operation().await?;
        ensure!(pending["Operation"]["Status"] == "PENDING", "{pending}");
        drained(&pair.tasks[0].sidecar).await?;
        witness.process.signal(Signal::CONT)?;
        wait_for("the operation's end", PATIENCE, || async {
            let ended = operation().await?;
            Ok((ended["Operation"]["Status"] == "SUCCESS").then_some(()))
        })
        .await?;
    } else {
        let path = http::Request::post("/v1/nodes/slow-1/drain");
        let told = tokio::spawn(call(pair.fleet.api, path, String::new()));
        wait_for("the task to drain", PATIENCE, || async {
            let ready = json_page(pair.tasks[0].sidecar.admin, "/ready").await?;
            Ok((ready["draining"] == true).then_some(()))
        })
        .await?;
        witness.process.signal(Signal::CONT)?;
        let (status, told) = told.await??;
        ensure!(status == http::StatusCode::OK, "{status}: {told}");
        ensure!(told.contains("\"left_out\":[]"), "{told}");
        drained(&pair.tasks[0].sidecar).await?;
    }
    with_log(
        answered_by(pair.address, "slow", &["slow-2"]).await,
        &pair.client,
    )?;
    let left = pair
        .fleet
        .cloud_map("DiscoverInstances", discovered)
        .await?;
    let left = left["Instances"].as_array().context("instances")?;
    ensure!(
        left.len() == 1 && left[0]["InstanceId"] == "slow-2",
        "{left:?}"
    );
    none_failed(load.stop().await, &pair.client)?;
    let leaver = &mut pair.tasks[0].sidecar.process;
    leaver.terminate()?;
    let status = leaver.ended(PATIENCE).await?;
    ensure!(status.success(), "{status}:\n{}", leaver.log_tail());
    Ok(())
}

/// Waits until the sidecar has said what its drain waited for.
async fn drained(sidecar: &Sidecar) -> anyhow::Result<String> {
    let said = wait_for("the drain's end", PATIENCE, || async {
        let ready = json_page(sidecar.admin, "/ready").await?;
        Ok(ready["drained"].as_str().map(str::to_owned))
    });
    with_log(said.await, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_somebody_else_deregisters_drains_and_does_not_come_back() -> anyhow::Result<()>
{
    bounded(taken_out(200, true)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_an_operator_drains_leaves_as_if_it_had_been_told_itself() -> anyhow::Result<()>
{
    bounded(taken_out(204, false)).await
}

/// The application ends together with its sidecar: it finishes what it has, and calls others for that.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_ending_can_still_call_others() -> anyhow::Result<()> {
    bounded(async {
        let pair = Pair::start(208, AppProtocol::Http).await?;
        // The test is the application.
        let app = TcpListener::bind(("127.0.1.211", 0)).await?;
        let port = free_port()?;
        let declared = Port {
            name: "front",
            container: app.local_addr()?.port(),
            alias: port,
        };
        let mut flags = Beside::new(&pair.fleet, "front", 211);
        flags.document = Some(document("demo", &[declared]));
        let mut front = flags.start(&pair.fleet).await?;
        let others = dial(&front, "slow", pair.service.port).await?;
        let address = dial(&pair.client, "front", port).await?;
        wait_for("front to be announced", PATIENCE, || async {
            let clusters = page(pair.client.admin, "/clusters").await?;
            Ok(clusters.contains("\"front\"").then_some(()))
        })
        .await?;
        let asked = tokio::spawn(call(address, http::Request::get("/"), String::new()));
        let mut request = loop {
            // The sidecar looks whether the application is there.
            let (mut stream, _) = app.accept().await?;
            if stream.read(&mut [0; 1024]).await? > 0 {
                break stream;
            }
        };
        front.process.terminate()?;
        wait_for("the drain to begin", PATIENCE, || async {
            Ok((json_page(front.admin, "/ready").await?["draining"] == true).then_some(()))
        })
        .await?;
        none_failed(gets(others, "slow", 5).await, &front)?;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        request.write_all(answer.as_bytes()).await?;
        let (status, _) = asked.await??;
        ensure!(status == http::StatusCode::OK, "{status}");
        // Nothing of its own is in flight any more, and still it has something to say.
        none_failed(gets(others, "slow", 5).await, &front)?;
        let status = front.process.ended(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        let log = front.process.log_tail();
        ensure!(log.contains("drained: 3/3 acknowledged"), "{log}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_s_socket_drains_a_task() -> anyhow::Result<()> {
    bounded(async {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("admin.sock");
        let (ingress, app) = (
            free_address(Ipv4Addr::new(127, 0, 1, 215))?,
            free_address(Ipv4Addr::new(127, 0, 1, 215))?,
        );
        let path = folder.path().join("sidecar.toml");
        std::fs::write(&path, file("ingress", ingress, "http", "http", &[app], ""))?;
        let mut command = Command::new(tokio::task::spawn_blocking(binaries).await??.proxy);
        command.arg("--static").arg(&path);
        command.args(["--admin", "127.0.0.1:0"]);
        // As ECS has it for the sidecar of its own.
        command.env("APPNET_AGENT_ADMIN_UDS_PATH", &socket);
        let mut process = Process::spawn("sidecar", command, folder.path())?;
        let admin = process.listening("admin", PATIENCE).await?;
        let mut agent = wait_for("the agent's socket", PATIENCE, || async {
            Ok(Some(UnixStream::connect(&socket).await?))
        })
        .await?;
        let request = "GET /drain_listeners?inboundonly HTTP/1.1\r\nhost: agent\r\n\r\n";
        agent.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        agent.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        wait_for("the drain's end", PATIENCE, || async {
            let ready = json_page(admin, "/ready").await?;
            Ok((ready["drained"] == "0 in flight finished").then_some(()))
        })
        .await?;
        process.terminate()?;
        let status = process.ended(PATIENCE).await?;
        ensure!(status.success() && !socket.exists(), "{status}");
        Ok(())
    })
    .await
}
