//! Makes a connection: TCP with the options a sidecar wants, then (its own issue) TLS, then the HTTP handshake.
//!
//! A `tower` stack, because it is per connection: timeout over TCP connect. TLS is one more layer between the two.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tower::timeout::{Timeout, error::Elapsed};
use tower::{Service, ServiceExt};

use crate::error::{Kind, ProxyError};

/// Unacknowledged bytes end a connection after this (tcp(7), TCP_USER_TIMEOUT).
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence with open streams after which an h2 connection is probed with PING (RFC 9113 section 6.7), and the wait for its answer.
const PING_AFTER: Duration = Duration::from_secs(10);
/// Receive windows: one stream may have this much in flight, and all of a connection together four times as much.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Runs connection tasks on the worker that made them.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

#[derive(Clone, Copy)]
struct TcpConnector;

impl Service<SocketAddr> for TcpConnector {
    type Response = TcpStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: SocketAddr) -> Self::Future {
        Box::pin(async move {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
            Ok(stream)
        })
    }
}

/// A TCP connection to `address` within `timeout`.
pub(crate) async fn tcp(address: SocketAddr, timeout: Duration) -> Result<TcpStream, ProxyError> {
    Timeout::new(TcpConnector, timeout)
        .oneshot(address)
        .await
        .map_err(|error| {
            let kind = if error.is::<Elapsed>() {
                Kind::ConnectTimeout
            } else {
                Kind::ConnectFailed
            };
            ProxyError::caused(kind, format!("{address}: {error}"))
        })
}

/// Makes the stream an HTTP/2 client connection (prior knowledge, RFC 9113 section 3.3), driven by a task of this worker.
pub(crate) async fn h2<B>(stream: TcpStream) -> Result<http2::SendRequest<B>, ProxyError>
where
    B: hyper::body::Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_AFTER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 4)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ProxyError::caused(Kind::ConnectFailed, error))?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}
