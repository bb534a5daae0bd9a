//! The story of one request, read from top to bottom: one snapshot read, one route, then attempts until one answers.

pub(crate) mod body;
pub(crate) mod headers;
mod hedge;
mod record;
pub(crate) mod response;
pub(crate) mod tcp;
pub(crate) mod timer;
pub(crate) mod tunnel;
pub(crate) mod upgrade;
mod verdict;
pub(crate) mod worker;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use outrigger_xds::model::Protocol;

use self::body::{MAX_REPLAY, Replay, Source};
use self::record::{Claim, Record};
use self::response::{Observed, ResponseBody, UpstreamBody};
use self::timer::Timer;
use self::tunnel::Tunnel;
use self::upgrade::{Handshake, Upgrade};
use self::worker::Worker;
use crate::error::{Kind, ProxyError};
use crate::hop::{self, Try, spelling};
use crate::message::fields::Known;
use crate::message::head::{RequestHead, ResponseHead};
use crate::policy::cluster::Again;
use crate::policy::endpoint::{Endpoint, Lease};
use crate::policy::limits::Share;
use crate::policy::outlier::Outcome;
use crate::policy::retry::{Attempts, Ended};
use crate::routing::route::{self, Route};
use crate::routing::snapshot::{ListenerPolicy, Slot};
use crate::upstream::cluster::Cluster;
use crate::upstream::h1::{self, Exchange};
use crate::upstream::h2;
use crate::upstream::pool::Connection;

/// What a client is answered with.
pub(crate) struct Response {
    pub(crate) head: ResponseHead,
    pub(crate) body: ResponseBody,
}

impl Response {
    /// The answer to a HEAD: what it would say of its body, without it (RFC 9110 section 9.3.2).
    fn without_body(mut self) -> Self {
        if let ResponseBody::Local(text) = &mut self.body {
            let length = std::mem::take(text).len().to_string();
            self.head.fields.push("content-length", length.as_bytes());
        }
        self
    }
}

/// A response head from a task, and the body that follows it.
type Answer = (ResponseHead, UpstreamBody);

/// Passes an informational response on to the client, which may be gone (RFC 9110 section 15.2).
pub(crate) type Inform<'a> = &'a dyn Fn(&mut ResponseHead);

/// What each attempt sends, and who hears of what comes before the answer.
struct Asked<'a> {
    head: RequestHead,
    body: Replay,
    upgrade: Upgrade,
    inform: Inform<'a>,
    /// It came by a hop: only the egress tries again.
    told: Option<Try>,
    /// The attempt under way, from 1.
    attempt: u32,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    pub(crate) slot: Slot,
    /// By a hop: what its egress says of it.
    pub(crate) told: Option<Try>,
}

impl Asked<'_> {
    /// The same for a second attempt beside the first. There is no body, and the client hears of one attempt only.
    fn twin(&self) -> Self {
        Self {
            head: self.head.clone(),
            body: self.body.clone(),
            upgrade: Upgrade::Nothing,
            inform: &|_| {},
            told: self.told,
            attempt: self.attempt + 1,
        }
    }

    fn may_have_a_twin(&self) -> bool {
        self.told.is_none() && self.body.is_empty() && !self.upgrade.is_asked()
    }
}

/// The endpoint of the attempt under way, for whoever cuts it off.
type Trying = Cell<Option<Arc<Endpoint>>>;

