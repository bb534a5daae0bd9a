//! The admin pages of the ECS agent, on a unix socket only: `/drain_listeners?inboundonly` and `/status`, as its own sidecar has them
//! (SERVICE_CONNECT.md 2.4).

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::get;
use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::Instant;

use super::{AdminState, Until, serve};

/// For the owner alone.
const MODE: u32 = 0o600;
const BACKLOG: i32 = 64;
/// For who listens on the path already to say something.
const PATIENCE: Duration = Duration::from_secs(1);

/// The bound socket; its file goes with it, unless another process serves it from then on.
pub struct AdminSocket {
    /// For whoever takes it over.
    pub listener: UnixListener,
    file: File,
}

/// A file that goes with this process, while it is `ours`.
struct File {
    path: PathBuf,
    ours: bool,
}

impl Drop for File {
    fn drop(&mut self) {
        if self.ours {
            // Gone already, then.
            let _removed = fs::remove_file(&self.path);
        }
    }
}

impl AdminSocket {
    /// Binds `path` for this process's own user: whoever can connect can drain. See [`Self::bind_for`].
    pub fn bind(path: &Path) -> io::Result<Self> {
        Self::bind_for(path, MODE)
    }

    /// Binds `path` with a mode. A socket on which nobody answers is replaced; one that somebody does, or another kind of file, is an error.
    pub fn bind_for(path: &Path, mode: u32) -> io::Result<Self> {
        make_room(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = File {
            path: path.to_owned(),
            ours: true,
        };
        // Before it listens: until then nobody can connect.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = socket.into();
        Ok(Self { listener, file })
    }

    /// One that another process has bound. The file is that one's until this one serves it.
    pub fn adopt(path: &Path, listener: UnixListener) -> Self {
        let file = File {
            path: path.to_owned(),
            ours: false,
        };
        Self { listener, file }
    }
}

fn make_room(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::other("there is a file that is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(stream) if answers(&stream) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens there",
        )),
        // Frozen: it is no use to whoever asks.
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Whether somebody is awake at the other end.
fn answers(mut stream: &std::os::unix::net::UnixStream) -> bool {
    let asked = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(b"GET /status HTTP/1.0\r\n\r\n"));
    asked.is_ok() && stream.read(&mut [0; 1]).is_ok()
}

/// Serves the agent's pages.
pub async fn serve_agent(socket: AdminSocket, state: AdminState, until: Until) -> io::Result<()> {
    let AdminSocket { listener, mut file } = socket;
    file.ours = true;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let succeeded = until.succeeded.clone();
    let pages = Pages {
        state,
        started: Instant::now(),
    };
    let router = Router::new()
        .route("/drain_listeners", get(drain).post(drain))
        .route("/status", get(status))
        .with_state(Arc::new(pages));
    let served = serve(listener, router, until).await;
    // It is the next process' then.
    file.ours = !succeeded.is_cancelled();
    served
}

struct Pages {
    state: AdminState,
    started: Instant,
}

/// GET is what the agent sends and POST what its own sidecar takes (SERVICE_CONNECT.md 2.5).
async fn drain(
    State(pages): State<Arc<Pages>>,
    RawQuery(query): RawQuery,
) -> (StatusCode, &'static str) {
    if !matches!(query.as_deref(), Some("inboundonly" | "inboundonly=")) {
        let reason = "the query must be exactly ?inboundonly: the egress serves to the end\n";
        return (StatusCode::BAD_REQUEST, reason);
    }
    (pages.state.drain)();
    (StatusCode::OK, "OK\n")
}

