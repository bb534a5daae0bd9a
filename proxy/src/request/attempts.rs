//! The attempt loop: endpoints are tried until one gives a response that is passed on.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::attempt::attempt;
use super::body::Replay;
use super::upgrade::Upgrade;
use super::worker::Worker;
use super::{Answer, Inform, hedge, verdict};
use crate::error::{Kind, ProxyError};
use crate::hop::Try;
use crate::message::head::RequestHead;
use crate::policy::endpoint::{Endpoint, Lease};
use crate::policy::limits::Share;
use crate::policy::retry::{Attempts, Ended};
use crate::routing::route::Route;
use crate::upstream::cluster::Cluster;

/// What each attempt sends, and who hears of what comes before the answer.
pub(super) struct Asked<'a> {
    pub(super) head: RequestHead,
    pub(super) body: Replay,
    pub(super) upgrade: Upgrade,
    pub(super) inform: Inform<'a>,
    /// It came by a hop: only the egress tries again.
    pub(super) told: Option<Try>,
    /// The attempt under way, from 1.
    pub(super) attempt: u32,
}

impl Asked<'_> {
    /// The same for a second attempt beside the first. There is no body, and the client hears of one attempt only.
    pub(super) fn twin(&self) -> Self {
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
pub(super) type Trying = Cell<Option<Arc<Endpoint>>>;

/// Tries until one is passed on. `trying` names the endpoint of the attempt under way.
pub(super) async fn attempts(
    worker: &Rc<Worker>,
    route: &Route,
    asked: &mut Asked<'_>,
    trying: &Trying,
) -> Result<(Answer, Lease), ProxyError> {
    let cluster = &route.cluster;
    cluster.arrived().await.ok_or(Kind::Overflow)?;
    let mut attempts = Attempts::new(&route.retry, &asked.head.method);
    // Held from the decision to retry until that retry has ended.
    let mut _budget: Option<Share> = None;
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
        asked.attempt = attempts.made();
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
        // What this attempt held is free for the next one.
        _budget = None;
        let Some((wait, budget)) = again(worker, cluster, &attempts, ended) else {
            return attempted.map(|answer| (answer, lease));
        };
        _budget = Some(budget);
        drop((attempted, lease));
        back_off(worker, wait).await;
    }
}

/// Whether another attempt is made, and after what wait; counted either way. Its share of the budget is held until it has ended.
pub(super) fn again(
    worker: &Worker,
    cluster: &Cluster,
    attempts: &Attempts<'_>,
    ended: Ended,
) -> Option<(Duration, Share)> {
    let counts = cluster.metrics.shard(worker.id);
    let again = cluster.again(attempts, ended, &mut *worker.rng.borrow_mut())?;
    counts.retries.add(1);
    Some(again)
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

pub(super) async fn back_off(worker: &Worker, wait: Duration) {
    if !wait.is_zero() {
        let deadline = worker.sweep.deadline();
        deadline.set_after(wait);
        deadline.expired().await;
    }
}

/// One attempt within its own timeout, where the route has one.
pub(super) async fn try_once(
    worker: &Rc<Worker>,
    route: &Route,
    lease: &Lease,
    asked: &mut Asked<'_>,
) -> Result<Answer, ProxyError> {
    let told = tell(route, lease.endpoint(), asked);
    let sent = Cell::new(false);
    let attempt = attempt(worker, &route.cluster, lease, (told, &sent), asked);
    let Some(timeout) = route.retry.per_try_timeout else {
        return attempt.await;
    };
    let deadline = worker.sweep.deadline();
    deadline.set_after(timeout);
    let attempt = pin!(attempt);
    let ended = deadline.bound(attempt).await;
    ended.unwrap_or_else(|| {
        // Until a connection is there, nothing of the request has left.
        let kind = match sent.get() {
            true => Kind::PerTryTimeout,
            false => Kind::ConnectTimeout,
        };
        Err(kind.into())
    })
}