/// Answers one request. It never fails: what goes wrong becomes a response that says so.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    came: Came,
    mut head: RequestHead,
    body: Source,
    inform: Inform<'_>,
) -> Response {
    let listener = worker.snapshot.load().listener(came.slot).cloned();
    let Some(listener) = listener else {
        return refuse(&Kind::NoRoute.into(), false, "");
    };
    hop::strip(&mut head.fields);
    let grpc = headers::is_grpc(&head.fields);
    let only_head = head.method == Method::HEAD;
    let mut record = Record::open(worker, &listener, grpc);
    let (body, client) = body.without_tunnel(&head);
    match respond(worker, &listener, came.told, (head, body), inform).await {
        Ok(Passed {
            head,
            body,
            request,
            claim,
            upgraded,
        }) => {
            record.answered(claim);
            let body = if upgraded {
                let idle_timeout = listener.idle_timeout;
                let tunnel = Tunnel::new(worker, body, client, record, idle_timeout);
                ResponseBody::Tunnel(Box::new(tunnel))
            } else {
                ResponseBody::Upstream(Observed::new(body, request, record))
            };
            Response { head, body }
        }
        Err(error) => {
            tracing::debug!(listener = listener.name, %error, "request failed");
            record.fail(error.kind);
            let mut refusal = refuse(&error, grpc, &listener.name);
            if came.told.is_some() {
                let verdict = hop::verdict(error.kind);
                refusal.head.fields.push(hop::VERDICT, verdict.as_bytes());
            }
            if only_head {
                refusal.without_body()
            } else {
                refusal
            }
        }
    }
}

/// What is passed on, and the claims that last as long as it does.
struct Passed {
    head: ResponseHead,
    body: UpstreamBody,
    request: Replay,
    claim: Claim,
    upgraded: bool,
}

/// Finds the route, then tries endpoints until one gives a response that is passed on.
async fn respond(
    worker: &Rc<Worker>,
    listener: &ListenerPolicy,
    told: Option<Try>,
    (mut head, body): (RequestHead, Source),
    inform: Inform<'_>,
) -> Result<Passed, ProxyError> {
    if !listener.metrics.is_within(worker.id, listener.max_requests) {
        return Err(Kind::Overflow.into());
    }
    let upgrade = Upgrade::asked(&head, body.is_end())?;
    if head.fields.values(Known::Host).take(2).count() > 1 {
        // HTTP/1.1's are refused as they are read.
        return Err(Kind::DownstreamProtocol.into());
    }
    let route = route::find(&listener.routes, &head).ok_or(Kind::NoRoute)?;
    let cluster = &route.cluster;
    let live = cluster.enter().ok_or(Kind::Overflow)?;
    let sample = cluster.begin_sample();
    let body_timeout = match &body {
        Source::H1(_) => listener.body_timeout,
        Source::H2(_) | Source::Nothing => Duration::ZERO,
    };
    let timer = Timer::new(&worker.sweep, route.idle_timeout, timeout(route, &head));
    let timer = timer.with_body(body_timeout, head.fields.has(Known::Expect));
    let timer = timer.with_hop(told.and_then(|told| told.left));
    if let Some(told) = told {
        let (name, attempt) = (&listener.name, told.attempt);
        tracing::debug!(listener = name, attempt, "request by a hop");
    }
    let named = headers::strip_hop_by_hop(&mut head.fields, upgrade.is_asked());
    let keep = if route.retry.num_retries > 0 && told.is_none() {
        MAX_REPLAY
    } else {
        0
    };
    let request = Replay::new(body, named, keep, timer);
    let mut asked = Asked {
        head,
        body: request.clone(),
        upgrade,
        inform,
        told,
        attempt: 0,
    };

    let trying = Cell::new(None);
    let answered = {
        let attempts = pin!(attempts(worker, route, &mut asked, &trying));
        request.timer().bound(attempts).await
    };
    let waited = match &answered {
        Ok(answered) => answered.is_ok(),
        Err(kind) => kind.blames_endpoint(),
    };
    if waited {
        cluster.end_sample(sample);
    }
    let ((mut head, body), lease) = match answered {
        Ok(answered) => answered?,
        Err(_) if cluster.is_pending() => return Err(Kind::NoCluster.into()),
        Err(kind) => {
            // The attempt was cut off: outlier detection hears of it from here.
            if let Some(endpoint) = trying
                .take()
                .filter(|_: &Arc<Endpoint>| kind.blames_endpoint())
            {
                cluster.report(&endpoint, Outcome::LocalOrigin);
            }
            return Err(kind.into());
        }
    };
    let upgraded = asked.upgrade.is_granted(head.status);
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if (switching && !upgraded) || (upgraded && !body.has_request()) {
        let unasked = "an upgrade that was not asked for, or granted before it was";
        return Err(ProxyError::caused(Kind::UpstreamProtocol, unasked));
    }
    hop::strip(&mut head.fields);
    let says_upgrade = switching || Upgrade::may_be_named(asked.head.version, head.status);
    request.answered(headers::strip_hop_by_hop(&mut head.fields, says_upgrade));
    headers::strip_framing(&mut head, upgraded);
    let claim = Claim {
        cluster: Arc::clone(cluster),
        lease,
        live,
        status: head.status,
    };
    Ok(Passed {
        head,
        body,
        request,
        claim,
        upgraded,
    })
}