/// Every value is text. There is one process here, so that what is said of Envoy is true of the sidecar itself.
async fn status(State(pages): State<Arc<Pages>>) -> Json<serde_json::Value> {
    let ready = &pages.state.ready;
    let initialized = ready.is_initialized();
    let either = |which, yes: &str, no: &str| if which { yes } else { no }.to_owned();
    let connected = ready.problem_of("control-server").is_none();
    Json(json!({
        "healthStatus": either(initialized, "HEALTHY", "UNHEALTHY"),
        "agentUptime": format!("{}s", pages.started.elapsed().as_secs()),
        "envoyPid": std::process::id().to_string(),
        "envoyState": "LIVE",
        "envoyRestartCount": "0",
        "managementServerConnectionStatus": either(connected, "CONNECTED", "NOT_CONNECTED"),
        "envoyReadinessState": either(initialized, "INITIALIZED", "NOT_INITIALIZED"),
        "initialConfigUpdateStatus": either(initialized, "UPDATE_SUCCESSFUL", "UPDATE_FAILED"),
    }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::observe::ready::Readiness;

    fn state(drained: &CancellationToken) -> AdminState {
        let drained = drained.clone();
        AdminState {
            ready: Arc::new(Readiness::new(&[])),
            metrics: Arc::new(String::new),
            config: Arc::new(|| json!({})),
            clusters: Arc::new(|| json!([])),
            drain: Arc::new(move || drained.cancel()),
        }
    }

    async fn ask(path: &Path, request: &str) -> String {
        let mut stream = UnixStream::connect(path).await.expect("connects");
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn the_agent_s_drain_is_taken_as_get_and_post_with_exactly_its_query() {
        for method in ["GET", "POST"] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("admin.sock");
            let (drained, until) = (CancellationToken::new(), Until::default());
            let socket = AdminSocket::bind(&path).expect("binds");
            let mode = fs::metadata(&path).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let served = tokio::spawn(serve_agent(socket, state(&drained), until.clone()));
            for query in [
                "",
                "?",
                "?graceful",
                "?inboundonly&graceful",
                "?inboundonly=1",
            ] {
                let answer = ask(&path, &format!("{method} /drain_listeners{query}")).await;
                assert!(answer.starts_with("HTTP/1.1 400"), "{query}: {answer}");
            }
            let status = ask(&path, "GET /status").await;
            assert!(
                status.contains("\"healthStatus\":\"HEALTHY\""),
                "not drained yet: {status}"
            );
            assert!(!drained.is_cancelled());
            let answer = ask(&path, &format!("{method} /drain_listeners?inboundonly")).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(drained.is_cancelled());
            let other = ask(&path, "DELETE /drain_listeners?inboundonly").await;
            assert!(other.starts_with("HTTP/1.1 405"), "{other}");
            until.shutdown.cancel();
            served.await.expect("joins").expect("ends well");
            assert!(!path.exists(), "the file goes with the socket");
        }
    }

    #[tokio::test]
    async fn the_file_stays_for_the_process_that_takes_the_socket_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).expect("binds");
        let lent = socket.listener.try_clone().expect("a descriptor");
        let (before, after) = (Until::default(), Until::default());
        let (drained, later) = (CancellationToken::new(), CancellationToken::new());
        let old = tokio::spawn(serve_agent(socket, state(&drained), before.clone()));
        let failed = lent.try_clone().expect("a descriptor");
        drop(AdminSocket::adopt(&path, failed));
        assert!(
            path.exists(),
            "whoever fails before it serves changes nothing"
        );
        let next = AdminSocket::adopt(&path, lent);
        before.succeeded.cancel();
        before.shutdown.cancel();
        old.await.expect("joins").expect("ends well");
        let new = tokio::spawn(serve_agent(next, state(&later), after.clone()));
        let answer = ask(&path, "GET /drain_listeners?inboundonly").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(later.is_cancelled() && !drained.is_cancelled());
        after.shutdown.cancel();
        new.await.expect("joins").expect("ends well");
        assert!(!path.exists(), "the file goes with the last one");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.exists(), "a crash leaves the file");
        let mut frozen = AdminSocket::bind(&path).expect("replaces it");
        frozen.file.ours = false;
        let live = AdminSocket::bind(&path).expect("nobody answers");
        let (drained, until) = (CancellationToken::new(), Until::default());
        let served = tokio::spawn(serve_agent(live, state(&drained), until.clone()));
        let refused = AdminSocket::bind(&path).err().expect("is refused");
        assert_eq!(refused.to_string(), "another process listens there");
        until.shutdown.cancel();
        served.await.expect("joins").expect("ends well");
        fs::write(&path, "precious").expect("writes");
        let refused = AdminSocket::bind(&path).err().expect("is refused");
        assert!(refused.to_string().contains("not a socket"), "{refused}");
        assert_eq!(fs::read(&path).expect("reads"), b"precious");
    }
}
