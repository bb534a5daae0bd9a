//! One attempt on one endpoint: a connection, the request, the response head.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Version};
use outrigger_xds::model::Protocol;

use super::attempts::Asked;
use super::response::UpstreamBody;
use super::upgrade::{Handshake, Upgrade};
use super::worker::Worker;
use super::{Answer, Inform, headers};
use crate::error::{Kind, ProxyError};
use crate::hop::{self, Try, spelling};
use crate::message::head::ResponseHead;
use crate::policy::endpoint::{Endpoint, Lease};
use crate::upstream::cluster::Cluster;
use crate::upstream::h1::{self, Exchange};
use crate::upstream::h2;
use crate::upstream::pool::Connection;

/// Makes it, with what the sidecar in front of the endpoint is `told`. `sent` is set before the first byte of the request may leave.
pub(super) async fn attempt(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    lease: &Lease,
    (told, sent): (Option<HeaderValue>, &Cell<bool>),
    asked: &mut Asked<'_>,
) -> Result<Answer, ProxyError> {
    let endpoint = lease.endpoint();
    let mut http2 = by_http2(cluster, endpoint, asked);
    let mut closed_under_us = false;
    loop {
        let open = if closed_under_us {
            None
        } else {
            let careful = !asked.head.method.is_idempotent();
            let now = worker.sweep.now();
            worker.pool.reuse(endpoint, http2, careful, now)
        };
        let (connection, reused) = match open {
            Some(connection) => (connection, true),
            None => {
                // Boxed: most requests find a connection, and should not be as large as what making one takes.
                let connect = Box::pin(worker.pool.connect(cluster, endpoint, http2));
                let (connection, shared) = connect.await?;
                if !shared {
                    cluster.metrics.shard(worker.id).connects.add(1);
                }
                (connection, shared && !closed_under_us)
            }
        };
        if let Connection::H2(sender) = &connection
            && asked.upgrade.is_asked()
            && !sender.takes_connect().await
        {
            // It is asked for by HTTP/1.1 then.
            http2 = false;
            continue;
        }
        if !http2 || asked.head.authority().is_empty() {
            asked.head.ensure_host(|| endpoint.address.to_string());
        }
        sent.set(true);
        let ended = match connection {
            Connection::H1(idle) => send_h1(idle, told.as_ref(), asked).await,
            Connection::H2(sender) => send_h2(sender, told.as_ref(), asked).await,
        };
        match ended {
            Ok(answer) => return Ok(answer),
            // The kept connection had closed under us: nothing was written, so a new one is simply made.
            Err(h1::Failed { unsent: true, .. }) if reused && asked.body.is_replayable() => {
                closed_under_us = true;
            }
            Err(h1::Failed {
                unsent: true,
                error,
            }) => return Err(ProxyError::caused(Kind::Unsent, error)),
            Err(failed) => {
                // In TLS 1.3 a server looks at our certificate when our side of the handshake is over.
                if failed.error.kind == Kind::TlsFailed {
                    cluster.metrics.shard(worker.id).tls_errors.add(1);
                }
                return Err(failed.error);
            }
        }
    }
}

/// By which version of HTTP the request goes.
fn by_http2(cluster: &Cluster, endpoint: &Endpoint, asked: &Asked<'_>) -> bool {
    if endpoint.hop.is_some() {
        // The sidecar there speaks both, and puts what comes into the words of its application.
        let by_field = matches!(asked.upgrade, Upgrade::Field(_));
        return !by_field && spelling::travels(&asked.head);
    }
    // Most upgrades are HTTP/1.1's (RFC 9110 section 7.8), whatever the cluster speaks otherwise.
    let protocol = cluster.settings().protocol;
    matches!(protocol, Protocol::Http2 | Protocol::Grpc) && asked.upgrade.fits_http2()
}

async fn send_h1(
    idle: h1::Idle,
    told: Option<&HeaderValue>,
    asked: &mut Asked<'_>,
) -> Result<Answer, h1::Failed> {
    let version = asked.head.version;
    let mut handshake = asked.upgrade.translate(&asked.head, false);
    let own = handshake.as_mut().map(|handshake| &mut handshake.head);
    let head = own.unwrap_or(&mut asked.head);
    headers::mark_te(&mut head.fields);
    Try::write(told, &mut head.fields);
    let mut exchange = Exchange::new(idle, head, asked.body.attempt());
    let head = exchange.head(|head| inform(head, version, asked.inform));
    let head = conclude(handshake, head.await?)?;
    Ok((head, UpstreamBody::H1(exchange)))
}

async fn send_h2(
    mut sender: h2::Sender,
    told: Option<&HeaderValue>,
    asked: &mut Asked<'_>,
) -> Result<Answer, h1::Failed> {
    let version = asked.head.version;
    let mut handshake = asked.upgrade.translate(&asked.head, true);
    let own = handshake.as_mut().map(|handshake| &mut handshake.head);
    let head = own.unwrap_or(&mut asked.head);
    // What an attempt by HTTP/1.1 said before.
    hop::strip(&mut head.fields);
    let sent = sender.send(head, asked.body.attempt(), told, |head| {
        inform(head, version, asked.inform);
    });
    let (head, exchange) = sent.await?;
    let head = conclude(handshake, head)?;
    Ok((head, UpstreamBody::H2(exchange)))
}

/// The answer in the client's words, where the request was put into the task's.
fn conclude(
    handshake: Option<Box<Handshake>>,
    mut head: ResponseHead,
) -> Result<ResponseHead, h1::Failed> {
    let concluded = handshake.map_or(Ok(()), |handshake| handshake.conclude(&mut head));
    concluded.map(|()| head).map_err(|error| h1::Failed {
        error,
        unsent: false,
    })
}

/// HTTP/1.0 knows no informational responses (RFC 9110 section 15.2).
fn inform(head: &mut ResponseHead, version: Version, client: Inform<'_>) {
    if version != Version::HTTP_10 {
        hop::strip(&mut head.fields);
        headers::strip_hop_by_hop(&mut head.fields, false);
        headers::strip_framing(head, false);
        client(head);
    }
}
