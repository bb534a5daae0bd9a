//! The admin pages on loopback, and the metrics page on any address.

mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::socket::{AdminSocket, serve_agent};
use super::ready::Readiness;

/// What OpenMetrics scrapers expect.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections to one of the two addresses; more wait to be accepted. Descriptors are for traffic.
const MAX_CONNECTIONS: usize = 64;
/// For a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// For a whole connection, which carries one request: whoever takes the answer byte by byte gives the place up as well.
const MAX_AGE: Duration = Duration::from_secs(15);

/// What the pages show and do.
#[derive(Clone)]
pub struct AdminState {
    /// `/ready`.
    pub ready: Arc<Readiness>,
    /// `/metrics`: the OpenMetrics text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// `/config`.
    pub config: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// `/clusters`.
    pub clusters: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// `POST /drain`: starts the drain and returns.
    pub drain: Arc<dyn Fn() + Send + Sync>,
}

/// When a page is served no more.
#[derive(Debug, Clone, Default)]
pub struct Until {
    /// Nothing is accepted any more: another process does, on the same socket. What is connected is answered.
    pub succeeded: CancellationToken,
    /// Everything ends.
    pub shutdown: CancellationToken,
}

/// Serves all pages.
pub async fn serve_admin(listener: TcpListener, state: AdminState, until: Until) -> io::Result<()> {
    let router = common()
        .route(
            "/config",
            get(async |State(state): State<AdminState>| Json((state.config)())),
        )
        .route(
            "/clusters",
            get(async |State(state): State<AdminState>| Json((state.clusters)())),
        )
        .route("/drain", post(drain));
    serve(listener, router.with_state(state), until).await
}

/// Serves `/metrics` and `/ready` alone.
pub async fn serve_metrics(
    listener: TcpListener,
    state: AdminState,
    until: Until,
) -> io::Result<()> {
    serve(listener, common().with_state(state), until).await
}

fn common() -> Router<AdminState> {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
}

/// Ends open connections with the shutdown: an idle scraper must not hold up the exit.
async fn serve(mut listener: impl Listener, router: Router, until: Until) -> io::Result<()> {
    let Until {
        succeeded,
        shutdown,
    } = until;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (all, ends) = (Arc::clone(&places), shutdown.clone());
    let accepting = async move {
        // Closed by nobody.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            // Pauses by itself after an error such as EMFILE.
            let (stream, _) = listener.accept().await;
            let (router, shutdown) = (router.clone(), ends.clone());
            tokio::spawn(async move {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
                tokio::select! {
                    _ = tokio::time::timeout(MAX_AGE, connection) => {}
                    () = shutdown.cancelled() => {}
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => return Ok(()),
        () = succeeded.cancelled() => {}
    }
    tokio::select! {
        _ = all.acquire_many(MAX_CONNECTIONS as u32) => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

async fn ready(State(state): State<AdminState>) -> (StatusCode, Json<serde_json::Value>) {
    let (ready, page) = state.ready.render();
    (
        if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        Json(page),
    )
}

async fn metrics(State(state): State<AdminState>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], (state.metrics)()).into_response()
}

async fn drain(State(state): State<AdminState>) -> (StatusCode, Json<serde_json::Value>) {
    (state.drain)();
    (
        StatusCode::ACCEPTED,
        Json(serde_json::json!({"draining": true})),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::observe::ready;

    fn state(drains: &Arc<AtomicUsize>) -> AdminState {
        let drains = drains.clone();
        AdminState {
            ready: Arc::new(Readiness::new(&["configuration"])),
            metrics: Arc::new(|| "# EOF\n".to_owned()),
            config: Arc::new(|| serde_json::json!({"listeners": {}})),
            clusters: Arc::new(|| serde_json::json!([])),
            drain: Arc::new(move || {
                drains.fetch_add(1, Ordering::Relaxed);
            }),
        }
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connects");
        let request = format!(
            "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn admin_serves_every_page_and_drains_on_post_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let (drains, until) = (Arc::new(AtomicUsize::new(0)), Until::default());
        let state = state(&drains);
        let ready = state.ready.clone();
        let server = tokio::spawn(serve_admin(listener, state, until.clone()));
        assert!(ask(address, "GET /ready").await.starts_with("HTTP/1.1 503"));
        ready.set("configuration", ready::State::Ready);
        let page = ask(address, "GET /ready").await;
        assert!(
            page.starts_with("HTTP/1.1 200") && page.contains("\"ready\":true"),
            "{page}"
        );
        assert!(ask(address, "GET /metrics").await.contains(OPENMETRICS));
        assert!(ask(address, "GET /config").await.contains("listeners"));
        assert!(ask(address, "GET /clusters").await.contains("[]"));
        assert!(ask(address, "GET /drain").await.starts_with("HTTP/1.1 405"));
        assert!(
            ask(address, "POST /drain")
                .await
                .starts_with("HTTP/1.1 202")
        );
        for method in ["GET", "POST"] {
            // The agent's page is on a unix socket alone.
            let page = ask(address, &format!("{method} /drain_listeners?inboundonly")).await;
            assert!(page.starts_with("HTTP/1.1 404"), "{page}");
        }
        assert_eq!(drains.load(Ordering::Relaxed), 1);
        until.shutdown.cancel();
        server.await.expect("joins").expect("ends well");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_give_their_places_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let until = Until::default();
        tokio::spawn(serve_metrics(
            listener,
            state(&Arc::default()),
            until.clone(),
        ));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let connected = tokio::net::TcpStream::connect(address).await;
            silent.push(connected.expect("connects"));
        }
        let page = ask(address, "GET /metrics").await;
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        for mut stream in silent {
            let read = stream.read(&mut [0; 1]).await;
            assert_eq!(read.expect("closed, not reset"), 0);
        }
        until.shutdown.cancel();
    }

    #[tokio::test]
    async fn who_is_connected_when_another_process_takes_over_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let until = Until::default();
        let server = tokio::spawn(serve_metrics(
            listener,
            state(&Arc::default()),
            until.clone(),
        ));
        ask(address, "GET /metrics").await;
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connects");
        stream.write_all(b"GET /metrics HT").await.expect("writes");
        // Answered on a later connection, so the one before has been accepted.
        ask(address, "GET /metrics").await;
        until.succeeded.cancel();
        stream
            .write_all(b"TP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.await.expect("joins").expect("ends well");
        let refused = tokio::net::TcpStream::connect(address).await;
        assert!(refused.is_err(), "the socket is closed");
    }

    #[tokio::test]
    async fn metrics_address_shows_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let until = Until::default();
        tokio::spawn(serve_metrics(
            listener,
            state(&Arc::default()),
            until.clone(),
        ));
        assert!(
            ask(address, "GET /metrics")
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            ask(address, "GET /config")
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(
            ask(address, "POST /drain")
                .await
                .starts_with("HTTP/1.1 404")
        );
        until.shutdown.cancel();
    }
}
