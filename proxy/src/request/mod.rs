//! The story of one request, read from top to bottom: one snapshot read, one route, then attempts until one answers.

pub(crate) mod body;
mod headers;
mod record;
pub(crate) mod retry;
pub(crate) mod tcp;
pub(crate) mod timer;
pub(crate) mod worker;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use outrigger_xds::model::Protocol;

use self::body::{AttemptBody, MAX_REPLAY, Observed, Replay, ResponseBody};
use self::record::{Exchange, Record};
use self::retry::{Attempts, Ended};
use self::timer::Timer;
use self::worker::Worker;
use crate::error::{Kind, ProxyError};
use crate::routing::route::{self, Route};
use crate::routing::snapshot::{ListenerPolicy, Slot};
use crate::upstream::cluster::{Cluster, Share};
use crate::upstream::endpoint::{Endpoint, Lease};
use crate::upstream::outlier;
use crate::upstream::pool::Connection;

/// Counts the client's connection as open for as long as somebody holds it: its protocol, or the tunnel it became.
pub(crate) type Open = Rc<dyn std::any::Any>;

/// A response head from a task, and the connection it came on.
type Answer = (Response<Incoming>, Connection<AttemptBody>);

/// What is passed on: the response, the claim on its endpoint, and the connection to give back.
type Passed = (Response<Incoming>, Lease, Connection<AttemptBody>);

