//! A request that is slow to be answered is sent to a second task as well, and the first answer counts (Dean and Barroso, "The Tail
//! at Scale"). Only where the service's owner asks for it, and only what may be repeated and has no body.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::attempts::{Asked, Trying, try_once};
use super::worker::Worker;
use super::{Answer, verdict};
use crate::error::ProxyError;
use crate::policy::endpoint::Lease;
use crate::policy::limits::Share;
use crate::policy::retry::Attempts;
use crate::routing::route::Route;

type Attempted = Result<Answer, ProxyError>;

/// The attempt on `lease` and, after so long without an answer, one more on another endpoint if there is one and the budget allows.
/// Answers with the one that counts. What the other one did is not held against its endpoint, unless it failed.
pub(super) async fn hedged(
    worker: &Rc<Worker>,
    route: &Route,
    asked: &mut Asked<'_>,
    attempts: &mut Attempts<'_>,
    (lease, after): (Lease, Duration),
    trying: &Trying,
) -> (Attempted, Lease) {
    let mut twin = asked.twin();
    let deadline = worker.sweep.deadline();
    deadline.set_after(after);
    let mut second = None;
    let (attempted, by_second) = {
        let mut first = pin!(try_once(worker, route, &lease, asked));
        match deadline.bound(first.as_mut()).await {
            Some(attempted) => (attempted, false),
            None => match beside(worker, route, attempts, &twin) {
                None => (first.await, false),
                Some((other, _budget)) => {
                    let other = &*second.insert(other);
                    let second = pin!(try_once(worker, route, other, &mut twin));
                    let cluster = &route.cluster;
                    let race = Race {
                        first: Some(first),
                        second: Some(second),
                    };
                    race.run(|by_second, failed| {
                        let lease = if by_second { other } else { &lease };
                        if let Some(outcome) = verdict::outcome(failed) {
                            cluster.report(lease.endpoint(), outcome);
                        }
                    })
                    .await
                }
            },
        }
    };
    let lease = match second {
        Some(second) if by_second => second,
        _ => lease,
    };
    trying.set(Some(Arc::clone(lease.endpoint())));
    (attempted, lease)
}

/// A second endpoint and a place in the budget, counted as a retry.
fn beside(
    worker: &Worker,
    route: &Route,
    attempts: &mut Attempts<'_>,
    twin: &Asked<'_>,
) -> Option<(Lease, Share)> {
    let cluster = &route.cluster;
    let key = twin.head.path();
    let other = cluster.pick(&mut *worker.rng.borrow_mut(), key, attempts.tried())?;
    if attempts.tried().contains(&other.endpoint().id) {
        return None;
    }
    let budget = cluster.try_retry()?;
    attempts.begin(other.endpoint().id);
    cluster.metrics.shard(worker.id).retries.add(1);
    Some((other, budget))
}

/// Two attempts side by side.
struct Race<F, S> {
    first: Option<F>,
    second: Option<S>,
}

impl<F, S> Race<Pin<&mut F>, Pin<&mut S>>
where
    F: Future<Output = Attempted>,
    S: Future<Output = Attempted>,
{
    /// The first answer, and whether it is the second attempt's; a failure only when both have failed. `failed` hears of the one
    /// that failed while the other went on.
    async fn run(mut self, failed: impl Fn(bool, &Attempted)) -> (Attempted, bool) {
        let lost = Cell::new(false);
        poll_fn(|cx| {
            let polled = [poll(&mut self.first, cx), poll(&mut self.second, cx)];
            for (attempted, by_second) in polled.into_iter().zip([false, true]) {
                let Poll::Ready(attempted) = attempted else {
                    continue;
                };
                if attempted.is_ok() || lost.replace(true) {
                    return Poll::Ready((attempted, by_second));
                }
                failed(by_second, &attempted);
            }
            Poll::Pending
        })
        .await
    }
}

/// Polls what has not ended yet.
fn poll<A: Future>(attempt: &mut Option<Pin<&mut A>>, cx: &mut Context<'_>) -> Poll<A::Output> {
    let Some(running) = attempt else {
        return Poll::Pending;
    };
    let polled = running.as_mut().poll(cx);
    if polled.is_ready() {
        *attempt = None;
    }
    polled
}
