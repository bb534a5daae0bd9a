//! Every protocol through two hops of real sidecars on static files: whole, streaming, and with bounded memory.

mod common;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use common::*;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_bench::load::{Load, Plan, Wire};
use outrigger_bench::origin::{self, Origin};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const HUNDRED_MB: usize = 100 * 1024 * 1024;
/// A proxy that kept what it forwards would hold more than a body.
const MOST_KIB: u64 = 64 * 1024;

async fn application(greeting: Option<&str>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let origin = Origin {
        name: "app".to_owned(),
        greeting: greeting.map(str::to_owned),
        ..Origin::default()
    };
    tokio::spawn(origin::serve(listener, origin, std::future::pending()));
    Ok(address)
}

/// An egress with an address of its own, an ingress, and an application in this process.
async fn chain(
    last: u8,
    listener: &str,
    cluster: &str,
    greeting: Option<&str>,
) -> anyhow::Result<Chain> {
    let ip = Ipv4Addr::new(127, 0, 2, last);
    Chain::start(ip, listener, cluster, application(greeting).await?).await
}

async fn h1<B>(address: SocketAddr) -> anyhow::Result<http1::SendRequest<B>>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

async fn h2<B>(address: SocketAddr) -> anyhow::Result<http2::SendRequest<B>>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn whole(response: Response<Incoming>) -> anyhow::Result<(StatusCode, Bytes)> {
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_and_http2_with_prior_knowledge_pass_over_every_pair_of_protocols()
-> anyhow::Result<()> {
    bounded(async {
        for (last, listener, cluster) in [
            (1, "http", "http"),
            (2, "http2", "http2"),
            (3, "auto", "http"),
            (4, "auto", "http2"),
        ] {
            let chain = chain(last, listener, cluster, None).await?;
            let wires: &[Wire] = match listener {
                "http" => &[Wire::Http1],
                "http2" => &[Wire::Http2],
                _ => &[Wire::Http1, Wire::Http2],
            };
            for wire in wires {
                let plan = Plan {
                    wire: *wire,
                    connections: 2,
                    streams: 4,
                    requests: Some(200),
                    path: "/echo".to_owned(),
                    method: http::Method::POST,
                    body: Bytes::from(vec![b'x'; 3000]),
                    ..Plan::new(chain.address, "orders")
                };
                let record = Load::start(plan).finished().await;
                ensure!(
                    record.failed == 0 && record.bytes == 600_000,
                    "{listener} to {cluster} by {wire:?}: {} bytes, {:?}\n{}",
                    record.bytes,
                    record.reasons,
                    chain.egress.log_tail()
                );
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_echoes_each_message_before_the_next_and_ends_with_trailers()
-> anyhow::Result<()> {
    bounded(async {
        let chain = chain(10, "grpc", "grpc", None).await?;
        let mut sender = h2(chain.address).await?;
        let (messages, queue) = tokio::sync::mpsc::channel::<io::Result<Frame<Bytes>>>(1);
        let queue = futures_util::stream::unfold(queue, |mut queue| async {
            queue.recv().await.map(|next| (next, queue))
        });
        let request = Request::post("http://orders/echo.Echo/Bidi")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(Box::pin(queue)))?;
        let response = sender.send_request(request).await?;
        ensure!(response.status() == StatusCode::OK, "{response:?}");
        ensure!(response.headers()["content-type"] == "application/grpc");
        let mut body = response.into_body();
        for text in ["one", "two", "three"] {
            messages.send(Ok(Frame::data(Bytes::from(text)))).await?;
            let frame = body.frame().await.context("a frame")??;
            ensure!(
                frame.data_ref().is_some_and(|data| data == text),
                "{frame:?}"
            );
        }
        drop(messages);
        let last = body.frame().await.context("a last frame")??;
        let trailers = last.trailers_ref().context("trailers")?;
        ensure!(trailers["grpc-status"] == "0", "{trailers:?}");
        ensure!(trailers["grpc-message"] == "echoed", "{trailers:?}");
        let counted = metric(chain.egress_admin, "GrpcRequestCount_total", "");
        ensure!(counted.await? >= 1.0, "the call is not counted as gRPC's");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_echoes_through_both_hops_until_the_client_closes()
-> anyhow::Result<()> {
    bounded(async {
        for (last, cluster) in [(20, "http"), (21, "http2")] {
            let chain = chain(last, "auto", cluster, None).await?;
            let mut sender = h1(chain.address).await?;
            let request = Request::get("/chat")
                .header("host", "orders")
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .body(Empty::<Bytes>::new())?;
            let response = sender.send_request(request).await?;
            ensure!(
                response.status() == StatusCode::SWITCHING_PROTOCOLS,
                "{response:?}"
            );
            ensure!(response.headers()["upgrade"] == "websocket", "{response:?}");
            let mut upgraded = TokioIo::new(hyper::upgrade::on(response).await?);
            for text in ["ping", "pong", "a longer one"] {
                upgraded.write_all(text.as_bytes()).await?;
                let mut echoed = vec![0; text.len()];
                upgraded.read_exact(&mut echoed).await?;
                ensure!(echoed == text.as_bytes(), "{echoed:?}");
            }
            upgraded.shutdown().await?;
            let mut rest = Vec::new();
            upgraded.read_to_end(&mut rest).await?;
            ensure!(rest.is_empty(), "{rest:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_before_the_client_says_anything() -> anyhow::Result<()>
{
    bounded(async {
        let chain = chain(30, "tcp", "tcp", Some("5.7.0-mysql")).await?;
        let mut stream = BufReader::new(TcpStream::connect(chain.address).await?);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        ensure!(line == "5.7.0-mysql\n", "{line:?}");
        stream.write_all(b"select 1\n").await?;
        line.clear();
        stream.read_line(&mut line).await?;
        ensure!(line == "select 1\n", "{line:?}");
        // Half closed: what was sent before still comes back, then the end.
        stream.write_all(b"bye").await?;
        stream.shutdown().await?;
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await?;
        ensure!(rest == "bye", "{rest:?}");
        Ok(())
    })
    .await
}

/// Both transfers have a slow end, so that only back-pressure keeps the sidecars small.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_up_and_down_leave_the_sidecars_small() -> anyhow::Result<()> {
    bounded(async {
        for (last, cluster) in [(40, "http"), (41, "http2")] {
            let chain = chain(last, "auto", cluster, None).await?;
            let mut sender = h1(chain.address).await?;
            let request = Request::post("/upload?ms=300")
                .header("host", "orders")
                .body(Full::new(Bytes::from(vec![b'u'; HUNDRED_MB])))?;
            let (status, answer) = whole(sender.send_request(request).await?).await?;
            ensure!(status == StatusCode::OK, "{status}: {answer:?}");
            ensure!(answer == HUNDRED_MB.to_string(), "{answer:?} bytes arrived");
            small(&chain, cluster, "up")?;

            let request = Request::get(format!("/?bytes={HUNDRED_MB}"))
                .header("host", "orders")
                .body(Full::new(Bytes::new()))?;
            let mut sender = h1(chain.address).await?;
            let mut body = sender.send_request(request).await?.into_body();
            // A slow reader, not a wait for anything.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut received = 0;
            while let Some(frame) = body.frame().await {
                received += frame?.data_ref().map_or(0, Bytes::len);
            }
            ensure!(received == HUNDRED_MB, "{received} bytes arrived");
            small(&chain, cluster, "down")?;
        }
        Ok(())
    })
    .await
}

fn small(chain: &Chain, cluster: &str, way: &str) -> anyhow::Result<()> {
    for process in [&chain.egress, &chain.ingress] {
        let peak = peak_kib(process)?;
        let name = process.name();
        ensure!(
            peak <= MOST_KIB,
            "{way} over {cluster}: {name} held {peak} KiB"
        );
    }
    Ok(())
}