/// Answers one request. It never fails: what goes wrong becomes a response that says so.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    slot: Slot,
    open: Open,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let listener = worker.snapshot.load().listener(slot).cloned();
    let Some(listener) = listener else {
        return refuse(&Kind::NoRoute.into(), false, "");
    };
    let grpc = headers::is_grpc(request.headers());
    let http1 = request.version() < Version::HTTP_2;
    let has_body = !request.body().is_end_stream();
    let mut record = Record::open(&worker, &listener, grpc);
    let mut response = match respond(&worker, &listener, request).await {
        Ok(Outcome::Answer(response, exchange, timer)) => {
            record.answered(exchange);
            response
                .map(|body| ResponseBody::Upstream(Box::new(Observed::new(body, timer, record))))
        }
        Ok(Outcome::Tunnel(mut response, exchange, client)) => {
            record.answered(exchange);
            let task = hyper::upgrade::on(&mut response);
            tunnel(&worker, &listener, open, record, client, task);
            response.map(|_| ResponseBody::empty())
        }
        Err(error) => {
            tracing::debug!(listener = listener.name, %error, "request failed");
            record.fail(error.kind);
            let mut response = refuse(&error, grpc, &listener.name);
            if http1 && has_body {
                // The rest of the body is not read, so nothing after it can be.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response
        }
    };
    if http1 {
        *response.version_mut() = Version::HTTP_11;
        if worker.draining.get() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// What a task's answer means for the connection.
enum Outcome {
    Answer(Response<Incoming>, Exchange, Rc<Timer>),
    /// 101 Switching Protocols: both connections become pipes (RFC 9110 section 7.8).
    Tunnel(Response<Incoming>, Exchange, OnUpgrade),
}

/// Finds the route, then tries endpoints until one gives a response that is passed on.
async fn respond(
    worker: &Rc<Worker>,
    listener: &ListenerPolicy,
    mut request: Request<Incoming>,
) -> Result<Outcome, ProxyError> {
    if request.method() == Method::CONNECT {
        return Err(Kind::MethodRefused.into());
    }
    if !headers::has_one_host(&request) {
        return Err(Kind::DownstreamProtocol.into());
    }
    let route =
        route::find(&listener.routes, request.uri(), request.headers()).ok_or(Kind::NoRoute)?;
    let cluster = &route.cluster;
    let live = cluster.enter().ok_or(Kind::Overflow)?;
    let timer = Rc::new(Timer::new(
        &worker.sweep,
        route.idle_timeout,
        timeout(route, &request),
    ));

    let upgrade =
        headers::wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    headers::strip_hop_by_hop(request.headers_mut(), upgrade.is_some());
    let (head, body) = request.into_parts();
    let keep = if route.retry.num_retries > 0 {
        MAX_REPLAY
    } else {
        0
    };
    let body = Replay::new(body, keep, Rc::clone(&timer));

    let trying = Cell::new(None);
    let answered = timer
        .bound(attempts(worker, route, head, &body, &trying))
        .await;
    let (mut response, lease, connection) = match answered {
        Ok(answered) => answered?,
        Err(_) if cluster.is_pending() => return Err(Kind::NoCluster.into()),
        Err(kind) => {
            // The attempt was cut off: outlier detection hears of it from here.
            if let Some(endpoint) = trying
                .take()
                .filter(|_: &Arc<Endpoint>| kind.blames_endpoint())
            {
                cluster.report(&endpoint, outlier::Outcome::Failure);
            }
            return Err(kind.into());
        }
    };
    timer.response_head();
    let status = response.status();
    let tunnel = upgrade.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS);
    headers::strip_hop_by_hop(response.headers_mut(), tunnel.is_some());
    let cluster = Arc::clone(cluster);
    let exchange = Exchange {
        cluster,
        lease,
        live,
        status,
        request: body,
        connection,
    };
    Ok(match tunnel {
        Some(client) => Outcome::Tunnel(response, exchange, client),
        None => Outcome::Answer(response, exchange, timer),
    })
}

/// The route's per-request timeout, or the caller's `grpc-timeout` where that is shorter.
fn timeout(route: &Route, request: &Request<Incoming>) -> Option<std::time::Duration> {
    timer::shorter(
        route.per_request_timeout,
        timer::grpc_timeout(request.headers()),
    )
}

/// The attempt loop. `trying` names the endpoint of the attempt under way, for whoever cuts it off.
async fn attempts(
    worker: &Rc<Worker>,
    route: &Route,
    head: http::request::Parts,
    body: &Replay,
    trying: &Cell<Option<Arc<Endpoint>>>,
) -> Result<Passed, ProxyError> {
    let cluster = &route.cluster;
    cluster.arrived().await.ok_or(Kind::Overflow)?;
    let mut attempts = Attempts::new(&route.retry, &head.method);
    let mut head = head;
    // Held from the decision to retry until that retry has ended.
    let mut _budget: Option<Share>;
    loop {
        let lease = cluster
            .pick(head.uri.path().as_bytes(), attempts.tried())
            .ok_or(Kind::NoHealthyEndpoint)?;
        attempts.begin(lease.endpoint().id);
        trying.set(Some(Arc::clone(lease.endpoint())));
        // The one allocation a retry costs before it is needed: a copy of the head, where a delivered request may be repeated
        // or HTTP/2 may refuse the stream without handing the head back.
        let copied = attempts
            .may_keep(cluster.policy().protocol)
            .then(|| head.clone());

        let attempted = attempt(worker, cluster, &lease, head, body).await;
        report(cluster, lease.endpoint(), &attempted, body);
        trying.set(None);
        let again = match attempted {
            Ok((response, connection)) => {
                let ended = Ended::Answered(response.status());
                let again = copied.filter(|_| attempts.allows(ended) && body.is_replayable());
                match again.and_then(|head| Some((head, budget(worker, cluster)?))) {
                    Some(again) => again,
                    None => return Ok((response, lease, connection)),
                }
            }
            Err(failed) => {
                let Failed { error, head } = *failed;
                if body.is_broken() {
                    return Err(Kind::DownstreamTermination.into());
                }
                let ended = Ended::Failed(error.kind);
                let again = head
                    .or(copied)
                    .filter(|_| attempts.allows(ended) && body.is_replayable());
                match again.and_then(|head| Some((head, budget(worker, cluster)?))) {
                    Some(again) => again,
                    None => return Err(error),
                }
            }
        };
        drop(lease);
        (head, _budget) = (again.0, Some(again.1));
        cluster.metrics.shard(worker.id).retries.add(1);
        back_off(worker, &attempts).await;
    }
}

/// Outlier detection sees every attempt; what the client broke off is not the endpoint's fault.
fn report(
    cluster: &Cluster,
    endpoint: &Endpoint,
    attempted: &Result<Answer, Box<Failed>>,
    body: &Replay,
) {
    let outcome = match attempted {
        Ok((response, _)) if response.status().is_server_error() => outlier::Outcome::Failure,
        Ok(_) => outlier::Outcome::Success,
        Err(failed) if failed.error.kind.blames_endpoint() && !body.is_broken() => {
            outlier::Outcome::Failure
        }
        Err(_) => return,
    };
    cluster.report(endpoint, outcome);
}

/// A place in the retry budget; counted when there is none.
fn budget(worker: &Worker, cluster: &Arc<Cluster>) -> Option<Share> {
    let place = cluster.try_retry();
    if place.is_none() {
        let counts = cluster.metrics.shard(worker.id);
        counts.retries_over_budget.add(1);
    }
    place
}

async fn back_off(worker: &Worker, attempts: &Attempts<'_>) {
    let wait = attempts.back_off();
    if !wait.is_zero() {
        let deadline = worker.sweep.deadline();
        deadline.set_after(wait);
        deadline.expired().await;
    }
}

/// A failed attempt; the head when it was handed back.
struct Failed {
    error: ProxyError,
    head: Option<http::request::Parts>,
}

impl Failed {
    fn before_sending(error: ProxyError, head: http::request::Parts) -> Box<Self> {
        Box::new(Self {
            error,
            head: Some(head),
        })
    }
}

/// One attempt on one endpoint: a connection, the request, the response head.
async fn attempt(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    lease: &Lease,
    mut head: http::request::Parts,
    body: &Replay,
) -> Result<Answer, Box<Failed>> {
    let endpoint = lease.endpoint();
    let protocol = cluster.policy().protocol;
    // An upgrade is HTTP/1.1's (RFC 9110 section 7.8), whatever the cluster speaks otherwise.
    let http2 = matches!(protocol, Protocol::Http2 | Protocol::Grpc)
        && !head.headers.contains_key(header::UPGRADE);
    let mut closed_under_us = false;
    loop {
        let open = if closed_under_us {
            None
        } else {
            worker.pool.reuse(endpoint, http2)
        };
        let reused = open.is_some();
        let mut connection = match open {
            Some(connection) => connection,
            None => match worker.pool.connect(cluster, endpoint, http2).await {
                Ok(connection) => {
                    cluster.metrics.shard(worker.id).connects.add(1);
                    connection
                }
                Err(error) => return Err(Failed::before_sending(error, head)),
            },
        };
        headers::ensure_host(&mut head, || endpoint.address.to_string());
        let mut request = Request::from_parts(head, body.attempt());
        let prepared = if http2 {
            headers::to_h2(&mut request)
        } else {
            headers::to_h1(&mut request)
        };
        if let Err(error) = prepared {
            return Err(Failed::before_sending(error, request.into_parts().0));
        }
        let mut failed = match connection.send(request).await {
            Ok(response) => return Ok((response, connection)),
            Err(failed) => failed,
        };
        match failed.take_message() {
            // The kept connection had closed under us: nothing was written, so a new one is simply made.
            Some(request) if reused => {
                closed_under_us = true;
                head = request.into_parts().0;
            }
            Some(request) => {
                let error = ProxyError::caused(Kind::Unsent, failed.into_error());
                return Err(Failed::before_sending(error, request.into_parts().0));
            }
            None => {
                let error = classify(failed.into_error());
                return Err(Box::new(Failed { error, head: None }));
            }
        }
    }
}

/// What a client-side error means for the request that was on its way.
fn classify(error: hyper::Error) -> ProxyError {
    let h2 =
        std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    let kind = match h2.and_then(|h2| Some((h2, h2.reason()?))) {
        Some((_, h2::Reason::REFUSED_STREAM)) => Kind::RefusedStream,
        // The h2 crate fails only the streams above GOAWAY's last id with it (RFC 9113 section 6.8): they were not processed.
        Some((h2, h2::Reason::NO_ERROR)) if h2.is_go_away() && h2.is_remote() => {
            Kind::RefusedStream
        }
        Some((h2, _)) if h2.is_reset() && h2.is_remote() => Kind::RemoteReset,
        _ if error.is_parse() => Kind::UpstreamProtocol,
        _ => Kind::ConnectionTermination,
    };
    ProxyError::caused(kind, error)
}

/// Joins the two upgraded connections until both ends are done or idle too long. The record lives as long as they do.
fn tunnel(
    worker: &Rc<Worker>,
    listener: &ListenerPolicy,
    open: Open,
    mut record: Record,
    client: OnUpgrade,
    task: OnUpgrade,
) {
    let idle = worker.sweep.deadline();
    let idle_timeout = listener.idle_timeout;
    tokio::task::spawn_local(async move {
        let joined = async {
            let (client, task) = futures_util::future::try_join(client, task)
                .await
                .map_err(|error| ProxyError::caused(Kind::UpgradeFailed, error))?;
            let (mut client, mut task) = (TokioIo::new(client), TokioIo::new(task));
            let (bytes, end) = tcp::copy(&mut client, &mut task, &idle, idle_timeout).await;
            record.response_bytes(bytes as usize);
            end
        };
        if let Err(error) = joined.await {
            record.fail(error.kind);
            tracing::debug!(%error, "upgraded connection ended");
        }
        drop(open);
    });
}

/// The sidecar's own answer: the status of the error's kind and a sentence, or gRPC's trailers-only form.
fn refuse(error: &ProxyError, grpc: bool, listener: &str) -> Response<ResponseBody> {
    let kind = error.kind;
    let mut response = if grpc {
        let mut response = Response::new(ResponseBody::empty());
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert("grpc-status", HeaderValue::from_static(grpc_status(kind)));
        if let Ok(message) = HeaderValue::from_str(&format!("outrigger: {}", ProxyError::new(kind)))
        {
            headers.insert("grpc-message", message);
        }
        response
    } else {
        let text = format!("outrigger: {listener}: {}\n", ProxyError::new(kind));
        let mut response = Response::new(ResponseBody::text(text));
        *response.status_mut() = kind.status();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        response
    };
    if kind == Kind::MethodRefused {
        response.headers_mut().insert(
            header::ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"),
        );
    }
    response
}

/// gRPC's status code for an error of the sidecar (gRPC "Status codes and their use").
const fn grpc_status(kind: Kind) -> &'static str {
    match kind {
        Kind::RequestTimeout | Kind::IdleTimeout => "4",
        Kind::NoRoute | Kind::MethodRefused => "12",
        Kind::Overflow => "8",
        Kind::DownstreamTermination => "1",
        Kind::DownstreamProtocol => "13",
        Kind::NoCluster
        | Kind::NoHealthyEndpoint
        | Kind::ConnectFailed
        | Kind::ConnectTimeout
        | Kind::Unsent
        | Kind::RefusedStream
        | Kind::ConnectionTermination
        | Kind::RemoteReset
        | Kind::UpstreamProtocol
        | Kind::UpgradeFailed => "14",
    }
}
