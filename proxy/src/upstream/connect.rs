//! Makes a connection: TCP with the options a sidecar wants, then (its own issue) TLS, then the HTTP handshake.
//!
//! A `tower` stack, because it is per connection: timeout over TCP connect. TLS is one more layer between the two.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tower::timeout::{Timeout, error::Elapsed};
use tower::{Service, ServiceExt};

use crate::error::{Kind, ProxyError};

/// Unacknowledged bytes end a connection after this (tcp(7), TCP_USER_TIMEOUT).
const USER_TIMEOUT: Duration = Duration::from_secs(10);
#[derive(Clone, Copy)]
struct TcpConnector;

impl Service<SocketAddr> for TcpConnector {
    type Response = TcpStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

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
