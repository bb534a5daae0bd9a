//! Traffic of every kind, which must not notice a restart.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_bench::fleet::{call, wait_for};
use outrigger_bench::load::{Load, Plan, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::interval;

use super::common::PATIENCE;

/// A client's three ways through two sidecars in a row.
pub(super) struct Ways {
    pub(super) web: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) tcp: SocketAddr,
}

/// What runs while sidecars are restarted, and must not notice.
pub(super) struct Traffic {
    pub(super) paths: Ways,
    pub(super) loads: Vec<(&'static str, Load)>,
    pub(super) others: JoinSet<anyhow::Result<()>>,
    /// Connections that were made for one request, and pages that were read.
    pub(super) churned: Arc<AtomicU64>,
    pub(super) probed: Arc<AtomicU64>,
}

impl Traffic {
    pub(super) fn start(paths: Ways, admins: &[SocketAddr]) -> Self {
        let plan = |wire, address: SocketAddr| Plan {
            wire,
            method: Method::POST,
            path: "/echo".to_owned(),
            body: Bytes::from_static(b"order"),
            connections: 4,
            streams: 4,
            rate: Some(400),
            ..Plan::new(address, "web:80")
        };
        let loads = vec![
            ("keep-alive", Load::start(plan(Wire::Http1, paths.web))),
            ("http2", Load::start(plan(Wire::Http2, paths.web))),
            ("grpc hop", Load::start(plan(Wire::Http2, paths.grpc))),
        ];
        let (churned, probed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut others = JoinSet::new();
        for _ in 0..3 {
            others.spawn(churn(paths.web, Arc::clone(&churned)));
        }
        for admin in admins {
            others.spawn(probe(*admin, Arc::clone(&probed)));
        }
        Self {
            paths,
            loads,
            others,
            churned,
            probed,
        }
    }

    /// How much each kind has done.
    pub(super) fn done(&self) -> Vec<u64> {
        let loads = self.loads.iter().map(|(_, load)| load.sent());
        let counts = [&self.churned, &self.probed];
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        loads.chain(counts).collect()
    }

    /// Until each kind has done some more.
    pub(super) async fn goes_on(&mut self) -> anyhow::Result<()> {
        let before = self.done();
        let waited = wait_for("more traffic of every kind", PATIENCE, || {
            let done = self.done();
            let more = done.iter().zip(&before).all(|(now, then)| *now > then + 20);
            std::future::ready(Ok(more.then_some(())))
        })
        .await;
        // What broke is why nothing goes on.
        self.broken()?;
        waited
    }

    pub(super) fn broken(&mut self) -> anyhow::Result<()> {
        match self.others.try_join_next() {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }

    /// How much was done; an error names everything that failed.
    pub(super) async fn stop(mut self) -> anyhow::Result<String> {
        self.broken()?;
        self.others.abort_all();
        let (mut told, mut failed) = (Vec::new(), Vec::new());
        for (name, load) in self.loads {
            let record = load.stop().await;
            told.push(format!("{name} {}", record.sent));
            if record.failed > 0 {
                failed.push(format!(
                    "{name}: {} of {}: {:?}",
                    record.failed, record.sent, record.reasons
                ));
            }
        }
        ensure!(failed.is_empty(), "{failed:?}");
        let churned = self.churned.load(Ordering::Relaxed);
        let probed = self.probed.load(Ordering::Relaxed);
        Ok(format!(
            "{}, new connections {churned}, probes {probed}",
            told.join(", ")
        ))
    }
}

/// A connection for each request.
pub(super) async fn churn(address: SocketAddr, done: Arc<AtomicU64>) -> anyhow::Result<()> {
    // Not to run out of ports.
    let mut pace = interval(Duration::from_millis(2));
    loop {
        pace.tick().await;
        let request = Request::post("/echo");
        let (status, body) = call(address, request, "once".to_owned())
            .await
            .context("a request on a new connection")?;
        ensure!(status.is_success() && body == "once", "{status}: {body}");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// What an orchestrator asks.
pub(super) async fn probe(admin: SocketAddr, done: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut pace = interval(Duration::from_millis(5));
    loop {
        pace.tick().await;
        let (status, body) = call(admin, Request::get("/ready"), String::new())
            .await
            .context("a probe of /ready")?;
        ensure!(status.is_success(), "/ready says {status}: {body}");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// A gRPC stream that stays open.
pub(super) struct Stream {
    pub(super) messages: mpsc::Sender<io::Result<Frame<Bytes>>>,
    pub(super) answers: Incoming,
}

impl Stream {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await?;
        tokio::spawn(connection);
        let (messages, queue) = mpsc::channel::<io::Result<Frame<Bytes>>>(1);
        let queue = futures_util::stream::unfold(queue, |mut queue| async {
            queue.recv().await.map(|next| (next, queue))
        });
        let request = Request::post("http://stream:80/echo.Echo/Bidi")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(Box::pin(queue)))?;
        let answers = sender.send_request(request).await?.into_body();
        let mut this = Self { messages, answers };
        this.say("first").await?;
        Ok(this)
    }

    pub(super) async fn say(&mut self, text: &'static str) -> anyhow::Result<()> {
        self.messages.send(Ok(Frame::data(text.into()))).await?;
        let frame = self.answers.frame().await.context("a frame")?;
        let frame = frame.with_context(|| format!("the stream broke at {text:?}"))?;
        ensure!(
            frame.data_ref().is_some_and(|data| data == text),
            "{frame:?}"
        );
        Ok(())
    }

    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        drop(self.messages);
        let last = self.answers.frame().await.context("trailers")??;
        let trailers = last.trailers_ref().context("trailers")?;
        ensure!(trailers["grpc-status"] == "0", "{trailers:?}");
        Ok(())
    }
}

/// A TCP connection through both sidecars to a server that speaks first.
pub(super) struct Tunnel(TcpStream);

impl Tunnel {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let mut this = Self(TcpStream::connect(address).await?);
        this.hear("hello\n").await?;
        Ok(this)
    }

    pub(super) async fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.0.write_all(text.as_bytes()).await?;
        self.hear(text).await
    }

    pub(super) async fn hear(&mut self, text: &str) -> anyhow::Result<()> {
        let mut bytes = vec![0; text.len()];
        let read = tokio::time::timeout(PATIENCE, self.0.read_exact(&mut bytes));
        read.await?
            .with_context(|| format!("the tunnel broke at {text:?}"))?;
        ensure!(bytes == text.as_bytes(), "{bytes:?}");
        Ok(())
    }

    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.0.shutdown().await?;
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await?;
        ensure!(rest.is_empty(), "{rest:?}");
        Ok(())
    }
}

/// An HTTP/1.1 connection that is asked when it suits.
pub(super) struct KeptOpen(TcpStream);

impl KeptOpen {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self(TcpStream::connect(address).await?))
    }

    /// The head of the answer to one more request.
    pub(super) async fn ask(&mut self) -> anyhow::Result<String> {
        let request = "POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nlast";
        self.0.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"last") {
            let read = self.0.read_buf(&mut answer).await?;
            ensure!(
                read > 0,
                "closed within {:?}",
                String::from_utf8_lossy(&answer)
            );
        }
        let answer = String::from_utf8(answer)?.to_ascii_lowercase();
        ensure!(answer.starts_with("http/1.1 200"), "{answer}");
        Ok(answer)
    }

    pub(super) async fn is_ended(&mut self) -> anyhow::Result<()> {
        let read = tokio::time::timeout(PATIENCE, self.0.read(&mut [0; 1])).await?;
        ensure!(
            read.context("an end without a reset")? == 0,
            "there is more"
        );
        Ok(())
    }
}