/// The route's per-request timeout, or the caller's `grpc-timeout` where that is shorter.
fn timeout(route: &Route, head: &RequestHead) -> Option<Duration> {
    timer::shorter(route.per_request_timeout, timer::grpc_timeout(&head.fields))
}

/// The attempt loop.
async fn attempts(
    worker: &Rc<Worker>,
    route: &Route,
    asked: &mut Asked<'_>,
    trying: &Trying,
) -> Result<(Answer, Lease), ProxyError> {
    let cluster = &route.cluster;
    cluster.arrived().await.ok_or(Kind::Overflow)?;
    let mut attempts = Attempts::new(&route.retry, &asked.head.method);
    // Held from the decision to retry until that retry has ended.
    let mut _budget: Option<Share>;
    loop {
        let lease = cluster
            .pick(
                &mut *worker.rng.borrow_mut(),
                asked.head.path(),
                attempts.tried(),
            )
            .ok_or(Kind::NoHealthyEndpoint)?;
        attempts.begin(lease.endpoint().id);
        trying.set(Some(Arc::clone(lease.endpoint())));
        asked.attempt += 1;
        let hedge = attempts.hedge_after().filter(|_| asked.may_have_a_twin());
        let (attempted, lease) = match hedge {
            None => (try_once(worker, route, &lease, asked).await, lease),
            Some(after) => {
                let first = (lease, after);
                // Boxed: it is two attempts, which most requests should not be as large as.
                Box::pin(hedge::hedged(
                    worker,
                    route,
                    asked,
                    &mut attempts,
                    first,
                    trying,
                ))
                .await
            }
        };
        report(cluster, lease.endpoint(), &attempted, &asked.body);
        trying.set(None);
        if attempted.is_err()
            && let Some(kind) = asked.body.broken()
        {
            return Err(kind.into());
        }
        if asked.told.is_some() || !asked.body.is_replayable() {
            return attempted.map(|answer| (answer, lease));
        }
        let ended = verdict::ended(&attempted, lease.endpoint());
        let Some((wait, budget)) = again(worker, cluster, &attempts, ended) else {
            return attempted.map(|answer| (answer, lease));
        };
        _budget = Some(budget);
        drop((attempted, lease));
        back_off(worker, wait).await;
    }
}

/// Whether another attempt is made, and after what wait; counted either way. Its share of the budget is held until it has ended.
fn again(
    worker: &Worker,
    cluster: &Cluster,
    attempts: &Attempts<'_>,
    ended: Ended,
) -> Option<(Duration, Share)> {
    let counts = cluster.metrics.shard(worker.id);
    match cluster.again(attempts, ended, &mut *worker.rng.borrow_mut()) {
        Again::No => None,
        Again::OverBudget => None,
        Again::After(wait, budget) => {
            counts.retries.add(1);
            Some((wait, budget))
        }
    }
}

/// What the sidecar in front of the endpoint is told, if it speaks the hop.
fn tell(route: &Route, endpoint: &Endpoint, asked: &Asked<'_>) -> Option<HeaderValue> {
    let attempt = asked.attempt;
    // What nobody has set is the same at both ends, and a caller's own deadline is among its fields.
    if endpoint.hop.is_none() || (attempt == 1 && route.per_request_timeout.is_none()) {
        return None;
    }
    let left = asked.body.timer().left();
    Try { attempt, left }.value()
}

/// Outlier detection sees every attempt; what the client broke off is not the endpoint's fault.
fn report(
    cluster: &Cluster,
    endpoint: &Endpoint,
    attempted: &Result<Answer, ProxyError>,
    body: &Replay,
) {
    if attempted.is_err() && body.is_broken() {
        return;
    }
    if let Some(outcome) = verdict::outcome(attempted) {
        cluster.report(endpoint, outcome);
    }
}

