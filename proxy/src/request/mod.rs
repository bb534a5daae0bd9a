//! The story of one request, read from top to bottom: one snapshot read, one route, then attempts until one answers.

pub(crate) mod access;
mod attempt;
mod attempts;
pub(crate) mod body;
pub(crate) mod headers;
mod hedge;
mod record;
mod refusal;
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

use http::{Method, StatusCode};
use outrigger_xds::model::{DEFAULT_PER_REQUEST_TIMEOUT, Direction};

use self::attempts::{Asked, attempts};
use self::body::{MAX_REPLAY, Replay, Source};
use self::record::{Claim, Record};
pub(crate) use self::refusal::refuse;
use self::response::{Observed, ResponseBody, UpstreamBody};
use self::timer::Timer;
use self::tunnel::Tunnel;
use self::upgrade::Upgrade;
use self::worker::Worker;
use crate::error::{Kind, ProxyError};
use crate::hop::{self, Try};
use crate::message::fields::{FORWARDED_CLIENT_CERT, Known};
use crate::message::head::{RequestHead, ResponseHead};
use crate::policy::endpoint::Endpoint;
use crate::policy::outlier::Outcome;
use crate::routing::route::{self, Route};
use crate::routing::snapshot::{ListenerPolicy, Slot};
use crate::tls::peer::Peer;

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

/// Where a request comes from.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) slot: Slot,
    /// By a hop: what its egress says of it.
    pub(crate) told: Option<Try>,
    /// By TLS: who asks.
    pub(crate) peer: Option<Rc<Peer>>,
}

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
    head.fields.remove_known(Known::ForwardedClientCert);
    let grpc = headers::is_grpc(&head.fields);
    let only_head = head.method == Method::HEAD;
    let mut record = Record::open(worker, &listener, grpc);
    let (body, client) = body.without_tunnel(&head);
    match respond(worker, &listener, &came, (head, body), inform).await {
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
    came: &Came,
    (mut head, body): (RequestHead, Source),
    inform: Inform<'_>,
) -> Result<Passed, ProxyError> {
    let told = came.told;
    access::request(worker, listener, came.peer.as_deref(), &head)?;
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
    let asked_for = timer::grpc_timeout(&head.fields);
    let (patience, hasty) = timeout(route, asked_for);
    let timer = Timer::new(&worker.sweep, route.idle_timeout, patience);
    let timer = timer.with_body(body_timeout, head.fields.has(Known::Expect));
    let timer = timer.with_hop(told.and_then(|told| told.left));
    if let Some(told) = told {
        let (name, attempt) = (&listener.name, told.attempt);
        tracing::debug!(listener = name, attempt, "request by a hop");
    }
    let named = headers::strip_hop_by_hop(&mut head.fields, upgrade.is_asked());
    if listener.direction == Direction::Ingress
        && let Some(peer) = &came.peer
    {
        // After what `Connection` names is gone: nobody's request takes it out again.
        head.fields
            .push_shared(FORWARDED_CLIENT_CERT, &peer.forwarded);
    }
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
        Err(kind) => kind.blames_endpoint() && !hasty,
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
                .filter(|_: &Arc<Endpoint>| kind.blames_endpoint() && !hasty)
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
        hasty,
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

/// The route's per-request timeout, or the caller's own where that is shorter: whether it is, as then it says nothing of the endpoint.
fn timeout(route: &Route, asked_for: Option<Duration>) -> (Option<Duration>, bool) {
    let usual = route
        .per_request_timeout
        .unwrap_or(DEFAULT_PER_REQUEST_TIMEOUT);
    let hasty = asked_for.is_some_and(|asked_for| usual.is_zero() || asked_for < usual);
    let patience = timer::shorter(route.per_request_timeout, asked_for);
    (patience, hasty)
}