async fn back_off(worker: &Worker, wait: Duration) {
    if !wait.is_zero() {
        let deadline = worker.sweep.deadline();
        deadline.set_after(wait);
        deadline.expired().await;
    }
}

/// One attempt within its own timeout, where the route has one.
async fn try_once(
    worker: &Rc<Worker>,
    route: &Route,
    lease: &Lease,
    asked: &mut Asked<'_>,
) -> Result<Answer, ProxyError> {
    let told = tell(route, lease.endpoint(), asked);
    let attempt = attempt(worker, &route.cluster, lease, told, asked);
    let Some(timeout) = route.retry.per_try_timeout else {
        return attempt.await;
    };
    let deadline = worker.sweep.deadline();
    deadline.set_after(timeout);
    let attempt = pin!(attempt);
    let ended = deadline.bound(attempt).await;
    ended.unwrap_or_else(|| Err(Kind::PerTryTimeout.into()))
}

/// One attempt on one endpoint: a connection, the request, the response head.
async fn attempt(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    lease: &Lease,
    told: Option<HeaderValue>,
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
        let reused = open.is_some();
        let connection = match open {
            Some(connection) => connection,
            None => {
                // Boxed: most requests find a connection, and should not be as large as what making one takes.
                let connect = Box::pin(worker.pool.connect(cluster, endpoint, http2));
                let made = connect.await?;
                cluster.metrics.shard(worker.id).connects.add(1);
                made
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
        let sent = match connection {
            Connection::H1(idle) => send_h1(idle, told.as_ref(), asked).await,
            Connection::H2(sender) => send_h2(sender, told.as_ref(), asked).await,
        };
        match sent {
            Ok(answer) => return Ok(answer),
            // The kept connection had closed under us: nothing was written, so a new one is simply made.
            Err(h1::Failed { unsent: true, .. }) if reused && asked.body.is_replayable() => {
                closed_under_us = true;
            }
            Err(h1::Failed {
                unsent: true,
                error,
            }) => return Err(ProxyError::caused(Kind::Unsent, error)),
            Err(failed) => return Err(failed.error),
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

/// The sidecar's own answer: the status of the error's kind and a sentence, or gRPC's trailers-only form.
pub(crate) fn refuse(error: &ProxyError, grpc: bool, listener: &str) -> Response {
    let kind = error.kind;
    let (mut head, body) = if grpc {
        let mut head = ResponseHead::new(StatusCode::OK);
        let message = format!("outrigger: {}", ProxyError::new(kind));
        head.fields.push("content-type", b"application/grpc");
        head.fields
            .push("grpc-status", grpc_status(kind).as_bytes());
        head.fields.push("grpc-message", message.as_bytes());
        (head, ResponseBody::empty())
    } else {
        let head = ResponseHead::of_text(kind.status());
        let text = format!("outrigger: {listener}: {}\n", ProxyError::new(kind));
        (head, ResponseBody::Local(Bytes::from(text)))
    };
    if kind == Kind::MethodRefused {
        let allowed = b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";
        head.fields.push("allow", allowed);
    }
    Response { head, body }
}

/// gRPC's status code for an error of the sidecar (gRPC "Status codes and their use").
const fn grpc_status(kind: Kind) -> &'static str {
    match kind {
        Kind::RequestTimeout
        | Kind::PerTryTimeout
        | Kind::IdleTimeout
        | Kind::HeaderTimeout
        | Kind::BodyTimeout => "4",
        Kind::NoRoute | Kind::MethodRefused => "12",
        Kind::Overflow | Kind::HeadTooLarge => "8",
        Kind::DownstreamTermination => "1",
        Kind::DownstreamProtocol => "13",
        Kind::NoCluster
        | Kind::NoHealthyEndpoint
        | Kind::ConnectFailed
        | Kind::ConnectTimeout
        | Kind::Misdirected
        | Kind::Unsent
        | Kind::RefusedStream
        | Kind::ConnectionTermination
        | Kind::RemoteReset
        | Kind::UpstreamProtocol
        | Kind::UpgradeFailed => "14",
    }
}
